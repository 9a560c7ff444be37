"""All tasks' data from their sources to tokens, with a report of what became of the rows."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.loading import SplitReport, count_overlap, load_split, log_report
from hf_multitask.data.sources import Source
from hf_multitask.data.streaming import load_stream
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask_cli.arguments import OnBadRows

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
            log_report(name, report, max_length)
            prepared.rows.setdefault(split, {})[name] = tokens
            prepared.texts.setdefault(split, {})[name] = rows
            prepared.reports.setdefault(split, {})[name] = report
    return prepared
