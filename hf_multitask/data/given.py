"""Datasets that a caller gives in Python, by task: their rows are read and checked as those of a recipe's sources."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.checking import BadRow, MissingColumnError, check_columns
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.loading import SplitReport, load_split, log_report, refuse_or_tell
from hf_multitask.data.sources import Source
from hf_multitask.data.streaming import StreamedRows, load_stream
from hf_multitask.data.tokenization import tokenize
from hf_multitask.data.tokenized import check_tokenized
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import nearest, refuse_unknown_keys
from hf_multitask_cli.arguments import OnBadRows

logger = logging.getLogger(__name__)

# What of a source is said of a dataset that is there already.
_KEYS = ["text", "label", "label_map", "rows", "shuffle_buffer"]


@dataclass
class GivenSource(Source):
    """A dataset that is there already; its splits go by the names of the arguments that it is given as.

    Args:
        dataset: The rows.
    """

    dataset: Any = None

    def split(self, name: str) -> str:
        return name

    def describe(self, split: str) -> str:
        return split

    def load(self, split: str, on_bad_rows: OnBadRows = "error") -> Dataset:
        return self.dataset

    def stream(self, split: str, on_bad_rows: OnBadRows = "error") -> IterableDataset:
        return self.dataset


class GivenData:
    """Checks, and tokenizes where that is not done, the datasets that a caller gives by task.

    Args:
        tasks: The table of tasks.
        tokenizer: The encoder's; None: all rows come tokenized.
        max_length: As for [`tokenize`].
        most_tokens: Of a row that comes tokenized: the model has no positions for more.
        columns: By task, the keys of a recipe's source that say how its rows are read: `text` (one column or two),
            `label` (one column, or of a kind with several labels in a row a column for each), `label_map`, and of a
            stream `rows` and `shuffle_buffer`. What is not said is as by default.
        on_bad_rows: As for [`load_split`].
        sizes: As for [`check_tokenized`].

    Raises:
        ValueError: A task or a key that there is not, or a value that is none.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskConfig],
        tokenizer: PreTrainedTokenizerBase | None,
        max_length: int,
        most_tokens: int,
        columns: Mapping[str, Mapping[str, Any]] | None = None,
        on_bad_rows: OnBadRows = "error",
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        if on_bad_rows not in get_args(OnBadRows):
            raise ValueError(f"on_bad_rows {on_bad_rows!r} is unknown; {nearest(on_bad_rows, [*get_args(OnBadRows)])}")
        self._tasks, self._tokenizer, self._on_bad_rows = tasks, tokenizer, on_bad_rows
        self._max_length, self._most_tokens, self._sizes = max_length, most_tokens, sizes
        self._columns = _checked_columns(columns or {}, tasks)

    def prepare(self, argument: str, datasets: Any) -> tuple[MultiTaskDataset, dict[str, SplitReport]]:
        """The tokenized rows, and by task what became of those that were given.

        Args:
            argument: The caller's name for them: of `train_dataset` every row needs a label, and any may be streamed;
                of `eval_dataset` a label column that `columns` names must be there.
            datasets: A dataset per task, by name: tokenized rows, or rows with texts.

        Raises:
            ValueError: No mapping of tasks to datasets, or a dataset that cannot be used.
        """
        if not isinstance(datasets, Mapping) or not datasets:
            raise ValueError(
                f"{argument} must be a dictionary with a dataset for each task, not {type(datasets).__name__}."
            )
        for name in datasets:
            if name not in self._tasks:
                raise ValueError(f"{argument}: task {name!r} is unknown; {nearest(name, list(self._tasks))}")
        absent = [name for name in self._tasks if name not in datasets]
        if absent and argument == "train_dataset":
            logger.warning("%s has no rows for: %s.", argument, ", ".join(absent))
        rows: dict[str, Any] = {}
        reports: dict[str, SplitReport] = {}
        for name in self._tasks:
            if name not in datasets:
                continue
            try:
                rows[name], reports[name] = self._prepare(argument, name, datasets[name])
            except ValueError as error:
                hint = f" Say by columns={{{name!r}: ...}} which they are." if _lacks_column(error) else ""
                raise ValueError(f"{error}{hint}") from error
        return MultiTaskDataset(rows), reports

    def _prepare(self, argument: str, name: str, dataset: Any) -> tuple[Any, SplitReport]:
        """The rows of one task, and their report."""
        place = f"task {name!r}: {argument}"
        if isinstance(dataset, pd.DataFrame):
            dataset = _from_pandas(place, dataset)
        if isinstance(dataset, StreamedRows | IterableDataset) and argument != "train_dataset":
            raise ValueError(f"{place} is a stream, and only train_dataset can have those.")
        if isinstance(dataset, StreamedRows):
            return dataset, dataset.report
        if not isinstance(dataset, Dataset | IterableDataset):
            raise ValueError(f"{place} must be a datasets.Dataset, not {type(dataset).__name__}.")
        # Values are read as they lie there, and not as tensors.
        dataset = dataset.with_format(None)
        task, keys = self._tasks[name], self._columns.get(name, {})
        source = GivenSource(**keys, dataset=dataset)
        is_tokenized = isinstance(dataset, Dataset) and "input_ids" in dataset.column_names
        if self._tokenizer is None and not is_tokenized:
            raise ValueError(f"{place} has texts; give their tokenizer as processing_class.")
        if isinstance(dataset, IterableDataset):
            reading: Any = (self._tokenizer, self._max_length, self._on_bad_rows)
            stream = load_stream(name, task, source, argument, *reading)
            return stream, stream.report
        needs_label = task.HAS_LABELS and (
            argument == "train_dataset" or (argument == "eval_dataset" and "label" in keys)
        )
        missing = source.missing_label(dataset.column_names or []) if task.HAS_LABELS else None
        if argument == "eval_dataset" and not needs_label and missing is not None:
            there = nearest(missing, dataset.column_names)
            logger.warning("%s has no column %r, and so no metrics; %s", place, missing, there)
        if is_tokenized:
            return self._prepare_tokenized(place, task, source, argument, needs_label)
        texts, report = load_split(name, task, source, argument, self._on_bad_rows, needs_label)
        tokens = tokenize(texts, task, self._tokenizer, self._max_length)  # type: ignore[arg-type]
        # The tokenizer may know words that the model does not; nothing of it is padding.
        known, unknown, _ = check_tokenized(tokens, task, None, self._most_tokens, sizes=self._sizes)
        unknown = [BadRow(tokens[bad.row - 1]["row"], bad.problem) for bad in unknown]
        refuse_or_tell(place, len(known), unknown, self._on_bad_rows)
        report.dropped += unknown
        report.also_in_train, report.truncated = None, pc.sum(known.with_format("arrow")["truncated"]).as_py()
        log_report(name, report, self._max_length)
        return known, report

    def _prepare_tokenized(
        self, place: str, task: TaskConfig, source: GivenSource, argument: str, needs_label: bool
    ) -> tuple[Dataset, SplitReport]:
        given: Dataset = source.dataset
        try:
            if len(given) == 0:
                raise ValueError(f"{argument} has no rows.")
            if needs_label and (missing := source.missing_label(given.column_names)) is not None:
                raise MissingColumnError(argument, missing, given.column_names)
            reading = (source.label, source.label_map)
            rows, bad, by_id = check_tokenized(
                given, task, self._tokenizer, self._most_tokens, *reading, sizes=self._sizes
            )
        except ValueError as error:
            raise ValueError(f"{place.removesuffix(argument)}{error}") from error
        refuse_or_tell(place, len(rows), bad, self._on_bad_rows)
        has_label = task.HAS_LABELS and "label" in rows.column_names
        counts = {"labels_by_name": has_label * (len(rows) - by_id), "labels_by_id": by_id}
        return rows, SplitReport(argument, len(given), bad, also_in_train=None, **counts)


def _from_pandas(place: str, table: pd.DataFrame) -> Dataset:
    try:
        return Dataset.from_pandas(table, preserve_index=False)
    # Arrow's columns are of one kind each.
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(f"{place} cannot be read as a table: {'; '.join(map(str, error.args))}") from error


def _lacks_column(error: ValueError) -> bool:
    return isinstance(error.__cause__, MissingColumnError)


def _checked_columns(columns: Any, tasks: Mapping[str, TaskConfig]) -> dict[str, dict[str, Any]]:
    """The keys by task, each as its source takes it."""
    if not isinstance(columns, Mapping):
        raise ValueError(f"columns must be a dictionary with keys such as text and label by task, not {columns!r}.")
    checked: dict[str, dict[str, Any]] = {}
    for name, keys in columns.items():
        if name not in tasks:
            raise ValueError(f"columns: task {name!r} is unknown; {nearest(name, list(tasks))}")
        try:
            if not isinstance(keys, Mapping):
                raise ValueError(f"must be a dictionary with keys such as text and label, not {keys!r}.")
            refuse_unknown_keys(keys, _KEYS)
            checked[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
            check_columns(tasks[name], GivenSource(**checked[name]))
        except ValueError as error:
            raise ValueError(f"columns: task {name!r}: {error}") from error
    return checked
