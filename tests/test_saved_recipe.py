"""A run's recipe as it is saved, and read again."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_multitask.hub.publisher import RECIPE_NAME
from hf_multitask.recipe import Recipe, RecipeParser
from hf_multitask.saved_recipe import default_to_saved_recipe, save_recipe
from tests.conftest import ROOT

RECIPES = [
    "quickstart.yaml",
    "paper/full_finetuning.yaml",
    "paper/base.yaml",
    *(f"datasets/{path.name}" for path in (ROOT / "recipes" / "datasets").glob("*.yaml") if path.stem != "base"),
]
FLAGS = [
    *("--learning_rate", "3e-6", "--smart.weight", "0.3", "--eval_strategy", "no", "--save_strategy", "no"),
    *("--load_best_model_at_end", "false", "--language", "no", "en", "--on_bad_rows", "drop", "--bf16", "true"),
]
MACHINE = ["--hub_token", "secret", "--run_name", "mine", "--dataloader_num_workers", "2", "--report_to", "none"]


def read(path: Path, *flags: str) -> Recipe:
    return RecipeParser("unused.yaml").parse_recipe(["--config", str(path), "--use_cpu", *flags])


def resolved(recipe: Recipe) -> dict[str, Any]:
    return {
        name: replace(source, data_dir=str(Path(source.data_dir).resolve())) if hasattr(source, "data_dir") else source
        for name, source in recipe.sources.items()
    }


def learnt(recipe: Recipe) -> dict[str, Any]:
    machine = ("output_dir", "run_name", "hub_token", "dataloader_num_workers", "report_to", "logging_dir")
    return {key: value for key, value in recipe.training.to_dict().items() if key not in machine}


@pytest.mark.parametrize("flags", [[], FLAGS], ids=["as it is", "with flags"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_recipe_is_read_as_the_same_recipe(tmp_path: Path, name: str, flags: list[str]) -> None:
    recipe = read(ROOT / "recipes" / name, "--output_dir", str(tmp_path), *MACHINE, *flags)
    save_recipe(recipe, tmp_path)
    again = read(tmp_path / RECIPE_NAME)
    assert again.tasks == recipe.tasks
    assert list(again.tasks) == list(recipe.tasks)
    assert resolved(again) == resolved(recipe)
    assert learnt(again) == learnt(recipe)
    assert (again.card, again.report) == (recipe.card, recipe.report)
    assert again.model.from_scratch == recipe.model.from_scratch
    assert again.data.on_bad_rows == recipe.data.on_bad_rows
    text = (tmp_path / RECIPE_NAME).read_text()
    assert " /" not in text
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert not {"run_name", "dataloader_num_workers", "report_to", "use_cpu"} & set(yaml.safe_load(text))


def test_paths_hold_where_the_whole_tree_is_moved(tmp_path: Path) -> None:
    (tmp_path / "there" / "out").mkdir(parents=True)
    shutil.copytree(ROOT / "recipes" / "quickstart", tmp_path / "there" / "quickstart")
    shutil.copy(ROOT / "recipes" / "quickstart.yaml", tmp_path / "there")
    absolute = str(tmp_path / "there" / "quickstart" / "sentiment-train.csv")
    recipe = read(tmp_path / "there" / "quickstart.yaml", "--tasks.sentiment.files.train", absolute)
    save_recipe(recipe, tmp_path / "there" / "out")
    (tmp_path / "there").rename(tmp_path / "here")
    again = read(tmp_path / "here" / "out" / RECIPE_NAME)
    assert (Path(again.model.backbone) / "config.json").is_file()
    assert again.sources["sentiment"].load("train").num_rows == recipe_rows(tmp_path / "here")
    assert not Path(again.sources["sentiment"].train).is_absolute()


def recipe_rows(folder: Path) -> int:
    return len((folder / "quickstart" / "sentiment-train.csv").read_text().splitlines()) - 1


@pytest.mark.parametrize("given", [[], ["--config", "other.yaml"], ["--config=other.yaml"]])
def test_a_models_own_recipe_is_the_default_and_no_more(
    tmp_path: Path, given: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / RECIPE_NAME).write_text("backbone: x\n")
    parser = RecipeParser("quickstart.yaml")
    default_to_saved_recipe(parser, given, ["user/on-the-hub", str(tmp_path)])
    assert parser.get_default("config") == ("quickstart.yaml" if given else str(tmp_path / RECIPE_NAME))
    parser = RecipeParser("quickstart.yaml")
    default_to_saved_recipe(parser, given, ["user/on-the-hub"])
    assert parser.get_default("config") == "quickstart.yaml"
    said = "user/on-the-hub has no recipe.yaml, and no --config is given: the data are those of quickstart.yaml."
    assert (said in caplog.text) == (not given)


def test_a_checkpoint_has_its_runs_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / RECIPE_NAME).write_text("backbone: x\n")
    (tmp_path / "checkpoint-10").mkdir()
    monkeypatch.chdir(tmp_path / "checkpoint-10")
    for checkpoint in (str(tmp_path / "checkpoint-10"), f"{tmp_path}/checkpoint-10/", "."):
        parser = RecipeParser("quickstart.yaml")
        default_to_saved_recipe(parser, [], [checkpoint])
        assert parser.get_default("config") == str(tmp_path / RECIPE_NAME)
        assert parser.get_default("output_dir") == checkpoint
    (tmp_path / "other").mkdir()
    parser = RecipeParser("quickstart.yaml")
    default_to_saved_recipe(parser, [], [str(tmp_path / "other")])
    assert parser.get_default("config") == "quickstart.yaml"
