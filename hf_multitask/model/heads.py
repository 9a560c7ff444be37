"""What heads of several kinds are made of (paper section 4.1).

Shape legend:
    - B: rows of one task
    - H: hidden size
    - C: outputs per row
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeedForwardHead(nn.Module):
    """Dropout, hidden layer, ReLU, output layer: over one embedding, or over features of two.

    Two embeddings u and v are dropped out individually and then concatenated with the features that are asked for:
    `(u, v)` in the paper, `(u, v, |u - v|)` in Sentence-BERT.

    Args:
        hidden_size: H.
        features: Of `u`, `v`, `|u-v|` and `u*v`, those that are read, with commas between them.
        dropout: Probability.
        outputs: C.
    """

    def __init__(self, hidden_size: int, features: str, dropout: float, outputs: int) -> None:
        super().__init__()
        self.features = features.split(",")
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(len(self.features) * hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, outputs)

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Embeddings [B, H] to outputs [B, C], or [B] where there is one output per row."""
        u = self.dropout(u)
        values = {"u": u}
        if v is not None:
            v = self.dropout(v)
            values |= {"v": v, "|u-v|": (u - v).abs(), "u*v": u * v}
        combined = torch.cat([values[name] for name in self.features], dim=-1)
        outputs = self.out_proj(F.relu(self.dense(combined)))
        return outputs.squeeze(-1) if self.out_proj.out_features == 1 else outputs
