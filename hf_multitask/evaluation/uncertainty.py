"""How sure a score is, and whether one model is better than another: by resampling the rows that were scored.

It is the uncertainty of a finite evaluation set. That of training, over seeds, is another (`recipes/sweep.py`).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, permutation_test

from hf_multitask.evaluation.metrics import Metric, mean_of_shares
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.model.configuration_mtbert import TaskConfig

# Rows up to which intervals are bias-corrected; with more there is little to correct.
_CORRECTED = 5000
# A statistic of values of rows along an axis; any number of them at once.
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds of its confidence interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The second model's score less the first's, with its interval, and the p-value of there being no difference; NaN
    where it is undefined."""

    difference: Interval
    p_value: float


def bootstrap_intervals(
    task: TaskConfig,
    predicted: np.ndarray,
    labels: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap intervals of a task's metrics, bias-corrected and accelerated up to 5,000 rows (Efron 1987).

    Args:
        task: The task.
        predicted, labels: Class ids or scores, [B].
        confidence: How often such an interval holds the true value, from 0 to 1.
        resamples: How often B rows are drawn with replacement.
        seed: Of the draws.

    Returns:
        An interval by metric.
    """
    evaluation = evaluation_of(task)
    values, evidence = evaluation.score(predicted, labels), evaluation.evidence_by_metric(predicted, labels)
    intervals = {}
    for name, metric in evaluation.chosen.items():

        def of_rows(rows: np.ndarray, axis: int, of: Metric = metric, name: str = name) -> np.ndarray:
            return of.of_rows(evidence[name], np.moveaxis(rows, axis, -1))

        low, high = _bounds(of_rows, (np.arange(len(labels)),), confidence, resamples, seed)
        intervals[name] = Interval(values[name], low, high)
    return intervals


def all_intervals(
    tasks: Mapping[str, TaskConfig],
    predicted: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of all tasks' metrics and of their final score, whose tasks are resampled each for itself.

    Args:
        tasks: By name.
        predicted, labels: By name, class ids or scores, [B].
        confidence, resamples, seed: As for [`bootstrap_intervals`].

    Returns:
        An interval by `<task>_<metric>`, and `final_score`.
    """
    by_task = {
        name: bootstrap_intervals(task, predicted[name], labels[name], confidence, resamples, seed)
        for name, task in tasks.items()
    }
    metrics = {name: {metric: part.value for metric, part in each.items()} for name, each in by_task.items()}
    evaluations = {name: evaluation_of(task) for name, task in tasks.items()}
    shares = {name: evaluations[name].share(metrics[name]) for name in tasks}
    counted = {name: share for name, share in shares.items() if share is not None}
    counting = {name: evaluations[name].chosen[str(evaluations[name].counting)] for name in counted}
    evidence = {
        name: evaluations[name].evidence_by_metric(predicted[name], labels[name])[str(evaluations[name].counting)]
        for name in counted
    }

    def share_of(name: str, rows: np.ndarray) -> np.ndarray:
        metric = counting[name]
        assert metric.share is not None
        return metric.share(metric.of_rows(evidence[name], rows))

    def mean_of_tasks(*rows: np.ndarray, axis: int) -> np.ndarray:
        drawn = zip(counted, rows, strict=True)
        return np.mean([share_of(name, np.moveaxis(each, axis, -1)) for name, each in drawn], axis=0)

    intervals = {f"{name}_{metric}": part for name, each in by_task.items() for metric, part in each.items()}
    if not counted:
        return intervals
    # A row's prediction and label are drawn together, tasks apart.
    numbers = tuple(np.arange(len(labels[name])) for name in counted)
    low, high = _bounds(mean_of_tasks, numbers, confidence, resamples, seed, paired=False)
    return intervals | {"final_score": Interval(mean_of_shares(counted), low, high)}


def compare(
    task: TaskConfig,
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compares two models' predictions for the same rows.

    The p-value is that of the paired permutation test: were the models alike, swapping their predictions in any of the
    rows would give as great a difference as often as not (two-sided). The interval is the paired bootstrap's.

    Args:
        task: The task.
        first, second: Predictions of the two models, class ids or scores, [B].
        labels: [B].
        confidence, resamples, seed: As for [`bootstrap_intervals`].

    Returns:
        A comparison by metric.
    """
    evaluation = evaluation_of(task)
    before, after = evaluation.score(first, labels), evaluation.score(second, labels)
    rows = np.arange(len(labels))
    models = [evaluation.evidence_by_metric(predicted, labels) for predicted in (first, second)]
    comparisons = {}
    for name, metric in evaluation.chosen.items():
        # Each model's evidence end to end, so that a number names both a row and who predicted it.
        both = [np.concatenate(values) for values in zip(*(model[name] for model in models), strict=True)]

        def of_model(model: np.ndarray, drawn: np.ndarray, of: Metric = metric, both: Any = both) -> np.ndarray:
            """Of rows [R, B] that are each predicted by a model, 0 or 1."""
            return of.of_rows(both, drawn + model * len(rows))

        def of_rows(drawn: np.ndarray, axis: int, of_model: Any = of_model) -> np.ndarray:
            drawn = np.moveaxis(drawn, axis, -1)
            return of_model(np.ones_like(drawn), drawn) - of_model(np.zeros_like(drawn), drawn)

        def of_swapped(one: np.ndarray, other: np.ndarray, axis: int, of_model: Any = of_model) -> np.ndarray:
            one, other = np.moveaxis(one, axis, -1), np.moveaxis(other, axis, -1)
            drawn = np.broadcast_to(rows, one.shape)
            return of_model(other, drawn) - of_model(one, drawn)

        low, high = _bounds(of_rows, (rows,), confidence, resamples, seed)
        value = after[name] - before[name]
        # An undefined score is neither better nor worse, and one row cannot be told from another.
        is_testable = np.isfinite(value) and len(labels) > 1
        p_value = _permutation_p_value(of_swapped, len(rows), resamples, seed) if is_testable else np.nan
        comparisons[name] = Comparison(Interval(value, low, high), p_value)
    return comparisons


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusts p-values of several tests, so that the chance of any false finding stays below the level (Holm 1979).

    Args:
        p_values: By test; NaN where a test was not possible, and is not counted.
    """
    known = sorted((p, name) for name, p in p_values.items() if p == p)
    adjusted, greatest = dict(p_values), 0.0
    for rank, (p, name) in enumerate(known):
        greatest = max(greatest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = greatest
    return adjusted


def _bounds(
    statistic: Statistic,
    samples: tuple[np.ndarray, ...],
    confidence: float,
    resamples: int,
    seed: int,
    paired: bool = True,
) -> tuple[float, float]:
    if min(map(len, samples)) < 2:
        return np.nan, np.nan
    with warnings.catch_warnings():
        # Rows that do not vary have no interval, which NaN says.
        warnings.simplefilter("ignore")
        result = bootstrap(
            samples,
            statistic,
            paired=paired,
            vectorized=True,
            axis=-1,
            confidence_level=confidence,
            n_resamples=resamples,
            # Memory of a batch of resamples, not of all of them.
            batch=100,
            # The correction leaves out each row once, which takes minutes with very many.
            method="BCa" if max(map(len, samples)) <= _CORRECTED else "percentile",
            rng=np.random.default_rng(seed),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _permutation_p_value(difference: Statistic, rows: int, resamples: int, seed: int) -> float:
    """Of a difference of two models, from who predicted each row on either side, 0 or 1."""
    return float(
        permutation_test(
            (np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=np.int64)),
            difference,
            permutation_type="samples",
            vectorized=True,
            axis=-1,
            n_resamples=resamples,
            batch=100,
            rng=np.random.default_rng(seed),
        ).pvalue
    )
