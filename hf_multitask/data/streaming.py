"""Rows that are read while training, and never all held: for data larger than the disk or memory."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

import torch
from datasets import IterableDataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.checking import IS_ID_AMONG_NAMES, BadRow, Columns, row_checker, standard_columns
from hf_multitask.data.loading import SplitReport
from hf_multitask.data.sources import Source
from hf_multitask.data.tokenization import batch_tokenizer
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import first_line
from hf_multitask_cli.arguments import OnBadRows

logger = logging.getLogger(__name__)

# Rows that are looked at before training begins.
LOOKED_AT = 1000
_READ_AT_ONCE = 100
_LISTED = 5
# Of a loader, each with a count of its own; more than anyone has.
_WORKERS = 256


class StreamError(ValueError):
    """A streamed row that cannot be used, which is found only when training comes to it."""

    def __init__(self, message: str) -> None:
        # A loader's worker process hands on its traceback as text, with the error's own line at its end.
        super().__init__(message.strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2])


class StreamedRows:
    """Tokenized rows of a task by their position in an endless stream: the source's rows shuffled, and then again.

    Position p has the p-th row that can be used, whoever asks: every process and every worker of a loader reads the
    whole stream and tokenizes only the rows that it is asked for, so that their number changes nothing. Reading on is
    cheap; going back, or beginning in the middle, reads from the start.

    Args:
        name: The task's name, for messages.
        task: The task.
        stream: The raw rows, as often as asked for.
        columns: From standard column name to the stream's name for it, or its names.
        where: The place of the rows, for messages.
        tokenizer, max_length: As for [`tokenize`].
        label_map: As for [`check_rows`].
        on_bad_rows: `error` ends the training at a row that cannot be used; `drop` leaves it out and logs it. Where
            the first rows have names of labels, a class id cannot be used, and the other way round.
        size: How many rows there are, if that is known.
        shuffle_buffer: Rows of which the next one is drawn; 1 keeps the stream's order.
        seed: Of the shuffles.

    Raises:
        ValueError: There is no row, or one of the first cannot be used.
    """

    def __init__(
        self,
        name: str,
        task: TaskConfig,
        stream: IterableDataset,
        columns: Columns,
        where: str,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        label_map: Mapping[Any, Any] | None = None,
        on_bad_rows: OnBadRows = "error",
        size: int | None = None,
        shuffle_buffer: int = 10_000,
        seed: int = 0,
    ) -> None:
        self.size = size
        self.report = SplitReport(where, 0)
        self._place = f"task {name!r}: {where}"
        self._name, self._max_length, self._on_bad_rows = name, max_length, on_bad_rows
        self._tokenize = batch_tokenizer(task, tokenizer, max_length)
        self._texts = [column for column in task.text_columns if column in columns]
        self._checked = stream.map(
            row_checker(stream.features, task, columns, label_map),
            batched=True,
            with_indices=True,
            remove_columns=column_names(stream),
        )
        self._buffer, self._seed = shuffle_buffer, seed
        # Seen by the processes of a loader's workers too: rows read, dropped, read by id; rows cut, by worker.
        self._counts = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._cut = torch.zeros(_WORKERS, dtype=torch.int64).share_memory_()
        self._reader: Iterator[dict[str, Any]] | None = None
        self._next = self._told = 0
        self._read_so_far = (0, 0, 0)
        self._label = columns.get("label", "")
        # Whether labels are class ids, which the first rows say: names and ids in one column could be mistaken.
        self._has_ids: bool | None = None
        # The labels of the first rows.
        self.labels = self._first_labels()

    def set_seed(self, seed: int) -> None:
        """Chooses the order of the rows; what was counted in another is forgotten."""
        self._seed, self._reader, self._told, self._read_so_far = seed, None, 0, (0, 0, 0)
        self.report.dropped.clear()
        self._counts.zero_()
        self._cut.zero_()

    def __getitem__(self, positions: list[int]) -> dict[str, list[Any]]:
        """The rows at positions of the stream, by column, as a [`Dataset`] gives them."""
        rows = [self._row(position) for position in positions]
        if not rows:
            return {}
        self._counts[:] = torch.tensor(self._read_so_far)
        tokens = self._tokenize({column: [row[column] for row in rows] for column in self._texts})
        cut = zip(tokens.pop("truncated"), rows, strict=True)
        self._count_cut(sum(is_cut and row["is_first_pass"] for is_cut, row in cut))
        return {**tokens, **{key: [row[key] for row in rows] for key in ("label", "row") if key in rows[0]}}

    def refresh_report(self) -> SplitReport:
        """The report as of now."""
        read, dropped, by_id = self._counts.tolist()
        self.report.rows, self.report.truncated = read, int(self._cut.sum())
        self.report.more_dropped = dropped - len(self.report.dropped)
        self.report.labels_by_id = by_id
        self.report.labels_by_name = (read - dropped - by_id) * bool(self._label)
        return self.report

    def _row(self, position: int) -> dict[str, Any]:
        if self._reader is None or position < self._next:
            self._reader, self._next = self._read(), 0
        row: dict[str, Any] = {}
        with _readable(self._place):
            while self._next <= position:
                row = next(self._reader)
                self._next += 1
        return row

    def _read(self) -> Iterator[dict[str, Any]]:
        for pass_ in count():
            stream = self._checked
            if self._buffer > 1:
                stream = stream.shuffle(seed=self._seed, buffer_size=self._buffer, max_buffer_input_shards=1)
                stream.set_epoch(pass_)
            read = dropped = by_id = 0
            for row in _rows(stream):
                read += 1
                if bad := self._bad_row(row):
                    dropped += 1
                    self._drop(bad, dropped)
                by_id += bool(row["by_id"]) and bad is None
                if pass_ == 0:
                    self._read_so_far = (read, dropped, by_id)
                if bad is None:
                    yield {**row, "is_first_pass": pass_ == 0}
            if read == dropped:
                raise self._has_no_rows(read)

    def _bad_row(self, row: dict[str, Any]) -> BadRow | None:
        """What is wrong with a checked row, if anything is."""
        problem = row["problem"]
        # A row without labels has neither names nor ids.
        if not problem and None not in (self._has_ids, row["by_id"]) and row["by_id"] != self._has_ids:
            mixed = "has a label's name, where other rows have ids." if self._has_ids else IS_ID_AMONG_NAMES
            problem = f"column {self._label!r} {mixed}"
        return BadRow(row["row"], problem) if problem else None

    def _drop(self, bad: BadRow, number: int) -> None:
        self._refuse_unless_dropped(bad)
        # A reader that began anew comes by rows of which all was said.
        if number > self._told:
            self._told = number
            if number <= _LISTED:
                self.report.dropped.append(bad)
            if _speaks() and _is_told(number, _LISTED):
                logger.warning("%s: %s Dropped; that makes %d.", self._place, bad, number)

    def _refuse_unless_dropped(self, bad: BadRow) -> None:
        if self._on_bad_rows == "error":
            raise StreamError(f"{self._place}: {bad} Mend it, or set on_bad_rows: drop.")

    def _has_no_rows(self, read: int) -> StreamError:
        return StreamError(f"{self._place} has no rows{' left' * bool(read)}.")

    def _count_cut(self, rows: int) -> None:
        before = int(self._cut.sum())
        worker = torch.utils.data.get_worker_info()
        self._cut[worker.id % _WORKERS if worker else 0] += rows
        if _speaks() and any(map(_is_told, range(before + 1, before + rows + 1))):
            logger.warning(
                "task %r: %d rows of %s so far are cut to %d tokens.",
                *(self._name, before + rows, self.report.source, self._max_length),
            )

    def _first_labels(self) -> list[Any]:
        """The labels of the first rows, which are looked at in the source's order."""
        with _readable(self._place):
            rows = list(islice(_rows(self._checked), LOOKED_AT))
        are_ids = [row["by_id"] for row in rows if not row["problem"] and row["by_id"] is not None]
        self._has_ids = all(are_ids) if are_ids else None
        found = [self._bad_row(row) for row in rows]
        for bad in filter(None, found):
            self._refuse_unless_dropped(bad)
        labels = [row.get("label") for row, bad in zip(rows, found, strict=True) if bad is None]
        if not labels and len(rows) < LOOKED_AT:
            raise self._has_no_rows(len(rows))
        return labels

    def __getstate__(self) -> dict[str, Any]:
        # Readers do not travel to other processes.
        return {**self.__dict__, "_reader": None}


def load_stream(
    name: str,
    task: TaskConfig,
    source: Source,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    on_bad_rows: OnBadRows = "error",
) -> StreamedRows:
    """A split of a source, streamed.

    Args:
        name, task, source, split, on_bad_rows: As for [`load_split`].
        tokenizer, max_length: As for [`tokenize`].

    Raises:
        ValueError: As for [`load_split`], but of the first rows alone.
    """
    try:
        where = source.describe(split)
        stream = source.stream(split, on_bad_rows)
        with _readable(where):
            there = column_names(stream)
        if not there:
            raise ValueError(f"{where} has no rows.")
        columns = standard_columns(task, source, where, there)
        if stream.column_names is None and not source.text:
            # Rows further on may have what the first does not.
            columns |= {column: column for column in task.optional_columns}
    except ValueError as error:
        raise ValueError(f"task {name!r}: {error}") from error
    known = (stream.info.splits or {}).get(source.split(split))
    return StreamedRows(
        name,
        task,
        stream,
        columns,
        where,
        tokenizer,
        max_length,
        source.label_map,
        on_bad_rows,
        size=source.rows or (known.num_examples if known else None),
        shuffle_buffer=source.shuffle_buffer,
    )


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """Around what reads a stream: a file that is broken further on is a sentence too."""
    try:
        yield
    except StreamError:
        raise
    except (OSError, ValueError, DatasetGenerationError) as error:
        raise StreamError(f"{place} cannot be read: {first_line(error)}") from error


def column_names(stream: IterableDataset) -> list[str]:
    """A stream's columns, from its first row where it does not know them."""
    return stream.column_names or list(next(iter(stream), {}))


def _rows(stream: IterableDataset) -> Iterator[dict[str, Any]]:
    # Rows and not batches would be dealt to a loader's workers, of which each is to see all.
    for batch in stream.iter(batch_size=_READ_AT_ONCE):
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


def _is_told(number: int, listed: int = 1) -> bool:
    """Whether the number-th of its kind is logged: the first ones, and then every power of two."""
    return number <= listed or number & (number - 1) == 0


def _speaks() -> bool:
    """Whether this is the one process, of all that read the same stream, that logs what it finds."""
    worker = torch.utils.data.get_worker_info()
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return rank == 0 and (worker is None or worker.id == 0)
