"""What is logged between two logs of training."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor


class Meters:
    """Means, and some sums, of values that come batch by batch, over all processes.

    Args:
        names: All values that can come. They are fixed at the start, since processes need not see the same ones.
        sums: Those of them that are added up, and not averaged.
        device: Where the values are; they are read there only when they are logged.
    """

    def __init__(self, names: Iterable[str], sums: Iterable[str], device: torch.device) -> None:
        self._names, self._sums = list(names), set(sums)
        self._totals = {name: torch.zeros(2, device=device) for name in self._names}

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Counts a scalar, in a mean with a weight."""
        value = weight * value.detach().float()
        self._totals[name] += torch.stack([value, torch.full_like(value, weight)])

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The means and sums of what came since the last reading; what never came is left out."""
        totals = accelerator.reduce(torch.stack([self._totals[name] for name in self._names])).tolist()
        for total in self._totals.values():
            total.zero_()
        return {
            name: total if name in self._sums else total / count
            for name, (total, count) in zip(self._names, totals, strict=True)
            if count
        }
