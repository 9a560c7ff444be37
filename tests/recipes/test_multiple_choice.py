"""The small recipe of multiple choice, on data that come with it."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "tasks"


def test_no_choices_of_training_are_evaluated() -> None:
    files = [FOLDER / "multiple_choice" / f"reviews-{split}.csv" for split in ("train", "validation")]
    train, validation = (set(path.read_text().splitlines()[1:]) for path in files)
    assert (len(train), len(validation)) == (800, 200)
    assert not train & validation


def test_choices_are_trained_scored_predicted_and_compared(run_in_process: Callable, tmp_path: Path) -> None:
    config = FOLDER / "multiple_choice.yaml"
    common = ("--use_cpu", "--config", config)
    run = run_in_process("train.py", *common, "--output_dir", tmp_path / "out", "--max_steps", 50, *QUICK)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_praise_accuracy"] == results["eval_final_score"] > 0.5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "type: multiple-choice" in card
    assert "| praise | multiple_choice | one text with candidates | one of the row's choices |" in card
    assert 'print(pipe(("a text", ["one", "another"]), task="praise"))' in card

    rows = [
        {"sentence": "what is good?", "choices": ["the plot was superb.", "the plot was awful."]},
        {"sentence": "what is good?", "choices": ["the plot was superb."]},
        {"sentence": "what is good?", "choices": None},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    run = run_in_process("predict.py", "--model", tmp_path / "out", "--task", "praise", stdin=lines)
    assert run.returncode == 0, run.stderr[-2000:]
    first, second, third = map(json.loads, run.stdout.splitlines())
    assert first["choice"] == rows[0]["choices"][first["choice_id"]]
    assert 0.5 <= first["score"] <= 1
    empty = {"choice": None, "choice_id": None, "score": None}
    problem = "column 'choices' has {} and a row has at least two."
    assert second == {"id": 2, **empty, "problem": problem.format("1 choice,")}
    assert third == {"id": 3, **empty, "problem": problem.format("no choices,")}

    columns = ("--text", "question", "a", "b", "c", "d")
    rows_file = FOLDER / "multiple_choice" / "reviews-validation.csv"
    run = run_in_process("predict.py", "--model", tmp_path / "out", "--task", "praise", "--input", rows_file, *columns)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(run.stdout.splitlines()) == 200

    run = run_in_process("compare.py", *common, tmp_path / "out", tmp_path / "out")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| praise | accuracy |" in run.stdout
