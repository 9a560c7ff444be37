"""From token states to one embedding per sequence (paper section 4.1.2).

Shape legend:
    - S: number of sequences
    - L: length of the longest sequence, in tokens
    - H: hidden size
"""

from collections.abc import Callable

import torch
from torch import Tensor


def cls_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """The state of each sequence's first real token: [CLS] in BERT's family, on whichever side the padding is."""
    first = mask.int().argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), first]


def mean_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of each sequence's real tokens."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def max_pooling(hidden: Tensor, mask: Tensor) -> Tensor:
    """The greatest value of each dimension over a sequence's real tokens."""
    return hidden.masked_fill(~mask.bool().unsqueeze(-1), torch.finfo(hidden.dtype).min).amax(dim=1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls_pooling,
    "mean": mean_pooling,
    "max": max_pooling,
}


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pools token states into embeddings; padding has no say.

    Args:
        hidden: Token states, [S, L, H].
        mask: 1 at real tokens and 0 at padding, [S, L].
        pooling: `cls`, `mean` or `max`.

    Returns:
        Embeddings, [S, H], of the states' dtype.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> pool(hidden, torch.tensor([[1, 1, 0]]), "mean")
        tensor([[2.]])
    """
    return POOLINGS[pooling](hidden, mask)
