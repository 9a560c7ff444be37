"""From a task's source to checked rows: every row is looked at before training begins."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from hf_multitask.arguments import OnBadRows
from hf_multitask.data.sources import Source
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.labels import read_flag
from hf_multitask.model.messages import check_characters, nearest
from hf_multitask.model.task_config import LabelReader
from hf_multitask.model.words import Words

logger = logging.getLogger(__name__)

# Of a label, in a sentence that begins with the column's name.
IS_ID_AMONG_NAMES = "is a class id, where other rows have the labels' names."
_SHOWN = 5
# From standard column name to the source's name for it, or of labels that have a column each, to their names.
Columns = Mapping[str, str | list[str]]


@dataclass
class BadRow:
    """A row that cannot be used. `row` counts from 1 in the file's order; a header is not counted."""

    row: int
    problem: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.problem}"


class MissingColumnError(ValueError):
    """Rows do not have a column that is read."""

    def __init__(self, where: str, column: str, there: list[str]) -> None:
        super().__init__(f"{where} has no column {column!r}; {nearest(column, there)}")


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


def text_columns(task: TaskConfig) -> list[str]:
    """The standard names of a task's text columns, as GLUE has them, and CoNLL's where texts are lists of words."""
    if task.READS_WORDS:
        return ["tokens"]
    return ["sentence1", "sentence2"] if task.texts == 2 else ["sentence"]


def label_feature(task: TaskConfig) -> Any:
    """How a task's labels are stored: as a class id under the labels' names or as a number, or as a list of them."""
    feature: Any = ClassLabel(names=task.label_names) if task.label_names else Value("float64")
    return List(feature) if task.LABEL_IS_LIST else feature


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
        Rows with `sentence` (or `sentence1` and `sentence2`, or `tokens`, a list of words), `label` (class id, a
        `ClassLabel` of the task's names, or float64 score, or a list of such) and `row` (the number of the row in its
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


def standard_columns(
    task: TaskConfig, source: Source, where: str, there: list[str], needs_label: bool = True
) -> dict[str, str | list[str]]:
    """From the standard name of each column that a task needs to the source's name for it.

    Args:
        task, source: The task and its source.
        where: The place, for messages.
        there: The source's columns.
        needs_label: Whether the label's column must be there.

    Raises:
        ValueError: A column that is not there, another number of texts than the task has, or several columns of a
            label that is one.
    """
    check_columns(task, source)
    columns: dict[str, str | list[str]] = {}
    columns |= zip(text_columns(task), matching_text_columns(task, source.text), strict=True)
    if needs_label or not {*source.label_columns}.isdisjoint(there):
        columns["label"] = source.label
    for column in columns.values():
        for name in [column] if isinstance(column, str) else column:
            if name not in there:
                raise MissingColumnError(where, name, there)
    return columns


def check_columns(task: TaskConfig, source: Source) -> None:
    """Refuses columns that a source names and that cannot be a task's.

    Raises:
        ValueError: As for [`standard_columns`], before the source is read.
    """
    matching_text_columns(task, source.text)
    if not isinstance(source.label, str) and not task.TAKES_COLUMNS:
        raise ValueError(f"label must name one column, as a row of {task.type} has one label, not {source.label}.")


def check_rows(
    raw: Dataset, task: TaskConfig, columns: Columns, label_map: Mapping[Any, Any] | None = None
) -> tuple[Dataset, list[BadRow], int]:
    """Gives rows their standard columns and sorts out those that cannot be used.

    Args:
        raw: Rows with any columns.
        task: The task that the rows are for.
        columns: From standard column name to the name in `raw`; without `label`, rows are taken to have none.
        label_map: From raw values to labels, applied first.

    Returns:
        The good rows, as [`load_split`] gives them, the bad ones, and how many labels were read as class ids. A text
        must be there and not be blank; what a label must be is said in `labels.py`. A column that has names of labels
        in some rows has no ids in others: those are bad.

    Raises:
        ValueError: The dataset's own classes, or the values of `label_map`, are not the task's labels.
    """
    text: Any = List(Value("string")) if task.READS_WORDS else Value("string")
    features = {name: text for name in columns if name != "label"}
    if "label" in columns:
        features["label"] = label_feature(task)
    checked = raw.map(
        row_checker(raw.features, task, columns, label_map),
        batched=True,
        with_indices=True,
        remove_columns=raw.column_names,
        features=Features(features | {"row": Value("int64"), "problem": Value("string"), "by_id": Value("bool")}),
        desc="Checking rows",
    )
    table = checked.data
    is_bad, is_id = pc.not_equal(table.column("problem"), ""), table.column("by_id")
    is_mixed = pc.any(is_id).as_py() and pc.any(pc.invert(pc.or_(is_id, is_bad))).as_py()
    if is_mixed:
        is_bad = pc.or_(is_bad, pc.fill_null(is_id, False))
    is_good = pc.invert(is_bad)
    bad_rows = []
    if pc.any(is_bad).as_py():
        mixed = f"column {columns.get('label')!r} {IS_ID_AMONG_NAMES}"
        bad_rows = [BadRow(row["row"], row["problem"] or mixed) for row in checked.select(_positions(is_bad))]
        checked = checked.select(_positions(is_good))
    by_id = pc.sum(pc.and_(is_id, is_good)).as_py() or 0
    return checked.remove_columns(["problem", "by_id"]), bad_rows, by_id


def row_checker(
    features: Features | None, task: TaskConfig, columns: Columns, label_map: Mapping[Any, Any] | None = None
) -> Callable[..., dict[str, list[Any]]]:
    """What [`check_rows`] maps a dataset of these features by: from a batch, and its rows' indices, to standard columns
    with `row`, `problem`, which is empty where there is none, and `by_id`, whether the label was read as a class id;
    None where a row has no label that could be.

    Raises:
        ValueError: As for [`check_rows`].
    """
    label = columns.get("label", "")
    if isinstance(label, str):
        feature = (features or {}).get(label)
        if task.LABEL_IS_LIST and isinstance(feature, List | LargeList):
            feature = feature.feature
        own_names = feature.names if isinstance(feature, ClassLabel) else None
    else:
        # A row then has the numbers of the columns that say that it has their label.
        own_names = label
    read_label = task.label_reader(label_map or {}, own_names)
    return partial(_check_batch, columns=dict(columns), read_label=read_label, reads_words=task.READS_WORDS)


def count_overlap(train: Dataset, other: Dataset, task: TaskConfig) -> int:
    """How many rows of `other` have texts that stand in `train` too (labels are not compared)."""
    seen = set(_texts(train, task))
    return sum(texts in seen for texts in _texts(other, task))


def _texts(rows: Dataset, task: TaskConfig) -> Iterable[tuple[str, ...]]:
    columns = [rows[column] for column in text_columns(task)]
    # Words are compared by the text that they make.
    return zip(*([_joined(text).strip() for text in column] for column in columns), strict=True)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def matching_text_columns(task: TaskConfig, given: list[str]) -> list[str]:
    """The columns that a source names for a task's texts; the standard ones where it names none.

    Raises:
        ValueError: It names another number, or one column twice.
    """
    wanted = text_columns(task)
    if given and len(given) != len(wanted):
        raise ValueError(f"text must name {len(wanted)} column(s), as a row has {task.texts} text(s), not {given}.")
    if len(set(given)) < len(given):
        raise ValueError(f"text names column {given[0]!r} twice: a pair has two columns.")
    return given or wanted


def _check_batch(
    batch: dict[str, list[Any]],
    indices: list[int],
    *,
    columns: Columns,
    read_label: LabelReader,
    reads_words: bool = False,
) -> dict[str, list[Any]]:
    problems: list[str] = [""] * len(indices)
    by_id: list[bool | None] = [False] * len(indices)
    output: dict[str, list[Any]] = {"row": [index + 1 for index in indices], "problem": problems, "by_id": by_id}
    for standard, column in columns.items():
        output[standard] = []
        for i in range(len(indices)):
            usable: Any = None
            try:
                if standard == "label":
                    # Rows that come tokenized have no words.
                    beside = [batch[str(columns["tokens"])][i]] if reads_words and "tokens" in columns else []
                    usable, by_id[i] = _in_column(column, read_label, _label_in(batch, column, i), *beside)
                else:
                    usable = _in_column(column, _words if reads_words else _text_of, batch[str(column)][i])
            except ValueError as error:
                problems[i] = problems[i] or str(error)
            output[standard].append(usable)
    return output


def _label_in(batch: Mapping[str, list[Any]], column: str | list[str], row: int) -> Any:
    """A row's raw label; of several columns, the numbers of those that say that the row has their label."""
    if isinstance(column, str):
        return batch[column][row]
    return [number for number, name in enumerate(column) if _in_column(name, read_flag, batch[name][row])]


def _in_column(column: str | list[str], read: Callable[..., Any], *values: Any) -> Any:
    """What is read of a value, and of others beside it; the error that it raises begins with the column."""
    try:
        return read(*values)
    except ValueError as error:
        raise ValueError(f"column {column!r} {error}") from error


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("is missing.")
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, not text.")
    if not value.strip():
        raise ValueError(f"is {'blank' if value else 'empty'}.")
    check_characters(value)
    return value


def _text_of(value: Any) -> str:
    """A text, or that of a list of words, which other tasks may read as words."""
    return " ".join(_words(value)) if isinstance(value, list) else _text(value)


def _words(value: Any) -> list[str]:
    """The words of a text, or of a list of them."""
    if isinstance(value, str):
        return Words.of_text(_text(value)).words
    if not isinstance(value, (list, tuple)):
        raise ValueError("is missing." if value is None else f"is {value!r:.100}, neither text nor a list of words.")
    if not value:
        raise ValueError("has no words.")
    for number, word in enumerate(value, 1):
        try:
            _text(word)
        except ValueError as error:
            raise ValueError(f"has a word {number} that {error}") from error
    return list(value)


def _positions(mask: Any) -> list[int]:
    return pc.indices_nonzero(mask).to_pylist()


def listed(bad: list[BadRow]) -> str:
    """How many rows are bad, and the first of them."""
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{len(bad)} bad row(s): {' '.join(map(str, bad[:_SHOWN]))}{more}"
