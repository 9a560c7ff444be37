"""How several labels of a row are scored, against scikit-learn; how thresholds are chosen; what a report says."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from hf_multitask import TaskConfig
from hf_multitask.evaluation.multi_label_classification import MultiLabelEvaluation
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.shortfalls import shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare

MOODS = TaskConfig("multi_label_classification", labels=["joy", "grief", "fear"])
EVALUATION: Any = evaluation_of(MOODS)


def logits(*rows: list[float]) -> np.ndarray:
    """The outputs of rows of probabilities."""
    shares = np.array(rows)
    return np.log(shares / (1 - shares))


def drawn(rows: int, labels: int, share: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    there = draw.random((rows, labels)) < share
    return (there ^ (draw.random((rows, labels)) < 0.2)).astype(int), there.astype(int)


def test_the_scores_are_scikit_learns() -> None:
    predicted, labels = drawn(50, 3)
    assert EVALUATION.score(predicted, labels) == {
        "f1_macro": pytest.approx(f1_score(labels, predicted, average="macro")),
        "f1_micro": pytest.approx(f1_score(labels, predicted, average="micro")),
        "exact_match": accuracy_score(labels, predicted),
    }


def test_a_label_that_neither_is_there_nor_is_predicted_is_left_out_of_the_mean() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    predicted = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 0]])
    # Of joy 2/3, of fear, which is predicted and not there, 0.
    score = EVALUATION.score(predicted, labels)
    assert score["f1_macro"] == pytest.approx(1 / 3)
    assert score["f1_macro"] == f1_score(labels, predicted, average="macro", zero_division=np.nan)
    nothing = np.zeros((3, 3))
    assert math.isnan(EVALUATION.score(nothing, nothing)["f1_macro"])
    assert math.isnan(EVALUATION.score(nothing, nothing)["f1_micro"])
    assert EVALUATION.score(nothing, nothing)["exact_match"] == 1.0


def test_macro_f1_counts_as_it_is() -> None:
    assert EVALUATION.share({"f1_macro": 0.4, "f1_micro": 0.9}) == 0.4


def test_a_label_is_predicted_from_its_threshold_on() -> None:
    task = TaskConfig("multi_label_classification", labels=["joy", "grief", "fear"], thresholds=[0.5, 0.2, 0.9])
    outputs = logits([0.5, 0.25, 0.8], [0.4, 0.1, 0.95])
    assert evaluation_of(task).predicted(outputs).tolist() == [[1, 1, 0], [0, 0, 1]]


# ---- Resamples ----


@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "exact_match"])
def test_resamples_are_scored_as_the_rows_that_they_hold(name: str) -> None:
    predicted, labels = drawn(30, 3)
    draws = np.random.default_rng(1).integers(30, size=(2, 5, 30))
    evidence = EVALUATION.evidence(predicted, labels)
    found = EVALUATION.metrics[name].of_rows(evidence, draws)
    assert found.shape == (2, 5)
    expected = [[EVALUATION.score(predicted[rows], labels[rows])[name] for rows in some] for some in draws]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_interval_is_that_of_scores_of_rows_drawn_again() -> None:
    predicted, labels = drawn(200, 3)
    interval = bootstrap_intervals(MOODS, predicted, labels)["f1_macro"]
    draw = np.random.default_rng(2)
    samples = [draw.integers(200, size=200) for _ in range(500)]
    scores = [f1_score(labels[rows], predicted[rows], average="macro") for rows in samples]
    low, high = np.quantile(scores, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.012)
    alone = all_intervals({"moods": MOODS}, {"moods": predicted}, {"moods": labels})
    assert alone["final_score"].value == interval.value


def test_models_that_are_alike_are_not_told_apart_and_others_are() -> None:
    predicted, labels = drawn(200, 3)
    assert compare(MOODS, predicted, predicted, labels)["f1_macro"].p_value == 1.0
    better = compare(MOODS, predicted, labels, labels)["f1_macro"]
    assert better.difference.low > 0
    assert better.p_value < 0.01


# ---- The predictor that ignores the text ----


@pytest.mark.parametrize(
    ("train", "constant"),
    [
        ([[0], [0, 1], [1, 0], []], [1, 0, 0]),
        ([[0, 1], [0, 1], []], [1, 1, 0]),
        ([[2], [], [1], [2]], [0, 0, 1]),
        # Half of the rows are not more than half, and none is the commonest: the first is taken.
        ([[1], [0]], [1, 0, 0]),
        ([[], []], [0, 0, 0]),
    ],
)
def test_it_says_what_most_rows_have_or_else_the_commonest_label(train: list[list[int]], constant: list[int]) -> None:
    assert EVALUATION.constant(train).tolist() == constant
    labels = np.array([[1, 0, 0], [0, 0, 1]])
    expected = f1_score(labels, [constant] * 2, average="macro", zero_division=np.nan)
    assert EVALUATION.trivial(train, labels)["f1_macro"] == pytest.approx(expected)


# ---- Thresholds ----


def best_f1(labels: np.ndarray, shares: np.ndarray) -> float:
    """By trying each."""
    return max(f1_score(labels, shares >= threshold, zero_division=0.0) for threshold in [0, *shares, 1])


def test_thresholds_are_those_of_the_best_f1_of_each_label() -> None:
    draw = np.random.default_rng(0)
    labels = (draw.random((60, 3)) < [0.5, 0.1, 0.3]).astype(int)
    shares = np.clip(0.3 * labels + 0.6 * draw.random((60, 3)), 0.01, 0.99)
    rows = TaskPredictions(MOODS, logits(*shares), labels)
    thresholds = EVALUATION.tuned(rows)["thresholds"]
    tuned = evaluation_of(TaskConfig("multi_label_classification", labels=MOODS.labels, thresholds=thresholds))
    predicted = tuned.predicted(rows.outputs)
    for label in range(3):
        found = f1_score(labels[:, label], predicted[:, label])
        assert found == pytest.approx(best_f1(labels[:, label], shares[:, label]))
        # No probability lies at a threshold, where rounding would decide.
        assert np.abs(shares[:, label] - thresholds[label]).min() > 1e-9


def test_of_thresholds_that_are_as_good_it_is_the_nearest_to_one_half() -> None:
    outputs = logits([0.9, 0.6, 0.2], [0.8, 0.4, 0.1], [0.1, 0.1, 0.3])
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    thresholds = EVALUATION.tuned(TaskPredictions(MOODS, outputs, labels))["thresholds"]
    # A label that no row has keeps its own.
    assert thresholds == pytest.approx([(0.8 + 0.1) / 2, 0.5, 0.5])


def test_a_label_that_all_rows_have_is_always_predicted() -> None:
    outputs = logits([0.02, 0.5, 0.5], [0.01, 0.5, 0.5])
    rows = TaskPredictions(MOODS, outputs, np.array([[1, 0, 0], [1, 0, 0]]))
    assert EVALUATION.tuned(rows)["thresholds"] == [pytest.approx(0.005), 0.5, 0.5]


def test_other_kinds_have_nothing_to_tune() -> None:
    score = TaskConfig("regression")
    assert evaluation_of(score).tuned(TaskPredictions(score, np.zeros(2), np.zeros(2))) == {}


# ---- The report ----

OUTPUTS = logits([0.9, 0.2, 0.6], [0.3, 0.2, 0.1], [0.7, 0.1, 0.2], [0.4, 0.1, 0.3])
LABELS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
TEXTS = [(text,) for text in "abcd"]


def test_errors_are_how_sure_the_wrong_labels_are() -> None:
    rows = TaskPredictions(MOODS, OUTPUTS, LABELS, TEXTS)
    # Of the second row grief is missed, of the third joy is too many and fear is missed.
    assert EVALUATION.errors(rows) == pytest.approx([0, 0.8, 0.7 + 0.8, 0])
    assert rows.worst(10) == [2, 1]
    assert EVALUATION.error_cells(rows, 2) == ["fear", "joy (0.70)"]
    assert EVALUATION.error_cells(rows, 0) == ["joy, fear", "joy (0.90), fear (0.60)"]
    assert EVALUATION.error_cells(rows, 3) == ["no label", "no label"]


@pytest.mark.parametrize(
    ("shares", "symptom"),
    [
        ([[0.1, 0.1, 0.1]] * 20, "all 20 predictions are 'no label'"),
        ([[0.1, 0.1, 0.1]] * 19 + [[0.9, 0.1, 0.1]], "19 of 20 predictions are 'no label'"),
        ([[0.9, 0.1, 0.6]] * 3, "all 3 predictions are 'joy, fear'"),
        ([[0.9, 0.1, 0.6], [0.1, 0.1, 0.1]], ""),
    ],
)
def test_predictions_that_are_all_alike_are_a_symptom(shares: list[list[float]], symptom: str) -> None:
    rows = TaskPredictions(MOODS, logits(*shares), np.zeros((len(shares), 3)))
    assert EVALUATION.symptom(rows) == symptom


def test_rows_whose_labels_are_all_alike_tell_nothing() -> None:
    def said(labels: list[list[int]]) -> str:
        rows = {"moods": TaskPredictions(MOODS, OUTPUTS[:2], np.array(labels))}
        trivial = {"moods": {"f1_macro": 0.2}}
        return shortfalls(rows, {"eval_moods_f1_macro": 0.1}, trivial, {}).get("moods", "")

    assert "all 2 labels that were scored are the same" in said([[1, 0, 0], [1, 0, 0]])
    assert "f1_macro 0.100, that of the commonest labels 0.200" in said([[1, 0, 0], [0, 0, 0]])


def test_the_report_has_each_label_with_its_threshold() -> None:
    task = TaskConfig("multi_label_classification", labels=MOODS.labels, thresholds=[0.5, 0.4, 0.5])
    rows = TaskPredictions(task, OUTPUTS, LABELS, TEXTS)
    metrics = {f"eval_moods_{key}": value for key, value in EVALUATION.score(rows.predicted, LABELS).items()}
    intervals = all_intervals({"moods": task}, {"moods": rows.predicted}, {"moods": LABELS})
    report = build_report("a run", {"moods": rows}, metrics, {}, intervals)
    page = report.to_markdown()
    assert "2 of 4 rows have other labels than are predicted." in page
    assert "a row has 1.00 labels and is predicted 0.75; 1 rows have none, and 2 are predicted none." in page
    assert "| joy | 0.500 | 1.000 | 0.667 | 1 | 0.500 |" in page
    assert "| grief | undefined | 0.000 | 0.000 | 1 | 0.400 |" in page
    assert "| c | fear | joy (0.70) |" in page
    assert "moods-labels" in page


def test_the_card_says_of_thresholds_that_nothing_chose_them() -> None:
    (said,) = EVALUATION.limits()
    assert said == "a label is predicted from a probability of 0.5 on, which no data chose (`tune_thresholds` would)."
    tuned = TaskConfig("multi_label_classification", labels=MOODS.labels, thresholds=[0.5, 0.4, 0.5])
    assert list(evaluation_of(tuned).limits()) == []


def test_a_counterfactual_has_no_one_number_to_compare() -> None:
    assert not MultiLabelEvaluation.is_probed
