"""Sweeps as a user runs them, on the quickstart."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hf_multitask.recipe import RecipeParser
from hf_multitask_cli.command_line import as_flags
from recipes.sweep import Progress, Sweep, plan, read_sweep, train
from tests.recipes.conftest import ROOT

QUICK = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
QUICK |= {"write_report": False}


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., Path]:
    def write(runs: object, **keys: object) -> Path:
        path = tmp_path / "sweep.yaml"
        recipe = str(ROOT / "recipes" / "quickstart.yaml")
        path.write_text(yaml.safe_dump({"recipe": recipe, "seeds": 2, "runs": runs, **keys}, sort_keys=False))
        return path

    return write


@pytest.mark.slow
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
        ({"runs": {}}, "names no runs; give runs"),
        ({"runs": {}, "grid": {"learning_rate": 1}}, "grid must be a mapping of keys to lists of values"),
        ({"runs": {"plain": {}}, "every_run": 3}, "every_run must be a mapping of the keys"),
        ({"runs": {"plain": {}}, "paper": {"plan": {}}}, "paper names the run 'plan'; there are plain"),
        ({"runs": {"plain": {}}, "paper": {"plain": 0.7}}, "paper must be a mapping of runs to their scores"),
        ({"runs": {"plain": {}}, "recipe": None}, "run 'plain' has no recipe"),
        ({"runs": {"plain": {}}, "seed": 3}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"runs": {"plain": {}}, "evry_run": {}}, "unknown key 'evry_run'; did you mean 'every_run'?"),
        ({"runs": {"plain": {}}, "backbone": "x"}, "unknown key 'backbone'; known: recipe, seeds, every_run, runs"),
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


SWEEPS = [*ROOT.glob("recipes/sweeps/*.yaml"), *ROOT.glob("recipes/paper/table*.yaml")]


@pytest.mark.parametrize("path", sorted(SWEEPS), ids=lambda path: path.stem)
def test_every_run_of_the_repositorys_sweeps_is_a_valid_recipe(path: Path, tmp_path: Path) -> None:
    for recipe, changes in read_sweep(path).runs.values():
        flags = as_flags(changes)
        RecipeParser("unused.yaml").parse_recipe(["--config", str(recipe), "--output_dir", str(tmp_path), *flags])


def test_a_grid_has_a_run_for_each_combination_over_what_every_run_changes(write_sweep: Callable) -> None:
    grid = {"learning_rate": [1e-5, 2e-5], "smart.weight": [0.02, 0.1]}
    sweep = read_sweep(write_sweep({"plain": {"max_steps": 3}}, every_run={"max_steps": 2}, grid=grid))
    assert list(sweep.runs) == ["plain"] + [
        f"learning_rate = {rate}, smart.weight = {weight}" for rate in (1e-05, 2e-05) for weight in (0.02, 0.1)
    ]
    assert sweep.runs["plain"][1] == {"max_steps": 3}
    changes = sweep.runs["learning_rate = 2e-05, smart.weight = 0.1"][1]
    assert as_flags(changes) == ["--max_steps", "2", "--learning_rate", "2e-05", "--smart.weight=0.1"]


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_goes_on_to_the_same_table_and_repeats_no_run(
    write_sweep: Callable, run_script: Callable, tmp_path: Path
) -> None:
    sweep = write_sweep({"plain": QUICK, "SMART": {**QUICK, "smart": {"weight": 1.0}}})
    whole = run_script("sweep.py", sweep, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]

    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "recipes" / "sweep.py"), str(sweep), "--output_dir", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    first, second = (out / name / "seed-0" for name in ("plain", "SMART"))
    while not (first / "done").exists() or not (second / "flags.txt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (second / "done").exists()
    finished = (first / "all_results.json").stat().st_mtime_ns

    continued = run_script("sweep.py", sweep, "--output_dir", out)
    assert continued.returncode == 0, continued.stderr[-2000:]
    assert (first / "all_results.json").stat().st_mtime_ns == finished
    assert continued.stdout == whole.stdout
    assert pd.read_parquet(out / "results.parquet").equals(pd.read_parquet(tmp_path / "whole" / "results.parquet"))


def test_each_run_is_said_as_it_starts_and_ends_with_an_estimate(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(3)
    for name, seconds, failed in (("a, seed 0", 30.4, False), ("b, seed 0", 149.6, True), ("a, seed 1", 7500, False)):
        progress.start(name, Path("out"))
        progress.end(name, seconds, failed)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "[1/3] a, seed 0 starts; its log is out/log.txt",
        "a, seed 0 is done after 30 s: 1 of 3 ended; about 1 min to go",
        "[2/3] b, seed 0 starts; its log is out/log.txt",
        "b, seed 0 failed after 2 min: 2 of 3 ended; about 2 min to go",
        "[3/3] a, seed 1 starts; its log is out/log.txt",
        "a, seed 1 is done after 2 h 05 min: 3 of 3 ended",
    ]


def test_runs_side_by_side_share_the_time_that_is_left(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(5, jobs=2)
    progress.end("a, seed 0", 60, False)
    assert "about 2 min to go" in capsys.readouterr().err


def test_a_run_is_made_once_and_its_failure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    codes = iter([1, 0])
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess([], next(codes)))
    progress = Progress(1)
    assert not train("a, seed 0", tmp_path / "a", [], progress)
    assert "a, seed 0 failed after 0 s: 1 of 1 ended" in capsys.readouterr().err
    assert train("a, seed 0", tmp_path / "a", [], progress)
    capsys.readouterr()
    assert train("a, seed 0", tmp_path / "a", [], progress)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("status", [-2, 130])
def test_a_run_that_ctrl_c_ended_did_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, status: int
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess([], status))
    assert not train("a, seed 0", tmp_path / "a", [], Progress(1))
    assert "failed" not in capsys.readouterr().err
    assert not (tmp_path / "a" / "done").exists()


def test_no_name_of_a_run_leads_out_of_the_output_folder(tmp_path: Path) -> None:
    names = ["..", "../../b", "/etc/c", "d/../../e"]
    sweep = Sweep({name: (Path("recipe.yaml"), {}) for name in names}, 1, {})
    folders = [folder.resolve() for folder, _ in plan(sweep, 1, tmp_path, []).values()]
    assert len(set(folders)) == len(names)
    assert all(folder.is_relative_to(tmp_path.resolve()) and folder.parents[1] == tmp_path for folder in folders)
