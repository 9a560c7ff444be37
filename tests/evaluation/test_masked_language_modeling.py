"""Masked tokens are scored by perplexity and accuracy, which by default do not count."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_multitask import MultiTaskCollator, TaskConfig
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.shortfalls import shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions, check_metrics, evaluation_of, is_greater_better
from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare
from tests.conftest import sentences

MLM: Any = TaskConfig("masked_language_modeling")
V = 30


def draw(count: int, seed: int, sure: float = 2.0, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, M, V] of which some are right, and labels [B, M]; rows have 0 to `width` masked tokens."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(V, (count, width), generator=random)
    labels[torch.arange(width) >= torch.randint(width + 1, (count, 1), generator=random)] = -100
    logits = torch.randn(count, width, V, generator=random)
    logits += sure * F.one_hot(labels.clamp(min=0), V)
    return logits.masked_fill((labels == -100).unsqueeze(-1), -100), labels


def rows_of(count: int = 60, seed: int = 0, task: Any = MLM, **kwargs: Any) -> TaskPredictions:
    logits, labels = draw(count, seed, **kwargs)
    texts = [(f"text {number}",) for number in range(count)]
    return TaskPredictions(task, MLM.evaluated(logits, labels).numpy(), labels.numpy(), texts)


def naive(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    surprise, found, five = [], [], []
    for row, right in zip(logits.double().flatten(0, 1), labels.flatten().tolist(), strict=True):
        if right != -100:
            order = row.argsort(descending=True).tolist()
            surprise.append(-float(row.log_softmax(-1)[right]))
            found.append(order[0] == right)
            five.append(right in order[:5])
    return {
        "perplexity": math.exp(np.mean(surprise)),
        "accuracy": float(np.mean(found)),
        "top_5_accuracy": float(np.mean(five)),
    }


def test_scores_are_those_of_all_masked_tokens_together() -> None:
    task: Any = TaskConfig("masked_language_modeling", metrics=["perplexity", "accuracy", "top_5_accuracy"])
    rows = rows_of(task=task)
    found = rows.evaluation.score(rows.predicted, rows.truth)
    assert found == pytest.approx(naive(*draw(60, 0)), rel=1e-5)
    assert set(evaluation_of(MLM).chosen) == {"perplexity", "accuracy"}


def test_outputs_that_are_no_numbers_find_nothing() -> None:
    logits, labels = draw(20, 0)
    task: Any = TaskConfig("masked_language_modeling", metrics=["perplexity", "accuracy", "top_5_accuracy"])
    kept = MLM.evaluated(torch.full_like(logits, torch.nan), labels).numpy()
    found = evaluation_of(task).score(kept, labels.numpy())
    assert math.isnan(found["perplexity"])
    assert (found["accuracy"], found["top_5_accuracy"]) == (0.0, 0.0)


def test_nothing_counts_unless_the_task_says_so() -> None:
    assert evaluation_of(MLM).share({"perplexity": 3.0, "accuracy": 0.4}) is None
    counted: Any = TaskConfig("masked_language_modeling", counts="accuracy")
    assert evaluation_of(counted).share({"accuracy": 0.4}) == 0.4
    with pytest.raises(ValueError, match=r"counts 'perplexity' cannot enter the final score.*: accuracy, top_5_acc"):
        check_metrics({"mlm": TaskConfig("masked_language_modeling", counts="perplexity")})
    assert is_greater_better({"mlm": MLM}, "eval_mlm_perplexity") is False
    assert evaluation_of(MLM).hub_task == "fill-mask"


def test_intervals_are_those_of_rows_that_are_drawn_again() -> None:
    rows = rows_of(200)
    found = bootstrap_intervals(MLM, rows.predicted, rows.truth, resamples=500)
    logits, labels = draw(200, 0)
    random = np.random.default_rng(1)
    drawn = [naive(logits[chosen], labels[chosen]) for chosen in random.integers(200, size=(200, 200))]
    for name, interval in found.items():
        low, high = np.quantile([scores[name] for scores in drawn], [0.025, 0.975])
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=0.1)


def test_models_are_compared_row_by_row() -> None:
    rows = rows_of(100)
    logits, labels = draw(100, 0)
    better = logits + 2 * F.one_hot(labels.clamp(min=0), V) * (labels != -100).unsqueeze(-1)
    other = MLM.evaluated(better, labels).numpy()
    found = compare(MLM, rows.predicted, other, rows.truth, resamples=200)
    difference = naive(better, labels)["perplexity"] - naive(logits, labels)["perplexity"]
    assert found["perplexity"].difference.value == pytest.approx(difference, rel=1e-4)
    assert found["accuracy"].p_value < 0.02


def test_thousands_of_resamples_take_seconds() -> None:
    rows = rows_of(10_000)
    assert bootstrap_intervals(MLM, rows.predicted, rows.truth)["perplexity"].low > 1


def test_a_report_has_tokens_by_how_common_they_are_and_the_worst_rows() -> None:
    rows = rows_of(60)
    scores = rows.evaluation.score(rows.predicted, rows.truth)
    metrics = {f"eval_t_{name}": value for name, value in scores.items()}
    intervals = all_intervals({"t": MLM}, {"t": rows.predicted}, {"t": rows.truth})
    page = build_report("a run", {"t": rows}, metrics, {}, intervals).to_markdown()
    logits, labels = draw(60, 0)
    times = torch.bincount(labels[labels >= 0], minlength=V)
    assert f"{int(times.sum())} tokens of 60 rows were masked." in page
    for band, first, end in (("2 to 9 times", 2, 10), ("10 to 99 times", 10, 100)):
        are_in = (labels >= 0) & (times[labels.clamp(min=0)] >= first) & (times[labels.clamp(min=0)] < end)
        if are_in.any():
            of_band = naive(logits, labels.masked_fill(~are_in, -100))
            cells = f"{of_band['perplexity']:.3f} | {of_band['accuracy']:.3f} |"
            assert f"| {band} | {int(are_in.sum())} | {cells}" in page
    assert "![t: probabilities of the masked tokens.](t-tokens.png)" in page
    assert "| text | masked tokens | found | perplexity |" in page
    assert "| t | perplexity |" in page
    assert "not measured" in page
    (worst,) = rows.worst(1)
    mean = [-float(logits[worst, i].log_softmax(-1)[labels[worst, i]]) for i in range(4) if labels[worst, i] >= 0]
    assert f"| text {worst} | {len(mean)} |" in page
    assert f"| {math.exp(np.mean(mean)):,.1f} |" in page


def test_rows_without_masked_tokens_are_reported_as_such() -> None:
    rows = TaskPredictions(MLM, np.zeros((2, 0, 2)), np.zeros((2, 0), dtype=np.int64), [("a",), ("b",)])
    assert [block.text for block in rows.evaluation.report("t", rows)] == ["0 tokens of 2 rows were masked."]
    assert rows.worst(2) == []


# ---- The trivial predictor ----


def test_it_gives_each_token_its_frequency_in_training(tokenizer: Any) -> None:
    task: Any = TaskConfig("masked_language_modeling", metrics=["perplexity", "accuracy", "top_5_accuracy"])
    evaluation = evaluation_of(task)
    train, evaluated = (
        Dataset.from_dict(task.tokenize(tokenizer, {"sentence": sentences(count, seed)}, 64))
        for count, seed in ((30, 1), (20, 2))
    )
    labels = evaluation.labels_of(evaluated, tokenizer)
    found = evaluation.trivial(evaluation.learnt_of(train, tokenizer), labels)
    times = Counter(token for row in train for token in row["input_ids"][1:-1])
    chances = torch.tensor([(times[token] + 1) / (times.total() + len(tokenizer)) for token in range(len(tokenizer))])
    # Of tokens that are as common, the right one comes last.
    logits = chances.log().expand(*labels.shape, -1).clone()
    logits.scatter_add_(-1, torch.from_numpy(labels).clamp(min=0).unsqueeze(-1), torch.full((*labels.shape, 1), -1e-6))
    assert found == pytest.approx(naive(logits, torch.from_numpy(labels)), rel=1e-4)


def test_its_tokens_are_those_that_an_evaluation_masks(tokenizer: Any) -> None:
    columns = {"sentence": sentences(7)}
    rows = Dataset.from_dict(MLM.tokenize(tokenizer, columns, 64)).select_columns(["input_ids", "masked"])
    collator = MultiTaskCollator(tokenizer, {"t": MLM})
    for given in (rows, rows.add_column("row", [3, 1, 4, 15, 9, 2, 6])):
        batch = collator(MultiTaskDataset({"t": given}, is_evaluated=True).__getitems__(range(7)))
        assert evaluation_of(MLM).labels_of(given, tokenizer).tolist() == batch["labels"]["t"].tolist()


def test_without_texts_of_training_it_is_not_measured() -> None:
    assert evaluation_of(MLM).trivial(evaluation_of(MLM).learnt_of(object()), np.zeros((2, 1), dtype=np.int64)) == {}
    counted = rows_of(task=TaskConfig("masked_language_modeling", counts="accuracy"))
    for each in (rows_of(), counted):
        assert shortfalls({"t": each}, {"eval_t_accuracy": 0.1}, {}, {}) == {}
