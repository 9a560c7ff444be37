"""From a task's source to checked rows: every row is looked at before training begins."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from hf_multitask.data.checking import BadRow, check_rows, standard_columns
from hf_multitask.data.sources import Source
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask_cli.arguments import OnBadRows

logger = logging.getLogger(__name__)

_SHOWN = 5


@dataclass
class SplitReport:
    """What became of the rows of one split of one task; of a streamed one, of those that were read so far.

    Args:
        source: The place.
        rows: How many there were; None where that is not known.
        dropped: Those that could not be used; of a streamed split, the first of them.
        also_in_train: How many stand in `train` too; None if `train` is streamed.
        truncated: How many were cut to the longest input; of a streamed split, of those that this process trained on in
            its first pass.
        more_dropped: How many more could not be used.
        not_evaluated: How many usable rows `max_eval_rows` left out.
        labels_by_name: Of how many usable rows the labels were read by name, number or score, or as `label_map` says.
        labels_by_id: Of how many they were read as class ids.
    """

    source: str
    rows: int | None
    dropped: list[BadRow] = field(default_factory=list)
    also_in_train: int | None = 0
    truncated: int = 0
    more_dropped: int = 0
    not_evaluated: int = 0
    labels_by_name: int = 0
    labels_by_id: int = 0

    @property
    def all_dropped(self) -> int:
        """How many rows could not be used."""
        return len(self.dropped) + self.more_dropped

    @property
    def place(self) -> str:
        """The source for others to read: the folder that a local file lies in is nobody's business."""
        return Path(self.source).name if Path(self.source).is_file() else self.source


def load_split(
    name: str,
    task: TaskConfig,
    source: Source,
    split: str,
    on_bad_rows: OnBadRows = "error",
    needs_label: bool = True,
) -> tuple[Dataset, SplitReport]:
    """Loads one split of one task, under standard column names, every row checked.

    Args:
        name: The task's name, for messages.
        task: Says how many texts a row has and what labels are allowed.
        source: Where the rows are.
        split: `train`, `validation` or `test`.
        on_bad_rows: `error` refuses the data; `drop` leaves bad rows out, reports them and logs them.
        needs_label: Whether rows without the label's column are refused, and not given without labels.

    Returns:
        Rows with the task's `text_columns` (a text each, or a list of words or texts), `label` (class id, a
        `ClassLabel` of the task's names, or a number, or a list of such) and `row` (the number of the row in its
        source, from 1); and the report.

    Raises:
        ValueError: A column that is missing, or bad rows; the message names task, source, row, column and value.
    """
    try:
        where = source.describe(split)
        raw = source.load(split, on_bad_rows)
        columns = standard_columns(task, source, where, raw.column_names, needs_label)
        if raw.num_rows == 0:
            raise ValueError(f"{where} has no rows.")
        rows, bad, by_id = check_rows(raw, task, columns, source.label_map)
    except ValueError as error:
        raise ValueError(f"task {name!r}: {error}") from error
    refuse_or_tell(f"task {name!r}: {where}", rows.num_rows, bad, on_bad_rows)
    counts = {"labels_by_name": ("label" in columns) * (rows.num_rows - by_id), "labels_by_id": by_id}
    return rows, SplitReport(where, raw.num_rows, bad, **counts)


def refuse_or_tell(place: str, left: int, bad: list[BadRow], on_bad_rows: OnBadRows) -> None:
    """Says which rows cannot be used, in an error or in the log.

    Args:
        place: The rows' place.
        left: How many can be used.
        bad: Those that cannot.
        on_bad_rows: As for [`load_split`].

    Raises:
        ValueError: There are bad rows, and either they are refused or no other is left.
    """
    if not bad:
        return
    message = f"{place} has {listed(bad)}"
    if on_bad_rows == "error" or left == 0:
        raise ValueError(message + (" Mend them, or set on_bad_rows: drop." if left else " No row is left."))
    logger.warning("%s Dropped; %d rows are left.", message, left)


def log_report(name: str, report: SplitReport, max_length: int) -> None:
    """Logs what became of a split's rows, beyond those that could not be used."""
    usable = (report.rows or 0) - report.all_dropped
    chosen = f", of which {usable - report.not_evaluated} are evaluated" if report.not_evaluated else ""
    logger.info("task %r: %s: %d rows%s.", name, report.source, usable, chosen)
    if report.also_in_train:
        logger.warning("task %r: %d rows of %s stand in train too.", name, report.also_in_train, report.source)
    if report.truncated:
        logger.warning(
            "task %r: %d rows of %s are cut to %d tokens.", name, report.truncated, report.source, max_length
        )


def count_overlap(train: Dataset, other: Dataset, task: TaskConfig) -> int:
    """How many rows of `other` have texts that stand in `train` too (labels and optional texts are not compared)."""
    names = [column for column in task.text_columns if column not in task.optional_columns]
    seen = set(_texts(train, names))
    return sum(texts in seen for texts in _texts(other, names))


def _texts(rows: Dataset, names: Iterable[str]) -> Iterable[tuple[str, ...]]:
    columns = [rows[column] for column in names]
    # Words are compared by the text that they make.
    return zip(*([_joined(text).strip() for text in column] for column in columns), strict=True)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def listed(bad: list[BadRow]) -> str:
    """How many rows are bad, and the first of them."""
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{len(bad)} bad row(s): {' '.join(map(str, bad[:_SHOWN]))}{more}"
