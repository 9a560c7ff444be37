"""Choices are scored by rank against guessing, whatever number of them rows have."""

from fractions import Fraction
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from hf_multitask import TaskConfig
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.shortfalls import shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare
from hf_multitask.model.rows import PADDING

ALL = ["accuracy", "mrr", "top_2_accuracy"]
TASK: Any = TaskConfig("multiple_choice", metrics=ALL)
ABSENT = -8192.0


def rows_of(logits: list[list[float]], labels: list[int], task: Any = TASK, **kwargs: Any) -> TaskPredictions:
    """Predictions of rows with any numbers of choices; every other row is filled up as an evaluation does it."""
    outputs = np.full((len(logits), max(map(len, logits))), ABSENT, dtype=np.float32)
    outputs[1::2] = PADDING
    for row, values in enumerate(logits):
        outputs[row, : len(values)] = values
    return TaskPredictions(task, outputs, np.array(labels), **kwargs)


def draw(count: int, seed: int, sure: float = 1.0) -> tuple[list[list[float]], list[int]]:
    """Random logits, and labels that they know something of."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 6, size=count)
    labels = [int(random.integers(size)) for size in sizes]
    logits = [
        (random.normal(size=size) + sure * (np.arange(size) == label))
        for size, label in zip(sizes, labels, strict=True)
    ]
    return [row.tolist() for row in logits], labels


def naive(logits: list[list[float]], labels: list[int]) -> dict[str, float]:
    """The scores, the mean over all orders of choices that are as likely."""
    credits = []
    for row, label in zip(logits, labels, strict=True):
        ranks = []
        for order in permutations(range(len(row))):
            if all(row[a] >= row[b] for a, b in pairwise(order)):
                ranks.append(order.index(label) + 1)
        credits.append(
            [
                sum(Fraction(value) for value in each) / len(ranks)
                for each in ([r == 1 for r in ranks], [Fraction(1, r) for r in ranks], [r <= 2 for r in ranks])
            ]
        )
    return {
        name: float(sum(column)) / len(labels) for name, column in zip(ALL, zip(*credits, strict=True), strict=True)
    }


def score(rows: TaskPredictions) -> dict[str, float]:
    return rows.evaluation.score(rows.predicted, rows.truth)


def test_scores_are_those_of_the_right_choices_rank() -> None:
    logits, labels = draw(40, 0)
    rows = rows_of(logits, labels)
    assert score(rows) == pytest.approx(naive(logits, labels))
    assert score(rows)["accuracy"] == pytest.approx(accuracy_score(labels, [int(np.argmax(row)) for row in logits]))


def test_choices_that_are_as_likely_share_their_ranks() -> None:
    logits, labels = [[1.0, 1.0, 0.0], [0.0, 2.0, 2.0, 2.0], [3.0, 3.0]], [0, 0, 1]
    assert score(rows_of(logits, labels)) == pytest.approx(naive(logits, labels))


def test_outputs_that_are_no_numbers_have_no_credit() -> None:
    assert set(score(rows_of([[np.nan, np.nan]], [0])).values()) == {0.0}


def test_the_trivial_predictor_guesses_and_a_head_that_says_nothing_is_no_better() -> None:
    logits = [[0.5] * size for size in (2, 3, 5, 5)]
    # The right one may stand first in all rows.
    rows = rows_of(logits, [0, 0, 0, 0])
    guess = rows.evaluation.trivial([0], rows.truth)
    assert guess["accuracy"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 5 + 1 / 5) / 4)
    assert guess["top_2_accuracy"] == pytest.approx((1 + 2 / 3 + 2 / 5 + 2 / 5) / 4)
    assert score(rows) == pytest.approx(guess)
    assert not rows.evaluation.are_alike(rows.truth)
    said = shortfalls({"t": rows}, {"eval_t_accuracy": guess["accuracy"]}, {"t": guess}, {})["t"]
    assert said == (
        "no better than a predictor that ignores the text: accuracy 0.308, that of the guess 0.308; "
        "in all 4 rows, choices are as good as even."
    )


@pytest.mark.parametrize("encoding", ["cross", "bi"])
def test_what_is_right_is_known_of_tokenized_rows(encoding: str) -> None:
    task = TaskConfig("multiple_choice", pair_encoding=encoding)
    sequences = [[5] * (count + (encoding == "bi")) for count in (2, 3)]
    truth = evaluation_of(task).labels_of({"label": [1, 2], "lengths": sequences})
    assert truth.tolist() == [[0, 1, PADDING], [0, 0, 1]]
    assert rows_of([[0.0, 1.0], [0.0, 1.0, 2.0]], [1, 2]).truth.tolist() == truth.tolist()


def test_a_users_own_metric_reads_probabilities_and_what_is_right(tmp_path: Any, monkeypatch: Any) -> None:
    code = "def right(predictions, references):\n    return (predictions.argmax(1) == references.argmax(1)).mean()\n"
    (tmp_path / "my_metric.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    task = TaskConfig("multiple_choice", metrics=["accuracy", "my_metric:right"])
    logits, labels = draw(30, 1)
    found = score(rows_of(logits, labels, task))
    assert found["right"] == pytest.approx(found["accuracy"])


def test_intervals_are_those_of_rows_that_are_drawn_again() -> None:
    logits, labels = draw(60, 2)
    rows = rows_of(logits, labels)
    found = bootstrap_intervals(TASK, rows.predicted, rows.truth, resamples=400)["accuracy"]
    are_right = np.array([np.argmax(row) == label for row, label in zip(logits, labels, strict=True)])
    random = np.random.default_rng(1)
    drawn = [are_right[random.integers(60, size=60)].mean() for _ in range(400)]
    assert found.value == pytest.approx(are_right.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)


def test_models_are_compared_row_by_row() -> None:
    logits, labels = draw(60, 3, sure=0.0)
    known = [[float(n == label) for n in range(len(row))] for row, label in zip(logits, labels, strict=True)]
    best = rows_of(known, labels)
    other = rows_of(logits, labels)
    comparison = compare(TASK, other.predicted, best.predicted, best.truth, resamples=200)["accuracy"]
    assert comparison.difference.value == pytest.approx(1 - naive(logits, labels)["accuracy"])
    assert comparison.p_value < 0.02


def test_a_report_has_the_accuracy_by_number_of_choices_the_calibration_and_the_worst_rows() -> None:
    texts = [("Who?", ["he", "she"]), ("What?", ["this", "that", "it"]), ("Why?", ["so", "for"])]
    rows = rows_of([[0.0, 1.0], [3.0, 0.0, 0.0], [0.0, 2.0]], [1, 2, 1], texts=texts)
    metrics = {f"eval_t_{name}": value for name, value in score(rows).items()} | {"eval_final_score": 0.5}
    intervals = all_intervals({"t": TASK}, {"t": rows.predicted}, {"t": rows.truth})
    page = build_report("a run", {"t": rows}, metrics, {}, intervals).to_markdown()
    assert "1 of 3 rows are wrong." in page
    assert "| 2 | 2 | 1.000 | 0.500 |" in page
    assert "| 3 | 1 | 0.000 | 0.333 |" in page
    assert "![t: accuracy by confidence" in page
    assert "| text | right choice | chosen | probability |" in page
    assert "| What? | it | this | 0.909 |" in page
    assert evaluation_of(TASK).hub_task == "multiple-choice"
