"""Metrics of scores, against scipy's and scikit-learn's."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from hf_multitask.evaluation.score_metrics import SCORE_METRICS

EXPECTED: dict[str, Callable[[Any, Any], float]] = {
    "pearson": lambda labels, predicted: pearsonr(labels, predicted).statistic,
    "spearman": lambda labels, predicted: spearmanr(labels, predicted).statistic,
    "kendall": lambda labels, predicted: kendalltau(labels, predicted).statistic,
    "rmse": root_mean_squared_error,
    "mae": mean_absolute_error,
    "r2": r2_score,
}


def draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties."""
    labels, noise = np.random.default_rng(seed).normal(size=(2, count)).round(1)
    return labels + noise, labels


@pytest.mark.parametrize("name", SCORE_METRICS)
def test_each_is_what_the_libraries_give(name: str) -> None:
    for seed in range(30):
        predicted, labels = draw(seed, 5 + 10 * seed)
        expected = EXPECTED[name](labels, predicted)
        assert float(SCORE_METRICS[name].compute(predicted, labels)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCORE_METRICS)
def test_of_many_draws_of_rows_each_has_its_own_value(name: str) -> None:
    predicted, labels = draw(0, 40)
    rows = np.random.default_rng(1).integers(40, size=(3, 2, 40))
    values = SCORE_METRICS[name].of_rows((predicted, labels), rows)
    assert values.shape == (3, 2)
    one = SCORE_METRICS[name].compute(predicted[rows[2, 1]], labels[rows[2, 1]])
    assert values[2, 1] == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman", "kendall"])
def test_correlations_go_to_0_1_and_are_undefined_of_a_constant(name: str) -> None:
    metric, labels = SCORE_METRICS[name], np.arange(5.0)
    assert metric.share is not None
    assert [metric.share(metric.compute(side * labels, labels)) for side in (1, -1)] == pytest.approx([1.0, 0.0])
    assert metric.uninformed == 0.0
    assert math.isnan(metric.compute(np.ones(5), labels))
    assert math.isnan(metric.compute(labels[:1], labels[:1]))


@pytest.mark.parametrize("name", ["rmse", "mae", "r2"])
def test_errors_and_r_squared_have_no_way_to_0_1(name: str) -> None:
    assert SCORE_METRICS[name].share is None
    assert SCORE_METRICS[name].greater_is_better is (name == "r2")


def test_r_squared_of_constant_labels_is_undefined() -> None:
    assert math.isnan(SCORE_METRICS["r2"].compute(np.arange(3.0), np.ones(3)))
