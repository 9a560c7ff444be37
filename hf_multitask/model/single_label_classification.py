"""Picking one of several labels, for one text or for two (paper sections 4.1 and 4.1.1).

Shape legend:
    - B: rows of one task
    - C: labels; two labels of a pair share one logit, so that C is absent
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .divergences import symmetric_kl, symmetric_kl_of_two
from .heads import FeedForwardHead
from .labels import ClassReader, read_label_names
from .task_config import LabelReader, PairFeatures, TaskConfig, asked_for, register_task_type


@register_task_type("single_label_classification")
@dataclass
class SingleLabelClassification(TaskConfig):
    """Picks one of `labels`: cross-entropy over a logit for each, or for two labels of a pair binary cross-entropy.

    Args:
        labels: The names of the classes, in the order of their ids. Without names, give `num_labels`.
        num_labels: The number of classes, at least 2. A pair's is 2 unless told otherwise.
        pair_features: What is read of the two embeddings u and v of a `bi` pair.

    Its divergence is the symmetric KL divergence, KL(p ‖ q) + KL(q ‖ p) = Σ_c (p_c − q_c)(z_c − z'_c) for logits z and
    z': their normalisers cancel, since p and q have the same sum. One logit stands for the two classes of a Bernoulli
    variable, for which the sum is (σ(z) − σ(z'))(z − z'); a softmax over it would be 1 and its divergence always 0
    (Jiang et al. 2020, SMART, section 3.1).
    """

    labels: list[str] = field(default_factory=list)
    num_labels: int = 0
    pair_features: PairFeatures = "u,v"

    LABEL_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.LABEL_KEYS, "labels")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("label", "label_id", "score")
    PIPELINE_TASK: ClassVar[str | None] = "text-classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("pair_features", get_args(PairFeatures))
        self.labels = read_label_names(self.type, self.labels, self.num_labels, default=2 if self.texts == 2 else 0)
        self.num_labels = len(self.labels)

    @property
    def is_binary(self) -> bool:
        """Whether one logit stands for two labels."""
        return self.texts == 2 and self.num_labels == 2

    @property
    def label_names(self) -> list[str]:
        return self.labels

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> LabelReader:
        return ClassReader(self.labels, label_map, own_names)

    def is_label(self, stored: Any) -> bool:
        return 0 <= stored < self.num_labels

    def build_head(self, hidden_size: int) -> nn.Module:
        features = self.pair_features if self.sequences_per_row == 2 else "u"
        return FeedForwardHead(hidden_size, features, self.dropout, 1 if self.is_binary else self.num_labels)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        outputs = outputs.float()
        if self.is_binary:
            return F.binary_cross_entropy_with_logits(outputs, labels.float(), reduction="none")
        return F.cross_entropy(outputs, labels.long(), reduction="none")

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        return symmetric_kl_of_two(outputs, others) if self.is_binary else symmetric_kl(outputs, others)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each label, [B, labels], in fp64."""
        outputs = outputs.double()
        if self.is_binary:
            return torch.stack([torch.sigmoid(-outputs), torch.sigmoid(outputs)], dim=-1)
        return outputs.softmax(-1)

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """The best label of each row, or the best `top_k`: `label`, `label_id` and its probability, `score`."""
        best = self.probabilities(outputs).topk(min(top_k or self.num_labels, self.num_labels))
        answers = [
            [
                {"label": self.labels[label_id], "label_id": label_id, "score": score}
                for label_id, score in zip(ids, scores, strict=True)
            ]
            for ids, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return asked_for(answers, top_k)
