"""What a task is scored by, and what of it counts."""

import sys
import types
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from hf_multitask import TaskConfig
from hf_multitask.evaluation.metrics import mean_of_shares
from hf_multitask.evaluation.task_evaluations import check_metrics, evaluation_of, is_greater_better


def classes(**keys: Any) -> TaskConfig:
    return TaskConfig("single_label_classification", **{"num_labels": 3, **keys})


def scores(**keys: Any) -> TaskConfig:
    return TaskConfig("regression", **keys)


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("mine")
    module.cost = lambda predictions, references: float(np.abs(predictions - references).sum())
    monkeypatch.setitem(sys.modules, "mine", module)


@pytest.mark.parametrize(
    ("task", "chosen", "counting"),
    [
        # As in the paper.
        (classes(), ["accuracy"], "accuracy"),
        (scores(), ["pearson", "rmse"], "pearson"),
        # What counts is always there.
        (classes(metrics=["f1_macro", "mcc"]), ["f1_macro", "mcc", "accuracy"], "accuracy"),
        (classes(counts="f1_macro"), ["accuracy", "f1_macro"], "f1_macro"),
        (classes(metrics=["mcc"], counts="mcc"), ["mcc"], "mcc"),
        (scores(metrics=["mae", "spearman"], counts="spearman"), ["mae", "spearman"], "spearman"),
        (scores(metrics=["mae"], counts="none"), ["mae"], None),
        (classes(metrics=["mine:cost"]), ["cost", "accuracy"], "accuracy"),
        (
            classes(metrics=[{"name": "mine", "function": "mine:cost", "range": [0, 9]}], counts="mine"),
            ["mine"],
            "mine",
        ),
        (classes(num_labels=2, counts="f1"), ["accuracy", "f1"], "f1"),
    ],
)
def test_a_task_is_scored_by_what_it_names_and_by_what_counts(
    task: TaskConfig, chosen: list[str], counting: str | None
) -> None:
    evaluation = evaluation_of(task)
    assert list(evaluation.chosen) == chosen
    assert evaluation.counting == counting
    assert list(evaluation.score(np.array([0, 1, 1]), np.array([0, 1, 0]))) == chosen


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (classes(metrics=["f1_macor"]), "metric 'f1_macor' is unknown; did you mean 'f1_macro'?"),
        (
            classes(metrics=["rmse"]),
            "metric 'rmse' is one of regression, not of single_label_classification, which has accuracy, "
            "balanced_accuracy, f1_macro,",
        ),
        (scores(metrics=["accuracy"]), "single_label_classification, not of regression, which has pearson, rmse"),
        (classes(metrics=["f1"]), "metric 'f1' is that of the second of two labels, and there are 3: take f1_macro"),
        (classes(metrics=["mcc", "mcc"]), "metric 'mcc' is there twice"),
        (classes(metrics=[{"name": "mcc", "function": "mine:cost"}]), "'mcc' is there twice; give one of your own"),
        (classes(metrics=["mine:cots"]), "mine:cots: the module has no 'cots'; did you mean 'cost'"),
        (classes(counts="acuracy"), "metric 'acuracy' is unknown; did you mean 'accuracy'?"),
        (classes(metrics=["mine:cost"], counts="csot"), "metric 'csot' is unknown; did you mean 'cost'?"),
        (
            scores(counts="rmse"),
            "counts 'rmse' cannot enter the final score, since it has no way to [0, 1]; what has: pearson, spearman, "
            "kendall; or none.",
        ),
        (scores(metrics=["r2"], counts="r2"), "counts 'r2' cannot enter the final score"),
        (classes(metrics=["mine:cost"], counts="cost"), "counts 'cost' cannot enter the final score"),
    ],
)
def test_what_a_task_cannot_be_scored_by_is_refused_by_a_sentence(task: TaskConfig, message: str) -> None:
    with pytest.raises(ValueError, match=r"^task 'x': ") as error:
        check_metrics({"fine": classes(), "x": task})
    assert message in str(error.value)


def test_the_final_score_is_the_mean_of_what_counts_on_its_way_to_0_1() -> None:
    draw = np.random.default_rng(0)
    tasks = {"a": classes(counts="f1_macro"), "b": classes(counts="mcc"), "c": scores(counts="none")}
    labels, predicted = draw.integers(3, size=(2, 60))
    shares = {}
    for name, task in tasks.items():
        share = evaluation_of(task).share(evaluation_of(task).score(predicted, labels))
        if share is not None:
            shares[name] = share
    expected = (f1_score(labels, predicted, average="macro") + (matthews_corrcoef(labels, predicted) + 1) / 2) / 2
    assert mean_of_shares(shares) == pytest.approx(expected, abs=1e-12)


def test_the_predictor_that_ignores_the_text_has_all_of_the_metrics() -> None:
    task = classes(metrics=["f1_macro", "mcc", "balanced_accuracy"])
    trivial = evaluation_of(task).trivial([0, 0, 1], np.array([0, 0, 1, 2]))
    # Two rows of four have the label 0: its F1 is 2/3, the others' 0.
    assert trivial == pytest.approx({"f1_macro": 2 / 9, "mcc": 0.0, "balanced_accuracy": 1 / 3, "accuracy": 0.5})


@pytest.mark.parametrize(
    ("key", "is_better"),
    [
        ("eval_a_accuracy", True),
        ("b_mae", False),
        ("eval_b_r2", True),
        ("a_cost", True),
        ("b_price", False),
        ("eval_final_score", True),
        ("a_loss", False),
        ("loss", False),
        ("a_rmse", None),
    ],
)
def test_the_direction_of_a_metric_is_its_own(key: str, is_better: bool | None) -> None:
    price = {"name": "price", "function": "mine:cost", "greater_is_better": False}
    tasks = {"a": classes(metrics=["mine:cost"]), "b": scores(metrics=["mae", "r2", price])}
    assert is_greater_better(tasks, key) is is_better
