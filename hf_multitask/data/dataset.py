"""The datasets of all tasks as one, so that a batch can hold rows of several."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset

from hf_multitask.data.schedule import STREAM_SPAN
from hf_multitask.data.streaming import StreamedRows
from hf_multitask.model.kinds import row_columns

_IDS = ("input_ids", "input_ids_2")


class MultiTaskDataset(torch.utils.data.Dataset):
    """Tokenized rows of several tasks, one after the other.

    Args:
        datasets: Tokenized rows by task, in the order of the tasks, or streams of them.
        is_evaluated: Whether rows are scored and not trained on, which they say: what a kind draws of them is then the
            same in any batch.

    An item is a row's `input_ids` and so on, with its `task` and its `row`, the number that it has in its source, from
    1. Row r of the k-th task has the index `offsets[k] + r`; of a stream, r is the position, which has no end. `sizes`
    has the number of rows of each task, or None where a stream's is not known.
    """

    def __init__(self, datasets: Mapping[str, Dataset | StreamedRows], is_evaluated: bool = False) -> None:
        self._beside = {"is_evaluated": True} if is_evaluated else {}
        # What a batch is made of; anything else in a dataset stays where it is.
        read = [*row_columns(), "label", "row"]
        self.given = dict(datasets)
        self.datasets: dict[str, Dataset | StreamedRows] = {
            name: dataset
            if isinstance(dataset, StreamedRows)
            else dataset.select_columns([column for column in read if column in dataset.column_names])
            for name, dataset in datasets.items()
        }
        self.streams = {name: rows for name, rows in self.datasets.items() if isinstance(rows, StreamedRows)}
        self.sizes: dict[str, int | None] = {
            name: rows.size if isinstance(rows, StreamedRows) else len(rows) for name, rows in self.datasets.items()
        }
        spans = [STREAM_SPAN if name in self.streams else size or 0 for name, size in self.sizes.items()]
        self.offsets = dict(zip(self.sizes, accumulate(spans, initial=0), strict=False))

    def __len__(self) -> int:
        return sum(size or 0 for size in self.sizes.values())

    def by_length(self) -> list[int]:
        """All indices, rows with the fewest tokens first: batches of like lengths need the least padding."""
        tables = [rows.with_format("arrow")[:] for rows in self.datasets.values() if isinstance(rows, Dataset)]
        lengths = [
            sum(pc.list_value_length(table[column]).to_numpy() for column in _IDS if column in table.column_names)
            for table in tables
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
            rows: dict[str, Any] = self.datasets[names[task]][places]
            columns = {"row": [place + 1 for place in places], **rows}
            items += (
                {"task": names[task], **self._beside, **dict(zip(columns, row, strict=True))}
                for row in zip(*columns.values(), strict=True)
            )
        return items
