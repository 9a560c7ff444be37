"""CoNLL's files: a word a line, with what is said of it in columns, and a blank line after each sentence."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, List, Value

# Between documents.
_DOCUMENT = "-DOCSTART-"


def read_conll(file: Path, columns: Sequence[str], streaming: bool = False) -> Any:
    """Reads sentences, each a row with a list of all words' cells for every column.

    Cells are separated by a tab, or in lines without one by blanks. A line of nothing but blanks or tabs ends a
    sentence, and so does one that begins with `-DOCSTART-`, which is left out.

    Args:
        file: The file, in UTF-8.
        columns: The columns' names; without them, `tokens` for the first and `label` for the last; others
            have their numbers.
        streaming: Whether to give an [`IterableDataset`] that reads sentence by sentence, in place of a [`Dataset`].

    Raises:
        ValueError: There is no sentence, or a line has another number of cells than there are columns.
    """
    first = next(_lines(file), None)
    if first is None:
        raise ValueError("it has no sentences.")
    count = len(first[1])
    names = list(columns) or ["tokens", *map(str, range(2, count)), "label"][:count]
    if len(names) != count:
        raise ValueError(f"line {first[0]} has {count} column(s), and columns names {len(names)}: {', '.join(names)}.")
    if len(set(names)) < count:
        raise ValueError(f"columns names {next(name for name in names if names.count(name) > 1)!r} twice.")
    features = Features({name: List(Value("string")) for name in names})
    if streaming:
        # A list would be dealt out to a loader's workers.
        return IterableDataset.from_generator(_sentences, features, {"file": file, "names": tuple(names)})
    rows = list(_sentences(file, names))
    return Dataset.from_dict({name: [row[name] for row in rows] for name in names}, features)


def _sentences(file: Path, names: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    rows: list[list[str]] = []
    for number, cells in chain(_lines(file, with_ends=True), [(0, [])]):
        if not cells and rows:
            yield {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
            rows = []
        elif cells and len(cells) != len(names):
            raise ValueError(f"line {number} has {len(cells)} column(s), where other lines have {len(names)}.")
        elif cells:
            rows.append(cells)


def _lines(file: Path, with_ends: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The number of each line and its cells, of which the end of a sentence has none."""
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            is_end = not line.strip() or line.startswith(_DOCUMENT)
            if is_end and not with_ends:
                continue
            line = line.rstrip("\r\n")
            cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
            yield number, [] if is_end else [cell.strip(" ") for cell in cells]
