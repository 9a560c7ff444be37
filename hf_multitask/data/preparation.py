"""All tasks' data from their sources to tokens, with a report of what became of the rows."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.loading import OnBadRows, SplitReport, count_overlap, load_split
from hf_multitask.data.sources import Source
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.configuration_mtbert import TaskConfig

logger = logging.getLogger(__name__)


@dataclass
class PreparedData:
    """Tokenized rows and reports, each by split and then by task."""

    rows: dict[str, dict[str, Dataset]] = field(default_factory=dict)
    reports: dict[str, dict[str, SplitReport]] = field(default_factory=dict)


def prepare(
    tasks: Mapping[str, TaskConfig],
    sources: Mapping[str, Source],
    splits: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    on_bad_rows: OnBadRows = "error",
) -> PreparedData:
    """Loads, checks and tokenizes splits of all tasks.

    Args:
        tasks: The table of tasks.
        sources: Where each task's rows are.
        splits: Of `train`, `validation` and `test`. With `train` first, rows of the others that stand in it are
            counted, reported and logged.
        tokenizer, max_length: As for [`tokenize`].
        on_bad_rows: As for [`load_split`].

    Raises:
        ValueError: As for [`load_split`].
    """
    prepared = PreparedData()
    for name, task in tasks.items():
        train: Dataset | None = None
        for split in splits:
            rows, report = load_split(name, task, sources[name], split, on_bad_rows)
            if split == "train":
                train = rows
            elif train is not None:
                report.also_in_train = count_overlap(train, rows, task)
            tokens = tokenize(rows, task, tokenizer, max_length)
            report.truncated = pc.sum(tokens.data.column("truncated")).as_py()
            _log(name, report, max_length)
            prepared.rows.setdefault(split, {})[name] = tokens
            prepared.reports.setdefault(split, {})[name] = report
    return prepared


def _log(name: str, report: SplitReport, max_length: int) -> None:
    logger.info("task %r: %s: %d rows.", name, report.source, report.rows - len(report.dropped))
    if report.also_in_train:
        logger.warning("task %r: %d rows of %s stand in train too.", name, report.also_in_train, report.source)
    if report.truncated:
        logger.warning(
            "task %r: %d rows of %s are cut to %d tokens.", name, report.truncated, report.source, max_length
        )
