"""Task heads and their losses (paper sections 4.1 and 4.1.1).

Shape legend:
    - B: rows of one task
    - H: hidden size
    - C: logits per row
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_mtbert import TaskConfig

# Slope at negative cosines. A map of the whole range [-1, 1] to scores, (1 + cosine) / 2, would ask all unrelated
# texts to be opposites of each other; it learnt the quickstart's similarity to r = 0.80 where ReLU reached 0.91.
_LEAK = 0.1


class ClassificationHead(nn.Module):
    """Dropout, hidden layer, ReLU, output layer: over one embedding, or over features of two.

    Two embeddings u and v are dropped out individually and then concatenated with the features that the task
    asks for: `(u, v)` in the paper, `(u, v, |u - v|)` in Sentence-BERT.
    """

    def __init__(self, hidden_size: int, task: TaskConfig) -> None:
        super().__init__()
        self.features = task.pair_features.split(",") if task.sequences_per_row == 2 else ["u"]
        self.dropout = nn.Dropout(task.dropout)
        self.dense = nn.Linear(len(self.features) * hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, task.num_logits)

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Embeddings [B, H] to logits [B, C], or [B] where there is one logit per row."""
        u = self.dropout(u)
        values = {"u": u}
        if v is not None:
            v = self.dropout(v)
            values |= {"v": v, "|u-v|": (u - v).abs(), "u*v": u * v}
        combined = torch.cat([values[name] for name in self.features], dim=-1)
        logits = self.out_proj(F.relu(self.dense(combined)))
        return logits.squeeze(-1) if self.out_proj.out_features == 1 else logits


class CrossRegressionHead(ClassificationHead):
    """A score for two texts read as one input: the classification head with a sigmoid scaled to the range."""

    def __init__(self, hidden_size: int, task: TaskConfig) -> None:
        super().__init__(hidden_size, task)
        self.low, self.high = task.score_range

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Embeddings [B, H] to scores [B]."""
        return self.low + (self.high - self.low) * torch.sigmoid(super().forward(u).float())


class CosineRegressionHead(nn.Module):
    """A hidden layer on each side, their cosine similarity, and its map to the score's range."""

    def __init__(self, hidden_size: int, task: TaskConfig) -> None:
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


def build_head(hidden_size: int, task: TaskConfig) -> nn.Module:
    """The head that a task's configuration describes."""
    if not task.is_regression:
        return ClassificationHead(hidden_size, task)
    head = CrossRegressionHead if task.pair_encoding == "cross" else CosineRegressionHead
    return head(hidden_size, task)


def task_loss(task: TaskConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss over the rows, in fp32: cross-entropy, binary cross-entropy or squared error (section 4.1.1).

    Args:
        logits: [B, C], or [B] for one logit or a score per row.
        labels: [B]; class ids, or scores.

    Raises:
        ValueError: Rows of logits and labels differ in number (a broadcast would hide it).
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} need labels [{logits.shape[0]}], not {tuple(labels.shape)}.")
    logits = logits.float()
    if task.is_regression:
        return F.mse_loss(logits, labels.float())
    if task.num_logits == 1:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    return F.cross_entropy(logits, labels.long())
