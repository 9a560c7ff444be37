"""Searches for hyperparameters, on the quickstart."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

from hf_multitask import MultiTaskTrainer
from hf_multitask.recipe import RecipeParser
from hf_multitask_cli.command_line import as_flags
from recipes.tune import Pruning, open_study, read_search, suggest, trials_left
from tests.conftest import ROOT

QUICK = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "use_cpu": True}
SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "smart.weight": {"low": 0.1, "high": 1.0}}


@pytest.fixture
def write_search(tmp_path: Path) -> Callable[..., Path]:
    def write(**keys: Any) -> Path:
        recipe = str(ROOT / "recipes" / "quickstart.yaml")
        every = {**QUICK, "load_best_model_at_end": False}
        values = {"recipe": recipe, "trials": 2, "every_trial": every, "space": SPACE, **keys}
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return path

    return write


def test_a_search_goes_on_where_it_stopped_and_writes_a_recipe_of_the_best(
    write_search: Callable, run_in_process: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run_in_process("tune.py", write_search(), "--output_dir", out, "--seed", 3)
    assert first.returncode == 0, first.stderr[-2000:]
    before = pd.read_csv(out / "trials.csv")
    assert before["state"].tolist() == ["COMPLETE"] * 2
    again = run_in_process("tune.py", write_search(), "--output_dir", out, "--seed", 3, "--trials", 3)
    assert again.returncode == 0, again.stderr[-2000:]
    after = pd.read_csv(out / "trials.csv")
    assert after["datetime_complete"].tolist()[:2] == before["datetime_complete"].tolist()
    # Not the first trial's values once more.
    assert len(after) == 3
    assert after["params_learning_rate"].nunique() == 3

    best = after.loc[after["value"].idxmax()]
    assert f"best: eval_final_score {best['value']:.4f}, trial {best['number']}" in again.stdout
    flags = shlex.split((out / "best.txt").read_text())
    recipe = RecipeParser("unused.yaml").parse_recipe([*flags, "--output_dir", str(out)])
    assert recipe.training.learning_rate == pytest.approx(best["params_learning_rate"])
    assert recipe.training.smart.weight == pytest.approx(best["params_smart.weight"])
    assert (recipe.training.max_steps, recipe.training.seed) == (2, 3)
    assert (out / "importance.png").is_file()
    assert (out / "importance.svg").is_file()
    other = run_in_process("tune.py", write_search(), "--output_dir", out, "--seed", 4)
    assert (other.returncode, other.stderr.splitlines()[-1]) == (
        2,
        f"error: {out} holds a search with other settings; choose another output_dir.",
    )


def test_a_trial_that_fails_is_reported_and_the_search_goes_on(
    write_search: Callable, run_in_process: Callable, tmp_path: Path
) -> None:
    search = write_search(space={"surgery": ["sum", "nonsense"]})
    run = run_in_process("tune.py", search, "--output_dir", tmp_path / "out", "--sampler_seed", 0)
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert set(trials["state"]) == {"FAIL", "COMPLETE"}
    failed = trials[trials["state"] == "FAIL"]
    assert failed["user_attrs_error"].str.contains("nonsense").all()
    assert f"{len(failed)} fail" in run.stdout
    assert run.returncode == 0


def test_a_trial_that_an_interruption_ended_is_run_again_and_counted_once(tmp_path: Path) -> None:
    study = open_study(tmp_path, 0)
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.5)
    killed = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    for _ in range(2):
        # Also if it is opened once more before anything ran.
        study = open_study(tmp_path, 0)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING]
        assert trials_left(study, 3) == 2
    trial = study.ask()
    assert trial.suggest_float("x", 0, 1) == killed.params["x"]
    study.tell(trial, 0.7)
    assert trials_left(open_study(tmp_path, 0), 3) == 1


def test_of_an_error_the_least_is_the_best(write_search: Callable, run_in_process: Callable, tmp_path: Path) -> None:
    every = {**QUICK, "load_best_model_at_end": False, "tasks.similarity.metrics": ["mae"]}
    search = write_search(metric="eval_similarity_mae", every_trial=every)
    run = run_in_process("tune.py", search, "--output_dir", tmp_path / "out")
    assert run.returncode == 0, run.stderr[-2000:]
    values = pd.read_csv(tmp_path / "out" / "trials.csv")["value"]
    assert values.nunique() == 2
    assert f"best: eval_similarity_mae {values.min():.4f}, trial {values.idxmin()}" in run.stdout


def test_a_trial_below_the_median_is_pruned(tmp_path: Path) -> None:
    study = open_study(tmp_path, 0)
    for _ in range(4):
        trial = study.ask()
        trial.report(0.6, 10)
        study.tell(trial, 0.6)
    callback = Pruning(study.ask(), "eval_final_score")
    with pytest.raises(optuna.TrialPruned):
        callback.on_evaluate(None, SimpleNamespace(global_step=10), None, metrics={"eval_final_score": 0.5})
    callback = Pruning(study.ask(), "eval_final_score")
    callback.on_evaluate(None, SimpleNamespace(global_step=10), None, metrics={"eval_final_score": 0.7})
    with pytest.raises(ValueError, match="metric 'eval_final_score' is not evaluated; there are eval_loss"):
        callback.on_evaluate(None, SimpleNamespace(global_step=10), None, metrics={"eval_loss": 0.7})


def test_ranges_and_choices_are_suggested_as_what_they_are() -> None:
    space = {"a": {"low": 1, "high": 3}, "b": {"low": 1e-5, "high": 1e-3, "log": True}, "c": ["x", "y"]}
    drawn = [suggest(optuna.create_study().ask(), space) for _ in range(20)]
    assert {type(values["a"]) for values in drawn} == {int}
    assert {values["a"] for values in drawn} <= {1, 2, 3}
    assert all(1e-5 <= values["b"] <= 1e-3 for values in drawn)
    # Half of a logarithmic range's draws lie below its geometric mean, where a uniform one has a hundredth.
    assert sum(math.log10(values["b"]) < -4 for values in drawn) > 3
    assert {values["c"] for values in drawn} == {"x", "y"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": None}, "space must be a mapping of the recipe's keys"),
        ({"space": {"learning_rate": 1.0}}, "space: learning_rate must be a list of choices or a range"),
        ({"space": {"learning_rate": {"low": 2, "high": 1}}}, "space: learning_rate needs low and high"),
        ({"space": {"learning_rate": {"low": 0, "high": 1, "log": True}}}, "above 0 if log is set"),
        ({"space": {"learning_rate": {"low": 0, "hihg": 1}}}, "unknown key 'hihg'; did you mean 'high'?"),
        ({"recipe": None}, "recipe is missing"),
        ({"trials": 0}, "trials must be a number from 1 on, not 0"),
        ({"sapce": {}}, "unknown key 'sapce'; did you mean 'space'?"),
        ({"every_trial": 3}, "every_trial must be a mapping"),
        ({"space": {"learning_rat": [1]}}, "unknown argument '--learning_rat'"),
        ({"every_trial": {"learning_rat": 1}}, "unknown argument '--learning_rat'"),
    ],
)
def test_mistakes_are_refused_by_a_sentence(
    write_search: Callable, run_in_process: Callable, tmp_path: Path, keys: dict, message: str
) -> None:
    run = run_in_process("tune.py", write_search(**keys), "--output_dir", tmp_path / "out")
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/tuning/*.yaml")), ids=lambda path: path.stem)
def test_every_search_of_the_repository_is_valid(path: Path, tmp_path: Path) -> None:
    search = read_search(path)
    values = suggest(optuna.create_study().ask(), search.space)
    flags = as_flags(search.every_trial | values)
    RecipeParser("unused.yaml").parse_recipe(["--config", str(search.recipe), "--output_dir", str(tmp_path), *flags])


@pytest.mark.parametrize("where", ["building", "training"])
def test_ctrl_c_ends_a_search_with_a_sentence_and_the_same_command_goes_on(
    write_search: Callable, run_in_process: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out, begun = tmp_path / "out", []

    def interrupted_by(method: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun.append(method)
            if len(begun) == 2:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        return run

    name = "__init__" if where == "building" else "train"
    monkeypatch.setattr(MultiTaskTrainer, name, interrupted_by(getattr(MultiTaskTrainer, name)))
    run = run_in_process("tune.py", write_search(), "--output_dir", out)
    assert run.returncode == 130
    assert f"Stopped by Ctrl-C; the study in {out} has 1 of 2 trials." in run.stdout
    assert "Traceback" not in run.stderr
    again = run_in_process("tune.py", write_search(), "--output_dir", out)
    assert again.returncode == 0, again.stderr[-2000:]
    assert pd.read_csv(out / "trials.csv")["state"].tolist().count("COMPLETE") == 2
