"""A score of one text or of two (paper sections 4.1 and 4.1.1).

Shape legend:
    - B: rows of one task
    - H: hidden size
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import FeedForwardHead
from .labels import ScoreReader
from .task_config import LabelReader, PairFeatures, TaskConfig, is_number, register_task_type

Projection = Literal["shared", "separate"]
ScoreActivation = Literal["relu", "leaky_relu"]

# Slope at negative cosines. A map of the whole range [-1, 1] to scores, (1 + cosine) / 2, would ask all unrelated
# texts to be opposites of each other; it learnt the quickstart's similarity to r = 0.80 where ReLU reached 0.91.
_LEAK = 0.1


@register_task_type("regression")
@dataclass
class Regression(TaskConfig):
    """Gives a score, by squared error.

    Args:
        score_range: `[lowest, highest]` score. A score within a range is the cosine of a `bi` pair, or else a sigmoid,
            scaled to it. Without a range a score is whatever a feed-forward head gives: scores of about 1 in size are
            learnt best. `pair_regression` of config version 1 has [0, 5] unless told otherwise.
        projection: Whether the two sides of a cosine share one hidden layer.
        score_activation: How a cosine is mapped to [0, 1]: `relu` is the paper's, with no gradient where the cosine is
            negative; `leaky_relu` has one tenth of it there in training, and predicts alike.
        pair_features: What is read of the two embeddings u and v of a `bi` pair without a range.

    The paper's cosine head has no dropout. The divergence is the squared difference of scores (Jiang et al. 2020,
    SMART, section 3.1).
    """

    score_range: list[float] = field(default_factory=list)
    projection: Projection = "shared"
    score_activation: ScoreActivation = "relu"
    pair_features: PairFeatures = "u,v"

    FREE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.FREE_KEYS, "score_activation")
    LABEL_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.LABEL_KEYS, "score_range")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("score",)
    label_dtype: ClassVar[torch.dtype] = torch.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("projection", get_args(Projection))
        self._check_choice("score_activation", get_args(ScoreActivation))
        self._check_choice("pair_features", get_args(PairFeatures))
        bounds: Any = self.score_range if self.score_range is not None else []
        is_range = isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(map(is_number, bounds))
        if bounds != [] and not (is_range and bounds[0] < bounds[1]):
            raise ValueError(f"score_range {bounds!r} must be two numbers, the lower first.")
        self.score_range = [float(bound) for bound in bounds]

    def _read_former_type(self) -> None:
        super()._read_former_type()
        self.score_range = self.score_range or [0.0, 5.0]

    @property
    def answers(self) -> str:
        return "score from {:g} to {:g}".format(*self.score_range) if self.score_range else "score"

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> LabelReader:
        return ScoreReader(self.score_range, label_map, own_names)

    def is_label(self, stored: Any) -> bool:
        low, high = self.score_range or (-float("inf"), float("inf"))
        return low <= stored <= high

    def build_head(self, hidden_size: int) -> nn.Module:
        is_pair = self.sequences_per_row == 2
        if is_pair and self.score_range:
            return CosineHead(hidden_size, self)
        features = self.pair_features if is_pair else "u"
        if self.score_range:
            return BoundedHead(hidden_size, features, self.dropout, self.score_range)
        return FeedForwardHead(hidden_size, features, self.dropout, 1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs.float(), labels.float(), reduction="none")

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        return (outputs.float() - others.float()).square()

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """The `score` of each row."""
        return [{"score": score} for score in outputs.double().tolist()]


class BoundedHead(FeedForwardHead):
    """A feed-forward head with a sigmoid, scaled to a range."""

    def __init__(self, hidden_size: int, features: str, dropout: float, score_range: Sequence[float]) -> None:
        super().__init__(hidden_size, features, dropout, 1)
        self.low, self.high = score_range

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Embeddings [B, H] to scores [B]."""
        return self.low + (self.high - self.low) * torch.sigmoid(super().forward(u, v).float())


class CosineHead(nn.Module):
    """A hidden layer on each side, their cosine similarity, and its map to the score's range."""

    def __init__(self, hidden_size: int, task: Regression) -> None:
        super().__init__()
        self.dense_u = nn.Linear(hidden_size, hidden_size)
        self.dense_v = nn.Linear(hidden_size, hidden_size) if task.projection == "separate" else None
        self.low, self.high = task.score_range
        self.activation = task.score_activation

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """Embeddings [B, H] to scores [B], in fp32: half precision cannot tell cosines near 1 apart."""
        dense_v = self.dense_u if self.dense_v is None else self.dense_v
        cosine = F.cosine_similarity(self.dense_u(u).float(), dense_v(v).float(), dim=-1)
        leaks = self.activation == "leaky_relu" and self.training
        share = F.leaky_relu(cosine, _LEAK) if leaks else F.relu(cosine)
        return self.low + (self.high - self.low) * share
