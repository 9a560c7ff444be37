"""How sure a score is, and whether one model is better than another: by resampling the rows that were scored.

It is the uncertainty of a finite evaluation set. That of training, over seeds, is another (`recipes/sweep.py`).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, permutation_test

from hf_multitask.evaluation.metrics import final_score, score
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
    values = score(task, predicted, labels)
    intervals = {}
    for metric, statistic in _statistics(task).items():
        low, high = _bounds(statistic, _samples(task, predicted, labels), confidence, resamples, seed)
        intervals[metric] = Interval(values[metric], low, high)
    return intervals


def all_intervals(
    tasks: Mapping[str, TaskConfig],
    predicted: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of all tasks' metrics and of their [`final_score`], whose tasks are resampled each for itself.

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
    samples = {name: _samples(task, predicted[name], labels[name]) for name, task in tasks.items()}

    def mean_of_tasks(*rows: np.ndarray, axis: int) -> np.ndarray:
        return np.mean([score_of(name, drawn, axis) for name, drawn in zip(tasks, rows, strict=True)], axis=0)

    def score_of(name: str, drawn: np.ndarray, axis: int) -> np.ndarray:
        values = [value[drawn] for value in samples[name]]
        return (_pearson(values[0], values[1], axis) + 1) / 2 if tasks[name].is_regression else _mean(values[0], axis)

    # The samples are the rows' numbers: a row's prediction and label are drawn together, tasks apart.
    numbers = tuple(np.arange(len(labels[name])) for name in tasks)
    low, high = _bounds(mean_of_tasks, numbers, confidence, resamples, seed, paired=False)
    intervals = {f"{name}_{metric}": part for name, each in by_task.items() for metric, part in each.items()}
    return intervals | {"final_score": Interval(final_score(metrics), low, high)}


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
    before, after = score(task, first, labels), score(task, second, labels)
    comparisons = {}
    for metric, statistic in _statistics(task).items():
        both = (*_samples(task, first, labels), *_samples(task, second, labels)[:1])

        def difference(a: np.ndarray, *rest: np.ndarray, axis: int, of: Statistic = statistic) -> np.ndarray:
            *shared, b = rest
            return of(b, *shared, axis=axis) - of(a, *shared, axis=axis)

        low, high = _bounds(difference, both, confidence, resamples, seed)
        value = after[metric] - before[metric]
        # An undefined score is neither better nor worse, and one row cannot be told from another.
        is_testable = np.isfinite(value) and len(labels) > 1
        p_value = _permutation_p_value(difference, both, resamples, seed) if is_testable else np.nan
        comparisons[metric] = Comparison(Interval(value, low, high), p_value)
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


def _samples(task: TaskConfig, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the statistics read of each row: for a classification whether it is right, for a regression both scores."""
    if task.is_regression:
        return np.asarray(predicted, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    return (np.equal(predicted, labels).astype(np.float64),)


def _statistics(task: TaskConfig) -> Mapping[str, Statistic]:
    return {"pearson": _pearson, "rmse": _rmse} if task.is_regression else {"accuracy": _mean}


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return np.mean(values, axis=axis)


def _pearson(predicted: np.ndarray, labels: np.ndarray, axis: int) -> np.ndarray:
    x = predicted - predicted.mean(axis=axis, keepdims=True)
    y = labels - labels.mean(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=axis) / np.sqrt((x * x).sum(axis=axis) * (y * y).sum(axis=axis))


def _rmse(predicted: np.ndarray, labels: np.ndarray, axis: int) -> np.ndarray:
    return np.sqrt(np.mean((predicted - labels) ** 2, axis=axis))


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


def _permutation_p_value(difference: Statistic, both: tuple[np.ndarray, ...], resamples: int, seed: int) -> float:
    first, *shared, second = both

    return float(
        permutation_test(
            (first, second),
            # What both share, such as the labels, is not swapped.
            lambda a, b, axis: difference(a, *shared, b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            axis=-1,
            n_resamples=resamples,
            batch=100,
            rng=np.random.default_rng(seed),
        ).pvalue
    )
