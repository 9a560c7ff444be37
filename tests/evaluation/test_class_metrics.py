"""Metrics of class ids, against scikit-learn's."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

from hf_multitask.evaluation.class_metrics import CLASS_METRICS, confusion_tables

# Of two classes for `f1`, else of four.
SCIKIT_LEARNS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "f1": f1_score,
    "f1_macro": lambda labels, predicted: f1_score(labels, predicted, average="macro"),
    "f1_weighted": lambda labels, predicted: f1_score(labels, predicted, average="weighted"),
    "precision_macro": lambda labels, predicted: precision_score(labels, predicted, average="macro"),
    "recall_macro": lambda labels, predicted: recall_score(labels, predicted, average="macro"),
    "mcc": matthews_corrcoef,
    "kappa": cohen_kappa_score,
    "kappa_quadratic": lambda labels, predicted: cohen_kappa_score(
        labels, predicted, weights="quadratic", labels=range(4)
    ),
}


def draw(seed: int, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return np.where(rng.random(count) < 0.5, labels, rng.integers(classes, size=count)), labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_each_is_scikit_learns_with_many_rows_and_with_so_few_that_classes_are_missing(name: str) -> None:
    for seed in range(200):
        predicted, labels = draw(seed, (3, 5, 500)[seed % 3], 2 if name == "f1" else 4)
        if len(set(predicted) | set(labels)) < 2:
            continue
        expected = SCIKIT_LEARNS[name](labels, predicted)
        assert float(CLASS_METRICS[name].compute(predicted, labels)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_of_many_draws_of_rows_each_has_its_own_value(name: str) -> None:
    predicted, labels = draw(0, 30, 2 if name == "f1" else 4)
    rows = np.random.default_rng(1).integers(30, size=(3, 2, 30))
    metric = CLASS_METRICS[name]
    values = metric.of_rows((predicted, labels), rows)
    assert values.shape == (3, 2)
    for place in np.ndindex(3, 2):
        one = metric.compute(predicted[rows[place]], labels[rows[place]])
        assert values[place] == pytest.approx(one, abs=1e-12)


def test_tables_count_labels_by_predictions() -> None:
    predicted, labels = draw(0, 60, 3)
    tables = confusion_tables(predicted.reshape(2, 30).T, labels.reshape(2, 30).T, axis=0)
    for table, guess, truth in zip(tables, predicted.reshape(2, 30), labels.reshape(2, 30), strict=True):
        assert table.tolist() == confusion_matrix(truth, guess, labels=range(3)).tolist()


def test_what_says_nothing_has_the_value_of_saying_nothing() -> None:
    labels, constant = np.array([0, 1, 1, 2]), np.ones(4, dtype=int)
    for name in ("mcc", "kappa", "kappa_quadratic"):
        assert CLASS_METRICS[name].uninformed == 0.0
        assert float(CLASS_METRICS[name].compute(constant, labels)) == pytest.approx(0.0)
    assert CLASS_METRICS["balanced_accuracy"].compute(constant, labels) == pytest.approx(1 / 3)
    assert CLASS_METRICS["f1"].compute(np.zeros(4, int), np.zeros(4, int)) == 0.0
    # Where no error could occur, agreement beyond chance is undefined.
    assert math.isnan(CLASS_METRICS["kappa"].compute(constant, constant))


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_the_way_to_0_1_begins_and_ends_there(name: str) -> None:
    metric = CLASS_METRICS[name]
    assert metric.share is not None
    assert metric.greater_is_better
    is_correlation = name in ("mcc", "kappa", "kappa_quadratic")
    labels = np.array([0, 1, 0, 1])
    assert metric.share(metric.compute(labels, labels)) == 1.0
    assert metric.share(metric.compute(1 - labels, labels)) == 0.0
    assert metric.share(0.0) == (0.5 if is_correlation else 0.0)
