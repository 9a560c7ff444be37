"""Rankings are scored as sentence-transformers scores information retrieval, over all texts of an evaluation."""

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from hf_multitask import TaskConfig
from hf_multitask.evaluation import ranking
from hf_multitask.evaluation.ranking import Candidates
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.shortfalls import shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import all_intervals, bootstrap_intervals, compare
from hf_multitask.model.ranking import identities
from hf_multitask.model.rows import PADDING

TASK: Any = TaskConfig("ranking")
ALL: Any = TaskConfig("ranking", metrics=[*ranking.RANKING_METRICS, "mean_rank"])
H = 5
# Anchor, positive and negatives by identity. Rows 0 and 1 have one anchor; 4 is an anchor and a candidate; 7 is its own
# positive; 2 is right for the anchor 1 and wrong for 5.
ROWS = [[1, 2, 10, 11], [1, 3], [4, 6], [5, 4, 2], [7, 7], [8, 9, 12, 13, 14, 15]]


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """A unit vector for each identity."""
    drawn = np.random.default_rng(seed).normal(size=(count, H))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def rows_of(rows: list[list[int]], known: np.ndarray, task: Any = ALL, **kwargs: Any) -> TaskPredictions:
    width = max(map(len, rows))
    outputs, labels = np.full((len(rows), width, H), float(PADDING)), np.full((len(rows), width), PADDING)
    for number, row in enumerate(rows):
        outputs[number, : len(row)], labels[number, : len(row)] = known[row], row
    return TaskPredictions(task, outputs.astype(np.float32), labels, **kwargs)


def drawn_rows(count: int, seed: int = 0, texts: int = 60) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [[int(draw.integers(texts)) for _ in range(draw.integers(2, 6))] for _ in range(count)]


def naive_ranks(rows: list[list[int]], known: np.ndarray) -> dict[int, list[int]]:
    """Of each anchor, by sorting."""
    found = {}
    for anchor in {row[0] for row in rows}:
        right = {row[1] for row in rows if row[0] == anchor}
        candidates = {text for row in rows for text in row[1:]} - ({anchor} - right)
        order = sorted(candidates, key=lambda text: (-float(known[anchor] @ known[text]), text in right))
        found[anchor] = [order.index(text) + 1 for text in sorted(right, key=order.index)]
    return found


def scores_of(rows: TaskPredictions) -> dict[str, float]:
    return rows.evaluation.score(rows.predicted, rows.truth)


@pytest.mark.parametrize("block", [1 << 24, 40])
def test_ranks_are_those_of_sorting_all_candidates(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_BLOCK", block)
    for rows, seed in ((ROWS, 0), (drawn_rows(50), 1)):
        known = vectors(60, seed)
        found, expected = rows_of(rows, known).predicted, naive_ranks(rows, known)
        assert [[rank for rank in row if rank != PADDING] for row in found.tolist()] == [expected[r[0]] for r in rows]


def test_scores_are_those_of_sentence_transformers_information_retrieval() -> None:
    rows, known = drawn_rows(80, seed=3), vectors(60)
    # It has no way to leave out the anchor's own text: anchors are other texts here.
    rows = [[row[0] % 20, *(20 + text % 40 for text in row[1:])] for row in rows]

    evaluator = InformationRetrievalEvaluator(
        queries={str(row[0]): "" for row in rows},
        corpus={str(text): "" for row in rows for text in row[1:]},
        relevant_docs={str(a): {str(row[1]) for row in rows if row[0] == a} for a in {row[0] for row in rows}},
        precision_recall_at_k=[1, 5, 10],
    )
    results: list[object] = [
        [{"corpus_id": text, "score": float(known[int(anchor)] @ known[int(text)])} for text in evaluator.corpus_ids]
        for anchor in evaluator.queries_ids
    ]
    found: Any = evaluator.compute_metrics(results)
    ours = scores_of(rows_of(rows, known))
    assert ours["mrr_at_10"] == pytest.approx(found["mrr@k"][10])
    assert ours["ndcg_at_10"] == pytest.approx(found["ndcg@k"][10])
    for k in (1, 5, 10):
        assert ours[f"recall_at_{k}"] == pytest.approx(found["recall@k"][k])


def test_an_anchor_counts_once_however_many_rows_it_has() -> None:
    known = vectors(60)
    ranks = naive_ranks(ROWS, known)
    scores = scores_of(rows_of(ROWS, known))
    assert scores["mrr_at_10"] == pytest.approx(np.mean([1 / r[0] if r[0] <= 10 else 0 for r in ranks.values()]))
    assert scores["recall_at_5"] == pytest.approx(np.mean([np.mean([k <= 5 for k in r]) for r in ranks.values()]))
    assert scores["mean_rank"] == pytest.approx(np.mean([r[0] for r in ranks.values()]))
    discounted = [
        sum(1 / math.log2(k + 1) for k in r if k <= 10) / sum(1 / math.log2(k + 2) for k in range(min(len(r), 10)))
        for r in ranks.values()
    ]
    assert scores["ndcg_at_10"] == pytest.approx(np.mean(discounted))


def test_the_anchors_own_text_does_not_stand_in_its_way() -> None:
    # The anchor 1 is a candidate of the row of 3, and nearest to itself.
    known = np.eye(H, dtype=np.float32)[[0, 0, 1, 2, 3]]
    known[[2, 3], 0] = 0.5, 0.9
    assert rows_of([[1, 2], [3, 1]], known).predicted.tolist() == [[1], [1]]
    # Unless it is its right text.
    assert rows_of([[1, 1], [3, 4]], known).predicted[0].tolist() == [1]


@pytest.mark.parametrize("value", [0.4, float("nan")])
def test_embeddings_that_are_all_alike_or_no_numbers_have_the_worst_ranks(value: float) -> None:
    rows = rows_of(ROWS, np.full((60, H), value))
    # Of 12 candidates; the anchors 4 and 5, of which only the first is one.
    candidates = Candidates(rows.labels)
    assert rows.predicted[:, 0].tolist() == (candidates.sizes - candidates.counts + 1)[candidates.anchor_of].tolist()


# ---- The trivial predictor ----


def test_a_random_order_is_expected_what_all_orders_have_in_the_mean() -> None:
    rows = [[1, 2], [1, 3], [4, 5, 6], [6, 2]]
    labels = rows_of(rows, vectors(20)).labels
    expected = evaluation_of(ALL).trivial([], labels)
    candidates = Candidates(labels)
    each: list[np.ndarray] = []
    for count, size in zip(candidates.counts, candidates.sizes, strict=True):
        orders = [sorted(order[:count]) for order in itertools.permutations(range(1, size + 1))]
        each.append(ranking._values(np.array(orders)).mean(0))
    means = np.mean(each, axis=0)
    assert list(expected.values()) == pytest.approx(means.tolist())


def test_a_random_order_of_many_candidates_is_expected_what_draws_have() -> None:
    counts, sizes = np.array([1, 3, 12]), np.array([40, 40, 25])
    draw = np.random.default_rng(0)
    for place, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        ranks = np.sort(draw.random((20_000, size)).argsort(1)[:, :count] + 1, axis=1)
        found = ranking._expected(counts, sizes)[place]
        assert found == pytest.approx(ranking._values(ranks).mean(0), rel=0.05)


def test_what_is_right_is_known_from_tokenized_rows_alone(tokenizer: Any) -> None:
    columns = {"anchor": ["a cat", "dog"], "positive": ["the cat", "a cat"], "negatives": [[], ["hill"]]}
    rows = Dataset.from_dict(TASK.tokenize(tokenizer, columns, 64))
    labels = evaluation_of(TASK).labels_of(rows)
    assert labels.tolist() == [[*identities(rows[0]), PADDING], identities(rows[1])]
    assert labels[0, 0] == labels[1, 1]


# ---- Intervals and comparisons ----


def test_intervals_are_those_of_rows_that_are_drawn_again() -> None:
    rows = rows_of(drawn_rows(60, texts=200), vectors(200))
    found = bootstrap_intervals(TASK, rows.predicted, rows.truth, resamples=500)["mrr_at_10"]
    (evidence,) = rows.evaluation.evidence(rows.predicted, rows.truth)
    draw = np.random.default_rng(1)
    drawn = [evidence[draw.integers(60, size=60)].mean(0) for _ in range(500)]
    ends = np.quantile([means[1] / means[0] for means in drawn], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.03)
    assert found.value == pytest.approx(scores_of(rows)["mrr_at_10"])


def test_rows_that_repeat_an_anchor_make_no_score_surer() -> None:
    once = [[anchor, 200 + anchor] for anchor in range(60)]
    known = vectors(260)
    asked_once, asked_often = (rows_of(rows, known, TASK) for rows in (once, [row for row in once for _ in range(5)]))
    one, often = (
        bootstrap_intervals(TASK, rows.predicted, rows.truth, resamples=500)["mrr_at_10"]
        for rows in (asked_once, asked_often)
    )
    assert often.value == pytest.approx(one.value)
    assert often.high - often.low == pytest.approx(one.high - one.low, rel=0.2)
    # Nor a difference of two models.
    others = [rows_of(rows, vectors(260, 1), TASK) for rows in (once, [row for row in once for _ in range(5)])]
    p_values = [
        compare(TASK, mine.predicted, other.predicted, mine.truth, resamples=500)["mrr_at_10"].p_value
        for mine, other in zip((asked_once, asked_often), others, strict=True)
    ]
    assert p_values[1] == pytest.approx(p_values[0], abs=0.1)


def test_models_are_compared_by_the_ranks_of_the_same_rows() -> None:
    rows = drawn_rows(60, texts=200)
    known = vectors(200)
    for row in rows:
        known[row[1]] = known[row[0]]
    best, other = rows_of(rows, known), rows_of(rows, vectors(200, 1))
    comparison = compare(TASK, other.predicted, best.predicted, best.truth, resamples=200)["mrr_at_10"]
    assert comparison.difference.value == pytest.approx(scores_of(best)["mrr_at_10"] - scores_of(other)["mrr_at_10"])
    assert comparison.p_value < 0.02


@pytest.mark.slow
def test_ten_thousand_anchors_among_twenty_thousand_candidates_take_seconds() -> None:
    draw = np.random.default_rng(0)
    outputs = draw.normal(size=(10_000, 3, 64)).astype(np.float32)
    rows = TaskPredictions(TASK, outputs, np.arange(30_000).reshape(10_000, 3))
    begun = time.time()
    assert rows.predicted.shape == (10_000, 1)
    assert bootstrap_intervals(TASK, rows.predicted, rows.truth)["mrr_at_10"].value < 0.01
    assert time.time() - begun < 120


# ---- Reports ----


TEXTS = [(f"text {row[0]}", f"text {row[1]}", [f"text {text}" for text in row[2:]]) for row in ROWS]


def test_a_report_has_the_share_of_anchors_by_rank_and_what_was_ranked_first() -> None:
    rows = rows_of(ROWS, vectors(60), TASK, texts=TEXTS)
    metrics = {f"eval_t_{name}": value for name, value in scores_of(rows).items()}
    intervals = all_intervals({"t": TASK}, {"t": rows.predicted}, {"t": rows.truth})
    page = build_report("a run", {"t": rows}, metrics | {"eval_final_score": 0.5}, {}, intervals).to_markdown()
    ranks = naive_ranks(ROWS, vectors(60))
    right = sum(found[0] == 1 for found in ranks.values())
    assert f"{right} of 5 different anchors have a right text first, among 12 candidates" in page
    share = np.mean([found[0] <= 5 for found in ranks.values()])
    assert f"| 5 | {share:.3f} |" in page
    assert "![t: the share of anchors that have a right text among the first candidates.](t-ranks.png)" in page
    worst = max((found[0], anchor) for anchor, found in ranks.items())[1]
    row = next(row for row in ROWS if row[0] == worst)
    candidates = {text for other in ROWS for text in other[1:]} - {row[1], worst}
    known = vectors(60)
    first = max(candidates, key=lambda text: float(known[worst] @ known[text]))
    size = 12 - (worst in {text for other in ROWS for text in other[1:]} and worst != row[1])
    assert "| anchor | right text | ranked first | rank |" in page
    assert f"| text {worst} | text {row[1]} | text {first} | {ranks[worst][0]} of {size} |" in page


def test_a_model_that_says_the_same_to_all_is_told() -> None:
    known = vectors(60)
    known[11] = known[1] = known[4] = known[5] = known[7] = known[8] = known[0]
    rows = rows_of(ROWS, known, TASK)
    trivial = {"t": rows.evaluation.trivial([], rows.truth)}
    said = shortfalls({"t": rows}, {"eval_t_mrr_at_10": 0.01}, trivial, {})["t"]
    assert said.startswith(
        "no better than a predictor that ignores the text: mrr_at_10 0.010, that of the random order"
    )
    alike = rows_of([[1, 2], [3, 2]], known, TASK)
    assert alike.evaluation.are_alike(alike.truth)
    assert not rows.evaluation.are_alike(rows.truth)
    others = rows_of([[1, 2, 11], [4, 3], [5, 9]], known, TASK)
    assert others.evaluation.symptom(others) == "the same text is ranked first for all 3"


def test_reciprocal_rank_counts_and_the_hub_calls_it_similarity() -> None:
    evaluation = evaluation_of(TASK)
    assert evaluation.share({"mrr_at_10": 0.4}) == 0.4
    assert evaluation.hub_task == "sentence-similarity"
    assert evaluation_of(TaskConfig("ranking", counts="ndcg_at_10")).share({"ndcg_at_10": 0.3}) == 0.3
    with pytest.raises(ValueError, match="counts 'mean_rank' cannot enter the final score"):
        _ = evaluation_of(TaskConfig("ranking", counts="mean_rank")).chosen
