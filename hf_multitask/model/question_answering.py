"""The answer to a question, as the part of a context that says it, or none: extractive question answering.

Shape legend:
    - B: rows of one task
    - N, L: windows of the row that has most, and the tokens of the longest
    - T: tokens of all windows of the row that has most
    - H: hidden size
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from .answers import BEGINS, ENDS, AnswerReader, pairs, right_tokens
from .divergences import symmetric_kl
from .rows import PADDING, UNREAD, Tokens, end_to_end, padded
from .task_config import LabelReader, TaskConfig, TextForm, asked_for, register_task_type

# Of all spans, so many are given.
_MOST = 20


@register_task_type("question_answering")
@dataclass
class QuestionAnswering(TaskConfig):
    """Finds where an answer begins and ends in a context.

    A context that is too long is read in windows, each beside the question. A row has one distribution of where its
    answer begins, over the tokens of all its windows (shared normalisation: Clark & Gardner 2018, section 3), and one
    of where it ends. The loss is the mean of the two, −log Σ p(t) over the tokens t that are right (their summed
    objective): one in each window that has the whole answer, for each of several right answers. That there is no answer
    is said by the first token of the first window, such as `[CLS]`; other tokens that are none of the context cannot
    answer. But for these, it is the loss of transformers' `AutoModelForQuestionAnswering`, of one window and answer.

    Args:
        doc_stride: By how many tokens windows of a context overlap; at most half of what of it a window has room for.
        max_answer_length: Of an answer that is predicted, in tokens.
        no_answer: Whether rows may have no answer.

    A question that takes more than half of a window is cut, and is all that ever is.

    The divergence of a row is the mean, over where answers begin and where they end, of the symmetric KL divergence,
    Σ_t (p_t − q_t)(z_t − z'_t) (Jiang et al. 2020, SMART, section 3.1).
    """

    texts: int = 2
    pair_encoding: Literal["cross"] = "cross"
    doc_stride: int = 128
    max_answer_length: int = 30
    no_answer: bool = False

    TEXTS: ClassVar[tuple[int, ...]] = (2,)
    FREE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.FREE_KEYS, "doc_stride", "max_answer_length")
    CHANGEABLE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.CHANGEABLE_KEYS, "max_answer_length")
    LABEL_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.LABEL_KEYS, "no_answer")
    TOKENIZING_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.TOKENIZING_KEYS, "doc_stride")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("answer", "start", "end", "score")
    READS_TOKENS: ClassVar[bool] = True
    SEQUENCES_VARY: ClassVar[bool] = True
    LABEL_IS_LIST: ClassVar[bool] = True
    LABEL_SEES_TEXTS: ClassVar[bool] = True
    ROW_COLUMNS: ClassVar[tuple[str, ...]] = ("starts", "ends")
    EVALUATED_COLUMNS: ClassVar[tuple[str, ...]] = ("context",)
    PIPELINE_TASK: ClassVar[str | None] = "question-answering"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair_encoding != "cross":
            raise ValueError(f"pair_encoding must be cross: a {self.type} reads question and context as one input.")
        for name, least in (("doc_stride", 0), ("max_answer_length", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, not {value!r}.")
        if not isinstance(self.no_answer, bool):
            raise ValueError(f"no_answer must be true or false, not {self.no_answer!r}.")

    # ---- What a row is ----

    @property
    def text_columns(self) -> dict[str, TextForm]:
        """As SQuAD has them."""
        return {"question": "text", "context": "text"}

    @property
    def answers(self) -> str:
        return f"a part of the context{', or none' * self.no_answer}"

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        columns: Mapping[str, Sequence[Any]],
        max_length: int,
        truncation: bool = True,
    ) -> dict[str, list[Any]]:
        """As [`TaskConfig.tokenize`], each row's windows end to end, whether there is `truncation` or not.

        Returns:
            Also `starts` and `ends`, where each token begins and ends in the context, in characters; -1 of tokens that
            are none of it. And the `context`.

        Raises:
            ValueError: The tokenizer cannot say where its tokens stand, or it has none for a question.
        """
        contexts = list(columns["context"])
        windows, are_cut = _windows(tokenizer, list(columns["question"]), contexts, max_length, self.doc_stride)
        output = end_to_end(windows)
        for key in ("starts", "ends"):
            output[key] = [[place for window in row for place in window[key]] for row in windows]
        return {**output, "truncated": are_cut, "context": contexts}

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> LabelReader:
        if label_map:
            raise ValueError("label_map means nothing for answers, which are parts of the context: leave it out.")
        if own_names is not None:
            raise ValueError(f"the dataset's labels are classes, {list(own_names)!r:.100}, and not answers.")
        return AnswerReader(self.no_answer)

    def is_label(self, stored: Any) -> bool:
        """Whether it is where answers begin and end, one after the other."""
        if len(stored) % 2 or None in stored or not (len(stored) or self.no_answer):
            return False
        return all(0 <= start < end for start, end in pairs(stored))

    def check_row(self, row: Mapping[str, Any]) -> None:
        if not isinstance(context := row["context"], str):
            raise ValueError(f"has the context {context!r:.100}, which is not text.")
        counts = {key: len(row[key] or ()) for key in ("input_ids", "starts", "ends")}
        if len(set(counts.values())) > 1:
            raise ValueError(f"has other numbers of starts and ends than of tokens: {counts}.")
        bounds = list(zip(row["starts"], row["ends"], strict=True))
        are_numbers = all(type(place) is int for span in bounds for place in span)
        if not are_numbers or not all(span == (-1, -1) or 0 <= span[0] <= span[1] <= len(context) for span in bounds):
            raise ValueError("has starts and ends that are no places in its context, nor -1.")
        if max(row.get("label") or [0]) > len(context):
            raise ValueError(f"has an answer that ends at {max(row['label'])}, beyond its context.")

    def batch_rows(
        self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
    ) -> Sequence[dict[str, Any]]:
        """Rows whose `label` is a code for each token: 1 where an answer begins, 2 where one ends, 3 for both."""
        return [{**row, "label": right_tokens(row)} if "label" in row else row for row in rows]

    def collate(self, labels: Sequence[Any]) -> Tensor:
        """The codes of each row's tokens, [B, T]; -100 beyond them."""
        return padded(labels, PADDING)

    # ---- What is learnt ----

    def head_inputs(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`starts` [B, T], where each token of a row's windows begins in the context; -1 of all others."""
        return {"starts": padded([row["starts"] for row in rows], -1)}

    def build_head(self, hidden_size: int) -> nn.Module:
        return AnswerHead(hidden_size, self.dropout, self.no_answer)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if outputs.shape[:2] != labels.shape:
            shapes = f"outputs {tuple(outputs.shape)} of a {self.type} do not fit labels {tuple(labels.shape)}"
            raise ValueError(f"{shapes}: there is one for each token of a row's windows.")
        are_right = _are_right(outputs, labels)
        is_learnt = are_right.any(1).all(-1)
        # Of rows that are not learnt, the sum over all tokens has a gradient that is a number.
        counted = are_right | ~is_learnt[:, None, None]
        logs = _logits(outputs).log_softmax(1).masked_fill(~counted, -torch.inf)
        return -logs.logsumexp(1).mean(-1).masked_fill(~is_learnt, 0)

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        return symmetric_kl(_logits(outputs), _logits(others), dim=1).mean(-1)

    # ---- What is said ----

    def each_output(self, outputs: Tensor) -> Tensor:
        """The logits of all tokens that can answer, [N, 2]."""
        return outputs[_are_read(outputs)]

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """As [`predictions_for`], but `start` and `end` count tokens, and there is no `answer`."""
        places = torch.arange(outputs.shape[1])
        said = []
        for row in outputs.cpu():
            # The first token may say that there is no answer, and is no part of one.
            can_answer = _are_read(row) & ~((places == 0) & self.no_answer)
            starts, ends = (torch.where(can_answer, places + step, -1).tolist() for step in (0, 1))
            spans = self.best_spans(row, starts, ends, top_k)
            said.append([{"start": start, "end": end, "score": score} for score, start, end in spans])
        return asked_for(said, top_k)

    def predictions_for(self, rows: Sequence[Mapping[str, Any]], outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """The answers of each row, as transformers' `question-answering` gives them.

        Args:
            rows: With the `context` of each, and its tokens' `starts` and `ends`.
            outputs: [B, T, 2].
            top_k: How many answers; None: the 20 best.

        Returns:
            The `answer`; where it begins and ends in the context, `start` and `end`, in characters; and `score`,
            p(start) p(end). That there is none is an empty `answer` from 0 to 0.
        """
        said = [
            [
                {"answer": row["context"][start:end], "start": start, "end": end, "score": score}
                for score, start, end in self.best_spans(output, row["starts"], row["ends"], top_k)
            ]
            for row, output in zip(rows, outputs, strict=True)
        ]
        return asked_for(said, top_k)

    def best_spans(
        self, outputs: Tensor, starts: Sequence[int], ends: Sequence[int], top_k: int | None = 1
    ) -> list[tuple[float, int, int]]:
        """The likeliest answers of a row, each within a window and of at most `max_answer_length` tokens.

        Args:
            outputs: Of the row, [T, 2]; those beyond its tokens are not read.
            starts, ends: Where its tokens begin and end, -1 of those that cannot answer. Probabilities of tokens that
                are the same part of the context, in several windows, are summed.
            top_k: How many; None: 20.

        Returns:
            Probability and bounds of each, the likeliest first. That there is no answer has bounds (0, 0); so has what
            is said, with probability 0, where no token can answer.
        """
        first, last = torch.as_tensor(starts), torch.as_tensor(ends)
        shares = outputs[: len(first)].cpu().double().softmax(0)
        can_answer = first >= 0
        _, copies = (first * (last.max() + 1) + last).unique(return_inverse=True)
        begin, end = (torch.zeros(len(first)).double().index_add(0, copies, side)[copies] for side in shares.unbind(1))
        # Between two windows there is a token that cannot answer.
        windows = torch.where(can_answer, (~can_answer).cumsum(0), -1)
        width = self.max_answer_length
        ends_in, ends_with = (F.pad(values, (0, width - 1), value=-1).unfold(0, width, 1) for values in (windows, end))
        are_spans = (ends_in == windows.unsqueeze(1)) & can_answer.unsqueeze(1)
        scores = torch.where(are_spans, begin.unsqueeze(1) * ends_with, -1).flatten()
        found = {(0, 0): shares[0].prod().item()} if self.no_answer else {}
        count = _MOST if top_k is None else top_k
        # A span's copies in other windows have its score too.
        order = scores.argmax()[None] if count == 1 else scores.sort(descending=True, stable=True).indices
        for place in order:
            if (score := scores[place].item()) < 0 or len(found) > count:
                break
            token, length = divmod(int(place), width)
            found.setdefault((int(first[token]), int(last[token + length])), score)
        ranked = sorted(((score, *span) for span, score in found.items()), key=lambda one: -one[0])
        return ranked[:count] or [(0.0, 0, 0)]


class AnswerHead(nn.Module):
    """Dropout and an output layer over the state of each token, as transformers' models for question answering have it.

    Args:
        hidden_size: H.
        dropout: Probability.
        no_answer: Whether the first token of a row can say that there is no answer.
    """

    def __init__(self, hidden_size: int, dropout: float, no_answer: bool) -> None:
        super().__init__()
        self.no_answer = no_answer
        self.dropout = nn.Dropout(dropout)
        # A bias would be the same for all tokens: it changes no probability, and its gradient is nothing but rounding.
        self.out_proj = nn.Linear(hidden_size, 2, bias=False)

    def forward(self, states: Tensor, mask: Tensor, starts: Tensor | None = None) -> Tensor:
        """States [B, N, L, H] and their mask [B, N, L] to logits of beginning and of end, [B, T, 2].

        Logits of tokens that cannot answer, which `starts` [B, T] says, are a constant, and so are those of padding.
        Without it, all tokens can.
        """
        logits, are_real = self.out_proj(self.dropout(states)).flatten(1, 2), mask.bool().flatten(1)
        width = int(are_real.sum(1).max()) if starts is None else starts.shape[1]
        # Real tokens stand one after the other; padding goes to a place behind them, which is left out.
        places = torch.where(are_real, are_real.cumsum(1) - 1, width).unsqueeze(-1).expand_as(logits)
        outputs = logits.new_full((len(logits), width + 1, 2), UNREAD).scatter(1, places, logits)[:, :width]
        if starts is None:
            return outputs
        can_say = starts >= 0
        if self.no_answer:
            can_say = can_say | (torch.arange(width, device=starts.device) == 0)
        return torch.where(can_say.unsqueeze(-1), outputs, UNREAD)


def _windows(
    tokenizer: PreTrainedTokenizerBase, questions: list[str], contexts: list[str], max_length: int, doc_stride: int
) -> tuple[list[list[Tokens]], list[bool]]:
    """Each row's windows, with the `starts` and `ends` of their tokens, and whether its question was cut."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot tell where in a text its tokens stand: take a fast tokenizer, with a "
            "tokenizer.json."
        )
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    cut = [_cut(tokenizer, question, room // 2) for question in questions]
    by_stride: dict[int, list[int]] = {}
    for row, (_, count) in enumerate(cut):
        by_stride.setdefault(min(doc_stride, (room - count) // 2), []).append(row)
    windows: list[list[Tokens]] = [[] for _ in questions]
    for stride, rows in by_stride.items():
        encoded = tokenizer(
            [cut[row][0] for row in rows],
            [contexts[row] for row in rows],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        for number, sample in enumerate(encoded["overflow_to_sample_mapping"]):
            encoding, row = encoded.encodings[number], rows[sample]
            window = {key: encoded[key][number] for key in ("input_ids", "token_type_ids") if key in encoded}
            spans = [
                _stripped(contexts[row], *span) if side == 1 else (-1, -1)
                for span, side in zip(encoding.offsets, encoding.sequence_ids, strict=True)
            ]
            if not spans or spans[0][0] >= 0:
                raise ValueError(f"question {questions[row]!r:.100} has no token, which answers need before them.")
            window |= {"starts": [span[0] for span in spans], "ends": [span[1] for span in spans], "truncated": False}
            windows[row].append(window)
    return windows, [question != short for question, (short, _) in zip(questions, cut, strict=True)]


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> tuple[str, int]:
    """The beginning of a text that has at most so many tokens, and how many it has."""
    while True:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = encoded["offset_mapping"]
        if len(spans) <= most:
            return text, len(spans)
        # Alone, the beginning of a word may have more tokens than it had.
        text = text[: min(spans[most - 1][1], len(text) - 1)] if most else ""


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A part of a text without the blanks around it, which some tokenizers count among a token."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _are_read(outputs: Tensor) -> Tensor:
    """Which outputs are those of a token that can answer, [..., T]."""
    return ~((outputs == UNREAD).any(-1) | (outputs == PADDING).all(-1))


def _logits(outputs: Tensor) -> Tensor:
    """Outputs in fp32, in which padding cannot answer, [B, T, 2]."""
    return outputs.float().masked_fill((outputs == PADDING).all(-1, keepdim=True), UNREAD)


def _are_right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether an answer rightly begins at each token, and whether one ends there, [B, T, 2]."""
    codes = labels.long().clamp(min=0)
    return torch.stack([codes & BEGINS, codes & ENDS], -1).bool() & _are_read(outputs).unsqueeze(-1)
