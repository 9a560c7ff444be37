"""The recipes with one kind of task each, on data that their generators make."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "tasks"
TOPICS = FOLDER / "multi_label_classification"


def rows_of(split: str) -> list[dict[str, str]]:
    with open(TOPICS / f"topics-{split}.csv", encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


def train(run_in_process: Callable, output_dir: Path, *flags: Any) -> Any:
    recipe = FOLDER / "multi_label_classification.yaml"
    run = run_in_process("train.py", "--config", recipe, "--output_dir", output_dir, *flags, "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    (task,) = json.loads((output_dir / "config.json").read_text())["tasks"]
    return task


def test_several_labels_are_trained_on_scored_and_predicted(run_in_process: Callable, tmp_path: Path) -> None:
    task = train(run_in_process, tmp_path / "out", "--max_steps", 4, *QUICK)
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_final_score"] == results["eval_topics_f1_macro"]
    assert len(task["thresholds"]) == len(task["labels"]) == 6
    assert all(0 < threshold < 1 for threshold in task["thresholds"])
    pipe = pipeline("multi-task", model=str(tmp_path / "out"))
    (prediction,) = pipe(["The story was appalling."], task="topics")
    assert all(each["score"] >= task["thresholds"][each["label_id"]] for each in prediction)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`topics`: the validation rows picked its thresholds" in card
    # Finished, with thresholds that are not the recipe's.
    again = run_in_process(
        *("train.py", "--config", tmp_path / "out" / "recipe.yaml", "--output_dir", tmp_path / "out", *QUICK),
        *("--max_steps", 4, "--use_cpu", "--resume_from_checkpoint", "true"),
    )
    assert (again.returncode, "is finished" in again.stdout) == (0, True), again.stderr[-2000:]


def test_thresholds_are_those_of_the_recipe_unless_they_are_to_be_tuned(
    run_in_process: Callable, tmp_path: Path
) -> None:
    flags = ("--tune_thresholds", "false", "--tasks.topics.thresholds", "0.4", "--max_steps", 1, *QUICK)
    assert train(run_in_process, tmp_path / "out", *flags)["thresholds"] == 0.4


def test_a_file_without_a_header_may_have_a_column_for_each_label(run_in_process: Callable, tmp_path: Path) -> None:
    labels = ["film", "book", "hotel", "dinner", "praise", "complaint"]
    for split in ("train", "validation"):
        with open(tmp_path / f"{split}.tsv", "w", newline="") as file:
            flags = ([int(label in row["labels"].split(",")) for label in labels] for row in rows_of(split))
            rows = ([row["sentence"], *each] for row, each in zip(rows_of(split), flags, strict=True))
            csv.writer(file, delimiter="\t").writerows(rows)
    files = {"train": "train.tsv", "validation": "validation.tsv", "data_dir": str(tmp_path), "text": "sentence"}
    files |= {"columns": ["sentence", *labels], "label": labels}
    given = [word for key, value in files.items() for word in (f"--tasks.topics.files.{key}", json.dumps(value))]
    train(run_in_process, tmp_path / "out", *given, "--max_steps", 2, *QUICK)
    train(run_in_process, tmp_path / "usual", "--max_steps", 2, *QUICK)
    first, second = (json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("out", "usual"))
    assert first["eval_topics_loss"] == second["eval_topics_loss"]
    assert first["eval_topics_f1_macro"] == second["eval_topics_f1_macro"]
    # By the recipe that the run saved.
    scored = run_in_process("evaluate.py", "--model", tmp_path / "out", "--use_cpu")
    assert f"| topics | f1_macro | {first['eval_topics_f1_macro']:.3f} |" in scored.stdout, scored.stderr[-2000:]


def test_without_validation_rows_nothing_can_be_tuned(run_in_process: Callable, tmp_path: Path) -> None:
    recipe = FOLDER / "multi_label_classification.yaml"
    flags = ("--tasks.topics.files.validation", "null", "--max_steps", 1, *QUICK, "--use_cpu")
    run = run_in_process("train.py", "--config", recipe, "--output_dir", tmp_path / "out", *flags)
    assert run.returncode == 2
    assert "tune_thresholds needs validation rows, and no task's data have any." in run.stderr


def test_two_models_are_compared_and_one_is_scored_again(run_in_process: Callable, tmp_path: Path) -> None:
    for seed, tunes in (("1", "true"), ("2", "false")):
        train(run_in_process, tmp_path / seed, "--max_steps", 2, "--seed", seed, "--tune_thresholds", tunes, *QUICK)
    compared = run_in_process("compare.py", tmp_path / "1", tmp_path / "2", "--use_cpu")
    assert compared.returncode == 0, compared.stderr[-2000:]
    for metric in ("f1_macro", "f1_micro", "exact_match"):
        assert f"| topics | {metric} |" in compared.stdout
    scored = run_in_process("evaluate.py", "--model", tmp_path / "1", "--report", tmp_path / "report", "--use_cpu")
    assert scored.returncode == 0, scored.stderr[-2000:]
    value = json.loads((tmp_path / "1" / "all_results.json").read_text())["eval_topics_f1_macro"]
    assert f"| topics | f1_macro | {value:.3f} |" in scored.stdout
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| label | precision | recall | F1 | rows | threshold |" in page
    assert "Bias probes" not in page


@pytest.mark.slow
def test_several_labels_are_learnt(run_in_process: Callable, tmp_path: Path) -> None:
    train(run_in_process, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_topics_f1_macro"] > 0.9
    assert "topics-labels.svg" in {path.name for path in (tmp_path / "out" / "report").iterdir()}


def test_no_validation_text_stands_in_training_and_some_rows_have_no_labels() -> None:
    train, validation = rows_of("train"), rows_of("validation")
    assert not {row["sentence"] for row in train} & {row["sentence"] for row in validation}
    for rows in (train, validation):
        assert len({row["sentence"] for row in rows}) == len(rows)
        assert 0.1 < sum(not row["labels"] for row in rows) / len(rows) < 0.3
