"""Where a task's rows come from: local files or a dataset on the Hub, as a recipe's YAML says it."""

import codecs
import csv
import glob
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from hf_multitask.data.conll import read_conll
from hf_multitask.data.squad import is_squad, read_squad
from hf_multitask.model.messages import first_line, nearest, refuse_unknown_keys
from hf_multitask_cli.arguments import SPLITS, OnBadRows
from hf_multitask_cli.recipe_yaml import as_boolean

logger = logging.getLogger(__name__)

# Of a file that is streamed since it is large.
_PEEKED_LINES = 1000
# In JSON: a backslash, a character in two halves, or one half of it.
_ESCAPED = re.compile(rb"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)")
_QUOTING = {None: csv.QUOTE_MINIMAL, "standard": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}
_DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars"}
# A text of two lines often has one; then only a whole line that looks like a row is taken for one.
_IN_PROSE = ",; "
_KINDS: dict[Any, str] = {str: "text", str | None: "text", bool: "true or false"}
_READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".conll": "conll"}


@dataclass
class Source(ABC):
    """What local files and Hub datasets have in common: columns, and the place of each split.

    Args:
        text: The column with the text, or two columns for a pair.
        label: The column with the label; of a kind with several labels in a row it may be a list of columns, one for
            each label, which say by 0 or 1 whether the row has it.
        label_map: From values in the label column to label names, class ids or scores, where they differ.
        train, validation, test: The file, or the Hub dataset's split, for each of our splits.
        streaming: Whether rows of `train` are read while training and never all held, for data that do not fit on the
            disk or into memory; see [`StreamedRows`].
        rows: How many rows a streamed `train` has, if that is known; some schedules want it.
        shuffle_buffer: Rows of a streamed `train` of which the next one is drawn; 1 keeps the source's order.
    """

    text: list[str] = field(default_factory=list)
    label: str | list[str] = "label"
    label_map: dict[Any, Any] = field(default_factory=dict)
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    streaming: bool = False
    rows: int | None = None
    shuffle_buffer: int = 10_000

    def __post_init__(self) -> None:
        for key, value in (("rows", self.rows), ("shuffle_buffer", self.shuffle_buffer)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{key} must be a number from 1 on, not {value!r}.")
        self.text = [self.text] if isinstance(self.text, str) else self.text or []
        if not isinstance(self.text, list) or not all(isinstance(column, str) for column in self.text):
            raise ValueError(f"text must be the name of a column, or a list of names, not {self.text!r}.")
        _check_names("label", self.label)
        self.streaming = as_boolean(self.streaming)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type in _KINDS and not isinstance(value, entry.type):  # type: ignore[arg-type]
                raise ValueError(f"{entry.name} must be {_KINDS[entry.type]}, not {value!r}.")
        if not isinstance(self.label_map, Mapping):
            raise ValueError(f"label_map must map values of the label column to labels, not be {self.label_map!r}.")

    @property
    def label_columns(self) -> list[str]:
        """The column with the label, or those with the labels."""
        return [self.label] if isinstance(self.label, str) else self.label

    def missing_label(self, there: Sequence[str]) -> str | None:
        """The first of those columns that is not among some."""
        return next((column for column in self.label_columns if column not in there), None)

    @classmethod
    def from_dict(cls, values: Any) -> "Source":
        """Reads a source's section of a recipe; unknown keys are refused."""
        if not isinstance(values, dict):
            raise ValueError(f"must be a mapping, not {values!r}.")
        known = [field.name for field in fields(cls)]
        refuse_unknown_keys(values, known)
        return cls(**values)

    def split(self, name: str) -> str:
        """The file or Hub split that holds a split of ours.

        Raises:
            ValueError: The source has no such split.
        """
        place = getattr(self, name)
        if place is None:
            there = [split for split in SPLITS if getattr(self, split) is not None]
            raise ValueError(f"there is no {name} split; this source has: {', '.join(there) or 'none'}.")
        return place

    @abstractmethod
    def describe(self, split: str) -> str:
        """The place of a split, for messages."""

    @abstractmethod
    def load(self, split: str, on_bad_rows: OnBadRows = "error") -> Dataset:
        """The raw rows of a split, with all their columns.

        Raises:
            ValueError: They cannot be read, or seem to be read wrongly and `on_bad_rows` is `error`.
        """

    @abstractmethod
    def stream(self, split: str, on_bad_rows: OnBadRows = "error") -> IterableDataset:
        """The same rows, read one by one; what [`load`] refuses, reading refuses when it comes there."""


@dataclass
class FileSource(Source):
    """Local csv, tsv, json (lines, an array, or SQuAD's), jsonl, parquet or conll files.

    Args:
        delimiter: Of csv files, one character, or `tab`; by default a comma, and a tab for `.tsv`.
        quoting: Of csv and tsv files: `standard` where a cell in quotes may hold delimiters and line breaks, `none`
            where quotes are characters like any other, as in GLUE's files. By default as `standard`, but a cell
            whose lines look like rows of their own is a bad row.
        columns: The names of the columns, in order: of csv and tsv files without a header, whose first line is then a
            row; and of conll files, of which `text` and `label` name two, by default `tokens` for the first and `label`
            for the last.
        data_dir: The folder that relative paths start from.
    """

    delimiter: str | None = None
    quoting: str | None = None
    columns: list[str] = field(default_factory=list)
    data_dir: str = "."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quoting not in _QUOTING:
            known = [quoting for quoting in _QUOTING if quoting]
            raise ValueError(f"quoting {self.quoting!r} is unknown; {nearest(str(self.quoting), known)}")
        # A mistake in it is said with the recipe's other keys, before a file is read.
        _one_character(self.delimiter)
        self.columns = [self.columns] if isinstance(self.columns, str) else self.columns or []
        _check_names("columns", self.columns or ["text"])

    def describe(self, split: str) -> str:
        return str(Path(self.data_dir).expanduser() / Path(self.split(split)).expanduser())

    def load(self, split: str, on_bad_rows: OnBadRows = "error") -> Dataset:
        return self._read(split, on_bad_rows)

    def stream(self, split: str, on_bad_rows: OnBadRows = "error") -> IterableDataset:
        return self._read(split, on_bad_rows, streaming=True)

    def _read(self, split: str, on_bad_rows: OnBadRows, streaming: bool = False) -> Any:
        return read_file(self.describe(split), self.delimiter, streaming, self.quoting, on_bad_rows, self.columns)


@dataclass
class HubSource(Source):
    """A dataset on the Hub, or anything else that `datasets.load_dataset` reads by name.

    Args:
        path: The dataset's id, such as `nyu-mll/glue`.
        name: The dataset's configuration, such as `qqp`.
        revision: A branch, tag or commit.
    """

    train: str | None = "train"
    validation: str | None = "validation"
    path: str | None = None
    name: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path is missing: the dataset's id on the Hub.")

    def describe(self, split: str) -> str:
        return f"{self.path}{f'/{self.name}' if self.name else ''} ({self.split(split)})"

    def load(self, split: str, on_bad_rows: OnBadRows = "error") -> Dataset:
        # What does not fit on the disk must not be downloaded for the sake of a smaller split.
        if not self.streaming:
            return self._read(split)
        stream = self.stream(split)
        return Dataset.from_list(list(stream), features=stream.features)

    def stream(self, split: str, on_bad_rows: OnBadRows = "error") -> IterableDataset:
        return self._read(split, streaming=True)

    def _read(self, split: str, **options: Any) -> Any:
        path = str(Path(str(self.path)).expanduser()) if str(self.path).startswith("~") else str(self.path)
        # Of a folder on this machine, the whole path is the pattern by which its files are found.
        whole = str(Path(path).absolute())
        if Path(path).is_dir() and (glob.escape(whole) != whole or "::" in whole):
            raise ValueError(
                f"{self.describe(split)} cannot be loaded: datasets takes a path with [, *, ? or '::' for a pattern, "
                f"which may find other files; rename that part of {whole}, or name the files by files."
            )
        try:
            return load_dataset(path, self.name, split=self.split(split), revision=self.revision, **options)
        except (OSError, ValueError, DatasetGenerationError) as error:
            raise ValueError(f"{self.describe(split)} cannot be loaded: {first_line(error)}") from error


def read_file(
    path: str,
    delimiter: str | None = None,
    streaming: bool = False,
    quoting: str | None = None,
    on_bad_rows: OnBadRows = "error",
    columns: Sequence[str] = (),
) -> Any:
    """Reads a table with all its columns; those of csv and tsv files come as text, so that nothing is guessed.

    Args:
        path: The file.
        delimiter, quoting, columns: As for [`FileSource`].
        streaming: Whether to give an [`IterableDataset`] that reads row by row, in place of a [`Dataset`].
        on_bad_rows: Whether a text that swallowed the rows after it is refused, or warned of (`drop`).

    Raises:
        ValueError: The file is not there, not a file, empty, of a kind that is not read, or cannot be parsed.
    """
    delimiter = _one_character(delimiter)
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{path} is {'a folder, not a file' if file.is_dir() else 'not there'}.")
    if "::" in str(file.absolute()):
        raise ValueError(f"{path} cannot be read: '::' in a path chains file systems for datasets; rename that part.")
    if file.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is of no kind that can be read; known: {', '.join(_READERS)}.")
    if columns and reader not in ("csv", "conll"):
        raise ValueError(f"{path} has names of its own: columns is for conll, csv and tsv files without a header.")
    try:
        options: dict[str, Any] = {}
        if reader == "csv":
            options = _csv_options(file, delimiter, quoting, columns)
        elif reader == "json":
            _check_json(file, _PEEKED_LINES if streaming else None)
            if is_squad(file):
                return read_squad(file, streaming)
        elif reader == "conll":
            return read_conll(file, columns, streaming)
        # A name is a name, and not a pattern that other files may match.
        name = glob.escape(str(file))
        rows = load_dataset(reader, data_files=name, split="train", streaming=streaming, **options)
    except (OSError, ValueError, DatasetGenerationError) as error:
        if "corresponds to no data" in str(error):
            raise ValueError(f"{path} has no rows.") from error
        raise ValueError(f"{path} cannot be read as {reader}: {first_line(error.__cause__ or error)}") from error
    # Who names the quoting has looked.
    if reader != "csv" or quoting is not None:
        return rows
    look = partial(_check_swallowed_rows, path=path, delimiter=_delimiter(file, delimiter), on_bad_rows=on_bad_rows)
    if streaming:
        return rows.map(partial(_look_at_batch, look), batched=True, with_indices=True, features=rows.features)
    look(rows.data.table, 0)
    return rows


def _one_character(delimiter: str | None) -> str | None:
    """A delimiter, of which a tab may be written as it can be typed.

    Raises:
        ValueError: It is longer, and pandas would take it for a pattern; or it cannot separate cells.
    """
    delimiter = "\t" if delimiter in ("tab", "\\t") else delimiter
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(f"delimiter must be one character such as ';', or tab, not {delimiter!r}.")
    return delimiter


def _delimiter(file: Path, given: str | None) -> str:
    return given or ("\t" if file.suffix.lower() == ".tsv" else ",")


def _check_names(key: str, names: Any) -> None:
    """Refuses what is neither the name of a column nor a list of different names."""
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        one = "the name of a column, or " if key == "label" else ""
        raise ValueError(f"{key} must be {one}a list of names of columns, not {names!r}.")
    if twice := [name for name in listed if listed.count(name) > 1]:
        raise ValueError(f"{key} names column {twice[0]!r} twice.")


def _csv_options(file: Path, delimiter: str | None, quoting: str | None, names: Sequence[str]) -> dict[str, Any]:
    if delimiter is None and not names:
        _check_delimiter(file)
    options: dict[str, Any] = {
        "sep": _delimiter(file, delimiter),
        "encoding": "utf-8-sig",
        "quoting": _QUOTING[quoting],
        # "NA", "null" and "None" are words that sentences may consist of.
        "keep_default_na": False,
        "na_filter": False,
    }
    # Read as a row, the header tells how long rows may be: pandas would take longer ones to begin with an index.
    header = pd.read_csv(file, nrows=2, header=None, **options).iloc[0].tolist()
    if names:
        if len(names) != len(header):
            raise ValueError(f"columns names {len(names)} column(s), and its first row has {len(header)}.")
        return options | {"names": list(names), "features": Features({name: Value("string") for name in names})}
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise ValueError(f"the header has {twice[0]!r} twice.")
    columns = pd.read_csv(file, nrows=0, **options).columns
    return options | {"features": Features({column: Value("string") for column in columns})}


def _check_delimiter(file: Path) -> None:
    """A header that is one cell by the usual delimiter and several by another one."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = lines.readline()
    cells = {delimiter: len(next(csv.reader([header], delimiter=delimiter), [])) for delimiter in _DELIMITERS}
    usual, found = _delimiter(file, None), max(cells, key=lambda delimiter: cells[delimiter])
    if cells[usual] == 1 and cells[found] > 1:
        raise ValueError(
            f"its header is separated by {_DELIMITERS[found]}, not {_DELIMITERS[usual]}: set delimiter to "
            f"{_typed(found)}, or to {_typed(usual)} if it is one column."
        )


def _typed(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else repr(delimiter)


def _check_json(file: Path, lines_to_check: int | None) -> None:
    """Refuses what readers of JSON do not: pyarrow's, of lines, crashes the process at a block that begins with null;
    that of an array, or of lists, leaves out half a character."""
    with file.open("rb") as lines:
        is_array = re.match(rb"(?:\xef\xbb\xbf)?\s*\[", lines.read(1024))
        lines.seek(0)
        for number, line in enumerate(islice(lines, lines_to_check), 1):
            if not is_array and line.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"null"):
                raise ValueError(f"line {number} is null, not an object.")
            if half := next((found[1] for found in _ESCAPED.finditer(line) if found[1]), None):
                raise ValueError(f"line {number} has {half.decode()}, one half of a character.")


def _look_at_batch(
    look: Callable[[pa.Table, int], None], batch: dict[str, list[Any]], indices: list[int]
) -> dict[str, list[Any]]:
    look(pa.table(batch), indices[0])
    return batch


def _check_swallowed_rows(rows: pa.Table, start: int, path: str, delimiter: str, on_bad_rows: OnBadRows) -> None:
    """A quote that is not closed where it should be makes the rows up to the next quote one text.

    Args:
        rows: A file's, all as text.
        start: How many rows of the file stand before these.
        path, delimiter: The file and what separates its cells.
        on_bad_rows: `error` refuses such a text, `drop` warns of it.
    """
    cells = len(rows.column_names) - 1
    cell, end = rf"[^\n{re.escape(delimiter)}]*", re.escape(delimiter)
    line = rf"(?:{cell}{end}){{{cells}}}{cell}\n"
    for place, column in enumerate(rows.column_names if cells else ()):
        swallowed = rf"(?:^|\n){line}"
        if delimiter not in _IN_PROSE:
            # The rest of one row, rows, and the beginning of another: two rows that follow each other have no line.
            swallowed += rf"|^(?:{cell}{end}){{{cells - place}}}{cell}\n(?:{line})*(?:{cell}{end}){{{place}}}{cell}$"
        found = pc.indices_nonzero(pc.match_substring_regex(rows.column(column), swallowed))
        if len(found):
            row = start + found[0].as_py() + 1
            message = (
                f"{path}: in {len(found)} row(s), the first of them row {row}, column {column!r} "
                "spans lines that look like rows of their own: set quoting: none if quotes are plain characters in "
                "this file, or quoting: standard if such texts are meant."
            )
            if on_bad_rows == "error":
                raise ValueError(message)
            logger.warning("%s", message)
