"""A tag for every word of a text: entities, slots, parts of speech.

Shape legend:
    - B: rows of one task
    - L: length of the longest sequence, in tokens
    - W: words of the row that has most
    - H: hidden size
    - C: tags
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from .divergences import symmetric_kl
from .heads import FeedForwardHead
from .labels import read_label_names
from .rows import PADDING, UNREAD, padded
from .tags import OUTSIDE, Scheme, TagReader, entities, find_scheme, tag_types
from .task_config import TaskConfig, TextForm, register_task_type
from .words import Words, tokenize_words


@register_task_type("token_classification")
@dataclass
class TokenClassification(TaskConfig):
    """Picks one of `labels` for every word, from the state of its first token: cross-entropy.

    Args:
        labels: The tags, in the order of their ids. Without names, give `num_labels`.
        num_labels: The number of tags, at least 2.
        scheme: How tags mark entities, `BIO` or `BIOES`, or `none`, where each word's tag stands for itself; `auto`
            tells by the tags.

    A loss is a mean over words, and a row's counts by their number. Words that were cut off have no token: they are
    predicted as `O` (as no tag, where there is no scheme), count in evaluations, and teach nothing.

    The divergence of a row is the mean over its words of the symmetric KL divergence, Σ_c (p_c − q_c)(z_c − z'_c)
    (Jiang et al. 2020, SMART, section 3.1).
    """

    labels: list[str] = field(default_factory=list)
    num_labels: int = 0
    scheme: Scheme = "auto"

    TEXTS: ClassVar[tuple[int, ...]] = (1,)
    LABEL_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.LABEL_KEYS, "labels", "scheme")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("entities",)
    READS_TOKENS: ClassVar[bool] = True
    LABEL_IS_LIST: ClassVar[bool] = True
    LABEL_SEES_TEXTS: ClassVar[bool] = True
    ROW_COLUMNS: ClassVar[tuple[str, ...]] = ("word_starts",)
    PIPELINE_TASK: ClassVar[str | None] = "token-classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("scheme", get_args(Scheme))
        self.labels = read_label_names(self.type, self.labels, self.num_labels)
        self.num_labels = len(self.labels)
        self.scheme = find_scheme(self.labels, self.scheme)  # type: ignore[assignment]

    @property
    def label_names(self) -> list[str]:
        return self.labels

    @property
    def outside(self) -> int | None:
        """The id of `O`; None where there is no scheme."""
        return None if self.scheme == "none" else self.labels.index(OUTSIDE)

    @property
    def types(self) -> list[str]:
        """The types of entities; none where there is no scheme."""
        return [] if self.scheme == "none" else tag_types(self.labels)

    @property
    def text_columns(self) -> dict[str, TextForm]:
        """As CoNLL has them."""
        return {"tokens": "words"}

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        columns: Mapping[str, Sequence[Any]],
        max_length: int,
        truncation: bool = True,
    ) -> dict[str, list[Any]]:
        # Not by the class: code that travels with a checkpoint may be there twice.
        rows = [getattr(row, "words", row) for row in columns["tokens"]]
        return tokenize_words(tokenizer, rows, max_length, truncation)

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> TagReader:
        return TagReader(self.labels, self.scheme, label_map, own_names)

    def is_label(self, stored: Any) -> bool:
        return len(stored) > 0 and all(tag is not None and 0 <= tag < self.num_labels for tag in stored)

    def collate(self, labels: Sequence[Any]) -> Tensor:
        """Tags' ids, [B, W]; -100 beyond a row's words."""
        return padded(labels, PADDING)

    # ---- What is learnt ----

    def head_inputs(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`word_starts` [B, W], the place of each word's first token; -1 for words without one, and beyond words."""
        return {"word_starts": padded([row["word_starts"] for row in rows], -1)}

    def build_head(self, hidden_size: int) -> nn.Module:
        return TokenHead(hidden_size, self.dropout, self.num_labels, self.outside)

    def label_counts(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """How many words have both a token and a tag, [B]."""
        return self._are_learnt(outputs, labels).sum(1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        are_learnt = self._are_learnt(outputs, labels)
        labels = labels.long().masked_fill(~are_learnt, PADDING)
        losses = F.cross_entropy(outputs.float().transpose(1, 2), labels, ignore_index=PADDING, reduction="none")
        return losses.sum(1) / are_learnt.sum(1).clamp(min=1)

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        are_read = _are_read(outputs)
        return symmetric_kl(outputs, others).sum(1) / are_read.sum(1).clamp(min=1)

    def _are_learnt(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which words have both a token and a tag, [B, W]."""
        if outputs.shape[:2] != labels.shape:
            shapes = f"outputs {tuple(outputs.shape)} of a {self.type} do not fit labels {tuple(labels.shape)}"
            raise ValueError(f"{shapes}: there is one for each word, or, without word_starts, for each token.")
        return _are_read(outputs) & (labels != PADDING)

    # ---- What is said ----

    def each_output(self, outputs: Tensor) -> Tensor:
        """The logits of all words that were read, [N, C]."""
        return outputs[_are_read(outputs)]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each tag, [..., C], in fp64."""
        return outputs.double().softmax(-1)

    def tag_ids(self, outputs: Tensor) -> Tensor:
        """The likeliest tags, [B, W]; without a scheme, -1 for words that were cut off."""
        ids = outputs.argmax(-1)
        return ids if self.outside is not None else ids.masked_fill(~_are_read(outputs), -1)

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[list[dict[str, Any]]]:
        """As [`predictions_for`], but `start` and `end` count words, and there is no `word`."""
        return [
            [{**entity, "start": first, "end": end} for entity, first, end in row]
            for row in self._said(outputs, [outputs.shape[1]] * len(outputs))
        ]

    def predictions_for(
        self, rows: Sequence[Mapping[str, Any]], outputs: Tensor, top_k: int | None = 1
    ) -> list[list[dict[str, Any]]]:
        """The entities of each row, as transformers' `aggregation_strategy="simple"` gives them; of tags without a
        scheme, each word that was read is one.

        Args:
            rows: With the `tokens` of each, as [`Words`].
            outputs: [B, W, C].
            top_k: Ignored: an entity has one type.

        Returns:
            Of each entity its type, `entity_group`; `score`, the mean of its words' probabilities; `word`, as the text
            has it; and where it begins and ends there, `start` and `end`, in characters.
        """
        said = self._said(outputs, [len(row["tokens"].spans) for row in rows])
        return [
            [entity | _located(row["tokens"], first, end) for entity, first, end in entities]
            for row, entities in zip(rows, said, strict=True)
        ]

    def _said(self, outputs: Tensor, counts: Sequence[int]) -> list[list[tuple[dict[str, Any], int, int]]]:
        """The entities of each row, which has so many words, each with its first word and the one after its last."""
        scores = self.probabilities(outputs).amax(-1)
        return [
            [
                ({"entity_group": kind, "score": scores[number, first:end].mean().item()}, first, end)
                for kind, first, end in self.groups(ids[:count])
            ]
            for number, (ids, count) in enumerate(zip(self.tag_ids(outputs).tolist(), counts, strict=True))
        ]

    def groups(self, ids: Sequence[int]) -> list[tuple[str, int, int]]:
        """What tags of a row say: the type, the first word and the one after the last of each entity, or of each word
        where there is no scheme."""
        if self.scheme != "none":
            return [tuple(entity) for entity in entities([self.labels[tag_id] for tag_id in ids])]  # type: ignore[misc]
        return [(self.labels[tag_id], place, place + 1) for place, tag_id in enumerate(ids) if tag_id >= 0]


class TokenHead(FeedForwardHead):
    """Dropout, hidden layer, ReLU, output layer, over the state of each word's first token.

    Args:
        hidden_size: H.
        dropout: Probability.
        outputs: C.
        outside: The tag of words that have no token; None: they have none.
    """

    def __init__(self, hidden_size: int, dropout: float, outputs: int, outside: int | None) -> None:
        super().__init__(hidden_size, "u", dropout, outputs)
        self.outside = outside

    def forward(self, states: Tensor, mask: Tensor, word_starts: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """States [B, L, H] and their mask [B, L] to logits, [B, W, C]; without `word_starts`, of each token, [B, L, C].

        Logits of padding and of words without a token are constants: they say `outside`, or nothing.
        """
        are_read = mask.bool() if word_starts is None else word_starts >= 0
        if word_starts is not None:
            places = word_starts.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
            states = states.gather(1, places)
        logits = super().forward(states)
        unread = logits.new_full((logits.shape[-1],), UNREAD)
        if self.outside is not None:
            unread[self.outside] = 0
        return torch.where(are_read.unsqueeze(-1), logits, unread)


def _are_read(outputs: Tensor) -> Tensor:
    """Which outputs are those of a token, and neither of padding nor of a word without one, [B, W]."""
    return ~((outputs == UNREAD).any(-1) | (outputs == PADDING).all(-1))


def _located(words: Words, first: int, end: int) -> dict[str, Any]:
    """Where words are in their text."""
    start, stop = words.spans[first][0], words.spans[end - 1][1]
    return {"word": words.text[start:stop], "start": start, "end": stop}
