"""The tasks' metrics (paper section 5.2), as `evaluate` modules that need no network, and the final score."""

import math
from collections.abc import Mapping

import datasets
import evaluate
import numpy as np
from scipy.special import expit, softmax
from scipy.stats import pearsonr

from hf_multitask.model.configuration_mtbert import TaskConfig

Metrics = dict[str, float]


class Accuracy(evaluate.Metric):
    """Share of class ids that are right, from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.__doc__, "int64")

    def _compute(self, predictions: list[int], references: list[int]) -> Metrics:
        return {"accuracy": float(np.mean(np.equal(predictions, references)))}


class PearsonCorrelation(evaluate.Metric):
    """Pearson's r of scores, from -1 to 1; NaN where either side is constant or has one row: r is then undefined."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.__doc__, "float64")

    def _compute(self, predictions: list[float], references: list[float]) -> Metrics:
        if len(predictions) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return {"pearson": math.nan}
        return {"pearson": float(pearsonr(predictions, references).statistic)}


class RootMeanSquaredError(evaluate.Metric):
    """Root mean squared error of scores, at least 0, in the unit of the scores."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.__doc__, "float64")

    def _compute(self, predictions: list[float], references: list[float]) -> Metrics:
        return {"rmse": float(np.sqrt(np.mean(np.square(np.subtract(predictions, references)))))}


def _info(description: str | None, dtype: str) -> evaluate.MetricInfo:
    features = datasets.Features({"predictions": datasets.Value(dtype), "references": datasets.Value(dtype)})
    return evaluate.MetricInfo(description=description, citation="", inputs_description="", features=features)


def probabilities(task: TaskConfig, logits: np.ndarray) -> np.ndarray:
    """Class probabilities of a classification, [B, classes], from its logits, [B, C] or [B]."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim == 2:
        return softmax(logits, axis=-1)
    positive = expit(logits)
    return np.stack([1 - positive, positive], axis=-1)


def predictions(task: TaskConfig, logits: np.ndarray) -> np.ndarray:
    """Predicted class ids, [B] int64, or scores, [B] float64, from a task's logits."""
    if task.is_regression:
        return np.asarray(logits, dtype=np.float64)
    return np.argmax(logits, axis=-1) if logits.ndim == 2 else (logits > 0).astype(np.int64)


def score(task: TaskConfig, predicted: np.ndarray, labels: np.ndarray) -> Metrics:
    """A task's metrics: `accuracy`, or `pearson` and `rmse`.

    Args:
        task: The task.
        predicted: Class ids or scores, [B].
        labels: Class ids or scores, [B].
    """
    modules: list[type[evaluate.Metric]] = [Accuracy]
    if task.is_regression:
        modules = [PearsonCorrelation, RootMeanSquaredError]
    metrics: Metrics = {}
    for module in modules:
        metrics |= module(keep_in_memory=True).compute(predictions=predicted, references=labels)
    return metrics


def final_score(metrics: Mapping[str, Metrics]) -> float:
    """The mean over tasks of accuracy, and of (r + 1) / 2 for Pearson's r: the paper's Tables 3 to 6.

    Args:
        metrics: Each task's metrics, by name.

    Returns:
        From 0 to 1; NaN if a task's r is undefined.
    """
    scores = [task["accuracy"] if "accuracy" in task else (task["pearson"] + 1) / 2 for task in metrics.values()]
    return float(np.mean(scores))


def trivial_score(task: TaskConfig, train_labels: np.ndarray, labels: np.ndarray) -> Metrics:
    """The metrics of the predictor that ignores the text: the training set's commonest class, or its mean score."""
    if task.is_regression:
        constant = np.mean(train_labels)
    else:
        constant = np.bincount(np.asarray(train_labels, dtype=np.int64), minlength=len(task.labels)).argmax()
    return score(task, np.full(len(labels), constant), labels)
