import math
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest, pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, root_mean_squared_error

from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare, holm
from hf_multitask.model.configuration_mtbert import TaskConfig

CLASSES = TaskConfig("single_label_classification", num_labels=3)
SCORES = TaskConfig("pair_regression")
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def classes(rng: np.random.Generator, count: int, right: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of three classes of which a share is right, and labels."""
    labels = rng.integers(3, size=count)
    return np.where(rng.random(count) < right, labels, (labels + 1) % 3), labels


def scores(rng: np.random.Generator, count: int, r: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Scores that correlate with r with the labels."""
    labels, noise = rng.normal(size=(2, count))
    return r * labels + math.sqrt(1 - r * r) * noise, labels


def test_the_values_are_sklearns_and_scipys() -> None:
    rng = np.random.default_rng(0)
    predicted, labels = classes(rng, 50)
    assert bootstrap_intervals(CLASSES, predicted, labels)["accuracy"].value == pytest.approx(
        accuracy_score(labels, predicted), abs=1e-12
    )
    predicted, labels = scores(rng, 50)
    intervals = bootstrap_intervals(SCORES, predicted, labels)
    assert intervals["pearson"].value == pytest.approx(pearsonr(predicted, labels).statistic, abs=1e-12)
    assert intervals["rmse"].value == pytest.approx(root_mean_squared_error(labels, predicted), abs=1e-12)


@pytest.mark.parametrize(
    ("task", "draw", "metric", "truth"),
    [(CLASSES, classes, "accuracy", 0.7), (SCORES, scores, "pearson", 0.6)],
)
def test_an_interval_covers_the_truth_as_often_as_it_says(
    task: TaskConfig, draw: Draw, metric: str, truth: float
) -> None:
    rng = np.random.default_rng(1)
    covered, runs = 0, 300
    for seed in range(runs):
        interval = bootstrap_intervals(task, *draw(rng, 120), confidence=0.9, resamples=300, seed=seed)[metric]
        covered += interval.low <= truth <= interval.high
    # Three standard deviations of 300 draws at 0.9, and what a bootstrap of 120 rows is known to lack.
    assert 0.9 - 3 * 0.0173 - 0.01 <= covered / runs <= 0.9 + 3 * 0.0173


def test_the_final_scores_interval_covers_the_truth_too() -> None:
    rng = np.random.default_rng(5)
    tasks = {"a": CLASSES, "b": SCORES}
    covered, runs = 0, 200
    for seed in range(runs):
        # Tasks of unlike sizes, resampled each for itself.
        drawn = {"a": classes(rng, 60), "b": scores(rng, 120)}
        predicted, labels = ({name: pair[side] for name, pair in drawn.items()} for side in (0, 1))
        interval = all_intervals(tasks, predicted, labels, 0.9, resamples=200, seed=seed)["final_score"]
        # The mean of 0.7 and (0.6 + 1) / 2.
        covered += interval.low <= 0.75 <= interval.high
    assert 0.9 - 3 * 0.0212 - 0.01 <= covered / runs <= 0.9 + 3 * 0.0212
    assert interval.value == pytest.approx(
        (accuracy_score(labels["a"], predicted["a"]) + (pearsonr(predicted["b"], labels["b"]).statistic + 1) / 2) / 2,
        abs=1e-12,
    )


def test_the_final_score_of_one_task_has_that_tasks_interval() -> None:
    predicted, labels = classes(np.random.default_rng(6), 80)
    intervals = all_intervals({"a": CLASSES}, {"a": predicted}, {"a": labels})
    assert intervals["final_score"] == intervals["a_accuracy"]
    assert intervals["a_accuracy"] == bootstrap_intervals(CLASSES, predicted, labels)["accuracy"]


def test_chosen_metrics_have_intervals_and_what_counts_of_them_is_in_the_final_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine: Any = types.ModuleType("mine")
    mine.hits = lambda predictions, references: float(np.mean(predictions == references))
    monkeypatch.setitem(sys.modules, "mine", mine)
    task = TaskConfig(
        "single_label_classification", num_labels=3, metrics=["accuracy", "mcc", "mine:hits"], counts="mcc"
    )
    predicted, labels = classes(np.random.default_rng(7), 100)
    intervals = all_intervals({"a": task, "b": CLASSES}, {"a": predicted, "b": predicted}, {"a": labels, "b": labels})
    assert list(intervals) == ["a_accuracy", "a_mcc", "a_hits", "b_accuracy", "final_score"]
    # One formula, a row's draws at once or one at a time.
    assert intervals["a_hits"] == intervals["a_accuracy"] == intervals["b_accuracy"]
    share = (matthews_corrcoef(labels, predicted) + 1) / 2
    assert intervals["final_score"].value == pytest.approx((share + accuracy_score(labels, predicted)) / 2, abs=1e-12)
    rng = np.random.default_rng(0)
    draws = [rng.integers(100, size=100) for _ in range(2000)]
    bounds = np.quantile([matthews_corrcoef(labels[rows], predicted[rows]) for rows in draws], [0.025, 0.975])
    assert [intervals["a_mcc"].low, intervals["a_mcc"].high] == pytest.approx(bounds, abs=0.02)


def test_models_are_compared_by_the_metrics_that_were_chosen() -> None:
    rng = np.random.default_rng(8)
    first, labels = classes(rng, 200, 0.6)
    second = np.where(rng.random(200) < 0.8, labels, (labels + 1) % 3)
    task = TaskConfig("single_label_classification", num_labels=3, metrics=["f1_macro", "kappa"], counts="none")
    comparisons = compare(task, first, second, labels, resamples=500)
    assert list(comparisons) == ["f1_macro", "kappa"]
    expected = f1_score(labels, second, average="macro") - f1_score(labels, first, average="macro")
    assert comparisons["f1_macro"].difference.value == pytest.approx(expected, abs=1e-12)
    assert comparisons["f1_macro"].difference.low > 0
    assert comparisons["kappa"].p_value < 0.01


@pytest.mark.parametrize("draw", [pytest.param(scores, marks=pytest.mark.slow), classes])
def test_p_values_are_uniform_where_the_models_are_alike(draw: Draw) -> None:
    rng = np.random.default_rng(2)
    task, metric = (SCORES, "pearson") if draw is scores else (CLASSES, "accuracy")
    p_values = []
    for seed in range(250):
        first, labels = draw(rng, 60)
        if draw is scores:
            second = 0.6 * labels + 0.8 * rng.normal(size=60)
        else:
            second = np.where(rng.random(60) < 0.7, labels, (labels + 1) % 3)
        p_values.append(compare(task, first, second, labels, resamples=300, seed=seed)[metric].p_value)
    if draw is scores:
        assert kstest(p_values, "uniform").pvalue > 0.01
    # Of so few rows, accuracies differ by few values, and the p-values with them: the test may only be too careful.
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * math.sqrt(level * (1 - level) / 250)


def test_a_model_that_is_better_is_found_to_be() -> None:
    rng = np.random.default_rng(3)
    first, labels = classes(rng, 400, 0.6)
    second = np.where(rng.random(400) < 0.75, labels, (labels + 1) % 3)
    comparison = compare(CLASSES, first, second, labels)["accuracy"]
    assert comparison.difference.value == pytest.approx(
        accuracy_score(labels, second) - accuracy_score(labels, first), abs=1e-12
    )
    assert 0 < comparison.difference.low < comparison.difference.value < comparison.difference.high
    assert comparison.p_value < 0.01
    backwards = compare(CLASSES, second, first, labels)["accuracy"]
    assert backwards.difference.value == -comparison.difference.value
    assert backwards.p_value == pytest.approx(comparison.p_value, abs=0.01)


def test_an_undefined_score_is_neither_better_nor_worse() -> None:
    labels = np.arange(6.0)
    constant = compare(SCORES, labels + 0.5, np.ones(6), labels)["pearson"]
    assert math.isnan(constant.difference.value)
    assert math.isnan(constant.p_value)
    assert math.isnan(compare(CLASSES, np.array([1]), np.array([0]), np.array([0]))["accuracy"].p_value)


def test_small_permutations_are_exact() -> None:
    labels = np.zeros(4, dtype=int)
    # The second is right in all four rows, the first in none: of the 16 ways to swap, 2 are as far apart.
    comparison = compare(CLASSES, np.ones(4, dtype=int), labels, labels)["accuracy"]
    assert comparison.p_value == pytest.approx(2 / 16)


def test_what_cannot_be_resampled_is_undefined() -> None:
    one = bootstrap_intervals(CLASSES, np.array([1]), np.array([1]))["accuracy"]
    assert one.value == 1.0
    assert math.isnan(one.low)
    constant = bootstrap_intervals(SCORES, np.ones(5), np.arange(5.0))["pearson"]
    assert math.isnan(constant.value)
    assert math.isnan(constant.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    predicted, labels = scores(np.random.default_rng(4), 40)
    first, again, other = (bootstrap_intervals(SCORES, predicted, labels, seed=seed)["rmse"] for seed in (1, 1, 2))
    assert first == again != other


def test_holms_correction() -> None:
    # Worked by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and no less than the one before.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": math.nan})
    assert {name: p for name, p in adjusted.items() if name != "e"} == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert math.isnan(adjusted["e"])
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
