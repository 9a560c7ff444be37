"""The scripts with data that lack a split, and with a recipe of other tasks."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

QUICKSTART = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes the quickstart's recipe; keyword arguments change each task's entry, by name."""

    def write(name: str, names: dict[str, str] | None = None, **files: dict[str, Any]) -> Path:
        recipe = json.loads(json.dumps(QUICKSTART))
        recipe["backbone"] = str(ROOT / "recipes" / "quickstart" / "backbone")
        for task, entry in recipe["tasks"].items():
            kept = {**entry["files"], "data_dir": str(ROOT / "recipes"), **files.get(task, files.get("all", {}))}
            entry["files"] = {key: value for key, value in kept.items() if value is not None}
        recipe["tasks"] = {(names or {}).get(task, task): entry for task, entry in recipe["tasks"].items()}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        return path

    return write


@pytest.fixture
def model(run_in_process: Callable, write_recipe: Callable, tmp_path: Path) -> Path:
    """Trained without validation data, in two steps."""
    flags = ("--output_dir", tmp_path / "model", "--max_steps", 2, "--use_cpu")
    run = run_in_process("train.py", "--config", write_recipe("train", all={"validation": None}), *QUICK, *flags)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.endswith(f"\nSaved to {tmp_path / 'model'}.\n")
    return tmp_path / "model"


def test_training_without_validation_data_works_where_nothing_is_evaluated(
    model: Path, run_in_process: Callable, write_recipe: Callable, tmp_path: Path
) -> None:
    assert not (model / "eval_results.json").exists()
    assert set(json.loads((model / "data_report.json").read_text())) == {"train"}
    assert (model / "model.safetensors").is_file()
    assert (model / "README.md").is_file()

    # Where some tasks have validation data, these are scored.
    recipe = write_recipe("some", paraphrase={"validation": None}, similarity={"validation": None})
    flags = ("--config", recipe, "--output_dir", tmp_path / "some", "--max_steps", 1, "--use_cpu")
    run = run_in_process("train.py", *flags, *QUICK, "--write_report", "true")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| sentiment | accuracy |" in run.stdout
    assert "| paraphrase |" not in run.stdout
    results = json.loads((tmp_path / "some" / "eval_results.json").read_text())
    assert results["eval_final_score"] == results["eval_sentiment_accuracy"]

    for evaluates in (("--eval_strategy", "epoch"), ("--eval_on_start", "true")):
        run = run_in_process("train.py", *flags, *QUICK, *evaluates)
        assert run.returncode == 2
        assert "there is no validation split" in run.stderr
    # What is named must be there.
    recipe = write_recipe("misspelt", sentiment={"validation": "nothere.csv"})
    run = run_in_process("train.py", *flags, *QUICK, "--config", recipe)
    assert run.returncode == 2
    assert "nothere.csv is not there" in run.stderr


@pytest.mark.parametrize("train", [None, "nothere.csv"], ids=["names no train", "has no file of train"])
def test_test_data_alone_can_be_scored(
    model: Path, run_in_process: Callable, write_recipe: Callable, train: str | None
) -> None:
    source = {
        task: {"train": train, "validation": None, "test": f"quickstart/{task}-validation.csv"}
        for task in QUICKSTART["tasks"]
    }
    recipe = write_recipe("test", **source)
    for script in (("evaluate.py", "--model", model), ("compare.py", model, model)):
        run = run_in_process(*script, "--config", recipe, "--split", "test", "--use_cpu")
        assert run.returncode == 0, run.stderr[-2000:]
        assert re.search(r"\| sentiment \| accuracy \| 0\.\d{3} \|", run.stdout)
        assert ("not measured" in run.stdout) == (script[0] == "evaluate.py")
    run = run_in_process("evaluate.py", "--model", model, "--config", recipe, "--use_cpu")
    assert run.returncode == 2
    assert "there is no validation split" in run.stderr


def test_a_recipe_of_other_tasks_is_refused_with_both_lists(
    model: Path, run_in_process: Callable, write_recipe: Callable
) -> None:
    others = {"sentiment": "mood", "paraphrase": "same", "similarity": "near"}
    recipe = write_recipe("others", names=others)
    for script in (("evaluate.py", "--model", model), ("compare.py", model, model)):
        run = run_in_process(*script, "--config", recipe, "--use_cpu")
        assert run.returncode == 2
        assert "it has mood, same, near, and the model has sentiment, paraphrase, similarity;" in run.stderr
    # One task that both have is enough.
    recipe = write_recipe("shared", names={"paraphrase": "same", "similarity": "near"})
    run = run_in_process("evaluate.py", "--model", model, "--config", recipe, "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| sentiment | accuracy |" in run.stdout
    assert "same" not in run.stdout


def test_a_model_is_scored_by_its_runs_own_recipe_unless_told_otherwise(
    run_in_process: Callable, write_recipe: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"sentiment": "mood", "paraphrase": "same", "similarity": "near"}
    folder = tmp_path / "own"
    flags = ("--config", write_recipe("own", names=names), "--output_dir", folder, "--max_steps", 1, "--use_cpu")
    assert run_in_process("train.py", *flags, *QUICK).returncode == 0
    results = json.loads((folder / "eval_results.json").read_text())
    for script in (("evaluate.py", "--model", folder), ("evaluate.py", "--output_dir", folder)):
        run = run_in_process(*script, "--use_cpu")
        assert run.returncode == 0, run.stderr[-2000:]
        assert f"| mood | accuracy | {results['eval_mood_accuracy']:.3f} |" in run.stdout
    run = run_in_process("compare.py", folder, folder, "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| mood | accuracy |" in run.stdout
    # The quickstart's, which has other tasks, where it is named or there is no other.
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    run = run_in_process("evaluate.py", "--model", folder, "--config", quickstart, "--use_cpu")
    assert "the recipe has none of the model's tasks" in run.stderr
    assert "has no recipe.yaml" not in caplog.text
    (folder / "recipe.yaml").unlink()
    run = run_in_process("evaluate.py", "--model", folder, "--use_cpu")
    assert "the recipe has none of the model's tasks" in run.stderr
    assert f"{folder} has no recipe.yaml, and no --config is given: the data are those of {quickstart}." in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["positive", "neutral", "negative"]}, "labels is .*positive.* in the recipe and .*negative"),
        ({"texts": 2}, "texts is 2 in the recipe and 1 in the model"),
    ],
    ids=["order", "texts"],
)
def test_a_recipe_whose_labels_mean_something_else_is_refused(
    run_in_process: Callable, model: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """Rows with class ids would be scored by the other order without a word."""
    recipe = yaml.safe_load((model / "recipe.yaml").read_text())
    recipe["tasks"]["sentiment"].update(change)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for script, *models in (("evaluate.py", "--model", model), ("compare.py", model, model)):
        run = run_in_process(script, *models, "--config", tmp_path / "other.yaml", "--split", "train", "--use_cpu")
        assert run.returncode == 2
        assert re.search(f"error: task 'sentiment': {said}.*name its own recipe by --config", run.stderr)
