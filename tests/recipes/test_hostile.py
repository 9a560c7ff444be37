"""Recipes on broken and hostile files: they end in a sentence, or train and report every row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.conftest import QUICK

HEADER = "sentence,sentiment\n"
TEXTS = [
    "a fine film",
    "\u202eשלום עולם",
    "👨‍👩‍👧 😀",
    "nul \x00 nul",
    "[CLS] [SEP]",
    "[PAD]",
    "\u200b",
    'two\nlines, and "quotes"',
    "long " * 200_000,
    "NA",
]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            (HEADER + "a café,positive\n").encode("latin-1"),
            "cannot be read as csv: 'utf-8' codec can't decode",
        ),
        ("t.csv", (HEADER + "a film,positive\n").encode("utf-16"), "cannot be read as csv: 'utf-8' codec can't decode"),
        ("t.csv", (HEADER + '"never closed,positive\nb,negative\n').encode(), "EOF inside string starting at row 1"),
        ("t.csv", (HEADER + "a,film,positive\n").encode(), "Expected 2 fields in line 2, saw 3"),
        ("t.csv", b"sentence,sentiment,sentence\na,positive,b\n", "the header has 'sentence' twice."),
        ("t.csv", HEADER.encode(), "t.csv has no rows."),
        # By pandas 2, that has no rows; by pandas 3, no columns.
        ("t.csv", b"\x00\x00\x00", "t.csv "),
        (
            "t.jsonl",
            b'{"sentence": "a \\ud800", "sentiment": "positive"}\n',
            r"line 1 has \ud800, one half of a character",
        ),
        ("t.jsonl", b"null\n", "line 1 is null, not an object."),
        ("t.jsonl", b'{"sentence": "a", "sentiment"', "cannot be read as json"),
        ("t.json", b"[]", "t.json has no rows."),
        ("t.parquet", b"PAR1 PAR1", "cannot be read as parquet"),
        ("t.txt", b"a film", "t.txt is of no kind that can be read"),
    ],
)
@pytest.mark.parametrize("streaming", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_a_broken_file_is_refused_by_a_sentence(
    run_in_process: Callable, tmp_path: Path, name: str, content: bytes, message: str, streaming: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    source = "--tasks.sentiment.files"
    run = run_in_process(
        *("train.py", "--output_dir", tmp_path / "out", f"{source}.train", path),
        *(f"{source}.streaming", streaming, f"{source}.rows", "1"),
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.strip().splitlines()[-1].startswith("error: task 'sentiment': ")
    # A stream is opened by its columns, and may be told by them.
    told_by_columns = streaming == "true" and "t.csv has no column" in run.stderr
    assert message.removesuffix(" as json") in run.stderr or told_by_columns
    assert "Traceback" not in run.stderr


def write(path: Path, columns: list[str], rows: list[list[Any]]) -> str:
    # Not by Python's csv, which before 3.11 takes no NUL.
    quoted = (['"' + str(cell).replace('"', '""') + '"' for cell in row] for row in [columns, *rows])
    path.write_text("".join(",".join(row) + "\n" for row in quoted), encoding="utf-8-sig")
    return str(path)


@pytest.mark.parametrize("streaming", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_strange_texts_one_row_splits_and_constant_labels_train_and_are_reported(
    run_in_process: Callable, tmp_path: Path, streaming: str
) -> None:
    out = tmp_path / "out"
    labels = ["positive", "negative"] * 5
    # Columns in another order than the recipe names them in, and one that nobody asked for.
    rows = [[label, "x", text] for label, text in zip(labels, TEXTS, strict=True)] + [["positive", "x", ""]]
    mood = write(tmp_path / "mood.csv", ["sentiment", "other", "sentence"], rows)
    one = write(tmp_path / "one.csv", ["sentence", "sentiment"], [["a film", "positive"]])
    pairs = write(tmp_path / "pairs.csv", ["sentence1", "sentence2", "similarity"], [[text, text, 5] for text in TEXTS])
    sentiment, similarity = "--tasks.sentiment.files", "--tasks.similarity.files"
    run = run_in_process(
        *("train.py", "--output_dir", out, *QUICK, "--max_steps", 3, "--use_cpu"),
        *("--on_bad_rows", "drop", "--per_device_train_batch_size", 4),
        *(f"{sentiment}.train", mood, f"{sentiment}.validation", one),
        *(f"{similarity}.train", pairs, f"{similarity}.validation", pairs),
        *(f"{sentiment}.streaming", streaming, f"{sentiment}.rows", 11),
    )
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads((out / "data_report.json").read_text())
    train = report["train"]["sentiment"]
    assert (train["rows"], len(train["dropped"])) == (11, 1)
    assert train["dropped"][0] == {"row": 11, "problem": "column 'sentence' is empty."}
    assert train["truncated"] >= 1
    assert report["train"]["similarity"]["truncated"] == 1
    assert report["validation"]["sentiment"]["rows"] == 1
    # Pearson's r is undefined where all labels are 5: neither 0 nor a fault.
    assert "| similarity | pearson | undefined | undefined |" in run.stdout
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_similarity_pearson"] != results["eval_similarity_pearson"]


def test_predictions_are_written_for_strange_texts_and_refused_for_broken_files(
    run_in_process: Callable, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    flags = ("--output_dir", model, *QUICK, "--max_steps", 1, "--use_cpu")
    assert run_in_process("train.py", *flags).returncode == 0
    file = write(tmp_path / "in.csv", ["sentence"], [[text] for text in TEXTS])
    run = run_in_process("predict.py", "--model", model, "--task", "sentiment", "--input", file)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(run.stdout.strip().splitlines()) == len(TEXTS)
    (tmp_path / "in.csv").write_bytes("sentence\ncafé\n".encode("latin-1"))
    run = run_in_process("predict.py", "--model", model, "--task", "sentiment", "--input", file)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
