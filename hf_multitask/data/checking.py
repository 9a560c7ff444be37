"""The rows of any source under standard column names, each of them looked at: what can be used, and what is wrong."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from string import ascii_uppercase
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from hf_multitask.data.sources import Source
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.labels import read_flag
from hf_multitask.model.messages import check_characters, nearest
from hf_multitask.model.task_config import LabelReader
from hf_multitask.model.words import Words

logger = logging.getLogger(__name__)

# It is said of a label, in a sentence that begins with the column's name.
IS_ID_AMONG_NAMES = "is a class id, where other rows have the labels' names."
# From standard column name to the source's name for it, or to the names of several columns, where labels or texts have
# one each.
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


def label_feature(task: TaskConfig) -> Any:
    """How a task's labels are stored: as a class id under the labels' names or as a number, or as a list of them."""
    number = "float64" if task.label_dtype.is_floating_point else "int64"
    feature: Any = ClassLabel(names=task.label_names) if task.label_names else Value(number)
    return List(feature) if task.LABEL_IS_LIST else feature


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
    columns = matching_text_columns(task, source.text, there)
    if task.HAS_LABELS and (needs_label or not {*source.label_columns}.isdisjoint(there)):
        columns["label"] = source.label
    if not task.HAS_LABELS and source.label in there:
        logger.warning("%s has a column %r that is not read: rows of %s have no label.", where, source.label, task.type)
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
    if not task.HAS_LABELS and (source.label != "label" or source.label_map):
        key = "label_map" if source.label_map else "label"
        raise ValueError(f"{key} means nothing: rows of {task.type} have no label, only their text. Leave it out.")
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
    text: Any = Value("string")
    forms = task.text_columns
    features = {name: text if forms[name] == "text" else List(text) for name in columns if name != "label"}
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
    read_label = task.label_reader(label_map or {}, own_names) if "label" in columns else None
    readers = {name: partial(_checked_text, task, name, _READERS[form]) for name, form in task.text_columns.items()}
    return partial(
        _check_batch,
        columns=dict(columns),
        readers=readers,
        read_label=read_label,
        beside=[name for name in readers if task.LABEL_SEES_TEXTS],
    )


def matching_text_columns(
    task: TaskConfig, given: list[str], there: Sequence[str] | None = None
) -> dict[str, str | list[str]]:
    """From the standard name of each column with a task's texts to the names that a source has for it.

    Args:
        task: The task.
        given: The names, in the order of the standard ones; empty: those are the names. Where the last column has
            several texts in each row, these may have a column each.
        there: The columns that there are: of optional ones that are not named, those are read.

    Raises:
        ValueError: They are too few or too many, or one is there twice; or none is given, and what is there may be an
            optional one.
    """
    wanted, optional = list(task.text_columns), task.optional_columns
    if not given:
        left_out = set(optional).difference(optional if there is None else there)
        for column in left_out:
            _refuse_if_meant(column, [name for name in wanted if name not in left_out], there or ())
        return {column: column for column in wanted if column not in left_out}
    takes_more = task.text_columns[wanted[-1]] == "texts"
    least = len(wanted) - len(optional)
    if len(given) < least or (len(given) > len(wanted) and not takes_more):
        counts = f"{least}{' or more' * takes_more}"
        what = f"{task.texts} text(s)" if wanted[0].startswith("sentence") and not takes_more else ", ".join(wanted)
        raise ValueError(f"text must name {counts} column(s), as a row has {what}, not {given}.")
    if len(set(given)) < len(given):
        twice = next(name for name in given if given.count(name) > 1)
        why = "" if takes_more else ": a pair has two columns"
        raise ValueError(f"text names column {twice!r} twice{why}.")
    columns: dict[str, str | list[str]] = dict(zip(wanted, given, strict=False))
    if len(given) > len(wanted):
        columns[wanted[-1]] = given[len(wanted) - 1 :]
    return columns


def _refuse_if_meant(optional: str, read: Sequence[str], there: Sequence[str]) -> None:
    """Refuses columns that may be an optional one under another name: they would not be read, and nobody would know."""
    names = {name.lower(): name for name in there if name not in read}
    alike = set(get_close_matches(optional, names, n=len(names) + 1))
    if found := [name for lowered, name in names.items() if lowered in alike]:
        raise ValueError(
            f"text must say whether {', '.join(map(repr, found))} is read, as {optional}: "
            f"[{', '.join([*read, *found])}], or [{', '.join(read)}] if not."
        )


def _check_batch(
    batch: dict[str, list[Any]],
    indices: list[int],
    *,
    columns: Columns,
    readers: Mapping[str, Callable[[Any], Any]],
    read_label: LabelReader | None,
    beside: Sequence[str],
) -> dict[str, list[Any]]:
    problems: list[str] = [""] * len(indices)
    by_id: list[bool | None] = [False] * len(indices)
    output: dict[str, list[Any]] = {"row": [index + 1 for index in indices], "problem": problems, "by_id": by_id}
    for standard, column in columns.items():
        output[standard] = []
        for i in range(len(indices)):
            usable: Any = None
            try:
                if standard == "label" and read_label is not None:
                    # Rows that come tokenized have no texts.
                    texts = [_value_in(batch, columns[name], i) for name in beside if name in columns]
                    usable, by_id[i] = _in_column(column, read_label, _label_in(batch, column, i), *texts)
                else:
                    usable = _in_column(column, readers[standard], _value_in(batch, column, i))
            except ValueError as error:
                problems[i] = problems[i] or str(error)
            output[standard].append(usable)
    return output


def _value_in(batch: Mapping[str, list[Any]], column: str | list[str], row: int) -> Any:
    """A row's raw value; of several columns, the texts that they have, of which the last may be absent."""
    if isinstance(column, str):
        return _without_letters(_cell(batch, column, row))
    values = [_cell(batch, name, row) for name in column]
    while values and _is_absent(values[-1]):
        values.pop()
    return [_in_column(name, _text, value) for name, value in zip(column, values, strict=False)]


def _without_letters(value: Any) -> Any:
    """Of choices with their letters from A on, as CommonsenseQA has them, the choices alone."""
    if isinstance(value, Mapping) and value.keys() == {"label", "text"}:
        letters = list(ascii_uppercase[: len(value["text"] or ())])
        return value["text"] if value["label"] == letters else value
    return value


def _label_in(batch: Mapping[str, list[Any]], column: str | list[str], row: int) -> Any:
    """A row's raw label; of several columns, the numbers of those that say that the row has their label."""
    if isinstance(column, str):
        return _cell(batch, column, row)
    return [number for number, name in enumerate(column) if _in_column(name, read_flag, _cell(batch, name, row))]


def _cell(batch: Mapping[str, list[Any]], column: str, row: int) -> Any:
    """A row's value; None where no row of a batch has the column, as may be in a stream."""
    return batch[column][row] if column in batch else None


def _in_column(column: str | list[str], read: Callable[..., Any], *values: Any) -> Any:
    """What is read of a value, and of others beside it; the error that it raises begins with the column."""
    try:
        return read(*values)
    except ValueError as error:
        raise ValueError(f"column {column!r} {error}") from error


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_absent(value: Any) -> bool:
    """Whether a column of texts that need not be there has none: in a csv file, that is an empty cell."""
    return _is_missing(value) or value == ""


def _text(value: Any) -> str:
    if _is_missing(value):
        raise ValueError("is missing.")
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, not text.")
    if not value.strip():
        raise ValueError(f"is {'blank' if value else 'empty'}.")
    check_characters(value)
    return value


def _text_of(value: Any) -> str:
    """A text, or that of a list of words, which other tasks may read as words."""
    if not isinstance(value, list):
        return _text(value)
    words = _words(value)
    if texts := [word for word in words if len(word.split()) > 1]:
        raise ValueError(f"has several texts, such as {texts[0]!r:.100}, where a row has one, or a list of its words.")
    return " ".join(words)


def _words(value: Any) -> list[str]:
    """The words of a text, or of a list of them."""
    if isinstance(value, str):
        return Words.of_text(_text(value)).words
    if not isinstance(value, (list, tuple)):
        raise ValueError("is missing." if value is None else f"is {value!r:.100}, neither text nor a list of words.")
    if not value:
        raise ValueError("has no words.")
    return _each("word", value)


def _checked_text(task: TaskConfig, name: str, read: Callable[[Any], Any], value: Any) -> Any:
    """What a column of texts has in a row, if the task can read it too."""
    text = read(value)
    task.check_text(name, text)
    return text


def _texts_of(value: Any) -> list[str]:
    """Several texts, or one that comes alone; none where the column is empty."""
    if _is_absent(value):
        return []
    if isinstance(value, str) and not value.lstrip().startswith("["):
        # As of a triplet, whose one negative is a column.
        return [_text(value)]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"is {value!r:.100}, not a list of texts; texts may have a column each: name them all.")
    return _each("text", value)


def _each(what: str, values: Sequence[Any]) -> list[str]:
    for number, value in enumerate(values, 1):
        try:
            _text(value)
        except ValueError as error:
            raise ValueError(f"has a {what} {number} that {error}") from error
    return list(values)


_READERS: dict[str, Callable[[Any], Any]] = {"text": _text_of, "words": _words, "texts": _texts_of}


def _positions(mask: Any) -> list[int]:
    return pc.indices_nonzero(mask).to_pylist()
