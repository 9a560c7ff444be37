"""Picking several of some labels, or none, for one text or for two.

Shape legend:
    - B: rows of one task
    - C: labels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .divergences import symmetric_kl_of_two
from .heads import FeedForwardHead
from .labels import ClassListReader, read_label_names
from .task_config import LabelReader, PairFeatures, TaskConfig, is_number, register_task_type


@register_task_type("multi_label_classification")
@dataclass
class MultiLabelClassification(TaskConfig):
    """Says of each of `labels` whether a row has it: binary cross-entropy, the mean over the labels.

    Args:
        labels: The names of the classes, in the order of their ids. Without names, give `num_labels`.
        num_labels: The number of classes, at least 2: whether a row has the one label that there is, or not, is a
            `single_label_classification` of two labels.
        pair_features: What is read of the two embeddings u and v of a `bi` pair.
        separator: What stands between the labels of a row that come as one string.
        thresholds: The probability from which on a label is predicted: one number for all labels, or a list of one for
            each. No head depends on them, and `tune_thresholds` picks them on the validation rows.

    Its divergence is the mean over the labels of the symmetric KL divergence of two Bernoulli variables,
    (σ(z) − σ(z'))(z − z') for logits z and z': a mean, as the loss is one, so that SMART's weight means the same
    however many labels there are (Jiang et al. 2020, SMART, section 3.1, for one variable).
    """

    labels: list[str] = field(default_factory=list)
    num_labels: int = 0
    pair_features: PairFeatures = "u,v"
    separator: str = ","
    thresholds: float | list[float] = 0.5

    FREE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.FREE_KEYS, "separator", "thresholds")
    CHANGEABLE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.CHANGEABLE_KEYS, "separator", "thresholds")
    LABEL_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.LABEL_KEYS, "labels")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("predictions",)
    PIPELINE_TASK: ClassVar[str | None] = "text-classification"
    LABEL_IS_LIST: ClassVar[bool] = True
    TAKES_COLUMNS: ClassVar[bool] = True
    label_dtype: ClassVar[torch.dtype] = torch.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("pair_features", get_args(PairFeatures))
        self.labels = read_label_names(self.type, self.labels, self.num_labels)
        self.num_labels = len(self.labels)
        if not isinstance(self.separator, str) or not self.separator.strip(" "):
            raise ValueError(
                f"separator must be the characters between two labels, such as ',', not {self.separator!r}."
            )
        given: Any = self.thresholds
        each = list(given) if isinstance(given, (list, tuple)) else [given] * self.num_labels
        if len(each) != self.num_labels or not all(is_number(value) and 0 <= value <= 1 for value in each):
            raise ValueError(
                f"thresholds must be a probability from 0 to 1, or a list of {self.num_labels}, one for each label, "
                f"not {given!r}."
            )
        self.thresholds = each if isinstance(given, (list, tuple)) else given

    @property
    def label_names(self) -> list[str]:
        return self.labels

    @property
    def answers(self) -> str:
        return f"any of: {', '.join(self.labels)}"

    @property
    def each_threshold(self) -> list[float]:
        """The threshold of each label."""
        return self.thresholds if isinstance(self.thresholds, list) else [self.thresholds] * self.num_labels

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> LabelReader:
        return ClassListReader(self.labels, self.separator, label_map, own_names)

    def is_label(self, stored: Any) -> bool:
        """Whether it is a list of different class ids in their order, or an empty one."""
        return sorted(set(stored)) == list(stored) and all(0 <= label_id < self.num_labels for label_id in stored)

    def collate(self, labels: Sequence[Any]) -> Tensor:
        """1 where a row has the label, and else 0: [B, C]."""
        has_label = torch.zeros(len(labels), self.num_labels, dtype=self.label_dtype)
        for row, ids in enumerate(labels):
            has_label[row, ids] = 1
        return has_label

    def build_head(self, hidden_size: int) -> nn.Module:
        features = self.pair_features if self.sequences_per_row == 2 else "u"
        return FeedForwardHead(hidden_size, features, self.dropout, self.num_labels)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.float(), labels.float(), reduction="none").mean(-1)

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        return symmetric_kl_of_two(outputs, others).mean(-1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each label, [B, C], in fp64; they have no sum."""
        return outputs.double().sigmoid()

    def are_predicted(self, outputs: Tensor) -> Tensor:
        """Whether each label's probability reaches its threshold, [B, C]."""
        probabilities = self.probabilities(outputs)
        return probabilities >= torch.tensor(self.each_threshold, dtype=torch.float64, device=probabilities.device)

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """The labels of each row, likeliest first: `label`, `label_id` and its probability, `score`.

        Args:
            outputs: [B, C].
            top_k: 1, the answer itself, gives the labels that reach their thresholds, and so perhaps none; more give so
                many of the likeliest labels, and None all, whatever the thresholds, as transformers'
                `text-classification` does.
        """
        ranked, are_predicted = (
            self.probabilities(outputs).sort(descending=True, stable=True),
            self.are_predicted(outputs),
        )
        return [
            [
                {"label": self.labels[label_id], "label_id": label_id, "score": score}
                for label_id, score in zip(ids, scores, strict=True)
                if top_k != 1 or are_in[label_id]
            ][: None if top_k == 1 else top_k]
            for ids, scores, are_in in zip(
                ranked.indices.tolist(), ranked.values.tolist(), are_predicted.tolist(), strict=True
            )
        ]
