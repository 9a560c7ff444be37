"""A ranking as a user of the recipes has it: its data, its candidates in a file, and what is said of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, tiny_model

FOLDER = ROOT / "recipes" / "tasks" / "ranking"


def test_no_text_of_a_file_is_right_for_two_rows() -> None:
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (FOLDER / f"facts-{split}.jsonl").read_text().splitlines()]
        right = [row["positive"] for row in rows]
        assert len(set(right)) == len(right)
        assert not {row["anchor"] for row in rows} & set(right)
        assert all(row["positive"] not in row["negatives"] for row in rows)


@pytest.fixture
def model(tmp_path: Path, tokenizer: Any) -> Path:
    tiny_model({"rank": {"type": "ranking"}}).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


ROWS: list[dict[str, Any]] = [
    {"text": "a cat", "candidates": ["the film", "a cat"]},
    {"text": "a cat", "candidates": []},
    {"text": "dog", "candidates": ["hill", ""]},
]


@pytest.mark.parametrize("flags", [(), ("--text", "text", "candidates")])
def test_a_file_has_a_text_and_a_list_of_candidates_in_each_row(
    run_in_process: Callable, model: Path, flags: tuple[str, ...]
) -> None:
    lines = "\n".join(map(json.dumps, ROWS))
    run = run_in_process("predict.py", "--model", model, "--task", "rank", *flags, stdin=lines)
    assert run.returncode == 0, run.stderr[-2000:]
    said = [json.loads(line) for line in run.stdout.splitlines()]
    assert (said[0]["candidate"], said[0]["index"]) == ("a cat", 1)
    assert said[0]["score"] == pytest.approx(1, abs=1e-5)
    assert said[1] == {"id": 2, "candidate": None, "index": None, "score": None, "problem": "has no candidates."}
    assert said[2]["problem"] == "column 'candidates' has a text 2 that is empty."


def test_or_the_columns_of_training(run_in_process: Callable, model: Path) -> None:
    lines = json.dumps({"anchor": "a cat", "positive": "the film", "negatives": ["a cat", "hill"]})
    run = run_in_process("predict.py", "--model", model, "--task", "rank", stdin=lines)
    assert json.loads(run.stdout)["candidate"] == "a cat"
    columns = json.dumps({"q": "a cat", "one": "the film", "two": "a cat"})
    run = run_in_process("predict.py", "--model", model, "--task", "rank", "--text", "q", "one", "two", stdin=columns)
    assert json.loads(run.stdout)["index"] == 1
