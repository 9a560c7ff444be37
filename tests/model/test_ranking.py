"""Texts among candidates: the head, the loss, the divergence and what is said, against sums in plain loops."""

import math
import re
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim
from torch import Tensor

from hf_multitask import MultiTaskCollator, MultiTaskPipeline, TaskConfig, export_sentence_transformer
from hf_multitask.data.batch import select_rows
from hf_multitask.model.ranking import identities
from hf_multitask.model.rows import PADDING
from tests.conftest import TASKS, tiny_model

H = 6
TASK: Any = TaskConfig("ranking")
SYMMETRIC: Any = TaskConfig("ranking", symmetric=True, scale=5.0)
COLUMNS = {
    "anchor": ["a cat sat", "the film was good", "dog"],
    "positive": ["the cat ran", "a lovely film", "a big dog"],
    "negatives": [["the hill"], [], ["a small cat", "the plot", "not a dog"]],
}
every_layout = pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])


def embeddings(*counts: int, seed: int = 0) -> Tensor:
    """Outputs [B, N, H] of rows with so many texts."""
    draw = torch.Generator().manual_seed(seed)
    are_there = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
    return TASK.build_head(H)(torch.randn(len(counts), max(counts), H, generator=draw), are_there)


def labels_of(*rows: list[int]) -> Tensor:
    return TASK.collate(rows)


def naive_loss(task: Any, outputs: Tensor, labels: Tensor) -> list[float]:
    """By row, in plain Python: what is a negative is decided text by text."""
    outputs = outputs.detach()
    rows = [[int(value) for value in row if value != PADDING] for row in labels]

    def contrast(query: int, own: tuple[int, int], candidates: list[tuple[int, int]], right: set[int]) -> float:
        def score(place: tuple[int, int]) -> float:
            side = 0 if own[1] == 1 else 1
            return task.scale * float(outputs[query, side].double() @ outputs[place].double())

        kept = [c for c in candidates if c == own or rows[c[0]][c[1]] not in right]
        return math.log(sum(math.exp(score(c)) for c in kept)) - score(own)

    losses = []
    for number, row in enumerate(rows):
        texts = [(other, place) for other in range(len(rows)) for place in range(1, len(rows[other]))]
        right = {other[1] for other in rows if other[0] == row[0]} | {row[0]}
        loss = contrast(number, (number, 1), texts, right)
        if task.symmetric:
            anchors = [(other, 0) for other in range(len(rows))]
            right = {other[0] for other in rows if other[1] == row[1]} | {row[1]}
            loss = (loss + contrast(number, (number, 0), anchors, right)) / 2
        losses.append(loss)
    return losses


def naive_divergence(outputs: Tensor, others: Tensor, counts: list[int]) -> list[float]:
    places = [(row, place) for row, count in enumerate(counts) for place in range(1, count)]
    values = []
    for row in range(len(counts)):
        z, w = (torch.stack([20 * one[row, 0].double() @ one[c].double() for c in places]) for one in (outputs, others))
        p, q = z.log_softmax(0), w.log_softmax(0)
        values.append(float((p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum()))
    return values


def test_the_table_says_how_it_is_trained() -> None:
    assert (TASK.texts, TASK.scale, TASK.symmetric) == (2, 20.0, False)
    assert TaskConfig.from_dict(SYMMETRIC.to_dict()) == SYMMETRIC
    assert not TASK.differences(SYMMETRIC)
    for wrong, said in (
        ({"texts": 1}, "texts must be 2, the number of texts in a row of ranking, not 1"),
        ({"pair_encoding": "cross"}, "pair_encoding must be bi, not 'cross': each text of a ranking is embedded alone"),
        ({"scale": 0}, "scale 0 must be a finite number above 0"),
        ({"symmetric": "yes"}, "symmetric must be true or false, not 'yes'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            TaskConfig("ranking", **wrong)


def test_the_head_has_no_weights_and_gives_embeddings_of_length_1_in_fp32() -> None:
    head = TASK.build_head(H)
    assert not list(head.parameters())
    given = torch.randn(2, 3, H)
    outputs = head(given.bfloat16(), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs[0, 2], given[0, 2].bfloat16().float() / given[0, 2].bfloat16().float().norm())
    assert not outputs[1, 2].any()
    assert len(TASK.each_output(outputs)) == 5


# ---- Loss and divergence ----


@pytest.mark.parametrize("task", [TASK, SYMMETRIC], ids=["one way", "symmetric"])
def test_a_rows_loss_is_the_cross_entropy_of_its_positive_among_all_that_is_wrong_for_it(task: Any) -> None:
    # Of the same text: rows 0 and 1 have one anchor, rows 2 and 3 one positive, row 4's is a negative of row 0, and
    # row 5's is the anchor of row 2.
    rows = ([1, 2, 10, 12], [1, 3], [4, 5, 11], [6, 5], [8, 10], [9, 4, 13])
    labels = labels_of(*rows)
    outputs = embeddings(*map(len, rows))
    for row, texts in enumerate(rows):
        for place, text in enumerate(texts):
            outputs[row, place] = embeddings(20)[0, text]
    losses = task.losses(outputs, labels)
    torch.testing.assert_close(losses, torch.tensor(naive_loss(task, outputs, labels)), rtol=1e-5, atol=1e-6)
    assert losses.dtype == torch.float32


def test_a_loss_without_texts_in_common_is_that_of_sentence_transformers() -> None:
    outputs, labels = embeddings(3, 3, 3), torch.arange(9).reshape(3, 3)
    anchors, candidates = outputs[:, 0], torch.cat([outputs[:, 1], outputs[:, 2]])
    scores = cos_sim(anchors, candidates) * 20
    theirs = torch.nn.functional.cross_entropy(scores, torch.arange(3))
    torch.testing.assert_close(TASK.losses(outputs, labels).mean(), theirs)


def test_texts_that_are_left_out_and_absent_ones_have_no_gradient() -> None:
    outputs = embeddings(2, 2, 3).requires_grad_()
    # The second row has the first one's texts, the other way round.
    TASK.losses(outputs, labels_of([1, 2], [2, 1], [3, 4, 5]))[0].backward()
    assert outputs.grad[0].any()
    assert not outputs.grad[1].any()
    assert outputs.grad[2, 1:].any()
    assert not outputs.grad[0, 2].any()


def test_one_row_alone_has_nothing_to_learn() -> None:
    outputs = embeddings(2).requires_grad_()
    loss = TASK.losses(outputs, labels_of([1, 2]))
    loss.sum().backward()
    assert loss.item() == 0
    assert not outputs.grad.any()


def test_similarities_are_not_rounded_under_autocast() -> None:
    outputs, labels = embeddings(3, 3), torch.arange(6).reshape(2, 3)
    expected = TASK.losses(outputs, labels), TASK.divergences(outputs, embeddings(3, 3, seed=1))
    with torch.autocast("cpu", torch.bfloat16):
        found = TASK.losses(outputs, labels), TASK.divergences(outputs, embeddings(3, 3, seed=1))
    assert all(map(torch.equal, expected, found))


def test_embeddings_that_are_no_numbers_make_no_loss_that_is_one() -> None:
    outputs = embeddings(2, 2)
    outputs[1] = float("nan")
    assert TASK.losses(outputs, torch.arange(4).reshape(2, 2)).isnan().all()


def test_outputs_of_other_rows_are_no_match_for_labels() -> None:
    said = "outputs (2, 3, 6) of a ranking do not fit labels (2, 2)"
    with pytest.raises(ValueError, match=re.escape(said)):
        TASK.losses(embeddings(3, 3), torch.arange(4).reshape(2, 2))


def test_a_rows_divergence_is_the_symmetric_kl_over_the_candidates_of_the_batch() -> None:
    counts = [3, 2, 4]
    outputs, others = embeddings(*counts), embeddings(*counts, seed=1)
    expected = torch.tensor(naive_divergence(outputs, others, counts))
    torch.testing.assert_close(TASK.divergences(outputs, others), expected, rtol=1e-4, atol=1e-5)
    same = outputs.clone().requires_grad_()
    still = TASK.divergences(same, outputs)
    still.sum().backward()
    assert not still.any()
    assert not same.grad.any()


# ---- Rows ----


def test_a_row_is_its_anchor_its_positive_and_any_number_of_negatives(tokenizer: Any) -> None:
    rows = TASK.tokenize(tokenizer, COLUMNS, 64)
    assert [len(lengths) for lengths in rows["lengths"]] == [3, 2, 5]
    without = TASK.tokenize(tokenizer, {key: COLUMNS[key] for key in ("anchor", "positive")}, 64)
    assert [len(lengths) for lengths in without["lengths"]] == [2, 2, 2]
    cut = TASK.tokenize(tokenizer, COLUMNS, 4)
    assert cut["truncated"] == [True, True, True]


def test_an_identity_is_that_of_the_tokens_whatever_holds_them_and_in_every_process(tokenizer: Any) -> None:
    rows = TASK.tokenize(tokenizer, {"anchor": ["a cat", "A CAT"], "positive": ["the dog", "a cat"]}, 64)
    each = [identities({key: rows[key][i] for key in ("input_ids", "lengths")}) for i in range(2)]
    assert each[0][0] == each[1][0] == each[1][1]
    assert each[0][1] != each[0][0]
    assert identities({"input_ids": torch.tensor([2, 5, 3]).numpy(), "lengths": [3]}) == [4027135216730089263]
    assert all(0 <= number < 2**63 for row in each for number in row)


def make_batch(tokenizer: Any, packing: bool) -> dict[str, Any]:
    rows = TASK.tokenize(tokenizer, COLUMNS, 64)
    features = [
        {"task": "rank", "row": i + 1, **{key: values[i] for key, values in rows.items() if key != "truncated"}}
        for i in range(3)
    ]
    sst = tokenizer(["a film", "dog"], return_attention_mask=False)["input_ids"]
    features += [{"task": "sst", "row": i + 1, "input_ids": sst[i], "label": i} for i in range(2)]
    tasks = {"rank": TASK, "sst": TaskConfig.from_dict(TASKS["sst"])}
    return MultiTaskCollator(tokenizer, tasks, packing)(features)


@every_layout
def test_rows_beside_those_of_another_task_have_the_outputs_that_each_text_has_alone(
    tokenizer: Any, packing: bool
) -> None:
    model = tiny_model({"rank": {"type": "ranking"}, "sst": TASKS["sst"]})
    batch = make_batch(tokenizer, packing)
    output = model(**batch)
    assert output.logits["rank"].shape == (3, 5, 16)
    for row in range(3):
        texts = [COLUMNS["anchor"][row], COLUMNS["positive"][row], *COLUMNS["negatives"][row]]
        for place, text in enumerate(texts):
            embedding = model(**tokenizer(text, return_tensors="pt")).pooler_output[0]
            torch.testing.assert_close(output.logits["rank"][row, place], embedding / embedding.norm())
    expected = naive_loss(TASK, output.logits["rank"], batch["labels"]["rank"])
    assert output.losses["rank"].item() == pytest.approx(sum(expected) / 3, rel=1e-4)
    part = select_rows(batch, {"rank": torch.tensor([2, 0])}, model.config.tasks)
    torch.testing.assert_close(model(**part).logits["rank"], output.logits["rank"][[2, 0]])


def test_a_model_without_any_weight_in_its_heads_saves_loads_and_lets_tasks_come_and_go(tmp_path: Any) -> None:
    model = tiny_model({"rank": {"type": "ranking"}})
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.tasks == model.config.tasks
    loaded.add_task("again", {"type": "ranking", "pooling": "cls"})
    loaded.drop_task("rank")
    assert list(loaded.heads) == ["again"]


# ---- What is said ----


@pytest.fixture
def pipe(tokenizer: Any) -> MultiTaskPipeline:
    tasks = {"rank": {"type": "ranking", "pooling": "max"}, "sst": TASKS["sst"]}
    return MultiTaskPipeline(tiny_model(tasks), tokenizer, device="cpu")


def test_the_pipeline_ranks_candidates_by_their_cosine(pipe: MultiTaskPipeline, tokenizer: Any) -> None:
    text, candidates = "a cat sat", ["the film", "a cat", "good"]
    ranked = pipe((text, candidates), task="rank", top_k=None)
    inputs = [pipe.model(**tokenizer(one, return_tensors="pt")) for one in (text, *candidates)]
    # The task's pooling is not the model's.
    first, *others = (output.last_hidden_state[0].amax(0) for output in inputs)
    expected = [torch.cosine_similarity(first, other, dim=0).item() for other in others]
    assert [answer["score"] for answer in ranked] == pytest.approx(sorted(expected, reverse=True))
    assert sorted(answer["index"] for answer in ranked) == [0, 1, 2]
    assert [answer["score"] for answer in ranked] == sorted((answer["score"] for answer in ranked), reverse=True)
    assert all(answer["candidate"] == candidates[answer["index"]] for answer in ranked)
    assert pipe((text, candidates), task="rank") == ranked[0]
    assert pipe([{"text": text, "candidates": candidates}], task="rank", top_k=2) == [ranked[:2]]
    assert pipe((text, ["a cat"]), task="rank", top_k=None)[0]["index"] == 0


def test_many_inputs_have_any_numbers_of_candidates(pipe: MultiTaskPipeline) -> None:
    inputs = [("dog", ["cat", "a dog"]), ("film", ["plot"]), ("dog", ["a", "the", "hill", "mat"])]
    each = [pipe(one, task="rank", top_k=None) for one in inputs]
    together = pipe(inputs, task="rank", top_k=None)
    assert [len(row) for row in together] == [2, 1, 4]
    for one, other in zip(each, together, strict=True):
        assert [(a["candidate"], a["index"]) for a in one] == [(a["candidate"], a["index"]) for a in other]


@pytest.mark.parametrize("wrong", ["a text", ("a text", "another"), ["a", "b"]])
def test_a_text_without_candidates_is_refused(pipe: MultiTaskPipeline, wrong: Any) -> None:
    with pytest.raises(
        ValueError, match=r"input 1: task 'rank' reads a text with candidates, \(text, \[text, text\]\)"
    ):
        pipe(wrong, task="rank")
    with pytest.raises(ValueError, match=r"reads a text with candidates, \(text, \[text, text\]\)"):
        pipe((("a text", "another"), ["a", "b"]), task="rank")
    with pytest.raises(ValueError, match="input 1: give a text, or two, and its candidates, at least one"):
        pipe(("a text", []), task="rank")


def test_sentence_transformers_finds_the_similarities_of_the_task(
    pipe: MultiTaskPipeline, tokenizer: Any, tmp_path: Any
) -> None:
    export_sentence_transformer(pipe.model, tmp_path / "exported", tokenizer, task="rank")
    theirs = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    text, candidates = "a cat sat on the mat", ["the film", "a cat", "good", "the dog ran"]
    scores = theirs.similarity(theirs.encode([text]), theirs.encode(candidates))[0].tolist()
    ours = {answer["index"]: answer["score"] for answer in pipe((text, candidates), task="rank", top_k=None)}
    assert scores == pytest.approx([ours[index] for index in range(4)], abs=1e-5)
    with pytest.raises(ValueError, match="'rnak' is unknown"):
        export_sentence_transformer(pipe.model, tmp_path / "other", tokenizer, task="rnak")
