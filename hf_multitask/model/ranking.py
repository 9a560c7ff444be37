"""Texts that are close to the texts they belong with: retrieval, duplicates, sentence embeddings.

Shape legend:
    - B: rows of one task
    - N: sequences of the row that has most: its anchor, its positive and its negatives
    - R: rows of all processes
    - C: candidates, the positives and negatives of all rows
    - H: hidden size
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from .processes import of_all_processes
from .rows import PADDING, dealt, encode, end_to_end, padded, sequences_of
from .task_config import TaskConfig, TextForm, asked_for, is_number, register_task_type

# Below it is the cosine of no two texts.
_ABSENT = float("-inf")


@register_task_type("ranking")
@dataclass
class Ranking(TaskConfig):
    """Brings a text, the anchor, closer to the text that belongs with it, the positive, than to any other of its batch.

    There is nothing between the encoder and the cosine similarity of two pooled embeddings: what is learnt is an
    encoder of sentences, which `export_sentence_transformer` gives to sentence-transformers.

    Args:
        texts: 2: an anchor and its positive. Negatives, texts that do not belong with the anchor, are further columns,
            or a column of lists, and a row may have any number of them.
        scale: What cosines, which lie between -1 and 1, are multiplied by: the inverse of a temperature.
        symmetric: Whether each positive has to find its anchor too; the loss is then the mean of both.

    The loss of a row is the cross-entropy of its positive among the positives and negatives of all rows of the batch,
    −log exp(s cos(a_i, p_i)) / Σ_c exp(s cos(a_i, c)): InfoNCE (van den Oord et al. 2018, equation 4) with candidates
    from the batch (Henderson et al. 2017, section 4.4), the MultipleNegativesRankingLoss of sentence-transformers. So
    it is harder in a larger batch, and always 0 in a batch of one row without negatives. Accumulation does not make the
    batch larger; several processes do: candidates are those of all of them.

    Candidates that are known to be no negatives are left out of the sum: what has the text of the anchor, and what is a
    positive of any row with this anchor. A text is told by its tokens, after they were cut.

    The divergence of a row is the symmetric KL divergence of the probabilities that clean and perturbed outputs give
    the candidates, Σ_c (p_c − q_c)(z_c − z'_c) for z_c = s cos(a_i, c) (Jiang et al. 2020, SMART, section 3.1). It
    knows no labels and leaves no candidate out. Rows depend on each other: all of a batch are perturbed at once, so
    that a row's divergence is that of its candidates' perturbations too.
    """

    texts: int = 2
    scale: float = 20.0
    symmetric: bool = False

    TEXTS: ClassVar[tuple[int, ...]] = (2,)
    FREE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.FREE_KEYS, "scale", "symmetric")
    CHANGEABLE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.CHANGEABLE_KEYS, "scale", "symmetric")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("candidate", "index", "score")
    SEQUENCES_VARY: ClassVar[bool] = True
    HAS_LABELS: ClassVar[bool] = False
    COUPLES_ROWS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair_encoding != "bi":
            raise ValueError(
                f"pair_encoding must be bi, not {self.pair_encoding!r}: each text of a {self.type} is embedded alone."
            )
        if not is_number(self.scale) or self.scale <= 0:
            raise ValueError(f"scale {self.scale!r} must be a finite number above 0.")
        if not isinstance(self.symmetric, bool):
            raise ValueError(f"symmetric must be true or false, not {self.symmetric!r}.")

    # ---- What a row is ----

    @property
    def text_columns(self) -> dict[str, TextForm]:
        """As sentence-transformers has them."""
        return {"anchor": "text", "positive": "text", "negatives": "texts"}

    @property
    def texts_before_candidates(self) -> int:
        """1: the positive is a candidate as the negatives are."""
        return 1

    @property
    def optional_columns(self) -> tuple[str, ...]:
        return ("negatives",)

    @property
    def answers(self) -> str:
        return "the most similar of a text's candidates"

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        columns: Mapping[str, Sequence[Any]],
        max_length: int,
        truncation: bool = True,
    ) -> dict[str, list[Any]]:
        negatives = columns.get("negatives") or [None] * len(columns["anchor"])
        rows = [
            [anchor, positive, *(others or [])]
            for anchor, positive, others in zip(columns["anchor"], columns["positive"], negatives, strict=True)
        ]
        encoded = encode(tokenizer, max_length, [text for row in rows for text in row], truncation=truncation)
        return end_to_end(dealt(encoded, [len(row) for row in rows]))

    def check_row(self, row: Mapping[str, Any]) -> None:
        if len(row["lengths"]) < 2:
            raise ValueError("has lengths of 1 text, and a row has an anchor and its positive.")

    def batch_rows(
        self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
    ) -> Sequence[dict[str, Any]]:
        """The rows with a `label`, which of their texts are the same: the identity of each, in their order."""
        return [{**row, "label": identities(row)} for row in rows]

    def collate(self, labels: Sequence[Any]) -> Tensor:
        """Identities, [B, N]; -100 where a row has no such text."""
        return padded(labels, PADDING)

    # ---- What is learnt ----

    def build_head(self, hidden_size: int) -> nn.Module:
        return UnitEmbeddings()

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """See the class.

        Args:
            outputs: [B, N, H].
            labels: Identities, [B, N].
        """
        if outputs.shape[:2] != labels.shape:
            shapes = f"outputs {tuple(outputs.shape)} of a {self.type} do not fit labels {tuple(labels.shape)}"
            raise ValueError(f"{shapes}: each text of a row has an embedding and an identity.")
        everyone, first = of_all_processes(outputs, 0.0)
        ids, _ = of_all_processes(labels, PADDING)
        rows = first + torch.arange(len(outputs), device=outputs.device)
        anchors, positives, candidates = ids[:, 0], ids[:, 1], ids[:, 1:].flatten()
        losses = self._contrast(
            outputs[:, 0],
            everyone[:, 1:].flatten(0, 1),
            rows * (ids.shape[1] - 1),
            ~_are_negatives(anchors[rows], candidates, anchors, positives),
        )
        if not self.symmetric:
            return losses
        are_no_negatives = ~_are_negatives(positives[rows], anchors, positives, anchors)
        return (losses + self._contrast(outputs[:, 1], everyone[:, 0], rows, are_no_negatives)) / 2

    def _contrast(self, queries: Tensor, candidates: Tensor, right: Tensor, left_out: Tensor) -> Tensor:
        """The cross-entropy, [B], of the right one among candidates [C, H], some of which [B, C] are left out."""
        left_out = left_out.scatter(1, right.unsqueeze(1), False)
        scores = self._scores(queries, candidates).masked_fill(left_out, _ABSENT)
        return F.cross_entropy(scores, right, reduction="none")

    def _scores(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Scaled cosines, [B, C], in fp32: half precision cannot tell those near 1 apart."""
        with torch.autocast(queries.device.type, enabled=False):
            return self.scale * (queries.float() @ candidates.float().T)

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        sides = [(one[:, 0], of_all_processes(one, 0.0)[0][:, 1:].flatten(0, 1)) for one in (outputs, others)]
        are_absent = ~_are_there(sides[0][1])
        scores = [self._scores(*side).masked_fill(are_absent, 0) for side in sides]
        p, q = (each.masked_fill(are_absent, _ABSENT).softmax(-1) for each in scores)
        return ((p - q) * (scores[0] - scores[1])).sum(-1)

    # ---- What is said ----

    def each_output(self, outputs: Tensor) -> Tensor:
        """The embeddings of all texts, [texts, H]."""
        return outputs[_are_there(outputs)]

    def similarities(self, outputs: Tensor) -> Tensor:
        """The cosine of each row's anchor and its candidates, [B, N - 1], in fp64; -inf where a row has fewer."""
        cosines = (outputs[:, 1:].double() @ outputs[:, 0].double().unsqueeze(-1)).squeeze(-1)
        return cosines.masked_fill(~_are_there(outputs[:, 1:]), _ABSENT)

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """The candidates of each row, most similar first: the place among them, `index`, and the cosine, `score`."""
        return asked_for(self._ranked(outputs), top_k)

    def predictions_for(self, rows: Sequence[Mapping[str, Any]], outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """As [`predictions`], each with its text, `candidate`; the candidates are a row's positive and negatives."""
        candidates = [[row["positive"], *(row.get("negatives") or [])] for row in rows]
        ranked = [
            [{"candidate": texts[answer["index"]], **answer} for answer in answers]
            for texts, answers in zip(candidates, self._ranked(outputs), strict=True)
        ]
        return asked_for(ranked, top_k)

    def _ranked(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        scores = self.similarities(outputs)
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        return [
            [{"index": index, "score": row[index]} for index in places if row[index] != _ABSENT]
            for places, row in zip(order.tolist(), scores.tolist(), strict=True)
        ]


class UnitEmbeddings(nn.Module):
    """The embeddings themselves, each of length 1: a head without weights."""

    def forward(self, embeddings: Tensor, are_there: Tensor) -> Tensor:
        """Embeddings [B, N, H] to such of length 1, in fp32; 0 for texts that a row does not have."""
        unit = F.normalize(embeddings.float(), dim=-1)
        return unit.masked_fill(~are_there.bool().unsqueeze(-1), 0)


def identities(row: Mapping[str, Any]) -> list[int]:
    """A number for each text of a tokenized row, from 0 to below 2^63, the same for the same tokens, anywhere."""
    return [_identity(sequence["input_ids"]) for sequence in sequences_of(row)]


def _identity(ids: Sequence[int]) -> int:
    # Of a million texts, two different ones have the same number once in ten million times.
    digest = blake2b(" ".join(map(str, ids)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _are_there(outputs: Tensor) -> Tensor:
    """Which embeddings, [..., H], are those of a text: not the zeros of the head, nor the padding of an evaluation."""
    return ~((outputs == 0).all(-1) | (outputs == PADDING).all(-1))


def _are_negatives(queries: Tensor, candidates: Tensor, anchors: Tensor, positives: Tensor) -> Tensor:
    """Which candidates have a text that is neither the query's nor right for it.

    Args:
        queries, candidates: Identities, [B] and [C].
        anchors, positives: Identities [R]: all that is known to be right.

    Returns:
        [B, C].
    """
    is_row_of = queries.unsqueeze(1) == anchors
    is_positive_of = candidates.unsqueeze(0) == positives.unsqueeze(1)
    are_right = (is_row_of.float() @ is_positive_of.float()) > 0
    return ~(are_right | (candidates == queries.unsqueeze(1)) | (candidates == PADDING))
