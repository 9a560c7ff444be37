"""The rows of all processes as one batch, for kinds of task whose rows learn from each other.

Shape legend:
    - W: processes
    - B: rows of this process
    - M: rows of the process that has most
    - N: what the row that has most has most of
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed

_ARE_TOGETHER: ContextVar[bool] = ContextVar("are_together", default=False)


@contextmanager
def rows_together(are_together: bool = True) -> Iterator[None]:
    """Around passes that all processes make, with rows of the same tasks: only within does [`of_all_processes`] wait
    for the others, so that a model which one process alone runs never does.

    Args:
        are_together: Whether it is so.
    """
    token = _ARE_TOGETHER.set(are_together)
    try:
        yield
    finally:
        _ARE_TOGETHER.reset(token)


def of_all_processes(values: Tensor, fill: float) -> tuple[Tensor, int]:
    """The rows of all processes, whose gradients come back from all of their losses.

    Args:
        values: This process's, [B, N, ...]; B and N may be others in other processes.
        fill: What rows are filled up with, and rows that a process has fewer of.

    Returns:
        [W * M, N, ...], the processes one after the other, and the place where this one's begin. Outside of
        [`rows_together`], or of a single process, that is `values` and 0.
    """
    count = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if count == 1 or not _ARE_TOGETHER.get():
        return values, 0
    # Here, since builds of torch without distribution do not have it.
    from torch.distributed.nn.functional import all_reduce

    sizes = torch.tensor(values.shape[:2], device=values.device)
    distributed.all_reduce(sizes, distributed.ReduceOp.MAX)
    most, widest = sizes.tolist()
    padded = values.new_full((most, widest, *values.shape[2:]), fill)
    padded[: values.shape[0], : values.shape[1]] = values
    rank = distributed.get_rank()
    # A sum in which each place has a value of one process alone: its gradient is a sum too, which every backend has.
    parts = [padded if process == rank else torch.zeros_like(padded) for process in range(count)]
    return all_reduce(torch.cat(parts)), rank * most
