"""Metrics of scores beside Pearson's r and the root mean squared error.

Shape legend:
    - B: rows of one task
    - R: resamples, any number, of any shape
"""

import warnings
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from hf_multitask.evaluation.metrics import PEARSON, RMSE, Metric, from_correlation, pearson


def spearman(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """Pearson's r of the ranks, from -1 to 1; NaN where either side is constant or has one row."""
    return pearson(rankdata(predicted, axis=axis), rankdata(labels, axis=axis), axis)


def kendall(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Kendall's τ_b, from -1 to 1, of [B] scores; NaN where either side is constant or has one row."""
    with warnings.catch_warnings():
        # NaN says it.
        warnings.simplefilter("ignore")
        return float(kendalltau(predicted, labels).statistic)


def mean_absolute_error(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """At least 0, in the unit of the scores."""
    return np.mean(np.abs(np.subtract(predicted, labels, dtype=np.float64)), axis=axis)


def r_squared(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """The share of the labels' variance that is predicted, at most 1; NaN where the labels are constant."""
    labels = np.asarray(labels, dtype=np.float64)
    error = np.sum(np.square(np.subtract(predicted, labels, dtype=np.float64)), axis=axis)
    total = np.sum(np.square(labels - labels.mean(axis=axis, keepdims=True)), axis=axis)
    return (1 - np.divide(error, total, out=np.full(np.shape(total), np.nan), where=total != 0))[()]


SCORE_METRICS: dict[str, Metric] = {
    "pearson": PEARSON,
    "spearman": Metric(
        "Spearman correlation", spearman, takes_axis=True, share=from_correlation, uninformed=0.0, hub_type="spearmanr"
    ),
    "kendall": Metric("Kendall correlation", kendall, share=from_correlation, uninformed=0.0),
    "rmse": RMSE,
    "mae": Metric("Mean absolute error", mean_absolute_error, takes_axis=True, greater_is_better=False),
    "r2": Metric("R squared", r_squared, takes_axis=True, hub_type="r_squared"),
}
