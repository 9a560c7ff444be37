"""Writes a trained model's predictions for the rows of a file, or of standard input.

    python recipes/predict.py --model outputs/quickstart --task sentiment --input reviews.csv --output out.jsonl
    echo '{"sentence": "a lovely film"}' | python recipes/predict.py --model outputs/quickstart --task sentiment
    python recipes/predict.py --model OUT --task sst --input ids-sst-dev.csv --delimiter tab --format course

Input is csv, tsv, json, jsonl or parquet; standard input is jsonl. `--format jsonl` writes each row's `id` (the row's
number, from 1, if there is no such column) and prediction; `--format course` writes the layout of the CS224N
default project.

Every row is answered in its place. One whose text is missing, blank or no text gets an empty answer, in jsonl with the
reason as `problem`; they are counted in a warning. `--on_bad_rows error` refuses such a file instead.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_multitask_cli.command_line import end_quietly_when_interrupted, model_place, refusals

COMMAND_LINE = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
COMMAND_LINE.add_argument("--model", required=True, help="Folder or Hub id of the model.")
COMMAND_LINE.add_argument("--task", required=True, help="The task to predict.")
COMMAND_LINE.add_argument("--input", default="-", help="A file, or - for standard input (jsonl).")
COMMAND_LINE.add_argument("--output", default="-", help="A file, or - for standard output.")
COMMAND_LINE.add_argument("--format", default="jsonl", choices=["jsonl", "course"])
COMMAND_LINE.add_argument("--text", nargs="+", metavar="COLUMN", help="Text columns, if they are not named as usual.")
COMMAND_LINE.add_argument("--delimiter", help="Of a csv file; 'tab' for a tab.")
COMMAND_LINE.add_argument("--quoting", choices=["standard", "none"], help="Of a csv file; none: a quote is a letter.")
COMMAND_LINE.add_argument("--batch_size", type=int, default=64)
COMMAND_LINE.add_argument(
    "--on_bad_rows",
    default="empty",
    choices=["empty", "error"],
    help="Rows that cannot be predicted get an empty answer, or are refused.",
)

if __name__ == "__main__":
    # Before the imports that take seconds.
    end_quietly_when_interrupted()
    COMMAND_LINE.parse_args()

from datasets import disable_progress_bars
from transformers import pipeline

from hf_multitask.data.checking import BadRow, Columns, matching_text_columns, row_checker
from hf_multitask.data.loading import listed
from hf_multitask.data.sources import read_file
from hf_multitask.data.squad import is_squad
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import first_line, nearest

logger = logging.getLogger(__name__)

_BLANKS = re.compile(r"[\s\ufeff]*")
# The misspelt word is the one that the course's grader reads.
# By type and number of texts: the header, and what of a prediction stands below it.
_COURSE_COLUMNS = {
    ("single_label_classification", 1): ("Predicted_Sentiment", "label_id"),
    ("single_label_classification", 2): ("Predicted_Is_Paraphrase", "label_id"),
    ("regression", 2): ("Predicted_Similiary", "score"),
}


def read_columns(path: str, delimiter: str | None, quoting: str | None = None) -> Mapping[str, Sequence[Any]]:
    """The columns of a file, or of standard input for `-`.

    JSON is read as it stands, so that an id which looks like a date is written as it came.

    Raises:
        ValueError: It cannot be read; the message names the file, or standard input.
    """
    if path == "-":
        try:
            return _json_columns(sys.stdin.buffer.read().decode("utf-8-sig"), "standard input")
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    file = Path(path)
    if file.is_file() and file.suffix.lower() in (".json", ".jsonl") and not is_squad(file):
        try:
            return _json_columns(file.read_text(encoding="utf-8-sig"), path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    rows = read_file(path, "\t" if delimiter == "tab" else delimiter, quoting=quoting)
    return {column: rows[column] for column in rows.column_names}


def _json_columns(text: str, where: str) -> dict[str, list[Any]]:
    """The columns of objects that follow each other, one a line or not, or stand in an array."""
    rows: list[Any] = []
    decoder, place = json.JSONDecoder(), _BLANKS.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} cannot be read as json: line {error.lineno}: {error.msg}.") from error
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(row, dict) for row in found):
            line = text.count("\n", 0, place) + 1
            raise ValueError(
                f'{where} cannot be read as json: line {line} is no object, such as {{"sentence": "..."}}.'
            )
        rows += found
        place = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
    if not rows:
        raise ValueError(f"{where} has no rows.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def wanted_columns(columns: Mapping[str, Sequence[Any]], task: TaskConfig, given: list[str] | None) -> Columns:
    """From standard names of columns to those that are read.

    Candidates are told apart in training, as those that are right and wrong; here they may be one list beside a text.

    Raises:
        ValueError: They do not fit the task.
    """
    forms, names = task.text_columns, given or ["text", "candidates"]
    if "texts" in forms.values() and len(names) == 2:
        values = columns.get(names[1], ())
        if names[0] in columns and any(isinstance(value, list) for value in values):
            return dict(zip([next(iter(forms)), list(forms)[-1]], names, strict=True))
    try:
        return matching_text_columns(task, given or [], list(columns))
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def texts_of(
    columns: Mapping[str, Sequence[Any]], task: TaskConfig, given: list[str] | None, where: str
) -> tuple[list[Any], list[str]]:
    """The texts, or pairs of texts, to predict for, and of each row what is wrong with it, empty where nothing is."""
    wanted = wanted_columns(columns, task, given)
    names = [name for column in wanted.values() for name in ([column] if isinstance(column, str) else column)]
    for column in names:
        if column not in columns:
            there = nearest(column, list(columns))
            raise ValueError(f"{where} has no column {column!r}; {there} Say by --text which are read.")
    batch = {column: list(columns[column]) for column in names}
    # What a row holds as words may come as its text, which the pipeline then reads: values are given as they are.
    raw = [column for column, form in task.text_columns.items() if form == "words"]
    checked = row_checker(None, task, wanted)(batch, list(range(len(batch[names[0]]))))
    read = {column: batch[str(wanted[column])] if column in raw else checked[column] for column in wanted}
    rows = [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]
    texts, problems = [as_input(task, row) for row in rows], checked["problem"]
    if "texts" in task.text_columns.values():
        problems = [bad or ("" if one[1] else "has no candidates.") for bad, one in zip(problems, texts, strict=True)]
    return texts, problems


def as_input(task: TaskConfig, row: Mapping[str, Any]) -> Any:
    """A row's texts as the pipeline takes them."""
    values = list(row.values())
    if "texts" in task.text_columns.values():
        first, *others = values
        return first, [text for other in others for text in ([other] if isinstance(other, str) else other or [])]
    if len(values) == 1:
        # A list would be many texts: words that come apart are told by their name.
        return {"tokens": values[0]} if isinstance(values[0], list) else values[0]
    return tuple(values)


def answers(
    pipe: Any, name: str, texts: list[Any], problems: list[str], batch_size: int
) -> Iterator[dict[str, Any] | None]:
    """The prediction of each row, and None of one with a problem."""
    usable = [text for text, problem in zip(texts, problems, strict=True) if not problem]
    predicted = iter(pipe(usable, task=name, batch_size=batch_size))
    return (None if problem else next(predicted) for problem in problems)


def bad_rows(problems: list[str], where: str, on_bad_rows: str) -> None:
    """Warns of rows that cannot be predicted.

    Raises:
        ValueError: There are some, and they are to be refused.
    """
    bad = [BadRow(row, problem) for row, problem in enumerate(problems, 1) if problem]
    if bad and on_bad_rows == "error":
        raise ValueError(f"{where} has {listed(bad)}")
    if bad:
        logger.warning("Rows that cannot be predicted get an empty answer: %s has %s", where, listed(bad))


def jsonl_lines(ids: Iterable[Any], answered: Iterable[Any], problems: list[str], task: TaskConfig) -> Iterator[str]:
    """One JSON object per row."""
    empty = dict.fromkeys(task.PREDICTION_KEYS)
    for row_id, answer, problem in zip(ids, answered, problems, strict=True):
        if isinstance(answer, list):
            # Several answers have one name.
            answer = {task.PREDICTION_KEYS[0]: answer}
        row = {"id": _plain(row_id), **({**empty, "problem": problem} if answer is None else answer)}
        yield json.dumps(row, ensure_ascii=False, default=str)


def course_lines(ids: Iterable[Any], answered: Iterable[Any], task: TaskConfig) -> Iterator[str]:
    """The CS224N default project's layout; an empty answer has nothing after the comma."""
    header, key = _COURSE_COLUMNS[task.type, task.texts]
    yield f"id \t {header} "
    for row_id, answer in zip(ids, answered, strict=True):
        yield f"{_plain(row_id)} , {'' if answer is None else answer[key]} "


def _plain(row_id: Any) -> Any:
    """An id as JSON can have it: dates and times, which parquet files have, in ISO's form."""
    return row_id.isoformat() if hasattr(row_id, "isoformat") else row_id


def check_output(path: str) -> None:
    """Before the work is done, makes sure that a file can be written; none is made, and none is emptied.

    Raises:
        OSError: It cannot.
    """
    file = Path(path)
    if path == "-":
        return
    if file.is_dir():
        raise OSError(f"--output {path} is a folder, not a file.")
    if not file.parent.is_dir():
        raise OSError(f"--output {path} cannot be written: there is no folder {file.parent}.")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise OSError(f"--output {path} cannot be written: permission denied.")


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file to write to, or standard output for `-`."""
    if path == "-":
        yield sys.stdout
    else:
        with open(path, "w", encoding="utf-8") as file:
            yield file


def main() -> None:
    args = COMMAND_LINE.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bars()
    with refusals():
        source, target = (path if path == "-" else str(Path(path).expanduser()) for path in (args.input, args.output))
        where = "standard input" if source == "-" else source
        check_output(target)
        place = model_place(args.model)
        if target != "-" and source != "-" and Path(target).exists() and Path(target).samefile(source):
            raise ValueError(f"--output {target} is the input: it would be lost.")
        columns = read_columns(source, args.delimiter, args.quoting)
        try:
            pipe: Any = pipeline("multi-task", model=place)  # type: ignore[call-overload]
        except (OSError, ValueError) as error:
            raise ValueError(f"--model {args.model} cannot be loaded: {first_line(error)}") from error
        task = pipe.model.config.task(args.task)
        if args.format == "course" and (task.type, task.texts) not in _COURSE_COLUMNS:
            raise ValueError(f"--format course has no layout for a {task.type} of {task.texts} text(s); use jsonl.")
        texts, problems = texts_of(columns, task, args.text, where)
        bad_rows(problems, where, args.on_bad_rows)
        ids = columns["id"] if "id" in columns else range(1, len(texts) + 1)
        answered = list(answers(pipe, args.task, texts, problems, args.batch_size))
        with opened(target) as file:
            is_course = args.format == "course"
            lines = course_lines(ids, answered, task) if is_course else jsonl_lines(ids, answered, problems, task)
            for line in lines:
                print(line, file=file)


if __name__ == "__main__":
    main()
