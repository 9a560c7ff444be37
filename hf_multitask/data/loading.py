"""From a task's source to checked rows: every row is looked at before training begins."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value

from hf_multitask.data.sources import Source
from hf_multitask.model.configuration_mtbert import TaskConfig, nearest

logger = logging.getLogger(__name__)

OnBadRows = Literal["error", "drop"]
_SHOWN = 5


@dataclass
class BadRow:
    """A row that cannot be used. `row` counts from 1 in the file's order; a header is not counted."""

    row: int
    problem: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.problem}"


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
    """

    source: str
    rows: int | None
    dropped: list[BadRow] = field(default_factory=list)
    also_in_train: int | None = 0
    truncated: int = 0
    more_dropped: int = 0

    @property
    def all_dropped(self) -> int:
        """How many rows could not be used."""
        return len(self.dropped) + self.more_dropped

    @property
    def place(self) -> str:
        """The source for others to read: the folder that a local file lies in is nobody's business."""
        return Path(self.source).name if Path(self.source).is_file() else self.source


def text_columns(task: TaskConfig) -> list[str]:
    """The standard names of a task's text columns, as GLUE has them."""
    return ["sentence1", "sentence2"] if task.is_pair else ["sentence"]


def load_split(
    name: str, task: TaskConfig, source: Source, split: str, on_bad_rows: OnBadRows = "error"
) -> tuple[Dataset, SplitReport]:
    """Loads one split of one task, under standard column names, every row checked.

    Args:
        name: The task's name, for messages.
        task: Says how many texts a row has and what labels are allowed.
        source: Where the rows are.
        split: `train`, `validation` or `test`.
        on_bad_rows: `error` refuses the data; `drop` leaves bad rows out, reports them and logs them.

    Returns:
        Rows with `sentence` (or `sentence1` and `sentence2`), `label` (int64 class id, or float64 score) and `row`
        (the number of the row in its source, from 1); and the report.

    Raises:
        ValueError: A column that is missing, or bad rows; the message names task, source, row, column and value.
    """
    try:
        where = source.describe(split)
        raw = source.load(split)
        columns = standard_columns(task, source, where, raw.column_names)
        if raw.num_rows == 0:
            raise ValueError(f"{where} has no rows.")
        rows, bad = check_rows(raw, task, columns, source.label_map)
    except ValueError as error:
        raise ValueError(f"task {name!r}: {error}") from error
    if bad:
        message = f"task {name!r}: {where} has {_listed(bad)}"
        if on_bad_rows == "error" or rows.num_rows == 0:
            hint = " Mend them, or set on_bad_rows: drop." if rows.num_rows else " No row is left."
            raise ValueError(message + hint)
        logger.warning("%s Dropped; %d rows are left.", message, rows.num_rows)
    return rows, SplitReport(where, raw.num_rows, bad)


def standard_columns(task: TaskConfig, source: Source, where: str, there: list[str]) -> dict[str, str]:
    """From the standard name of each column that a task needs to the source's name for it.

    Args:
        task, source: The task and its source.
        where: The place, for messages.
        there: The source's columns.

    Raises:
        ValueError: A column that is not there, or another number of texts than the task has.
    """
    columns = dict(zip(text_columns(task), _matching_text_columns(task, source.text), strict=True))
    columns["label"] = source.label
    for column in columns.values():
        if column not in there:
            raise ValueError(f"{where} has no column {column!r}; {nearest(column, there)}")
    return columns


def check_rows(
    raw: Dataset, task: TaskConfig, columns: Mapping[str, str], label_map: Mapping[Any, Any] | None = None
) -> tuple[Dataset, list[BadRow]]:
    """Gives rows their standard columns and sorts out those that cannot be used.

    Args:
        raw: Rows with any columns.
        task: The task that the rows are for.
        columns: From standard column name to the name in `raw`; without `label`, rows are taken to have none.
        label_map: From raw values to labels, applied first.

    Returns:
        The good rows, as [`load_split`] gives them, and the bad ones. A text must be there and not be blank; a
        label must be there and be one of the task's label names or ids, or a finite score within its range.
    """
    features = {name: Value("string") for name in columns if name != "label"}
    if "label" in columns:
        features["label"] = Value("float64" if task.is_regression else "int64")
    checked = raw.map(
        row_checker(raw.features, task, columns, label_map),
        batched=True,
        with_indices=True,
        remove_columns=raw.column_names,
        features=Features(features | {"row": Value("int64"), "problem": Value("string")}),
        desc="Checking rows",
    )
    is_bad = pc.not_equal(checked.data.column("problem"), "")
    bad = checked.select(_positions(is_bad)) if pc.any(is_bad).as_py() else []
    bad_rows = [BadRow(row["row"], row["problem"]) for row in bad]
    if bad_rows:
        checked = checked.select(_positions(pc.invert(is_bad)))
    return checked.remove_columns("problem"), bad_rows


def row_checker(
    features: Features | None, task: TaskConfig, columns: Mapping[str, str], label_map: Mapping[Any, Any] | None = None
) -> Callable[..., dict[str, list[Any]]]:
    """What [`check_rows`] maps a dataset of these features by: from a batch, and its rows' indices, to standard columns
    with `row` and `problem`, which is empty where there is none."""
    return partial(
        _check_batch,
        columns=dict(columns),
        task=task,
        label_map={str(key): value for key, value in (label_map or {}).items()},
        names=_class_names(features or {}, task, columns.get("label")),
    )


def count_overlap(train: Dataset, other: Dataset, task: TaskConfig) -> int:
    """How many rows of `other` have texts that stand in `train` too (labels are not compared)."""
    seen = set(_texts(train, task))
    return sum(texts in seen for texts in _texts(other, task))


def _texts(rows: Dataset, task: TaskConfig) -> Iterable[tuple[str, ...]]:
    columns = [rows[column] for column in text_columns(task)]
    return zip(*([text.strip() for text in column] for column in columns), strict=True)


def _matching_text_columns(task: TaskConfig, given: list[str]) -> list[str]:
    wanted = text_columns(task)
    if given and len(given) != len(wanted):
        raise ValueError(f"text must name {len(wanted)} column(s) for {task.type}, not {given}.")
    return given or wanted


def _class_names(features: Mapping[str, Any], task: TaskConfig, column: str | None) -> list[str] | None:
    """The dataset's own names of its class ids, if they are the task's names, in whichever order."""
    feature = features.get(column or "")
    if isinstance(feature, ClassLabel) and task.labels and set(feature.names) <= set(task.labels):
        return list(feature.names)
    return None


def _check_batch(
    batch: dict[str, list[Any]],
    indices: list[int],
    *,
    columns: dict[str, str],
    task: TaskConfig,
    label_map: dict[str, Any],
    names: list[str] | None,
) -> dict[str, list[Any]]:
    problems = [""] * len(indices)
    output: dict[str, list[Any]] = {"row": [index + 1 for index in indices], "problem": problems}
    for standard, column in columns.items():
        values, output[standard] = batch[column], []
        for i, value in enumerate(values):
            try:
                usable = _label(value, task, label_map, names) if standard == "label" else _text(value)
            except ValueError as error:
                usable = None
                problems[i] = problems[i] or f"column {column!r} {error}"
            output[standard].append(usable)
    return output


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("is missing.")
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, not text.")
    if not value.strip():
        raise ValueError(f"is {'blank' if value else 'empty'}.")
    return value


def _label(value: Any, task: TaskConfig, label_map: dict[str, Any], names: list[str] | None) -> int | float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("is empty." if value is not None else "is missing.")
    if label_map:
        if str(value) not in label_map:
            raise ValueError(f"is {value!r}, which label_map does not have; {nearest(str(value), list(label_map))}")
        value = label_map[str(value)]
    elif names is not None and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    return _score(value, task) if task.is_regression else _class_id(value, task)


def _score(value: Any, task: TaskConfig) -> float:
    low, high = task.score_range
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not low <= score <= high:
        raise ValueError(f"is {value!r}, not a score from {low:g} to {high:g}.")
    return score


def _class_id(value: Any, task: TaskConfig) -> int:
    """A label's id, from its name or from the id itself (also written as text or as 1.0); names come first."""
    name = str(value).strip()
    if name in task.labels:
        return task.labels.index(name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number.is_integer() and 0 <= number < len(task.labels):
        return int(number)
    raise ValueError(f"is {value!r}, not one of the labels {task.labels} or their ids 0 to {len(task.labels) - 1}.")


def _positions(mask: Any) -> list[int]:
    return pc.indices_nonzero(mask).to_pylist()


def _listed(bad: list[BadRow]) -> str:
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{len(bad)} bad row(s): {' '.join(map(str, bad[:_SHOWN]))}{more}"
