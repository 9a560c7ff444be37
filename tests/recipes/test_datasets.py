"""The recipes for further datasets, on a few rows of each."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_multitask.data.sources import HubSource
from hf_multitask.recipe import RecipeParser
from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "datasets"
TASKS = {
    "imdb": ["imdb"],
    "mrpc": ["mrpc"],
    "sick": ["sick"],
    "rte": ["rte"],
    "tweets": ["tweets"],
    "goemotions": ["goemotions"],
    "eight_tasks": ["sst", "quora", "sts", "imdb", "mrpc", "sick", "rte", "tweets"],
}


# The eight tasks have most of the others' among them; each of those by itself is for the slow set.
@pytest.mark.parametrize(
    "stem", [pytest.param(s, marks=[] if s in ("eight_tasks", "goemotions") else [pytest.mark.slow]) for s in TASKS]
)
def test_a_recipe_trains_and_is_scored_on_its_samples(stem: str, run_in_process: Callable, tmp_path: Path) -> None:
    run = run_in_process(
        *("train.py", "--config", FOLDER / f"{stem}.yaml", "--data_dir", FOLDER / "samples", "--output_dir", tmp_path),
        *("--backbone", ROOT / "recipes" / "quickstart" / "backbone", "--from_scratch", "--max_steps", 2, *QUICK),
        *("--per_device_train_batch_size", 2, "--use_cpu"),
    )
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "all_results.json").read_text())
    metrics = ("accuracy", "pearson", "f1_macro")
    scored = [name for name in TASKS[stem] if {f"eval_{name}_{metric}" for metric in metrics} & set(results)]
    assert scored == TASKS[stem]
    rows = json.loads((tmp_path / "data_report.json").read_text())
    assert all(not entry["dropped"] for by_task in rows.values() for entry in by_task.values())


@pytest.mark.parametrize("stem", TASKS)
def test_without_a_data_dir_the_rows_come_from_the_hub(stem: str, tmp_path: Path) -> None:
    recipe = RecipeParser("unused.yaml").parse_recipe(
        ["--config", str(FOLDER / f"{stem}.yaml"), "--output_dir", str(tmp_path)]
    )
    assert list(recipe.tasks) == TASKS[stem]
    assert all(isinstance(source, HubSource) for source in recipe.sources.values())
