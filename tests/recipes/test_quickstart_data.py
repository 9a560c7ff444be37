"""The quickstart's files are what their generator makes, and validation is held out."""

import csv
import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "quickstart"
TASKS = ("sentiment", "paraphrase", "similarity")


def rows_of(task: str, split: str) -> list[dict[str, str]]:
    with open(FOLDER / f"{task}-{split}.csv", encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


def texts_of(task: str, split: str) -> set[str]:
    return {text for row in rows_of(task, split) for column, text in row.items() if column.startswith("sentence")}


def test_the_generator_makes_every_file_byte_for_byte(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.write_all(tmp_path)
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 9
    for path in made:
        assert (tmp_path / path).read_bytes() == (FOLDER / path).read_bytes(), path


@pytest.mark.parametrize("task", TASKS)
def test_no_validation_sentence_stands_in_any_training_file(task: str) -> None:
    train = set.union(*(texts_of(other, "train") for other in TASKS))
    assert not texts_of(task, "validation") & train


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_no_row_is_there_twice(task: str, split: str) -> None:
    rows = [tuple(row.values()) for row in rows_of(task, split)]
    assert len(set(rows)) == len(rows)
