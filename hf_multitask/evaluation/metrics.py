"""The metrics of the kinds of task (paper section 5.2), and the final score.

Shape legend:
    - B: rows of one task
    - R: resamples of them, any number, of any shape
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr

# By name.
Metrics = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """One number that says how good predictions are.

    Args:
        title: In words.
        compute: From what an evaluation has of B rows (`TaskEvaluation.evidence`, arrays of B) to the number.
        takes_axis: Whether `compute` takes arrays [R, B] and an `axis` too, and gives [R].
        greater_is_better: Whether the greatest value is the best, and not the least.
        share: Its way to [0, 1], of which the final score is the mean, for numbers and arrays; None: it cannot count.
        uninformed: What a predictor that ignores its input has, where that is known whatever the rows are.
        hub_type: The Hub's name for it; empty: as ours.
        is_own: Whether it is a user's, which reads predictions and labels whatever the kind's evidence is.
    """

    title: str
    compute: Callable[..., Any]
    takes_axis: bool = False
    greater_is_better: bool = True
    share: Callable[[Any], Any] | None = None
    uninformed: float | None = None
    hub_type: str = ""
    is_own: bool = False

    def of_rows(self, evidence: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """The metric, [R], of rows that are drawn, [R, B'], by their numbers."""
        if self.takes_axis:
            return self.compute(*(values[rows] for values in evidence), axis=-1)
        return np.apply_along_axis(lambda drawn: self.compute(*(values[drawn] for values in evidence)), -1, rows)


@dataclass(frozen=True)
class MeanMetric(Metric):
    """A metric that reads nothing but the means over rows of its evidence, of arrays [B, ...] the means over B.

    Its `compute` takes the means over the last axis but one. So the means of rows that are drawn, which are one product
    of how often each row is drawn with all rows, can stand for these rows as a single one: thousands of resamples of
    rows with many labels take no longer than a second, where to draw them takes minutes.
    """

    def of_rows(self, evidence: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        drawn, known = rows.reshape(-1, rows.shape[-1]), len(evidence[0])
        numbers = drawn + known * np.arange(len(drawn))[:, None]
        times = np.bincount(numbers.ravel(), minlength=known * len(drawn)).reshape(len(drawn), known)
        means = (times @ np.asarray(values, dtype=np.float64) / rows.shape[-1] for values in evidence)
        return self.compute(*(mean[:, None] for mean in means)).reshape(rows.shape[:-1])


def as_it_is(value: Any) -> Any:
    """The way to [0, 1] of what is there already."""
    return value


def from_correlation(r: Any) -> Any:
    """The way to [0, 1] of what lies between -1 and 1 (paper section 5.2)."""
    return (r + 1) / 2


def accuracy(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """The share of class ids that are right, from 0 to 1."""
    return np.mean(np.equal(predicted, labels), axis=axis)


def pearson(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """Pearson's r of scores, from -1 to 1; NaN where either side is constant or has one row: r is then undefined."""
    predicted, labels = np.asarray(predicted, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if predicted.shape[axis] < 2:
        return np.full(np.delete(predicted.shape, axis), np.nan)[()]
    with warnings.catch_warnings():
        # NaN says it.
        warnings.simplefilter("ignore")
        return pearsonr(predicted, labels, axis=axis).statistic


def root_mean_squared_error(predicted: np.ndarray, labels: np.ndarray, axis: int = -1) -> Any:
    """At least 0, in the unit of the scores."""
    return np.sqrt(np.mean(np.square(np.subtract(predicted, labels, dtype=np.float64)), axis=axis))


ACCURACY = Metric("Accuracy", accuracy, takes_axis=True, share=as_it_is)
PEARSON = Metric("Pearson correlation", pearson, takes_axis=True, share=from_correlation, uninformed=0.0)
RMSE = Metric("Root mean squared error", root_mean_squared_error, takes_axis=True, greater_is_better=False)


class Accuracy(evaluate.Metric):
    """[`accuracy`] as a module of `evaluate` that needs no network, for its evaluators."""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description=self.__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[int], references: list[int]) -> Metrics:
        return {"accuracy": float(accuracy(np.asarray(predictions), np.asarray(references)))}


def mean_of_shares(shares: Mapping[str, float]) -> float:
    """The final score: the mean over tasks, as in the paper's Tables 3 to 6; NaN if one is undefined.

    Args:
        shares: By task, the metric that counts, on its way to [0, 1]: accuracy, and (r + 1) / 2 for Pearson's r.
    """
    return float(np.mean(list(shares.values()))) if shares else math.nan
