"""Entities are scored as seqeval scores them, and words where tags have no scheme."""

import random
import warnings
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score

from hf_multitask import TaskConfig
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.shortfalls import shortfalls, uninformed_score
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare
from hf_multitask.model.token_classification import PADDING

LABELS = ["O", "B-animal", "I-animal", "B-place", "I-place"]
NER: Any = TaskConfig("token_classification", labels=LABELS)
BIOES: Any = TaskConfig("token_classification", labels=["O", *(f"{p}-{t}" for p in "BIES" for t in "ab")])
POS: Any = TaskConfig("token_classification", labels=["DET", "NOUN", "OTHER"])


def outputs_of(rows: list[list[int]], count: int, width: int) -> np.ndarray:
    """Logits [B, W, C] whose likeliest tags are these; -1 is a word that was cut off."""
    outputs = np.full((len(rows), width, count), float(PADDING))
    for row, ids in enumerate(rows):
        for place, tag in enumerate(ids):
            outputs[row, place] = np.where(np.arange(count) == tag, 2.0, 0.0) if tag >= 0 else -8192.0
    return outputs


def padded(rows: list[list[int]], width: int) -> np.ndarray:
    return np.array([row + [PADDING] * (width - len(row)) for row in rows])


def rows_of(task: Any, labels: list[list[int]], predicted: list[list[int]], **kwargs: Any) -> TaskPredictions:
    width = max(map(len, labels)) + 1
    outputs = outputs_of(predicted, task.num_labels, width)
    return TaskPredictions(task, outputs, padded(labels, width), **kwargs)


def draw(task: Any, count: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Random tags, and predictions of which about half are right."""
    random_ = random.Random(seed)
    labels = [[random_.randrange(task.num_labels) for _ in range(random_.randrange(1, 9))] for _ in range(count)]
    predicted = [
        [tag if random_.random() < 0.6 else random_.randrange(task.num_labels) for tag in row] for row in labels
    ]
    return labels, predicted


def names(task: Any, rows: list[list[int]]) -> list[list[str]]:
    return [[task.labels[tag] for tag in row] for row in rows]


@pytest.mark.parametrize("task", [NER, BIOES])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_seqevals(task: Any, seed: int) -> None:
    labels, predicted = draw(task, 40, seed)
    rows = rows_of(task, labels, predicted)
    scores = rows.evaluation.score(rows.predicted, rows.labels)
    sides = names(task, labels), names(task, predicted)
    assert scores == {
        "f1": pytest.approx(f1_score(*sides)),
        "precision": pytest.approx(precision_score(*sides)),
        "recall": pytest.approx(recall_score(*sides)),
        "accuracy": pytest.approx(accuracy_score(*sides)),
    }


def test_without_entities_scores_are_0_as_seqevals_are() -> None:
    rows = rows_of(NER, [[0, 0], [0]], [[0, 0], [0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert f1_score([["O", "O"], ["O"]], [["O", "O"], ["O"]]) == 0
    assert rows.evaluation.score(rows.predicted, rows.labels) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}


def test_words_that_were_cut_off_count_as_outside() -> None:
    # The second row's entity of two words was cut in its middle, and its last one whole.
    labels = [[1, 0], [1, 2, 0, 3]]
    outputs = outputs_of([[1, 0], [1, 0, 0, 0]], 5, 5)
    outputs[1, 1:4] = [0, *[-8192.0] * 4]
    rows = TaskPredictions(NER, outputs, padded(labels, 5))
    scores = rows.evaluation.score(rows.predicted, rows.labels)
    assert scores["recall"] == pytest.approx(1 / 3)
    assert scores["precision"] == pytest.approx(1 / 2)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    words = rows_of(POS, [[0, 1, 2]], [[0, 1, -1]])
    assert words.evaluation.score(words.predicted, words.labels) == {"accuracy": pytest.approx(2 / 3)}


def test_f1_counts_with_a_scheme_and_accuracy_without() -> None:
    assert evaluation_of(NER).share({"f1": 0.4, "accuracy": 0.9}) == 0.4
    assert evaluation_of(POS).share({"accuracy": 0.9}) == 0.9
    assert evaluation_of(NER).hub_task == "token-classification"


def test_the_trivial_predictor_finds_nothing_or_says_the_commonest_tag() -> None:
    train, labels = [[0, 1], [1, 1, 2]], [[0, 1], [1]]
    assert evaluation_of(NER).trivial(train, labels) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1 / 3}
    assert uninformed_score(NER, {}) == 0
    assert evaluation_of(POS).trivial(train, labels) == {"accuracy": pytest.approx(2 / 3)}


def test_intervals_are_those_of_rows_that_are_drawn_again() -> None:
    labels, predicted = draw(NER, 60, 0)
    rows = rows_of(NER, labels, predicted)
    found = bootstrap_intervals(NER, rows.predicted, rows.labels, resamples=400)["f1"]
    random_ = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        chosen = random_.integers(60, size=60)
        drawn.append(f1_score(*(names(NER, [side[row] for row in chosen]) for side in (labels, predicted))))
    assert found.value == pytest.approx(f1_score(names(NER, labels), names(NER, predicted)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)


def test_models_are_compared_row_by_row() -> None:
    labels, predicted = draw(NER, 60, 0)
    best, other = rows_of(NER, labels, labels), rows_of(NER, labels, predicted)
    comparison = compare(NER, other.predicted, best.predicted, best.labels, resamples=200)["f1"]
    assert comparison.difference.value == pytest.approx(1 - f1_score(names(NER, labels), names(NER, predicted)))
    assert comparison.p_value < 0.02


WORDS = [["the", "cat", "sat"], ["Rome", "or", "Bonn"], ["big", "dog"]]
TEXTS = [(words,) for words in WORDS]


def report_of(rows: TaskPredictions) -> str:
    metrics = {f"eval_t_{name}": value for name, value in rows.evaluation.score(rows.predicted, rows.labels).items()}
    intervals = all_intervals({"t": rows.task}, {"t": rows.predicted}, {"t": rows.labels})
    return build_report("a run", {"t": rows}, metrics | {"eval_final_score": 0.5}, {}, intervals).to_markdown()


def test_a_report_has_a_table_by_type_the_confusion_and_the_worst_rows() -> None:
    labels, predicted = [[0, 1, 0], [3, 0, 3], [1, 2]], [[0, 3, 0], [3, 0, 0], [1, 2]]
    rows = rows_of(NER, labels, predicted, texts=TEXTS)
    page = report_of(rows)
    expected: Any = classification_report(names(NER, labels), names(NER, predicted), output_dict=True, zero_division=0)
    for kind, count in (("animal", 2), ("place", 2)):
        scores = " | ".join(f"{expected[kind][key]:.3f}" for key in ("precision", "recall", "f1-score"))
        assert f"| {kind} | {scores} | {count} |" in page
    assert "2 of 3 rows are wrong. There are 4 entities, and 3 are predicted." in page
    assert "![t: entities with the same borders by type and predicted type" in page
    assert "| the cat sat | animal: cat | place: cat |" in page
    assert "| Rome or Bonn | place: Rome; place: Bonn | place: Rome |" in page


def test_the_confusion_is_of_entities_with_the_same_borders() -> None:
    from hf_multitask.evaluation.analysis import analyse_entities

    true = [{("animal", 1, 2), ("place", 3, 5)}, {("place", 0, 1)}]
    said = [{("place", 1, 2), ("place", 3, 4)}, {("place", 0, 1)}]
    analysis = analyse_entities(["animal", "place"], true, said)
    assert analysis.confusion.tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 0]]
    assert analysis.by_class.loc["place"].tolist() == pytest.approx([1 / 3, 1 / 2, 2 / 5, 2])
    assert np.isnan(analysis.by_class.loc["animal", "precision"])


def test_tags_without_a_scheme_are_reported_as_classes_of_words() -> None:
    rows = rows_of(POS, [[0, 1, 2], [1, 2, 1], [2, 1]], [[0, 1, 1], [1, 2, 1], [2, -1]], texts=TEXTS)
    page = report_of(rows)
    assert "2 of 3 rows have a wrong tag; 1 words were cut off. Below, rows are words." in page
    assert "| NOUN | 0.750 | 1.000 | 0.857 | 3 |" in page
    assert "| the cat sat | sat: OTHER | sat: NOUN |" in page
    assert "| big dog | dog: NOUN | dog: none |" in page


def test_what_nearly_all_predictions_have_in_common_is_said() -> None:
    assert rows_of(NER, [[1], [3, 0]], [[0], [0, 0]]).evaluation.symptom(
        rows_of(NER, [[1], [3, 0]], [[0], [0, 0]])
    ) == ("no entity is predicted in all 2 rows")
    rows = rows_of(POS, [[0, 1], [2]], [[1, 1], [1]])
    assert rows.evaluation.symptom(rows) == "all 3 words are tagged 'NOUN'"
    good = rows_of(NER, [[1], [3, 0]], [[1], [3, 0]])
    assert good.evaluation.symptom(good) == ""


def test_a_model_that_finds_nothing_is_told_and_labels_that_are_alike_cannot_tell() -> None:
    rows = rows_of(NER, [[1, 0], [3, 0]], [[0, 0], [0, 0]])
    metrics = {"eval_t_f1": 0.0}
    trivial = {"t": rows.evaluation.trivial([[0]], [[1, 0], [3, 0]])}
    said = shortfalls({"t": rows}, metrics, trivial, {})["t"]
    assert said == "no better than a predictor that ignores the text: f1 0.000; no entity is predicted in all 2 rows."
    alike = rows_of(NER, [[0, 0], [0]], [[0, 0], [0]])
    assert "all 2 labels that were scored are the same" in shortfalls({"t": alike}, metrics, trivial, {})["t"]
