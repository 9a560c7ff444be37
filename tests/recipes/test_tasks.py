"""The recipes of `recipes/tasks/`: one for each kind of task, each on data that come with the repository."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.model.kinds import task_type_names
from hf_multitask.recipe import RecipeParser
from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "tasks"
RECIPES = sorted(FOLDER.glob("*.yaml"))
GENERATORS = sorted(FOLDER.glob("*/generate.py"))


def test_every_kind_has_one() -> None:
    assert {path.stem for path in RECIPES} >= set(task_type_names())


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.parent.name)
def test_a_generator_makes_its_files_byte_for_byte(path: Path, tmp_path: Path) -> None:
    runpy.run_path(str(path))["write_all"](tmp_path)
    made = sorted(file.name for file in tmp_path.iterdir())
    assert made == sorted(file.name for file in path.parent.iterdir() if file.is_file() and file != path)
    for name in made:
        assert (tmp_path / name).read_bytes() == (path.parent / name).read_bytes(), name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_trains_and_scores_its_tasks(path: Path, run_in_process: Callable, tmp_path: Path) -> None:
    run = run_in_process("train.py", "--config", path, "--output_dir", tmp_path, "--max_steps", 2, *QUICK)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "all_results.json").read_text())
    tasks = RecipeParser(path).parse_recipe(["--output_dir", str(tmp_path)]).tasks
    kinds = {task.type for task in tasks.values()}
    assert kinds == set(task_type_names()) if path.stem == "all" else path.stem in kinds
    for name, task in tasks.items():
        assert {f"eval_{name}_{metric}" for metric in evaluation_of(task).metrics} <= set(results)
