"""Which rows of which tasks make each step (paper section 4.3).

A *schedule* says how many rows of each task a batch holds. A *row stream* says which rows those are. Both are pure
functions of seed, epoch and position: nothing is remembered between calls, so that a resumed run and every one of
several processes see the same order without sharing state.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from torch.utils.data import Sampler


class Schedule(ABC):
    """Says what a batch holds. To write one, derive from this class and give `batches_per_epoch` and `rows`."""

    @property
    @abstractmethod
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has, over all processes and accumulation steps."""

    @abstractmethod
    def rows(self, epoch: int, batch: int) -> Mapping[str, int]:
        """The number of rows of each task in a batch; both counts start at 0 and `batch` anew in each epoch."""

    def drawn_before(self, epoch: int) -> Mapping[str, int]:
        """The number of rows of each task that all epochs before this one drew together."""
        drawn: Counter[str] = Counter()
        for earlier in range(epoch):
            for batch in range(self.batches_per_epoch):
                drawn.update(self.rows(earlier, batch))
        return drawn


class RoundRobin(Schedule):
    """Every batch holds the same number of rows of every task (paper section 4.3, "RR").

    Args:
        sizes: Rows of each task's dataset, in the order of the tasks.
        batch_size: Rows of each task in a batch.
        epoch_length: `largest`: as many steps as the largest dataset lasts, while smaller ones go round again;
            `smallest`: as many as the smallest lasts; or a number of steps. A step is one update of the weights.
        batches_per_step: Batches that make one step: processes times accumulation steps.

    Raises:
        ValueError: An epoch length that is neither, or an empty dataset.
    """

    def __init__(
        self, sizes: Mapping[str, int], batch_size: int, epoch_length: str | int = "largest", batches_per_step: int = 1
    ) -> None:
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"task {name!r} has no rows to train on.")
        self._rows = {name: batch_size for name in sizes}
        rows_per_step = batch_size * batches_per_step
        if epoch_length in ("largest", "smallest"):
            size = max(sizes.values()) if epoch_length == "largest" else min(sizes.values())
            steps = math.ceil(size / rows_per_step)
        elif str(epoch_length).isdecimal() and int(epoch_length) > 0:
            steps = int(epoch_length)
        else:
            raise ValueError(f"epoch_length {epoch_length!r} must be 'largest', 'smallest' or a number of steps.")
        self._batches = steps * batches_per_step

    @property
    def batches_per_epoch(self) -> int:
        return self._batches

    def rows(self, epoch: int, batch: int) -> Mapping[str, int]:
        return self._rows

    def drawn_before(self, epoch: int) -> Mapping[str, int]:
        return {name: epoch * self._batches * rows for name, rows in self._rows.items()}


class RowStream:
    """An endless stream of a dataset's rows: a shuffle of all rows, then another, and so on.

    The stream runs on over epochs, so that every row comes equally often, however long an epoch is. Two batches in
    a row hold the rows of one batch of twice the size: that is what makes accumulation and several processes equal
    to one large batch.

    Args:
        size: Number of rows.
        seed: Of the run.
        name: Of the task: each has its own order, whatever other tasks there are.
    """

    def __init__(self, size: int, seed: int, name: str) -> None:
        self.size = size
        self._key = (seed, zlib.crc32(name.encode()))
        self._round, self._order = -1, np.empty(0, dtype=np.int64)

    def take(self, start: int, count: int) -> list[int]:
        """The rows at positions `start` to `start + count` of the stream."""
        rows: list[int] = []
        while len(rows) < count:
            round_, position = divmod(start + len(rows), self.size)
            if round_ != self._round:
                self._round = round_
                self._order = np.random.default_rng((*self._key, round_)).permutation(self.size)
            rows += self._order[position : position + count - len(rows)].tolist()
        return rows


class StepBatchSampler(Sampler[list[int]]):
    """Yields the indices of each batch's rows into a [`MultiTaskDataset`].

    It has no `batch_size`: a batch is one unit of work with all its tasks, however many rows it has, and accelerate
    deals whole batches to the processes.

    Args:
        schedule: What batches hold.
        sizes: Rows of each task's dataset, in the order of the dataset.
        seed: Of the shuffles.
    """

    def __init__(self, schedule: Schedule, sizes: Mapping[str, int], seed: int) -> None:
        self.schedule = schedule
        self.epoch = 0
        self._sizes = dict(sizes)
        self._seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.schedule.batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        streams = {name: RowStream(size, self._seed, name) for name, size in self._sizes.items()}
        offsets = dict(zip(self._sizes, np.cumsum([0, *self._sizes.values()]).tolist(), strict=False))
        drawn = Counter(self.schedule.drawn_before(epoch))
        for batch in range(len(self)):
            indices: list[int] = []
            for name, count in self.schedule.rows(epoch, batch).items():
                indices += (offsets[name] + row for row in streams[name].take(drawn[name], count))
                drawn[name] += count
            yield indices
