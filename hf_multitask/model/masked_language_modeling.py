"""Tokens that were masked, to be found by the rest of their text: an auxiliary task that needs no labels.

Shape legend:
    - B: rows of one task
    - L: length of the longest sequence, in tokens
    - M: masked tokens of the row that has most
    - H, E: hidden size, and size of the word embeddings
    - V: words of the vocabulary
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from .divergences import symmetric_kl
from .rows import PADDING, padded
from .task_config import TaskConfig, TextForm, asked_for, is_number, register_task_type

# What becomes of the chosen tokens: shares that become the mask token, another word, or stay as they are, in BERT.
_MASKED, _REPLACED = 0.8, 0.1
# So many of a vocabulary's logits tell whether outputs are padding, and whether they vary.
_FEW = 64
# Of all words that could stand at a place, so many are said.
_MOST = 100


@register_task_type("masked_language_modeling")
@dataclass
class MaskedLanguageModeling(TaskConfig):
    """Finds the tokens that were masked in a text, as in BERT's pretraining: cross-entropy over the vocabulary.

    Args:
        mask_probability: The share of a text's tokens that are chosen, above 0 and below 1; of each text at least one.

    A chosen token becomes the mask token in 8 of 10 cases and another token in 1, and stays as it is in 1 (Devlin et
    al. 2019, section 3.1). Special tokens are never chosen. In training, choices follow from the rows that are in a
    batch together: they differ from epoch to epoch, and a run that is resumed makes the same ones. In evaluation, each
    row's are always the same.

    Only chosen tokens are computed, by a head whose output layer is the encoder's word embeddings themselves. A loss is
    a mean over tokens, and a row's counts by their number; a row of nothing but special tokens teaches nothing.

    The divergence of a row is the mean over its chosen tokens of the symmetric KL divergence over the vocabulary,
    Σ_v (p_v − q_v)(z_v − z'_v) (Jiang et al. 2020, SMART, section 3.1).
    """

    mask_probability: float = 0.15

    TEXTS: ClassVar[tuple[int, ...]] = (1,)
    FREE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.FREE_KEYS, "mask_probability")
    CHANGEABLE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.CHANGEABLE_KEYS, "mask_probability")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("tokens",)
    HAS_LABELS: ClassVar[bool] = False
    READS_TOKENS: ClassVar[bool] = True
    READS_VOCABULARY: ClassVar[bool] = True
    PIPELINE_TASK: ClassVar[str | None] = "fill-mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.mask_probability) or not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability {self.mask_probability!r} must be a number above 0 and below 1.")

    @property
    def text_columns(self) -> dict[str, TextForm]:
        return {"sentence": "text"}

    @property
    def answers(self) -> str:
        return "tokens of the vocabulary"

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        columns: Mapping[str, Sequence[Any]],
        max_length: int,
        truncation: bool = True,
    ) -> dict[str, list[Any]]:
        """As the parent, with `masked`, the places of the mask tokens that stand in a text itself.

        Raises:
            ValueError: The tokenizer has no mask token.
        """
        mask = _mask_token(tokenizer)
        rows = super().tokenize(tokenizer, columns, max_length, truncation)
        masked = [[place for place, token in enumerate(ids) if token == mask] for ids in rows["input_ids"]]
        return {**rows, "masked": masked}

    def batch_rows(
        self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
    ) -> Sequence[dict[str, Any]]:
        """Rows with tokens chosen anew: `masked` has their places and `label` what stood there, and `input_ids` has
        something else there, mostly.

        Of n tokens that are not special, max(1, round(n · mask_probability)) are chosen, as in BERT's own code.

        Raises:
            ValueError: The tokenizer has no mask token.
        """
        mask, special = _mask_token(tokenizer), set(tokenizer.all_special_ids)
        texts = [[int(token) for token in row["input_ids"]] for row in rows]
        # With their numbers, rows of the same text are masked in different ways.
        known = [(row.get("row"), ids) for row, ids in zip(rows, texts, strict=True)]
        random = _random(known)
        output = []
        for row, ids, own in zip(rows, texts, known, strict=True):
            random = _random([own]) if row.get("is_evaluated") else random
            places = [place for place, token in enumerate(ids) if token not in special]
            count = max(1, round(len(places) * self.mask_probability)) if places else 0
            chosen = sorted(random.sample(places, count))
            changed = list(ids)
            for place in chosen:
                fate, word = random.random(), random.randrange(tokenizer.vocab_size)
                if fate < _MASKED:
                    changed[place] = mask
                elif fate < _MASKED + _REPLACED and word not in special:
                    changed[place] = word
            output.append({**row, "input_ids": changed, "masked": chosen, "label": [ids[place] for place in chosen]})
        return output

    def collate(self, labels: Sequence[Any]) -> Tensor:
        """The tokens' ids, [B, M]; -100 beyond a row's."""
        return padded(labels, PADDING)

    # ---- What is learnt ----

    def head_inputs(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`masked` [B, M], the places of the masked tokens; -1 beyond a row's."""
        return {"masked": padded([row["masked"] for row in rows], -1)}

    def build_head(self, hidden_size: int, embedding_size: int | None = None) -> nn.Module:
        """
        Args:
            hidden_size: H.
            embedding_size: E; None: H.
        """
        return VocabularyHead(hidden_size, embedding_size or hidden_size, self.dropout)

    def label_counts(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """How many tokens of each row were masked, [B]."""
        return (labels != PADDING).sum(1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        are_there = self._are_there(outputs, labels)
        values = F.cross_entropy(outputs[are_there].float(), labels[are_there], reduction="none")
        return _row_means(values, are_there)

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        are_there = _are_read(outputs)
        return _row_means(symmetric_kl(outputs[are_there], others[are_there]), are_there)

    def _are_there(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Which tokens are masked ones and no padding, [B, M]."""
        if outputs.shape[:2] != labels.shape:
            shapes = f"outputs {tuple(outputs.shape)} of a {self.type} do not fit labels {tuple(labels.shape)}"
            raise ValueError(f"{shapes}: there is one for each masked token, or, without masked, for each token.")
        return labels != PADDING

    def evaluated(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Of each masked token, [B, M, 2] in fp32: −ln of the right one's probability, and the right one's rank from 1,
        where others of equal probability come first, and what is no number is last; -100 beyond a row's.
        """
        are_there = self._are_there(outputs, labels)
        logits, right = outputs[are_there].float(), labels[are_there]
        reached = logits.gather(1, right.unsqueeze(1))
        ranks = (~(logits < reached)).sum(1).float()
        kept = torch.stack([F.cross_entropy(logits, right, reduction="none"), ranks], dim=1)
        return _laid_out(kept, are_there, PADDING)

    # ---- What is said ----

    def each_output(self, outputs: Tensor) -> Tensor:
        """The first logits of all masked tokens, [N, 64], which vary if all do; or what [`evaluated`] kept of each."""
        return outputs[..., :_FEW][_are_read(outputs)]

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[list[Any]]:
        """As [`predictions_for`], with the `token` and its `score` alone."""
        said: list[list[Any]] = []
        for logits, are_there in zip(outputs, _are_read(outputs), strict=True):
            scores, tokens = logits[are_there].double().softmax(-1).topk(min(top_k or _MOST, outputs.shape[-1]))
            answers = [
                [{"score": score, "token": token} for score, token in zip(*each, strict=True)]
                for each in zip(scores.tolist(), tokens.tolist(), strict=True)
            ]
            said.append(asked_for(answers, top_k))
        return said

    def predictions_for(
        self, rows: Sequence[Mapping[str, Any]], outputs: Tensor, top_k: int | None = 1, tokenizer: Any = None
    ) -> list[list[Any]]:
        """For each mask token of a text the likeliest token, or the `top_k` likeliest, as transformers' fill-mask
        pipeline says them; a text without mask tokens has none.

        Args:
            rows: With their `input_ids` and the places of their mask tokens, `masked`.
            outputs: [B, M, V].
            top_k: How many, for each mask token; None: 100.
            tokenizer: The encoder's.

        Returns:
            Of each token its probability, `score`; its id, `token`; the token as text, `token_str`; and `sequence`, the
            text with it in its place.
        """
        said = self.predictions(outputs, top_k)
        for row, answers in zip(rows, said, strict=True):
            for place, answer in zip(row["masked"], answers, strict=True):
                for one in answer if isinstance(answer, list) else [answer]:
                    ids = [*row["input_ids"][:place], one["token"], *row["input_ids"][place + 1 :]]
                    one["token_str"] = tokenizer.decode([one["token"]])
                    # With other mask tokens, which are special ones, the text shows all of those.
                    one["sequence"] = tokenizer.decode(ids, skip_special_tokens=len(answers) == 1)
        return said


class VocabularyHead(nn.Module):
    """Dropout, hidden layer, GELU, LayerNorm, and the word embeddings as output layer (Devlin et al. 2019).

    There is no bias for each word: a vocabulary may grow, and LayerNorm's bias times the embeddings is one.

    Args:
        hidden_size: H.
        embedding_size: E.
        dropout: Probability.
    """

    def __init__(self, hidden_size: int, embedding_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size)

    def forward(self, states: Tensor, mask: Tensor, vocabulary: Tensor, masked: Tensor | None = None) -> Tensor:
        """States [B, L, H] to logits, [B, M, V], -100 beyond a row's masked tokens.

        Args:
            states, mask: Of all tokens, and which are real, [B, L].
            vocabulary: The word embeddings, [V, E], which belong to the encoder.
            masked: The places of masked tokens, [B, M], -1 beyond; without it, all tokens are computed, [B, L, V].
        """
        if masked is None:
            return torch.where(mask.bool().unsqueeze(-1), self._logits(states, vocabulary), PADDING)
        are_there = masked >= 0
        # By index_select and not by brackets, whose gradient is many times slower.
        places = are_there.nonzero()[:, 0] * states.shape[1] + masked[are_there]
        logits = self._logits(states.flatten(0, 1).index_select(0, places), vocabulary)
        return _laid_out(logits, are_there, PADDING)

    def _logits(self, states: Tensor, vocabulary: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(self.dropout(states)))), vocabulary)


def _random(rows: Sequence[Any]) -> Random:
    """A generator that follows from rows."""
    return Random(blake2b(repr(rows).encode()).digest())


def _mask_token(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "masked_language_modeling puts a mask token in the place of words, and the tokenizer has none: choose an "
            "encoder that was pretrained with one, such as BERT or RoBERTa."
        )
    return int(tokenizer.mask_token_id)


def _are_read(outputs: Tensor) -> Tensor:
    """Which outputs are those of a token, and not of padding, [B, M]."""
    return (outputs[..., :_FEW] != PADDING).any(-1)


def _row_means(values: Tensor, are_there: Tensor) -> Tensor:
    """The mean over a row's tokens, [B], of values of all tokens that are there, [N]; 0 for a row of none."""
    return _laid_out(values, are_there, 0).sum(1) / are_there.sum(1).clamp(min=1)


def _laid_out(values: Tensor, are_there: Tensor, fill: int) -> Tensor:
    """Values of all tokens that are there, [N, ...], by row, [B, M, ...], with something to fill them up."""
    # Of whole vocabularies, masked_scatter's gradient takes twice as long.
    output = values.new_full((*are_there.shape, *values.shape[1:]), fill)
    output[are_there] = values
    return output
