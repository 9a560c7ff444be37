"""Answers as parts of a context, which is read in windows: how they are learnt and said."""

import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.distributions import Categorical, kl_divergence
from transformers import BertForQuestionAnswering, PreTrainedTokenizer, pipeline

from hf_multitask import MultiTaskCollator, TaskConfig
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.pipeline_reading import Reader
from tests.conftest import tiny_model

QA = {"type": "question_answering", "doc_stride": 2}
TASK: Any = TaskConfig(**QA)
NONE: Any = TaskConfig(**QA, no_answer=True)
QUESTION, CONTEXT = "what sat", "The cat sat on a mat, not the big hill."
# The logit of a token that cannot answer.
UNREAD = -8192.0


def rows_of(
    tokenizer: Any, contexts: list[str], max_length: int = 10, task: Any = TASK, question: str = QUESTION
) -> Any:
    columns = {"question": [question] * len(contexts), "context": contexts}
    tokens = task.tokenize(tokenizer, columns, max_length)
    return [dict(zip(tokens, values, strict=True)) for values in zip(*tokens.values(), strict=True)]


def windows_of(row: dict[str, Any], text: str) -> list[list[str]]:
    """The parts of the context that each window has, token by token."""
    found, begin = [], 0
    for length in row["lengths"]:
        places = range(begin, begin + length)
        found.append([text[row["starts"][t] : row["ends"][t]] for t in places if row["starts"][t] >= 0])
        begin += length
    return found


# ---- The table ----


def test_the_table_says_how_a_task_reads() -> None:
    task: Any = TaskConfig("question_answering")
    assert (task.texts, task.doc_stride, task.max_answer_length, task.no_answer) == (2, 128, 30, False)
    assert list(task.text_columns) == ["question", "context"]
    assert TaskConfig.from_dict(NONE.to_dict()) == NONE
    assert NONE.answers == "a part of the context, or none"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"texts": 1}, "texts must be 2, the number of texts in a row of question_answering, not 1"),
        ({"pair_encoding": "bi"}, "pair_encoding must be cross"),
        ({"doc_stride": -1}, "doc_stride must be a whole number from 0 on, not -1"),
        ({"doc_stride": True}, "doc_stride must be a whole number from 0 on, not True"),
        ({"max_answer_length": 0}, "max_answer_length must be a whole number from 1 on, not 0"),
        ({"no_answer": "yes"}, "no_answer must be true or false, not 'yes'"),
    ],
)
def test_values_that_mean_nothing_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskConfig("question_answering", **keys)


# ---- Windows ----


def test_a_long_context_is_cut_in_windows_that_overlap(tokenizer: Any) -> None:
    short, long = rows_of(tokenizer, ["A cat.", CONTEXT])
    assert short["lengths"] == [8]
    assert windows_of(short, "A cat.") == [["A", "cat", "."]]
    assert short["starts"] == [-1, -1, -1, -1, 0, 2, 5, -1]
    windows = windows_of(long, CONTEXT)
    assert windows[:3] == [
        ["The", "cat", "sat", "on", "a"],
        ["on", "a", "mat", ",", "not"],
        [",", "not", "the", "big", "hill"],
    ]
    assert windows[-1][-1] == "."
    assert not long["truncated"]
    assert long["token_type_ids"][:10] == [0] * 4 + [1] * 6
    assert max(long["lengths"]) == 10


@pytest.mark.parametrize("stride", [0, 1, 2, 50])
@pytest.mark.parametrize("max_length", [4, 5, 7, 10, 20, 64])
def test_windows_have_all_of_the_context_whatever_their_length(tokenizer: Any, max_length: int, stride: int) -> None:
    task = TaskConfig("question_answering", doc_stride=stride)
    (row,) = rows_of(tokenizer, [CONTEXT], max_length, task)
    windows = windows_of(row, CONTEXT)
    whole = re.findall(r"\w+|[.,]", CONTEXT)
    assert windows[0] == whole[: len(windows[0])]
    assert set(whole) == {token for window in windows for token in window}
    assert max(row["lengths"]) <= max_length
    for one, two in pairwise(windows):
        common = next(n for n in range(len(one), -1, -1) if one[len(one) - n :] == two[:n])
        assert common == min(stride, len(windows[0]) // 2) or two is windows[-1]


def test_a_question_that_leaves_no_room_is_cut_and_that_is_told(tokenizer: Any) -> None:
    (row,) = rows_of(tokenizer, [CONTEXT], 13, question="what " * 40 + "sat")
    assert row["truncated"]
    assert row["lengths"][0] == 13
    assert row["starts"][:13].count(-1) == 3 + 5
    assert windows_of(row, CONTEXT)[0] == ["The", "cat", "sat", "on", "a"]


def test_windows_are_made_without_truncation_too(tokenizer: Any) -> None:
    columns = {"question": [QUESTION], "context": [CONTEXT]}
    assert TASK.tokenize(tokenizer, columns, 10, truncation=False) == TASK.tokenize(tokenizer, columns, 10)


def test_a_tokenizer_that_does_not_know_places_is_refused(tokenizer: Any) -> None:
    class Slow(PreTrainedTokenizer):
        vocab_size = 3

        def get_vocab(self) -> dict[str, int]:
            return {}

    with pytest.raises(ValueError, match="Slow cannot tell where in a text its tokens stand: take a fast tokenizer"):
        rows_of(Slow(), [CONTEXT])


def test_a_batch_has_codes_and_places_of_equal_shape(tokenizer: Any) -> None:
    rows = rows_of(tokenizer, ["A cat.", CONTEXT])
    features = [{**row, "label": label, "task": "qa"} for row, label in zip(rows, [[2, 5], [15, 20]], strict=True)]
    batch = MultiTaskCollator(tokenizer, {"qa": TASK})(features)
    assert batch["tasks"]["qa"].tolist() == [[0, -1, -1, -1], [1, 2, 3, 4]]
    assert batch["labels"]["qa"].shape == batch["head_inputs"]["qa"]["starts"].shape == (2, sum(rows[1]["lengths"]))
    assert batch["labels"]["qa"][0].tolist() == [0, 0, 0, 0, 0, 3, 0, 0] + [-100] * (sum(rows[1]["lengths"]) - 8)
    assert features[0]["label"] == [2, 5]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"starts": [1]}, "other numbers of starts and ends than of tokens: {'input_ids': 8, 'starts': 1, 'ends': 8}."),
        ({"ends": None}, "other numbers of starts and ends than of tokens"),
        ({"ends": [None] * 8}, "starts and ends that are no places in its context, nor -1."),
        ({"ends": [99] * 8}, "starts and ends that are no places in its context, nor -1."),
        ({"context": None}, "the context None, which is not text."),
        ({"label": [2, 99]}, "an answer that ends at 99, beyond its context."),
    ],
)
def test_a_row_that_comes_tokenized_and_is_none_is_told(tokenizer: Any, change: Any, problem: str) -> None:
    (row,) = rows_of(tokenizer, ["A cat."])
    TASK.check_row(row)
    with pytest.raises(ValueError, match=re.escape(f"has {problem}")):
        TASK.check_row({**row, **change})


# ---- Loss and divergence ----


def naive_loss(outputs: torch.Tensor, starts: list[int], ends: list[int]) -> float:
    """−log of the probability of all right tokens, the mean over both sides, token by token."""
    total = 0.0
    for side, right in enumerate((starts, ends)):
        sizes = [math.exp(z) for z in outputs[:, side].double().tolist()]
        total -= math.log(sum(sizes[t] for t in right) / sum(sizes)) / 2
    return total


def test_a_loss_is_that_of_all_right_tokens_together() -> None:
    outputs = torch.randn(3, 6, 2)
    outputs[0, :2] = UNREAD
    outputs[1, 4:] = -100
    codes = torch.tensor([[0, 0, 1, 2, 3, 0], [3, 0, 0, 0, -100, -100], [0, 1, 0, 2, 0, 0]])
    expected = [
        naive_loss(outputs[0], [2, 4], [3, 4]),
        naive_loss(outputs[1, :4], [0], [0]),
        naive_loss(outputs[2], [1], [3]),
    ]
    losses = TASK.losses(outputs, codes)
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert TASK.losses(outputs.bfloat16(), codes).dtype == torch.float32
    with pytest.raises(
        ValueError, match=re.escape("outputs (3, 6, 2) of a question_answering do not fit labels (3, 2)")
    ):
        TASK.losses(outputs, codes[:, :2])


def test_an_answer_that_no_token_says_teaches_nothing() -> None:
    outputs = torch.randn(3, 4, 2)
    outputs[1, 2] = UNREAD
    outputs.requires_grad_()
    # Of the second, the token that is right cannot answer; the third lacks an end.
    losses = TASK.losses(outputs, torch.tensor([[0, 0, 0, 0], [0, 0, 3, 0], [0, 1, 0, 0]]))
    losses.sum().backward()
    assert losses.tolist() == [0, 0, 0]
    assert not outputs.grad.any()


def test_tokens_that_cannot_answer_have_no_gradient() -> None:
    outputs = torch.randn(1, 4, 2)
    outputs[0, 0] = UNREAD
    outputs.requires_grad_()
    TASK.losses(outputs, torch.tensor([[0, 1, 2, 0]])).sum().backward()
    assert not outputs.grad[0, 0].any()
    assert outputs.grad[0, 1:].all()


def test_of_one_window_and_one_answer_the_loss_is_that_of_transformers(tokenizer: Any) -> None:
    """Its model has our encoder and output layer; tokens that cannot answer are left out of its logits."""
    model = tiny_model({"qa": QA})
    theirs: Any = BertForQuestionAnswering(model.config.encoder_config).eval()
    theirs.bert.load_state_dict(model.backbone.state_dict())
    # Whatever their bias is, the loss is the same.
    theirs.qa_outputs.load_state_dict({**model.heads["qa"].out_proj.state_dict(), "bias": torch.tensor([0.5, -2.0])})
    spans = {"A cat sat on the mat.": (2, 5), "The big dog ran.": (0, 11), "A film.": (2, 6)}
    rows = rows_of(tokenizer, list(spans), 64)
    features = [{**row, "label": list(span), "task": "qa"} for row, span in zip(rows, spans.values(), strict=True)]
    batch = MultiTaskCollator(tokenizer, {"qa": TASK})(features)
    ours = model(**batch)
    can_answer = batch["head_inputs"]["qa"]["starts"] >= 0
    theirs.qa_outputs.register_forward_hook(lambda *call: call[-1].masked_fill(~can_answer.unsqueeze(-1), UNREAD))
    begins = [row["starts"].index(start) for row, (start, _) in zip(rows, spans.values(), strict=True)]
    finishes = [row["ends"].index(end) for row, (_, end) in zip(rows, spans.values(), strict=True)]
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    output = theirs(**inputs, start_positions=torch.tensor(begins), end_positions=torch.tensor(finishes))
    torch.testing.assert_close(ours.loss, output.loss)
    logits = torch.stack([output.start_logits, output.end_logits], -1)
    logits = torch.where(can_answer.unsqueeze(-1), logits - theirs.qa_outputs.bias, logits)
    torch.testing.assert_close(ours.logits["qa"], logits)


def test_a_rows_divergence_is_the_mean_symmetric_kl_of_both_sides() -> None:
    outputs, others = torch.randn(2, 5, 2), torch.randn(2, 5, 2)
    outputs[0, 0] = others[0, 0] = UNREAD
    outputs[1, 3:] = others[1, 3:] = -100
    expected = []
    for row, count in ((0, 5), (1, 3)):
        first, last = 1 - row, count
        p, q = (Categorical(logits=z[row, first:last].T.double()) for z in (outputs, others))
        expected.append((kl_divergence(p, q) + kl_divergence(q, p)).mean().item())
    assert TASK.divergences(outputs, others).tolist() == pytest.approx(expected, rel=1e-4)
    same = outputs.clone().requires_grad_()
    still = TASK.divergences(same, outputs)
    still.sum().backward()
    assert not still.any()
    assert not same.grad.any()


# ---- The head ----


def test_the_head_is_an_output_layer_at_each_token_of_all_windows() -> None:
    head = NONE.build_head(6).eval()
    states, mask = torch.randn(2, 2, 3, 6), torch.tensor([[[1, 1, 1], [1, 1, 0]], [[1, 1, 0], [0, 0, 0]]])
    starts = torch.tensor([[-1, 0, 2, -1, 2], [-1, 4, -1, -1, -1]])
    outputs = head(states, mask, starts)
    assert outputs.shape == (2, 5, 2)
    for row, token, place in (
        (0, 0, (0, 0)),
        (0, 1, (0, 1)),
        (0, 2, (0, 2)),
        (0, 4, (1, 1)),
        (1, 0, (0, 0)),
        (1, 1, (0, 1)),
    ):
        torch.testing.assert_close(outputs[row, token], head.out_proj(states[row][place]))
    assert (outputs[0, 3] == UNREAD).all()
    assert (outputs[1, 2:] == UNREAD).all()
    assert (TASK.build_head(6)(states, mask, starts)[:, 0] == UNREAD).all(), "there is no answer is no answer"
    assert len(NONE.each_output(outputs)) == 6
    assert head(states, mask).shape == (2, 5, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tokens_that_cannot_answer_are_known_in_half_precision(dtype: torch.dtype) -> None:
    head = TASK.build_head(6).to(dtype)
    outputs = head(torch.randn(1, 1, 3, 6, dtype=dtype), torch.ones(1, 1, 3), torch.tensor([[-1, 0, -1]]))
    assert len(TASK.each_output(outputs)) == 1
    assert TASK.losses(outputs, torch.tensor([[0, 3, 0]])).item() == 0


# ---- What is said ----


def outputs_of(count: int, **logits: list[tuple[int, float]]) -> torch.Tensor:
    outputs = torch.zeros(count, 2)
    for side, name in enumerate(("begins", "ends")):
        for token, value in logits.get(name, []):
            outputs[token, side] = value
    return outputs


def naive_spans(task: Any, outputs: torch.Tensor, row: dict[str, Any]) -> dict[tuple[int, int], float]:
    """The probability of each span of characters, window by window and token by token."""
    shares = outputs.double().softmax(0).tolist()
    places = list(zip(row["starts"], row["ends"], strict=True))

    def share(token: int, side: int) -> float:
        return sum(shares[t][side] for t, place in enumerate(places) if place == places[token])

    found, begin = {}, 0
    for length in row["lengths"]:
        tokens = [t for t in range(begin, begin + length) if places[t][0] >= 0]
        for i, first in enumerate(tokens):
            for last in tokens[i : i + task.max_answer_length]:
                found[places[first][0], places[last][1]] = share(first, 0) * share(last, 1)
        begin += length
    return found | ({(0, 0): shares[0][0] * shares[0][1]} if task.no_answer else {})


@pytest.mark.parametrize("task", [TASK, NONE, TaskConfig(**QA, max_answer_length=2)])
@pytest.mark.parametrize("seed", range(5))
def test_answers_are_the_likeliest_spans_of_a_window(tokenizer: Any, task: Any, seed: int) -> None:
    (row,) = rows_of(tokenizer, [CONTEXT], 8)
    outputs = 2 * torch.randn(len(row["starts"]), 2, generator=torch.Generator().manual_seed(seed))
    can_answer = torch.tensor(row["starts"]) >= 0
    can_answer[0] = task.no_answer
    outputs[~can_answer] = UNREAD
    expected = sorted(naive_spans(task, outputs, row).items(), key=lambda one: -one[1])
    (said,) = task.predictions_for([{**row, "context": CONTEXT}], outputs[None], top_k=None)
    assert len(said) == min(20, len(expected))
    assert [answer["score"] for answer in said] == pytest.approx([score for _, score in expected[: len(said)]])
    for answer in said:
        assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]]
    padded = torch.cat([outputs, torch.full((3, 2), -100.0)])
    (best,) = task.predictions_for([{**row, "context": CONTEXT}], padded[None])
    assert best == said[0]
    (two,) = task.predictions_for([{**row, "context": CONTEXT}], padded[None], top_k=2)
    assert two == said[:2]


def test_where_no_token_can_answer_nothing_is_said(tokenizer: Any) -> None:
    (row,) = rows_of(tokenizer, [""])
    outputs = torch.full((1, len(row["starts"]), 2), UNREAD)
    nothing = {"answer": "", "start": 0, "end": 0, "score": 0.0}
    assert TASK.predictions_for([{**row, "context": ""}], outputs) == [nothing]
    outputs[0, 0] = 0.0
    assert NONE.predictions_for([{**row, "context": ""}], outputs) == [{**nothing, "score": 1.0}]


def test_without_texts_tokens_are_said() -> None:
    outputs = outputs_of(6, begins=[(2, 9.0)], ends=[(4, 9.0)])[None]
    (said,) = TASK.predictions(outputs)
    assert (said["start"], said["end"]) == (2, 5)
    outputs[0, 3] = UNREAD
    (said,) = TASK.predictions(outputs)
    assert (said["start"], said["end"]) != (2, 5), "a window ends there"


@pytest.fixture
def pipe(tokenizer: Any) -> Any:
    return pipeline("multi-task", model=tiny_model({"qa": QA}), tokenizer=tokenizer)


def test_the_pipeline_takes_pairs_and_mappings(pipe: Any) -> None:
    said = pipe((QUESTION, CONTEXT), task="qa")
    assert list(said) == ["answer", "start", "end", "score"]
    assert said["answer"] == CONTEXT[said["start"] : said["end"]] != ""
    assert pipe({"question": QUESTION, "context": CONTEXT}, task="qa") == said
    assert [answer["score"] <= said["score"] for answer in pipe((QUESTION, CONTEXT), task="qa", top_k=3)] == [True] * 3
    long = pipe((QUESTION, f"{CONTEXT} " * 40), task="qa", truncation=False)
    assert 0 < long["end"] <= 40 * (len(CONTEXT) + 1)
    with pytest.raises(ValueError, match="input 2: task 'qa' reads a pair of texts"):
        pipe([(QUESTION, CONTEXT), QUESTION], task="qa")


def test_tasks_that_cut_contexts_in_two_ways_read_them_twice(tokenizer: Any) -> None:
    reader, texts = Reader(tokenizer, 10, True), {"question": QUESTION, "context": CONTEXT}
    tasks: list[Any] = [TaskConfig("question_answering", doc_stride=stride) for stride in (2, 0, 2)]
    assert [reader.add(task, texts) for task in tasks] == [0, 1, 0]
    overlapping, apart = reader.read()
    assert len(overlapping["lengths"]) > len(apart["lengths"])


def test_rows_are_tokenized_with_their_context(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"question": [QUESTION], "context": [CONTEXT], "label": [[4, 7]]})
    assert tokenize(rows, TASK, tokenizer, 10)["context"][:] == [CONTEXT]
