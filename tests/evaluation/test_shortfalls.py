"""Which tasks are said to be no better than a predictor that ignores the text, and why they may be so."""

import math
from typing import Any

import numpy as np
import pytest

from hf_multitask.evaluation.shortfalls import Training, shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions
from hf_multitask.evaluation.uncertainty import bootstrap_intervals
from hf_multitask.model.configuration_mtbert import TaskConfig

MOOD = TaskConfig("single_label_classification", labels=["bad", "good"])
NEAR = TaskConfig("pair_regression")
# Half of 100 labels are of each class, as in training, where `bad` is the commoner one.
HALVES = np.repeat([0, 1], 50)
TRAIN = np.array([0, 0, 1])


def said(
    task: TaskConfig, outputs: Any, labels: Any, training: Training | None = None, train: Any = TRAIN
) -> str | None:
    """What is said of the one task."""
    rows = TaskPredictions(task, np.asarray(outputs, dtype=float), np.asarray(labels))
    metrics = {f"eval_x_{key}": value for key, value in rows.evaluation.score(rows.predicted, rows.labels).items()}
    intervals = {f"x_{key}": value for key, value in bootstrap_intervals(task, rows.predicted, rows.labels).items()}
    found = shortfalls({"x": rows}, metrics, {"x": rows.evaluation.trivial(train, rows.labels)}, intervals, training)
    return found.get("x")


def classes(*ids: int) -> np.ndarray:
    return np.eye(2)[np.asarray(ids)]


def right(count: int) -> np.ndarray:
    """Outputs for `HALVES` of which so many are right, and that are of both classes."""
    wrong = np.arange(100) >= count
    # From both halves in turn.
    order = np.arange(100).reshape(2, 50).T.ravel()
    guess = HALVES.copy()
    guess[order[wrong]] = 1 - HALVES[order[wrong]]
    return classes(*guess)


@pytest.mark.parametrize(
    ("count", "begin"),
    [
        (40, "no better than a predictor that ignores the text: accuracy 0.400, that of the majority class 0.500."),
        (50, "no better than a predictor that ignores the text: accuracy 0.500, that of the majority class 0.500."),
        (55, "not shown to be better than a predictor that ignores the text: accuracy 0.550 (95 % interval 0.4"),
        (70, None),
        (100, None),
    ],
)
def test_a_tie_is_no_better_and_a_few_rows_more_are_chance(count: int, begin: str | None) -> None:
    found = said(MOOD, right(count), HALVES)
    assert found is None if begin is None else found is not None and found.startswith(begin)


def test_an_accuracy_above_chance_by_its_exact_test_is_not_named() -> None:
    # Scipy's binomtest(61, 100, 0.5).pvalue is 0.035, and of 58 it is 0.133.
    assert said(MOOD, right(61), HALVES) is None
    assert said(MOOD, right(58), HALVES) is not None


def test_predictions_of_one_class_are_said_to_be() -> None:
    found = said(MOOD, classes(*[1] * 100), HALVES)
    assert found is not None
    assert found.endswith("; all 100 predictions are 'good'.")
    found = said(MOOD, classes(0, *[1] * 99), 1 - HALVES)
    assert found is not None
    assert found.endswith("; 99 of 100 predictions are 'good'.")


def test_a_constant_regression_has_no_correlation_and_noise_one_that_may_be_0() -> None:
    draw = np.random.default_rng(0)
    labels = draw.uniform(0, 5, 200)
    constant = said(NEAR, np.full(200, 2.5), labels, train=labels)
    assert constant == (
        "no better than a predictor that ignores the text: pearson undefined; all 200 predictions are the same."
    )
    assert "pearson -1.000." in str(said(NEAR, 5 - labels, labels, train=labels))
    noise = draw.uniform(0, 5, 200)
    noise *= np.sign(np.corrcoef(noise, labels)[0, 1])
    found = said(NEAR, noise, labels, train=labels)
    assert found is not None
    assert found.startswith("not shown to be better than a predictor that ignores the text: pearson 0.0")
    # It counts by r alone, however far its scores are from the labels.
    assert said(NEAR, labels / 100, labels, train=labels) is None


def test_outputs_that_are_no_numbers_are_said_to_be() -> None:
    found = said(MOOD, np.full((100, 2), math.nan), HALVES)
    assert found is not None
    assert "; its outputs are not all finite." in found
    labels = np.linspace(0, 5, 100)
    found = said(NEAR, np.where(labels < 1, math.nan, labels), labels, train=labels)
    assert found is not None
    assert "pearson undefined; its outputs are not all finite." in found


@pytest.mark.parametrize(
    ("task", "outputs", "labels"),
    [(MOOD, classes(0, 0, 0), [0, 0, 0]), (MOOD, classes(0, 1, 0), [0, 0, 0]), (NEAR, [1.0, 2.0], [3.0, 3.0])],
)
def test_of_labels_that_are_alike_nothing_can_be_told(task: TaskConfig, outputs: Any, labels: Any) -> None:
    found = said(task, outputs, labels, Training(steps=1, learning_rate=1e-5, optimizer="adamw"))
    assert found == (
        f"whether it is better than a predictor that ignores the text cannot be told, since all {len(labels)} labels "
        "that were scored are the same."
    )


def test_a_task_is_judged_by_the_metric_that_it_chose_to_count() -> None:
    # Nearly all labels are alike: what says so always is right, and finds nothing.
    labels = np.repeat([0, 1], [90, 10])
    mood = {
        counts: TaskConfig("single_label_classification", labels=["bad", "good"], counts=counts)
        for counts in ("f1", "mcc")
    }
    guess = classes(*np.where(np.arange(100) < 60, 0, 1))
    assert said(MOOD, guess, labels) is not None
    assert said(mood["f1"], guess, labels) is None
    constant = str(said(mood["f1"], classes(*[0] * 100), labels))
    assert constant.startswith(
        "no better than a predictor that ignores the text: f1 0.000, that of the majority class 0.000; all 100"
    )
    constant = str(said(mood["mcc"], classes(*[0] * 100), labels))
    assert constant.startswith("no better than a predictor that ignores the text: mcc 0.000; all 100 predictions are")


def test_what_has_no_trivial_predictor_or_no_score_is_not_compared() -> None:
    rows = {"x": TaskPredictions(MOOD, right(10), HALVES)}
    assert shortfalls(rows, {"eval_x_accuracy": 0.1}, {}, {}) == {}
    assert shortfalls(rows, {"eval_x_mine": 0.1}, {"x": {"accuracy": 0.5}}, {}) == {}
    assert list(shortfalls(rows, {"eval_x_accuracy": 0.1}, {"x": {"accuracy": 0.5}}, {})) == ["x"]


def losses(*values: float) -> list[dict[str, float]]:
    return [{"loss_x": value, "loss": value, "step": 10 * number} for number, value in enumerate(values, 1)]


ADAM = {"optimizer": "adamw_torch_fused", "steps": 1000}


@pytest.mark.parametrize(
    ("training", "reasons"),
    [
        (
            Training(**ADAM, learning_rate=1e-5),
            ["its head learns at 1e-05, which is slow for a new one (--head_learning_rate 1e-3 is usual)"],
        ),
        (Training(**ADAM, learning_rate=1e-5, head_learning_rate=1e-3), []),
        (Training(optimizer="sgd", learning_rate=1e-5), []),
        (
            Training(steps=100, rows={"x": 8000}, passes={"x": 0.1}),
            ["100 steps read only about 800 of its 8,000 rows, and one pass over them takes 1,000"],
        ),
        (Training(steps=100, rows={"x": 800}, passes={"x": 1.0}), []),
        # The phase of the largest task alone, in which the run ended.
        (Training(steps=100, rows={"x": 800}, passes={"x": 0.0}), ["the 100 steps read none of its 800 rows"]),
        (
            Training(**ADAM, learning_rate=0.0),
            [
                "its head has a learning rate of 0",
                "the backbone has a learning rate of 0, so that only the heads learn",
            ],
        ),
        (
            Training(**ADAM, learning_rate=0.0, head_learning_rate=1e-3),
            ["the backbone has a learning rate of 0, so that only the heads learn"],
        ),
        (
            Training(**ADAM, learning_rate=1e-3, is_frozen=True),
            ["the backbone is frozen, so that only the heads learn"],
        ),
        (
            Training(**ADAM, learning_rate=1e-3, is_frozen=True, from_scratch=True),
            ["the backbone is frozen with the random weights that it began with"],
        ),
        (
            Training(**ADAM, learning_rate=1e-3, from_scratch=False),
            ["a learning rate of 0.001 is high for a pretrained backbone"],
        ),
        # What it began with is not known.
        (Training(**ADAM, learning_rate=1e-3), []),
        (
            Training(**ADAM, learning_rate=1e-3, from_scratch=True),
            ["the backbone began with random weights, which take many more steps than pretrained ones"],
        ),
        (Training(history=losses(1.0, 0.99)), ["its training loss did not fall, from 1 at step 10 to 0.99 at step 20"]),
        (
            Training(history=losses(1.0, 0.5, 2.0)),
            ["its training loss rose, from 1 at step 10 to 2 at step 30: a lower learning rate may help"],
        ),
        (
            Training(history=losses(1.0, 0.1)),
            [
                "its training loss fell from 1 at step 10 to 0.1 at step 20, so that the rows that were scored may be "
                "unlike those of training"
            ],
        ),
        (Training(history=losses(1.0, 0.7)), []),
        (
            Training(history=losses(1.0, math.nan, math.inf)),
            ["its training loss was not finite in 2 of 3 logs, first at step 20"],
        ),
        (Training(history=losses(1.0)), []),
        (Training(), []),
    ],
)
def test_the_reasons_are_those_of_the_run(training: Training, reasons: list[str]) -> None:
    found = said(MOOD, right(40), HALVES, training)
    assert found is not None
    _, _, why = found.partition(" Likely ")
    words = {0: "", 1: "reason: "}.get(len(reasons), "reasons: ")
    assert why == (f"{words}{'; '.join(reasons)}." if reasons else "")


def test_a_task_without_weight_has_that_reason_alone() -> None:
    task = TaskConfig("single_label_classification", labels=["bad", "good"], weight=0.0)
    found = said(task, right(40), HALVES, Training(**ADAM, learning_rate=1e-5))
    assert found is not None
    assert found.endswith(" Likely reason: its weight in the loss is 0.")
