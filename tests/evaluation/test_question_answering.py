"""Answers are scored as SQuAD's official script scores them."""

import collections
import math
import re
import string
import time
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_multitask import TaskConfig
from hf_multitask.evaluation.question_answering import agreement, normalized
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.shortfalls import shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare

QA: Any = TaskConfig("question_answering")
NONE: Any = TaskConfig("question_answering", no_answer=True)
TEXT = "The cat sat on a mat. A dog ran to the big hill, not far."
WORDS = ["The", "the", "a", "cat", "cats", "big", "Big", "hill", "hill,", "an", "ran", "(dog)", "42", "far."]


# ---- SQuAD's script, written once more ----


def squad_tokens(text: str) -> list[str]:
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return [word for word in re.split(r"\s+", text) if word not in ("", "a", "an", "the")]


def squad_scores(said: str, right: tuple[str, ...]) -> tuple[float, float]:
    golds = [gold for gold in right if squad_tokens(gold)] or [""]
    exact = max(float(squad_tokens(said) == squad_tokens(gold)) for gold in golds)
    best = 0.0
    for gold in golds:
        mine, theirs = squad_tokens(said), squad_tokens(gold)
        if not mine or not theirs:
            best = max(best, float(mine == theirs))
            continue
        same = sum((collections.Counter(mine) & collections.Counter(theirs)).values())
        if same:
            precision, recall = same / len(mine), same / len(theirs)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


def draw(count: int, seed: int, none: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted answers, and right ones."""
    rng = np.random.default_rng(seed)
    predicted, truth = np.empty(count, dtype=object), np.empty(count, dtype=object)
    for row in range(count):
        golds = [" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(rng.integers(1, 4))]
        truth[row] = () if rng.random() < none else tuple(golds)
        predicted[row] = rng.choice([golds[0], " ".join(rng.choice(WORDS, rng.integers(1, 5))), ""])
    return predicted, truth


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        ("The Cat's", "cats"),
        ("an  apple a day", "apple day"),
        ("theatre", "theatre"),
        ("the", ""),
        ("U.S.\n(2)", "us 2"),
    ],
)
def test_answers_are_compared_without_case_punctuation_articles_and_blanks(answer: str, compared: str) -> None:
    assert normalized(answer) == compared


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_squads_script(seed: int) -> None:
    predicted, truth = draw(80, seed, none=0.3)
    expected = [squad_scores(said, right) for said, right in zip(predicted, truth, strict=True)]
    assert [agreement(said, right)[:2] for said, right in zip(predicted, truth, strict=True)] == [
        pytest.approx(pair) for pair in expected
    ]
    have = np.array([bool(right) for right in truth])
    exact, f1 = np.array(expected).T
    assert evaluation_of(NONE).score(predicted, truth) == {
        "f1": pytest.approx(f1.mean()),
        "exact_match": pytest.approx(exact.mean()),
        "has_answer_f1": pytest.approx(f1[have].mean()),
        "no_answer_accuracy": pytest.approx(exact[~have].mean()),
    }


def test_a_row_without_an_answer_is_right_where_none_is_given() -> None:
    assert agreement("", ()) == (1, 1, 1, 1)
    assert agreement("cat", ()) == (0, 0, 0, 0)
    assert agreement("", ("cat",)) == (0, 0, 0, 0)
    assert agreement("", ("the",)) == (1, 1, 1, 1)
    assert agreement("big cat", ("cat", "a big old cat")) == (0, 0.8, 1, 2 / 3)


def test_metrics_of_rows_that_there_are_not_are_undefined() -> None:
    predicted, truth = draw(5, 0)
    metrics = evaluation_of(NONE).score(predicted, truth)
    assert math.isnan(metrics["no_answer_accuracy"])
    assert metrics["has_answer_f1"] == metrics["f1"]
    assert list(evaluation_of(QA).metrics) == ["f1", "exact_match"]
    assert evaluation_of(QA).hub_task == "question-answering"
    assert evaluation_of(QA).share({"f1": 0.4, "exact_match": 0.2}) == 0.4


def test_the_trivial_predictor_never_answers() -> None:
    truth = draw(6, 0)[1]
    truth[:2] = ((), ())
    assert evaluation_of(QA).trivial([[0, 3]], truth[2:]) == {"f1": 0, "exact_match": 0}
    trivial = evaluation_of(NONE).trivial([[0, 3]], truth)
    assert trivial == {"f1": 1 / 3, "exact_match": 1 / 3, "has_answer_f1": 0, "no_answer_accuracy": 1}


# ---- Intervals ----


def test_intervals_are_those_of_rows_that_are_drawn_again() -> None:
    predicted, truth = draw(60, 0, none=0.3)
    scores = evaluation_of(NONE).score(predicted, truth)
    found = bootstrap_intervals(NONE, predicted, truth, resamples=400)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(400):
        rows = rng.integers(60, size=60)
        drawn.append(evaluation_of(NONE).score(predicted[rows], truth[rows]))
    for name, interval in found.items():
        assert interval.value == scores[name]
        expected = np.quantile([one[name] for one in drawn], [0.025, 0.975])
        assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.05), name


def test_models_are_compared_row_by_row() -> None:
    predicted, truth = draw(60, 0)
    right = np.array([golds[0] for golds in truth], dtype=object)
    better = compare(QA, predicted, right, truth, resamples=200)["f1"]
    assert better.difference.value > 0
    assert better.p_value < 0.05
    assert compare(QA, predicted, predicted, truth, resamples=200)["f1"].p_value == 1


def test_thousands_of_resamples_of_many_rows_take_seconds() -> None:
    predicted, truth = draw(10_000, 0, none=0.3)
    begin = time.perf_counter()
    bootstrap_intervals(QA, predicted, truth)
    assert time.perf_counter() - begin < 30


# ---- Reports ----


def rows_of(task: Any, said: list[str], right: list[list[str]], texts: bool = True) -> TaskPredictions:
    """Predictions for `TEXT`, each token of which is a word; an answer that is said has nearly all probability."""
    spans = [match.span() for match in re.finditer(r"\w+", TEXT)]
    starts, ends = ([-1, *places, -1] for places in zip(*spans, strict=True))
    outputs = torch.full((len(said), len(starts), 2), -8192.0)
    outputs[:, 1:-1] = 0.0
    for row, answer in enumerate(said):
        begin = TEXT.find(answer)
        tokens = (starts.index(begin), ends.index(begin + len(answer))) if answer else (0, 0)
        for side, token in enumerate(tokens):
            outputs[row, token, side] = 12.0
    labels = [[place for one in golds for place in (TEXT.find(one), TEXT.find(one) + len(one))] for golds in right]
    columns = {"context": [TEXT], "starts": [starts], "ends": [ends]}
    rows = Dataset.from_dict({key: value * len(said) for key, value in columns.items()} | {"label": labels})
    questions = [f"{'who what where'.split()[row % 3]} is it?" for row in range(len(said))]
    codes = np.zeros(outputs.shape[:2], dtype=np.int64)
    return TaskPredictions(task, outputs.numpy(), codes, [(q, TEXT) for q in questions] if texts else [], rows)


SAID = ["cat", "A dog", "", "big hill", "mat", "cat"]
RIGHT = [["cat", "The cat"], ["dog"], [], ["The cat"], [], ["big hill"]]


def test_predictions_and_truth_are_texts() -> None:
    rows = rows_of(NONE, SAID, RIGHT)
    assert rows.predicted.tolist() == SAID
    assert rows.truth.tolist() == [tuple(golds) for golds in RIGHT]
    assert rows.evaluation.labels_of(rows.rows).tolist() == rows.truth.tolist()
    assert rows.evaluation.score(rows.predicted, rows.truth)["exact_match"] == 0.5
    assert not rows.evaluation.are_alike(rows.truth)
    assert rows.evaluation.are_alike(rows.truth[[2, 4]])


def test_the_report_has_questions_lengths_and_the_worst_errors() -> None:
    rows = rows_of(NONE, SAID, RIGHT)
    metrics = {f"eval_qa_{name}": value for name, value in rows.evaluation.score(rows.predicted, rows.truth).items()}
    trivial = {"qa": rows.evaluation.trivial([[]], rows.truth)}
    intervals = all_intervals({"qa": NONE}, {"qa": rows.predicted}, {"qa": rows.truth}, resamples=50)
    report = build_report("title", {"qa": rows}, metrics, trivial, intervals)
    text = report.to_markdown()
    assert "3 of 6 answers are not one of the right ones to the word" in text
    assert "2 rows have no answer, of which 1 are given one; 0 rows that have one are given none" in text
    assert "| who | 0.500 | 0.500 | 0.500 | 2 | 0.500 |" in text
    assert [line.split(" |")[0] for line in text.splitlines() if line.startswith(("| no", "| 1", "| 2"))] == [
        "| no answer",
        "| 1 word",
        "| 2 words",
    ]
    assert re.search(r"\| where is it\? \| The cat .* \| big hill \| cat \|", text)
    assert "| what is it? | The cat sat" in text
    assert "| no answer | mat |" in text
    assert "qa-lengths.png" in text
    assert "| right | predicted |" in text
    card = report.card_section()
    assert "where is it" not in card, "the data's terms may forbid to publish them"
    assert rows.worst(9) == pytest.approx([3, 4, 5])
    assert build_report("title", {"qa": rows_of(NONE, SAID, RIGHT, texts=False)}, metrics, trivial, intervals).blocks


def test_a_model_that_always_says_the_same_is_told_of() -> None:
    rows = rows_of(NONE, [""] * 6, RIGHT)
    metrics = {f"eval_qa_{name}": value for name, value in rows.evaluation.score(rows.predicted, rows.truth).items()}
    trivial = {"qa": rows.evaluation.trivial([[]], rows.truth)}
    (said,) = shortfalls({"qa": rows}, metrics, trivial, {}).values()
    assert said == (
        "no better than a predictor that ignores the text: f1 0.333, that of the empty answer 0.333; all 6 answers are "
        "'no answer'."
    )
    assert rows_of(NONE, SAID, RIGHT).evaluation.symptom(rows_of(NONE, SAID, RIGHT)) == ""


def test_limits_are_said() -> None:
    assert list(evaluation_of(QA).limits()) == ["an answer is one part of the context, of at most 30 tokens."]
    assert len(list(evaluation_of(NONE).limits())) == 2
