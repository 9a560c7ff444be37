"""All tasks' data from their sources to tokens, with a report of what became of the rows."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.arguments import OnBadRows
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.loading import (
    SplitReport,
    check_rows,
    count_overlap,
    listed,
    load_split,
    text_columns,
)
from hf_multitask.data.sources import Source
from hf_multitask.data.streaming import StreamedRows, StreamError, column_names, load_stream
from hf_multitask.data.tokenization import tokenize
from hf_multitask.data.tokenized import check_tokenized
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import nearest

logger = logging.getLogger(__name__)


@dataclass
class PreparedData:
    """Tokenized rows, the same rows with their texts, and reports; each by split and then by task.

    A streamed `train` has its rows as [`StreamedRows`] and no texts.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, dict[str, Dataset]] = field(default_factory=dict)
    reports: dict[str, dict[str, SplitReport]] = field(default_factory=dict)


def prepare(
    tasks: Mapping[str, TaskConfig],
    sources: Mapping[str, Source],
    splits: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    on_bad_rows: OnBadRows = "error",
    max_eval_rows: int | None = None,
) -> PreparedData:
    """Loads, checks and tokenizes splits of all tasks.

    Args:
        tasks: The table of tasks.
        sources: Where each task's rows are.
        splits: Of `train`, `validation` and `test`. With `train` first, rows of the others that stand in it are
            counted, reported and logged.
        tokenizer, max_length: As for [`tokenize`].
        on_bad_rows: As for [`load_split`].
        max_eval_rows: Most rows of a split other than `train`, evenly over it and in its order; None: all.

    Raises:
        ValueError: As for [`load_split`].
    """
    prepared = PreparedData()
    for name, task in tasks.items():
        train: Dataset | None = None
        for split in splits:
            if split == "train" and sources[name].streaming:
                stream = load_stream(name, task, sources[name], split, tokenizer, max_length, on_bad_rows)
                logger.info("task %r: %s: streamed.", name, stream.report.source)
                prepared.rows.setdefault(split, {})[name] = stream
                prepared.reports.setdefault(split, {})[name] = stream.report
                continue
            rows, report = load_split(name, task, sources[name], split, on_bad_rows)
            if split != "train" and max_eval_rows is not None and rows.num_rows > max_eval_rows:
                report.not_evaluated = rows.num_rows - max_eval_rows
                rows = rows.select([i * rows.num_rows // max_eval_rows for i in range(max_eval_rows)])
            if split == "train":
                train = rows
            elif "train" in splits:
                report.also_in_train = None if train is None else count_overlap(train, rows, task)
            tokens = tokenize(rows, task, tokenizer, max_length)
            report.truncated = pc.sum(tokens.data.column("truncated")).as_py()
            _log(name, report, max_length)
            prepared.rows.setdefault(split, {})[name] = tokens
            prepared.texts.setdefault(split, {})[name] = rows
            prepared.reports.setdefault(split, {})[name] = report
    return prepared


def prepare_given(
    argument: str,
    datasets: Any,
    tasks: Mapping[str, TaskConfig],
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    most_tokens: int,
) -> MultiTaskDataset:
    """Checks, and tokenizes where that is not done, the datasets that a caller gives by task.

    Args:
        argument: The caller's name for them, for errors; as `train_dataset`, every row needs a label.
        datasets: A dataset per task, by name: tokenized rows, or rows under the standard column names.
        tasks: The table of tasks.
        tokenizer, max_length: As for [`tokenize`].
        most_tokens: Of a row that comes tokenized: the model has no positions for more.

    Raises:
        ValueError: No mapping of tasks to datasets, or a dataset that cannot be used.
    """
    if not isinstance(datasets, Mapping) or not datasets:
        raise ValueError(
            f"{argument} must be a dictionary with a dataset for each task, not {type(datasets).__name__}."
        )
    for name, dataset in datasets.items():
        if name not in tasks:
            raise ValueError(f"{argument}: task {name!r} is unknown; {nearest(name, list(tasks))}")
        if not isinstance(dataset, Dataset | StreamedRows | IterableDataset):
            raise ValueError(f"{argument}: task {name!r} must be a datasets.Dataset, not {type(dataset).__name__}.")
    absent = [name for name in tasks if name not in datasets]
    if absent and argument == "train_dataset":
        logger.warning("%s has no rows for: %s.", argument, ", ".join(absent))
    prepared = {}
    for name in tasks:
        if name in datasets:
            rows, is_train = datasets[name], argument == "train_dataset"
            try:
                if isinstance(rows, StreamedRows | IterableDataset):
                    prepared[name] = _prepare_stream(name, rows, tasks[name], tokenizer, max_length, is_train)
                else:
                    limits = (max_length, most_tokens)
                    prepared[name] = _prepare_rows(rows, tasks[name], tokenizer, *limits, needs_label=is_train)
            except StreamError as error:
                raise ValueError(f"{argument}: {error}") from error
            except ValueError as error:
                raise ValueError(f"{argument}: task {name!r} {error}") from error
    return MultiTaskDataset(prepared)


def _prepare_rows(
    rows: Dataset,
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    most_tokens: int,
    needs_label: bool,
) -> Dataset:
    if len(rows) == 0:
        raise ValueError("has no rows.")
    is_tokenized = "input_ids" in rows.column_names
    wanted = [] if is_tokenized else text_columns(task)
    for column in [*wanted, "label"] if needs_label else wanted:
        if column not in rows.column_names:
            raise ValueError(f"needs a column {column!r}; it has {rows.column_names}.")
    if is_tokenized:
        return check_tokenized(rows, task, tokenizer, most_tokens)
    columns = {name: name for name in [*wanted, "label"] if name in rows.column_names}
    rows, bad, _ = check_rows(rows, task, columns)
    if bad:
        raise ValueError(f"has {listed(bad)}")
    if tokenizer is None:
        raise ValueError("has texts; give their tokenizer as processing_class.")
    return tokenize(rows, task, tokenizer, max_length)


def _prepare_stream(
    name: str,
    rows: StreamedRows | IterableDataset,
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    is_train: bool,
) -> StreamedRows:
    if not is_train:
        raise ValueError("is a stream, and only train_dataset can have those.")
    if isinstance(rows, StreamedRows):
        return rows
    there = column_names(rows)
    columns = {column: column for column in [*text_columns(task), "label"]}
    for column in columns:
        if column not in there:
            raise ValueError(f"needs a column {column!r}; it has {there}.")
    if tokenizer is None:
        raise ValueError("has texts; give their tokenizer as processing_class.")
    return StreamedRows(name, task, rows, columns, "the stream", tokenizer, max_length)


def _log(name: str, report: SplitReport, max_length: int) -> None:
    usable = (report.rows or 0) - report.all_dropped
    chosen = f", of which {usable - report.not_evaluated} are evaluated" if report.not_evaluated else ""
    logger.info("task %r: %s: %d rows%s.", name, report.source, usable, chosen)
    if report.also_in_train:
        logger.warning("task %r: %d rows of %s stand in train too.", name, report.also_in_train, report.source)
    if report.truncated:
        logger.warning(
            "task %r: %d rows of %s are cut to %d tokens.", name, report.truncated, report.source, max_length
        )
