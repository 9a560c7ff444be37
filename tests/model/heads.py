"""Heads written out, for tests."""

import torch


def naive_mlp(head: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """What a feed-forward head computes, written out; of one output, [B]."""
    hidden = (features @ head.dense.weight.T + head.dense.bias).clamp(min=0)
    return (hidden @ head.out_proj.weight.T + head.out_proj.bias).squeeze(1)
