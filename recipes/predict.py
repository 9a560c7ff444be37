"""Writes a trained model's predictions for the rows of a file, or of standard input.

    python recipes/predict.py --model outputs/quickstart --task sentiment --input reviews.csv --output out.jsonl
    echo '{"sentence": "a lovely film"}' | python recipes/predict.py --model outputs/quickstart --task sentiment
    python recipes/predict.py --model OUT --task sst --input ids-sst-dev.csv --delimiter tab --format course

Input is csv, tsv, json, jsonl or parquet; standard input is jsonl. `--format jsonl` writes each row's `id` (the row's
number, from 1, if there is no such column) and prediction; `--format course` writes the layout of the CS224N
default project.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from datasets import Dataset, disable_progress_bars
from transformers import pipeline

from hf_multitask.data.loading import text_columns
from hf_multitask.data.sources import read_file
from hf_multitask.model.configuration_mtbert import TaskConfig, nearest
from hf_multitask.recipe import refusals

# The misspelt word is the one that the course's grader reads.
_COURSE_HEADERS = {
    "single_label_classification": "Predicted_Sentiment",
    "pair_classification": "Predicted_Is_Paraphrase",
    "pair_regression": "Predicted_Similiary",
}


def read_rows(path: str, delimiter: str | None) -> Dataset:
    """The rows of a file, or of standard input for `-`."""
    if path != "-":
        return read_file(path, "\t" if delimiter == "tab" else delimiter)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as copy:
        copy.write(sys.stdin.read())
        copy.flush()
        return read_file(copy.name)


def texts_of(rows: Dataset, task: TaskConfig, columns: list[str] | None) -> list[Any]:
    """The texts, or pairs of texts, to predict for."""
    wanted = columns or text_columns(task)
    if len(wanted) != len(text_columns(task)):
        raise ValueError(f"--text must name {len(text_columns(task))} column(s) for {task.type}, not {wanted}.")
    for column in wanted:
        if column not in rows.column_names:
            raise ValueError(f"the input has no column {column!r}; {nearest(column, rows.column_names)}")
    texts = list(zip(*(rows[column] for column in wanted), strict=True))
    return texts if task.is_pair else [text for (text,) in texts]


def jsonl_lines(ids: list[Any], predicted: list[dict[str, Any]]) -> Iterator[str]:
    """One JSON object per row."""
    for row_id, prediction in zip(ids, predicted, strict=True):
        yield json.dumps({"id": row_id, **prediction}, ensure_ascii=False)


def course_lines(ids: list[Any], predicted: list[dict[str, Any]], task: TaskConfig) -> Iterator[str]:
    """The CS224N default project's layout."""
    yield f"id \t {_COURSE_HEADERS[task.type]} "
    for row_id, prediction in zip(ids, predicted, strict=True):
        yield f"{row_id} , {prediction['score'] if task.is_regression else prediction['label_id']} "


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file to write to, or standard output for `-`."""
    if path == "-":
        yield sys.stdout
    else:
        with open(path, "w", encoding="utf-8") as file:
            yield file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub id of the model.")
    parser.add_argument("--task", required=True, help="The task to predict.")
    parser.add_argument("--input", default="-", help="A file, or - for standard input (jsonl).")
    parser.add_argument("--output", default="-", help="A file, or - for standard output.")
    parser.add_argument("--format", default="jsonl", choices=["jsonl", "course"])
    parser.add_argument("--text", nargs="+", metavar="COLUMN", help="Text columns, if they are not named as usual.")
    parser.add_argument("--delimiter", help="Of a csv file; 'tab' for a tab.")
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bars()
    with refusals():
        pipe: Any = pipeline("multi-task", model=args.model)  # type: ignore[call-overload]
        task = pipe.model.config.task(args.task)
        rows = read_rows(args.input, args.delimiter)
        ids = rows["id"] if "id" in rows.column_names else list(range(1, rows.num_rows + 1))
        predicted = pipe(texts_of(rows, task, args.text), task=args.task, batch_size=args.batch_size)
        with opened(args.output) as file:
            lines = course_lines(ids, predicted, task) if args.format == "course" else jsonl_lines(ids, predicted)
            for line in lines:
                print(line, file=file)


if __name__ == "__main__":
    main()
