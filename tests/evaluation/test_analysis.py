import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from hf_multitask.evaluation.analysis import analyse_classification, analyse_regression, calibration_curve
from hf_multitask.evaluation.task_evaluations import TaskPredictions
from hf_multitask.model.configuration_mtbert import TaskConfig

FIVE = TaskConfig("single_label_classification", num_labels=5)
BINARY = TaskConfig("pair_classification", labels=["no", "yes"])
SCORES = TaskConfig("pair_regression")


def softmaxed(count: int, classes: int) -> np.ndarray:
    exponents = np.exp(np.random.default_rng(0).normal(size=(count, classes)))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_classification_equals_scikit_learns() -> None:
    shares, labels = softmaxed(400, 5), np.random.default_rng(1).integers(5, size=400)
    predicted = shares.argmax(axis=1)
    analysis = analyse_classification(FIVE.label_names, shares, labels)
    assert (analysis.confusion == confusion_matrix(labels, predicted)).all()
    for key, function in {"precision": precision_score, "recall": recall_score, "f1": f1_score}.items():
        assert analysis.by_class[key][:5].tolist() == pytest.approx(
            function(labels, predicted, average=None).tolist(), abs=1e-12
        )
        assert analysis.by_class.loc["macro", key] == pytest.approx(
            function(labels, predicted, average="macro"), abs=1e-12
        )
    assert analysis.by_class["rows"].tolist() == [*np.bincount(labels), 400]


def test_the_papers_table_7() -> None:
    # Counts that give its precision 0.805, recall 0.825 and F1 0.815, and an accuracy near its 0.862.
    confusion = {(1, 1): 825, (1, 0): 175, (0, 1): 200, (0, 0): 1517}
    labels = np.repeat([label for label, _ in confusion], list(confusion.values()))
    predicted = np.repeat([guess for _, guess in confusion], list(confusion.values()))
    analysis = analyse_classification(BINARY.label_names, np.eye(2)[predicted], labels)
    row = analysis.by_class.loc["yes"]
    assert [round(row[key], 3) for key in ("precision", "recall", "f1")] == [0.805, 0.825, 0.815]
    assert round(np.trace(analysis.confusion) / analysis.confusion.sum(), 3) == 0.862


def test_the_share_of_errors_that_are_off_by_one_class() -> None:
    labels = np.array([0, 1, 2, 3, 4, 4])
    predicted = np.array([0, 2, 1, 3, 0, 3])
    analysis = analyse_classification(FIVE.label_names, np.eye(5)[predicted], labels)
    assert analysis.adjacent_errors == 3 / 4
    assert math.isnan(analyse_classification(FIVE.label_names, np.eye(5)[labels], labels).adjacent_errors)


def test_the_expected_calibration_error_worked_by_hand() -> None:
    # Two rows at 0.9 of which one is right, two at 0.6 that are both right: (2 · 0.4 + 2 · 0.4) / 4.
    shares = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    analysis = analyse_classification(BINARY.label_names, shares, np.array([0, 0, 0, 1]))
    assert analysis.calibration_error == pytest.approx(0.4, abs=1e-12)
    assert analysis.calibration.to_dict("list") == {
        "confidence": pytest.approx([0.6, 0.9]),
        "accuracy": [1.0, 0.5],
        "rows": [2, 2],
    }


def test_a_calibrated_predictor_has_almost_no_calibration_error_and_certainty_has_a_bin() -> None:
    draw = np.random.default_rng(2)
    confidence = draw.uniform(0.5, 1.0, 50_000)
    curve = calibration_curve(confidence, draw.random(50_000) < confidence)
    assert (curve["confidence"] - curve["accuracy"]).abs().max() < 0.02
    assert calibration_curve(np.array([1.0]), np.array([True]))["rows"].tolist() == [1]


def test_a_class_without_rows_is_undefined_and_not_zero() -> None:
    analysis = analyse_classification(FIVE.label_names, np.eye(5)[[0, 1]], np.array([0, 1]))
    assert math.isnan(analysis.by_class.loc["4", "recall"])
    assert analysis.confusion.shape == (5, 5)


def test_the_regression_line_and_the_bands_worked_by_hand() -> None:
    labels = np.array([0.0, 1.0, 2.5, 5.0])
    predicted = 0.5 * labels + 1.0
    analysis = analyse_regression([0, 5], predicted, labels)
    assert (analysis.slope, analysis.intercept) == pytest.approx((0.5, 1.0), abs=1e-12)
    assert analysis.by_band.index.tolist() == ["0 to 1", "1 to 2", "2 to 3", "4 to 5"]
    assert analysis.by_band["rows"].tolist() == [1, 1, 1, 1]
    assert analysis.by_band["mean_error"].tolist() == pytest.approx([1.0, 0.5, -0.25, -1.5])
    assert analysis.by_band["mean_absolute_error"].tolist() == pytest.approx([1.0, 0.5, 0.25, 1.5])


def test_constant_labels_have_no_line() -> None:
    analysis = analyse_regression([0, 5], np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert math.isnan(analysis.slope)
    assert analysis.by_band["rows"].tolist() == [2]


def test_the_worst_errors_come_first_and_right_rows_not_at_all() -> None:
    logits = np.array([3.0, -1.0, 0.5, -4.0])
    assert TaskPredictions(BINARY, logits, np.array([1, 1, 0, 1])).worst(5) == [3, 1, 2]
    rows = TaskPredictions(SCORES, np.array([1.0, 4.0, 2.0]), np.array([1.5, 1.0, 2.0]))
    assert rows.worst(5) == [1, 0]
    assert rows.worst(1) == [1]
