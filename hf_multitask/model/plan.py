"""Which sequences of a batch each row of each task reads.

Shape legend:
    - S: sequences of a batch
    - B: rows of one task
    - N: sequences of the row that reads most
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .task_config import TaskConfig

# In place of a sequence that a row does not have.
ABSENT = -1


def row_counts(tasks: Mapping[str, int | Tensor]) -> dict[str, int]:
    """How many rows of each task a batch has, from its `tasks`."""
    return {name: len(rows) if isinstance(rows, Tensor) else rows for name, rows in tasks.items()}


def numbered(counts: Sequence[int], first: int = 0) -> Tensor:
    """The plan of rows whose sequences stand one after the other, row by row.

    Args:
        counts: How many sequences each row has, [B].
        first: The number of the first one.
    """
    sizes = torch.as_tensor(counts)
    steps = torch.arange(int(sizes.max()))
    numbers = first + (sizes.cumsum(0) - sizes).unsqueeze(1) + steps
    return numbers.masked_fill(steps >= sizes.unsqueeze(1), ABSENT)


def in_sides(rows: int, sides: int, first: int = 0, device: Any = None) -> Tensor:
    """The plan of rows whose first sequences stand one after the other, then their second ones, and so on.

    Args:
        rows: B.
        sides: N, how many sequences each row has.
        first: The number of the first one.
        device: Of the plan.
    """
    return torch.arange(first, first + sides * rows, device=device).view(sides, rows).T


def read_plan(
    tasks: Mapping[str, int | Tensor], table: Mapping[str, TaskConfig], total: int, device: Any
) -> dict[str, Tensor]:
    """By task, the numbers of the sequences that each row reads, int64 [B, N]; -1 where a row reads fewer.

    Args:
        tasks: By task such a plan; or, of all tasks, the number of its rows, if the sequences stand in the order of
            `tasks` and each task has the first ones of all its rows, then the second ones.
        table: The tasks.
        total: S.
        device: Of the batch.

    Raises:
        ValueError: Rows that do not fit the sequences, or a plan that does not fit its task.
    """
    first = 0
    plan: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name, rows in tasks.items():
        task = table[name]
        if isinstance(rows, Tensor):
            if rows.dim() != 2 or not (task.SEQUENCES_VARY or rows.shape[1] == task.sequences_per_row):
                wanted = "any number" if task.SEQUENCES_VARY else str(task.sequences_per_row)
                raise ValueError(
                    f"task {name!r}: a row reads {wanted} of sequences: its plan is [B, N], not {tuple(rows.shape)}."
                )
            plan[name] = rows.to(device)
            continue
        if task.SEQUENCES_VARY:
            raise ValueError(f"task {name!r}: rows of {task.type} need a plan, [B, N], not their number.")
        counts[name] = rows * task.sequences_per_row
        plan[name] = in_sides(rows, task.sequences_per_row, first, device)
        first += counts[name]
    if counts and len(counts) < len(tasks):
        # How many sequences stand before theirs is not known.
        raise ValueError(f"tasks {', '.join(map(repr, counts))}: where one task has a plan, [B, N], all need one.")
    if len(counts) == len(tasks) and (first != total or not total or not all(counts.values())):
        raise ValueError(f"{total} sequences do not fit the tasks' rows {dict(tasks)}, which read {counts}.")
    return plan
