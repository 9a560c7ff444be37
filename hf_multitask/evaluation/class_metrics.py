"""Metrics of class ids beside accuracy: of many resamples at once, from how often each label met each prediction.

Their values are scikit-learn's, whose functions take one sample at a time: 3 ms for 10,000 rows, thousands of times.

Shape legend:
    - B: rows of one task
    - C: classes, up to the greatest id that occurs
    - R: resamples, any number, of any shape
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from hf_multitask.evaluation.metrics import ACCURACY, Metric, as_it_is, from_correlation

# From tables [R, C, C], labels by predictions, to [R].
OfTables = Callable[[np.ndarray], np.ndarray]


def confusion_tables(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> np.ndarray:
    """How many rows have each label and each prediction, [R, C, C], of class ids [R, B] with the rows along `axis`."""
    predicted, labels = (np.moveaxis(np.asarray(ids), axis, -1).astype(np.int64) for ids in (predicted, labels))
    classes = 1 + max(int(predicted.max(initial=0)), int(labels.max(initial=0)))
    cells = (labels * classes + predicted).reshape(-1, labels.shape[-1])
    # Each resample counts in a range of its own, so that one pass counts all.
    cells += classes**2 * np.arange(len(cells))[:, None]
    counts = np.bincount(cells.ravel(), minlength=classes**2 * len(cells))
    return counts.reshape(*labels.shape[:-1], classes, classes)


def _of_tables(compute: OfTables) -> Callable[..., Any]:
    """A metric of class ids [R, B] from one of tables."""

    def of_ids(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
        return compute(confusion_tables(predicted, labels, axis))[()]

    return of_ids


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """A quotient; `otherwise` where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(np.shape(below), otherwise), where=below != 0)


def _by_class(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class: the rows that are right, those that have it, and those that are taken for it, each [R, C]."""
    return np.diagonal(tables, axis1=-2, axis2=-1), tables.sum(-1), tables.sum(-2)


def _mean_of_present(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """The mean over the classes that occur among labels or predictions, which scikit-learn's macro average is."""
    _, having, taken = _by_class(tables)
    return np.mean(values, axis=-1, where=having + taken > 0)


def _f1_by_class(tables: np.ndarray) -> np.ndarray:
    right, having, taken = _by_class(tables)
    return _ratio(2.0 * right, having + taken)


def _f1_macro(tables: np.ndarray) -> np.ndarray:
    return _mean_of_present(_f1_by_class(tables), tables)


def _f1_weighted(tables: np.ndarray) -> np.ndarray:
    having = tables.sum(-1)
    return (_f1_by_class(tables) * having).sum(-1) / having.sum(-1)


def _precision_macro(tables: np.ndarray) -> np.ndarray:
    right, _, taken = _by_class(tables)
    return _mean_of_present(_ratio(right, taken), tables)


def _recall_macro(tables: np.ndarray) -> np.ndarray:
    right, having, _ = _by_class(tables)
    return _mean_of_present(_ratio(right, having), tables)


def _balanced_accuracy(tables: np.ndarray) -> np.ndarray:
    right, having, _ = _by_class(tables)
    return np.mean(_ratio(right, having), axis=-1, where=having > 0)


def _mcc(tables: np.ndarray) -> np.ndarray:
    """Matthews' coefficient of any number of classes (Gorodkin 2004); 0 where one side is constant."""
    right, having, taken = (counts.astype(np.float64) for counts in _by_class(tables))
    rows = having.sum(-1)
    covariance = rows * right.sum(-1) - (having * taken).sum(-1)
    variances = (rows**2 - (having**2).sum(-1)) * (rows**2 - (taken**2).sum(-1))
    return _ratio(covariance, np.sqrt(variances))


def _kappa(power: int) -> OfTables:
    """Cohen's κ, with errors weighed by the distance of the ids to some power; NaN where no error could occur."""

    def kappa(tables: np.ndarray) -> np.ndarray:
        _, having, taken = _by_class(tables)
        ids = np.arange(tables.shape[-1])
        weights = np.abs(ids[:, None] - ids).astype(np.float64) ** power if power else (ids[:, None] != ids) * 1.0
        by_chance = having[..., :, None] * taken[..., None, :] / having.sum(-1)[..., None, None]
        return 1 - _ratio((weights * tables).sum((-2, -1)), (weights * by_chance).sum((-2, -1)), otherwise=np.nan)

    return kappa


def f1(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """The F1 of the second of two labels; 0 where it occurs on neither side."""
    right = np.sum(np.multiply(predicted, labels), axis=axis)
    return _ratio(2.0 * right, np.sum(predicted, axis=axis) + np.sum(labels, axis=axis))[()]


def _metric(title: str, compute: OfTables, **values: Any) -> Metric:
    return Metric(title, _of_tables(compute), takes_axis=True, **{"share": as_it_is, **values})


CLASS_METRICS: dict[str, Metric] = {
    "accuracy": ACCURACY,
    "balanced_accuracy": _metric("Balanced accuracy", _balanced_accuracy),
    "f1": Metric("F1 of the second label", f1, takes_axis=True, share=as_it_is),
    "f1_macro": _metric("F1, mean over classes", _f1_macro, hub_type="f1"),
    "f1_weighted": _metric("F1, mean over classes by their rows", _f1_weighted, hub_type="f1"),
    "precision_macro": _metric("Precision, mean over classes", _precision_macro, hub_type="precision"),
    "recall_macro": _metric("Recall, mean over classes", _recall_macro, hub_type="recall"),
    "mcc": _metric(
        "Matthews correlation", _mcc, share=from_correlation, uninformed=0.0, hub_type="matthews_correlation"
    ),
    "kappa": _metric("Cohen's kappa", _kappa(0), share=from_correlation, uninformed=0.0, hub_type="cohen_kappa"),
    "kappa_quadratic": _metric(
        "Cohen's kappa with quadratic weights",
        _kappa(2),
        share=from_correlation,
        uninformed=0.0,
        hub_type="cohen_kappa",
    ),
}
