"""recipes/predict.py: which rows get which answers, and what is refused before the work is done."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from transformers import pipeline

from tests.conftest import tiny_model

TASKS = {
    "mood": {"type": "single_label_classification", "labels": ["bad", "so-so", "good"]},
    "same": {"type": "pair_classification", "labels": ["different", "same"]},
    "near": {"type": "pair_regression"},
    "topics": {"type": "multi_label_classification", "labels": ["plot", "music"], "thresholds": [0.0, 1.0]},
}


@pytest.fixture
def model(tokenizer: Any, tmp_path: Path) -> Path:
    tiny_model(TASKS).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def predict(model: Path, run_in_process: Callable) -> Callable:
    def run(task: str, *arguments: object, stdin: str = "") -> Any:
        return run_in_process("predict.py", "--model", model, "--task", task, *arguments, stdin=stdin)

    return run


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def answers(run: Any) -> list[dict[str, Any]]:
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(("task", "key"), [("same", "label_id"), ("near", "score")])
def test_in_the_courses_layout_a_blank_sentence_gets_an_empty_answer_in_its_place(
    predict: Callable, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, task: str, key: str
) -> None:
    (tmp_path / "dev.csv").write_text("id\tsentence1\tsentence2\np\ta cat\ta dog\nq\ta cat\t\nr\ta film\ta cat\n")
    run = predict(task, "--format", "course", "--input", tmp_path / "dev.csv", "--delimiter", "tab")
    assert run.returncode == 0, run.stderr[-2000:]
    pipe = pipeline("multi-task", model=str(model))
    first, third = (row[key] for row in pipe([("a cat", "a dog"), ("a film", "a cat")], task=task))
    assert run.stdout.split("\n")[1:] == [f"p , {first} ", "q ,  ", f"r , {third} ", ""]
    assert "dev.csv has 1 bad row(s): row 2: column 'sentence2' is empty." in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (" \t", "is blank"),
        (None, "is missing"),
        (3, "is 3, not text"),
        (["a", 5], "has a word 2 that is 5, not text"),
    ],
)
def test_in_jsonl_an_empty_answer_says_why(predict: Callable, text: Any, problem: str) -> None:
    rows = [{"id": "x", "sentence": text}, {"id": "y", "sentence": "a cat"}, {"id": "z"}]
    empty, answered, missing = answers(predict("mood", stdin=jsonl(*rows)))
    nothing = {"label": None, "label_id": None, "score": None}
    assert empty == {"id": "x", **nothing, "problem": f"column 'sentence' {problem}."}
    assert missing == {"id": "z", **nothing, "problem": "column 'sentence' is missing."}
    assert answered["id"] == "y"
    assert answered["label"] in TASKS["mood"]["labels"]
    assert "problem" not in answered


def test_a_file_without_any_usable_row_is_answered_and_counted(
    predict: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    run = predict("near", stdin=jsonl(*[{"sentence1": "a", "sentence2": ""}] * 7))
    assert [row["score"] for row in answers(run)] == [None] * 7
    assert "standard input has 7 bad row(s): row 1:" in caplog.text
    assert "and 2 more" in caplog.text


@pytest.mark.parametrize("layout", ["course", "jsonl"])
def test_bad_rows_are_refused_where_that_is_wanted(
    predict: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    target = tmp_path / "out"
    target.write_text("before")
    rows = jsonl({"sentence": "a cat"}, {"sentence": " "})
    run = predict("mood", "--format", layout, "--on_bad_rows", "error", "--output", target, stdin=rows)
    assert run.returncode == 2
    assert "error: standard input has 1 bad row(s): row 2: column 'sentence' is blank." in run.stderr
    assert target.read_text() == "before"
    good = predict("mood", "--on_bad_rows", "error", stdin=jsonl({"sentence": "a cat"}))
    assert len(answers(good)) == 1
    assert "bad row" not in caplog.text


@pytest.mark.parametrize(
    ("row_id", "written"),
    [
        (pd.Timestamp("2024-01-02 03:04:05"), "2024-01-02T03:04:05"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (7, 7),
    ],
)
def test_ids_of_any_kind_are_written(predict: Callable, tmp_path: Path, row_id: Any, written: Any) -> None:
    pd.DataFrame({"id": [row_id], "sentence": ["a cat"]}).to_parquet(tmp_path / "in.parquet")
    assert answers(predict("mood", "--input", tmp_path / "in.parquet"))[0]["id"] == written
    run = predict("mood", "--input", tmp_path / "in.parquet", "--format", "course")
    assert run.stdout.splitlines()[1].startswith(f"{written} , ")


@pytest.mark.parametrize("row_id", ["2024-01-02", "2024-01-02T00:00:00Z", "007", 12345678901234567890, None, "x"])
@pytest.mark.parametrize("place", ["in.jsonl", "in.json", "-"])
def test_ids_of_json_are_written_as_they_came(predict: Callable, tmp_path: Path, row_id: Any, place: str) -> None:
    rows = [{"id": row_id, "sentence": "a cat"}, {"id": "b", "sentence": "a dog"}]
    text = json.dumps(rows, indent=1) if place == "in.json" else jsonl(*rows)
    (tmp_path / "in").with_suffix(Path(place).suffix).write_text(text)
    source = place if place == "-" else tmp_path / place
    assert [row["id"] for row in answers(predict("mood", "--input", source, stdin=text))] == [row_id, "b"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nothere/out.jsonl", "cannot be written: there is no folder"),
        ("file/out.jsonl", "cannot be written: there is no folder"),
        (".", "is a folder, not a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_anything_is_loaded(
    run_in_process: Callable, tmp_path: Path, output: str, message: str
) -> None:
    (tmp_path / "file").touch()
    # There is no such model, and no such input: neither has been looked at.
    run = run_in_process(
        *("predict.py", "--model", tmp_path / "none", "--task", "mood", "--input", tmp_path / "none.csv"),
        *("--output", tmp_path / output),
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: --output {tmp_path / output} {message}")


def test_paths_begin_at_home(predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in.csv").write_text("sentence\na cat\n")
    assert predict("mood", "--input", "~/in.csv", "--output", "~/out.jsonl").returncode == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_standard_input_leaves_no_copy_of_its_texts(
    predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    answers(predict("mood", stdin=jsonl({"sentence": "a secret"}, {"sentence": ""})))
    assert not [path for name in ("cache", "temporary") for path in (tmp_path / name).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "standard input has no rows."),
        ("\n \n", "standard input has no rows."),
        ("[]", "standard input has no rows."),
        ('{"sentence": "a"}\n{"sentence": \n', "standard input cannot be read as json: line 3: Expecting value."),
        ('{"sentence": "a"}\n\nnull\n', "standard input cannot be read as json: line 3 is no object"),
        ("a lovely film", "standard input cannot be read as json: line 1: Expecting value."),
        ('{"sentense": "a"}', "standard input has no column 'sentence'; did you mean 'sentense'?"),
    ],
)
def test_errors_about_standard_input_name_it(predict: Callable, stdin: str, message: str) -> None:
    run = predict("mood", stdin=stdin)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith(f"error: {message}")


def test_a_json_file_is_named_in_errors_about_it(predict: Callable, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"sentence": "\xff"}')
    run = predict("mood", "--input", tmp_path / "in.jsonl")
    assert "in.jsonl is not UTF-8 text: invalid start byte at byte 14." in run.stderr
    run = predict("mood", "--input", tmp_path / "nothere.jsonl")
    assert "nothere.jsonl is not there." in run.stderr
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"sentence": "a cat"}')
    assert len(answers(predict("mood", "--input", tmp_path / "in.jsonl"))) == 1


def test_the_input_is_not_written_over(predict: Callable, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(jsonl({"sentence": "a cat"}))
    run = predict("mood", "--input", file, "--output", tmp_path / "." / "rows.jsonl")
    assert run.returncode == 2
    assert "is the input: it would be lost" in run.stderr
    assert file.read_text() == jsonl({"sentence": "a cat"})


@pytest.mark.parametrize("name", ["nothere", "./nothere", "a/b/c"])
def test_a_model_that_is_not_there_is_named(run_in_process: Callable, name: str) -> None:
    run = run_in_process("predict.py", "--model", name, "--task", "mood", stdin=jsonl({"sentence": "a cat"}))
    assert run.returncode == 2
    assert name in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_of_several_labels_or_none_there_is_a_list(predict: Callable, model: Path) -> None:
    run = predict("topics", stdin=jsonl({"id": "a", "sentence": "a good film"}, {"id": "b", "sentence": ""}))
    first, second = answers(run)
    pipe = pipeline("multi-task", model=str(model))
    assert first == {"id": "a", "predictions": pipe("a good film", task="topics")}
    assert [each["label"] for each in first["predictions"]] == ["plot"]
    assert second == {"id": "b", "predictions": None, "problem": "column 'sentence' is empty."}
