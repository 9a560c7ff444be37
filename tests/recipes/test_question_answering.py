"""The small recipe of questions and answers, on data that come with it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "tasks"


@pytest.fixture
def generate() -> Any:
    spec: Any = importlib.util.spec_from_file_location(
        "generate_questions", FOLDER / "question_answering" / "generate.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: [json.loads(line) for line in path.open()] for path in sorted(folder.glob("*.jsonl"))}


def test_no_question_of_training_is_evaluated() -> None:
    rows = read(FOLDER / "question_answering")
    assert {name: len(of_split) for name, of_split in rows.items()} == {
        "questions-train": 600,
        "questions-validation": 150,
    }
    train, validation = ({row["question"] + row["context"] for row in of_split} for of_split in rows.values())
    assert not train & validation


def test_answers_stand_where_they_are_said_to_and_one_in_five_questions_has_none(generate: Any, tmp_path: Path) -> None:
    for facts in (1, 3):
        generate.write_all(tmp_path, rows=200, facts=facts)
        rows = read(tmp_path)["questions-train"]
        for row in rows:
            for text, start in zip(*row["answers"].values(), strict=True):
                assert row["context"][start : start + len(text)] == text
        assert 0.1 < sum(not row["answers"]["text"] for row in rows) / len(rows) < 0.3


def test_questions_are_trained_scored_evaluated_predicted_and_compared(
    run_in_process: Callable, tmp_path: Path
) -> None:
    config = FOLDER / "question_answering.yaml"
    common = ("--use_cpu", "--config", config)
    run = run_in_process("train.py", *common, "--output_dir", tmp_path / "out", "--max_steps", 2, *QUICK)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_questions_f1"] == results["eval_final_score"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "type: question-answering" in card
    assert "| questions | question_answering | two texts, as one input | a part of the context, or none" in card

    row = {"question": "who hid the bag?", "context": "At noon the cook hid the bag in the cellar. " * 9}
    lines = "".join(json.dumps(one) + "\n" for one in (row, {**row, "context": ""}))
    run = run_in_process("predict.py", "--model", tmp_path / "out", "--task", "questions", stdin=lines)
    assert run.returncode == 0, run.stderr[-2000:]
    first, second = map(json.loads, run.stdout.splitlines())
    assert first["answer"] == row["context"][first["start"] : first["end"]]
    assert 0 < first["score"] <= 1
    assert second == {
        "id": 2,
        **dict.fromkeys(("answer", "start", "end", "score")),
        "problem": "column 'context' is empty.",
    }

    questions = [{"id": "q1", "question": row["question"]}]
    squad = {"data": [{"title": "a bag", "paragraphs": [{"context": row["context"], "qas": questions}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    run = run_in_process(
        "predict.py", "--model", tmp_path / "out", "--task", "questions", "--input", tmp_path / "squad.json"
    )
    assert json.loads(run.stdout) == {**first, "id": "q1"}

    run = run_in_process("evaluate.py", *common, "--model", tmp_path / "out")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| questions | no_answer_accuracy |" in run.stdout
    run = run_in_process("compare.py", *common, tmp_path / "out", tmp_path / "out")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| questions | exact_match |" in run.stdout


def test_answers_that_do_not_stand_there_are_refused_by_their_row(run_in_process: Callable, tmp_path: Path) -> None:
    rows = read(FOLDER / "question_answering")["questions-train"][:8]
    rows[4]["answers"] = {"text": ["the pope"], "answer_start": [3]}
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"extends: {FOLDER / 'question_answering.yaml'}\nbackbone: {ROOT / 'recipes/quickstart/backbone'}\n"
        f"tasks: {{questions: {{files: {{train: {data}, validation: {data}}}}}}}\noutput_dir: {tmp_path / 'out'}\n"
    )
    run = run_in_process("train.py", "--use_cpu", "--config", config, *QUICK)
    assert run.returncode != 0
    assert "row 5: column 'answers' has an answer 'the pope' with answer_start 3, where the context has" in run.stderr
