"""Sweeps as a user runs them, on the quickstart."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hf_multitask.recipe import RecipeParser
from recipes.sweep import as_flags
from tests.recipes.conftest import ROOT

QUICK = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., Path]:
    def write(runs: object, **keys: object) -> Path:
        path = tmp_path / "sweep.yaml"
        recipe = str(ROOT / "recipes" / "quickstart.yaml")
        path.write_text(yaml.safe_dump({"recipe": recipe, "seeds": 2, "runs": runs, **keys}, sort_keys=False))
        return path

    return write


def test_a_sweep_tabulates_its_runs_reports_a_failed_one_and_repeats_none(
    write_sweep: Callable, run_in_process: Callable, tmp_path: Path
) -> None:
    sweep = write_sweep({"plain": QUICK, "SMART, λ = 1": {**QUICK, "smart": {"weight": 1.0}}})
    out = tmp_path / "out"
    # A run that cannot begin: its folder is there, but its recipe is refused.
    broken = write_sweep({"plain": QUICK, "broken": {**QUICK, "smart": {"wight": 1.0}}})
    rate = ("--learning_rate", "0.002")
    first = run_in_process("sweep.py", broken, "--output_dir", out, "--seeds", 1, *rate)
    assert first.returncode == 1
    assert f"failed: {out / 'broken' / 'seed-0'}" in first.stderr
    assert "unknown key 'wight'" in (out / "broken" / "seed-0" / "log.txt").read_text()
    assert "| plain | 1 |" in first.stdout

    written = (out / "plain" / "seed-0" / "all_results.json").stat().st_mtime_ns
    sweep = write_sweep({"plain": QUICK, "SMART, λ = 1": {**QUICK, "smart": {"weight": 1.0}}})
    second = run_in_process("sweep.py", sweep, "--output_dir", out, "--jobs", 2, *rate)
    assert second.returncode == 0, second.stderr[-2000:]
    assert (out / "plain" / "seed-0" / "all_results.json").stat().st_mtime_ns == written
    results = pd.read_csv(out / "results.csv")
    assert list(results.columns) == ["run", "seed", "score", "value"]
    assert set(results["run"]) == {"plain", "SMART, λ = 1"}
    assert set(results["score"]) == {"sentiment", "paraphrase", "similarity", "final"}
    final = [json.loads((out / "plain" / f"seed-{seed}" / "all_results.json").read_text()) for seed in (0, 1)]
    values = pd.Series([run["eval_final_score"] for run in final])
    assert f"{values.mean():.3f} ± {values.std():.3f} |" in second.stdout
    assert (out / "table.md").read_text() == second.stdout
    flags = (out / "SMART_λ_=_1" / "seed-1" / "flags.txt").read_text()
    assert "--max_steps 2 " in flags
    assert "--smart.weight=1.0 --learning_rate 0.002 --seed 1 " in flags

    other = run_in_process("sweep.py", sweep, "--output_dir", out, "--learning_rate", "0.003")
    assert other.returncode == 2
    assert "holds a run with other flags" in other.stderr


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"runs": ["plain"]}, "runs must be a mapping of names to the keys that each changes"),
        ({"runs": {}}, "runs must be a mapping"),
        ({"runs": {"plain": {}}, "seed": 3}, "unknown key 'seed'; known: recipe, seeds, runs"),
        ({"runs": {"plain": {}}, "seeds": "all"}, "seeds must be a number from 1 on, not 'all'"),
        ({"runs": {"a b": {}, "a/b": {}}}, "run 'a/b' would share the folder"),
        ({"runs": {"plain": {}}, "recipe": "nowhere.yaml"}, "nowhere.yaml is not there"),
    ],
)
def test_mistakes_are_refused_by_a_sentence(
    write_sweep: Callable, run_in_process: Callable, tmp_path: Path, keys: dict, message: str
) -> None:
    run = run_in_process("sweep.py", write_sweep(**keys), "--output_dir", tmp_path / "out")
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/sweeps/*.yaml")), ids=lambda path: path.stem)
def test_every_run_of_the_repositorys_sweeps_is_a_valid_recipe(path: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    for changes in sweep["runs"].values():
        base = str(path.parent / sweep["recipe"])
        flags = as_flags(changes)
        RecipeParser("unused.yaml").parse_recipe(["--config", base, "--output_dir", str(tmp_path), *flags])
