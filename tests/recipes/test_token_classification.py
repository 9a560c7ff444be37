"""The small recipes of recipes/tasks/, one for a kind, on data that come with them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_multitask.recipe import RecipeParser
from tests.conftest import ROOT, SHARED_DATA
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "tasks"
MORE = SHARED_DATA / "more"


def test_no_fact_of_training_is_evaluated() -> None:
    files = [FOLDER / "token_classification" / f"slots-{split}.conll" for split in ("train", "validation")]
    train, validation = (set(path.read_text().split("\n\n")) - {""} for path in files)
    assert (len(train), len(validation)) == (400, 100)
    assert not train & validation


def test_slots_are_trained_scored_evaluated_predicted_and_compared(run_in_process: Callable, tmp_path: Path) -> None:
    config = FOLDER / "token_classification.yaml"
    common = ("--use_cpu", "--config", config)
    run = run_in_process("train.py", *common, "--output_dir", tmp_path / "out", "--max_steps", 30, *QUICK)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_slots_f1"] == results["eval_final_score"] > 0.3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "type: token-classification" in card
    assert "| slots | token_classification | one text | O, B-agent, I-agent" in card

    sentence = "The cook hid the bag in the cellar."
    rows = [{"tokens": sentence}, {"tokens": ["The", "cook", "slept"]}, {"tokens": []}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    run = run_in_process("predict.py", "--model", tmp_path / "out", "--task", "slots", stdin=lines)
    assert run.returncode == 0, run.stderr[-2000:]
    first, second, third = map(json.loads, run.stdout.splitlines())
    assert [sentence[entity["start"] : entity["end"]] for entity in first["entities"]] == [
        entity["word"] for entity in first["entities"]
    ]
    assert "cook" in [entity["word"] for entity in second["entities"]]
    assert third == {"id": 3, "entities": None, "problem": "column 'tokens' has no words."}

    run = run_in_process("compare.py", *common, tmp_path / "out", tmp_path / "out")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| slots | f1 |" in run.stdout
    assert "| +0.000 | undefined | 1.000 | 1.000 |" in run.stdout


@pytest.mark.skipif(not MORE.exists(), reason="needs the shared data")
@pytest.mark.parametrize(("stem", "tasks"), [("wnut17", ["names"]), ("atis", ["intent", "slots"])])
def test_the_recipes_of_real_data_read_every_row(
    run_in_process: Callable, tmp_path: Path, stem: str, tasks: list[str]
) -> None:
    config = ROOT / "recipes" / "datasets" / f"{stem}.yaml"
    run = run_in_process(
        *("train.py", "--config", config, "--data_dir", MORE, "--output_dir", tmp_path, "--max_steps", 2, *QUICK),
        *("--backbone", ROOT / "recipes" / "quickstart" / "backbone", "--from_scratch", "--use_cpu"),
        *("--on_bad_rows", "error", "--per_device_train_batch_size", 2, "--max_eval_rows", 20),
    )
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert list(report["train"]) == tasks
    assert not any(rows["dropped"] for by_task in report.values() for rows in by_task.values())


def test_the_recipe_of_names_reads_the_hub_too(tmp_path: Path) -> None:
    config = ROOT / "recipes" / "datasets" / "wnut17.yaml"
    recipe = RecipeParser("unused.yaml").parse_recipe(["--config", str(config), "--output_dir", str(tmp_path)])
    assert recipe.sources["names"].label == "ner_tags"
