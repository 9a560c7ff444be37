"""The datasets of all tasks as one, so that a batch can hold rows of several."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset

# What a batch is made of; anything else in a dataset stays where it is.
_IDS = ("input_ids", "input_ids_2")
_COLUMNS = (*_IDS, "token_type_ids", "label", "row")


class MultiTaskDataset(torch.utils.data.Dataset):
    """Tokenized rows of several tasks, one after the other.

    Args:
        datasets: Tokenized rows by task, in the order of the tasks.

    An item is a row's `input_ids` and so on, with its `task` and its `row`, the number that it has in its source, from
    1. Row r of the k-th task has the index `offsets[k] + r`.
    """

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self.datasets = {
            name: dataset.select_columns([column for column in _COLUMNS if column in dataset.column_names])
            for name, dataset in datasets.items()
        }
        self.sizes = {name: len(dataset) for name, dataset in self.datasets.items()}
        *starts, self._length = accumulate(self.sizes.values(), initial=0)
        self.offsets = dict(zip(self.sizes, starts, strict=True))

    def __len__(self) -> int:
        return self._length

    def by_length(self) -> list[int]:
        """All indices, rows with the fewest tokens first: batches of like lengths need the least padding."""
        lengths = [
            sum(pc.list_value_length(rows[column]).to_numpy() for column in _IDS if column in rows.column_names)
            for rows in (dataset.with_format("arrow")[:] for dataset in self.datasets.values())
        ]
        return np.argsort(np.concatenate(lengths), kind="stable").tolist()

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Fetches a batch, with one read per run of rows of the same task."""
        names, starts = list(self.offsets), list(self.offsets.values())
        items: list[dict[str, Any]] = []
        for task, run in groupby(indices, key=lambda index: bisect_right(starts, index) - 1):
            places = [index - starts[task] for index in run]
            columns = {"row": [place + 1 for place in places], **self.datasets[names[task]][places]}
            items += (
                {"task": names[task], **dict(zip(columns, row, strict=True))}
                for row in zip(*columns.values(), strict=True)
            )
        return items
