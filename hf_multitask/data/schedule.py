"""Which rows of which tasks make each step (paper section 4.3).

A *schedule* says how many rows of each task a batch holds. A *row stream* says which rows those are. Both are pure
functions of seed, epoch and position: nothing is remembered between calls, so that a resumed run and every one of
several processes see the same order without sharing state.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

# In place of a loss that is 0.
_TINY = 1e-12
# More positions of a stream than any run reaches: the room that it has among the indices of a MultiTaskDataset.
STREAM_SPAN = 2**48


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
        self._rows = {name: batch_size for name in sizes}
        self._batches = _steps(sizes, batch_size * batches_per_step, epoch_length) * batches_per_step

    @property
    def batches_per_epoch(self) -> int:
        return self._batches

    def rows(self, epoch: int, batch: int) -> Mapping[str, int]:
        return self._rows

    def drawn_before(self, epoch: int) -> Mapping[str, int]:
        return {name: epoch * self._batches * rows for name, rows in self._rows.items()}


class SizeSampling(Schedule):
    """Draws tasks with probabilities that grow with their datasets' sizes, p_i ∝ size_i^α.

    α = 1 is proportional sampling, 1/2 square-root sampling, 0 uniform. Draws are made for a whole step and then dealt
    evenly to its batches, so that accumulation and several processes make the same steps as one large batch.

    Args:
        sizes, batch_size, epoch_length, batches_per_step: As in [`RoundRobin`].
        alpha: The exponent.
        mixing: `rows`: a step has as many rows as a Round Robin step, each of a task drawn for it; `tasks`: a step has
            `batch_size` rows a batch, all of one task.
        seed: Of the draws.

    Raises:
        ValueError: As for [`RoundRobin`].
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_size: int,
        epoch_length: str | int = "largest",
        batches_per_step: int = 1,
        alpha: float = 1.0,
        mixing: str = "rows",
        seed: int = 0,
    ) -> None:
        self._sizes = dict(sizes)
        self._per_step = batches_per_step
        rows = batch_size * batches_per_step
        self._steps = _steps(sizes, rows, epoch_length)
        self._draws, self._rows_per_draw = (rows * len(sizes), 1) if mixing == "rows" else (1, rows)
        self._alpha, self._seed = alpha, seed
        self._epoch, self._counts = -1, np.empty((0, len(sizes)), dtype=np.int64)

    @property
    def batches_per_epoch(self) -> int:
        return self._steps * self._per_step

    def alpha(self, epoch: int) -> float:
        """The exponent in an epoch, which counts from 0."""
        return self._alpha

    def probabilities(self, epoch: int) -> np.ndarray:
        """Of each task, in the order of the sizes."""
        # From the largest down, so that no power overflows.
        shares = np.array(list(self._sizes.values())) / max(self._sizes.values())
        weights = shares ** self.alpha(epoch)
        return weights / weights.sum()

    def rows(self, epoch: int, batch: int) -> Mapping[str, int]:
        step, part = divmod(batch, self._per_step)
        # The step's rows, sorted by task, are dealt to its batches like cards.
        ends = np.cumsum(self._step_counts(epoch)[step])
        counts = np.diff((ends - part + self._per_step - 1) // self._per_step, prepend=0)
        return {name: int(count) for name, count in zip(self._sizes, counts, strict=True) if count}

    def drawn_before(self, epoch: int) -> Mapping[str, int]:
        drawn = sum((self._step_counts(earlier).sum(0) for earlier in range(epoch)), np.zeros(len(self._sizes), int))
        return dict(zip(self._sizes, drawn.tolist(), strict=True))

    def _step_counts(self, epoch: int) -> np.ndarray:
        """Rows of each task in each step of an epoch, [steps, tasks]."""
        if epoch != self._epoch:
            draw = np.random.default_rng((self._seed, zlib.crc32(b"schedule"), epoch))
            counts = draw.multinomial(self._draws, self.probabilities(epoch), size=self._steps)
            self._epoch, self._counts = epoch, self._rows_per_draw * counts
        return self._counts


class AnnealedSampling(SizeSampling):
    """Sampling by size at first that grows more even: α = 1 − 0.8 (e − 1) / (E − 1) in epoch e of E, from 1.

    Source: Stickland and Murray 2019, "BERT and PALs", section 4.1. A run of one epoch has α = 1.

    Args:
        epochs: E, of the run.
        args, kwargs: As for [`SizeSampling`], without `alpha`.
    """

    def __init__(self, sizes: Mapping[str, int], batch_size: int, *args: Any, epochs: int, **kwargs: Any) -> None:
        super().__init__(sizes, batch_size, *args, **kwargs)
        self._epochs = epochs

    def alpha(self, epoch: int) -> float:
        return 1.0 - 0.8 * min(epoch / (self._epochs - 1), 1.0) if self._epochs > 1 else 1.0


class AdaptiveSampling(SizeSampling):
    """Draws tasks that have fallen behind more often: p_i ∝ (L_i / min L_i)^α.

    L_i is a task's mean training loss in the last epoch in which it had rows, min L_i the lowest of any such epoch so
    far: a task that forgets while others train gets more rows, one that improves does not. The first epoch is even.

    Args:
        history: Each past epoch's mean losses by task, which grows as training goes on; an epoch's draws depend on
            those of the epochs before it alone.
        args, kwargs: As for [`SizeSampling`].

    Source: the explicit schedules of Jean, Firat and Johnson 2019, "Adaptive Scheduling for Multi-Task Learning",
    with losses in place of scores and a task's own best as its baseline.
    """

    def __init__(
        self, sizes: Mapping[str, int], *args: Any, history: Sequence[Mapping[str, float]] = (), **kwargs: Any
    ) -> None:
        super().__init__(sizes, *args, **kwargs)
        self._history = history

    def probabilities(self, epoch: int) -> np.ndarray:
        lags = []
        for name in self._sizes:
            losses = [means[name] for means in self._history[:epoch] if name in means]
            lags.append(max(losses[-1], _TINY) / max(min(losses), _TINY) if losses else 1.0)
        weights = np.array(lags) ** self.alpha(epoch)
        return weights / weights.sum()


class Phases(Schedule):
    """One schedule after another.

    Args:
        phases: Schedules and how many epochs each lasts; the last one lasts on. A phase counts its epochs from 0.

    Raises:
        ValueError: Phases whose epochs differ in length.
    """

    def __init__(self, phases: Sequence[tuple[Schedule, int]]) -> None:
        lengths = {schedule.batches_per_epoch for schedule, _ in phases}
        if len(lengths) != 1:
            raise ValueError(f"phases must have epochs of one length, not of {sorted(lengths)} batches.")
        self._phases = list(phases)

    @property
    def batches_per_epoch(self) -> int:
        return self._phases[0][0].batches_per_epoch

    @property
    def epochs(self) -> list[int]:
        """Of each phase but the last, which has no end of its own."""
        return [epochs for _, epochs in self._phases[:-1]]

    def rows(self, epoch: int, batch: int) -> Mapping[str, int]:
        for schedule, epochs in self._phases[:-1]:
            if epoch < epochs:
                return schedule.rows(epoch, batch)
            epoch -= epochs
        return self._phases[-1][0].rows(epoch, batch)

    def drawn_before(self, epoch: int) -> Mapping[str, int]:
        drawn: Counter[str] = Counter()
        for schedule, epochs in self._phases[:-1]:
            drawn.update(schedule.drawn_before(min(epoch, epochs)))
            epoch = max(epoch - epochs, 0)
        drawn.update(self._phases[-1][0].drawn_before(epoch))
        return drawn


def adaptive_round_robin(
    sizes: Mapping[str, int],
    batch_size: int,
    epoch_length: str | int = "largest",
    batches_per_step: int = 1,
    largest_task_epochs: int = 1,
) -> Phases:
    """The largest task alone for r epochs, then Round Robin (paper section 4.3, "ARR").

    Args:
        sizes, batch_size, epoch_length, batches_per_step: As in [`RoundRobin`].
        largest_task_epochs: r.
    """
    together = RoundRobin(sizes, batch_size, epoch_length, batches_per_step)
    largest = max(sizes, key=lambda name: sizes[name])
    steps = together.batches_per_epoch // batches_per_step
    alone = RoundRobin({largest: sizes[largest]}, batch_size, steps, batches_per_step)
    return Phases([(alone, largest_task_epochs), (together, 1)])


def _steps(sizes: Mapping[str, int], rows_per_step: int, epoch_length: str | int) -> int:
    """The steps of an epoch, for datasets that all have rows."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"task {name!r} has no rows to train on.")
    if epoch_length in ("largest", "smallest"):
        size = max(sizes.values()) if epoch_length == "largest" else min(sizes.values())
        return math.ceil(size / rows_per_step)
    if str(epoch_length).isdecimal() and int(epoch_length) > 0:
        return int(epoch_length)
    raise ValueError(f"epoch_length {epoch_length!r} must be 'largest', 'smallest' or a number of steps.")


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
        streamed: The tasks whose rows come in the order of a stream, which shuffles them itself.
    """

    def __init__(
        self, schedule: Schedule, sizes: Mapping[str, int | None], seed: int, streamed: Collection[str] = ()
    ) -> None:
        self.schedule = schedule
        self.epoch = 0
        self._sizes = {name: STREAM_SPAN if name in streamed else size or 0 for name, size in sizes.items()}
        self._streamed = streamed
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
                start = drawn[name]
                rows = range(start, start + count) if name in self._streamed else streams[name].take(start, count)
                indices += (offsets[name] + row for row in rows)
                drawn[name] += count
            yield indices
