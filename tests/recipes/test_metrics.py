"""Metrics that a recipe chooses, from the training to the comparison of two models."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import f1_score

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

MODULE = """
import numpy as np


def far_off(predictions, references):
    return {"far_off": np.mean(np.abs(predictions - references) > 1)}
"""
FAR_OFF = {"name": "far_off", "function": "only_in_this_test:far_off", "greater_is_better": False}


FLAGS = (
    *("--tasks.sentiment.metrics", "[accuracy, f1_macro]", "--tasks.sentiment.counts", "f1_macro"),
    *("--tasks.similarity.metrics", json.dumps(["pearson", FAR_OFF]), "--tasks.paraphrase.counts", "none"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, run_script: Callable) -> Path:
    """A folder with a module, and two runs, of which the second chooses nothing."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "code").mkdir()
    (folder / "code" / "only_in_this_test.py").write_text(MODULE)
    for name, flags in (("chosen", ("--modules_dir", folder / "code", *FLAGS)), ("plain", ())):
        run = run_script("train.py", "--output_dir", folder / name, "--max_steps", 5, *QUICK, *flags)
        assert run.returncode == 0, run.stderr[-2000:]
    return folder


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    sys.modules.pop("only_in_this_test", None)


def test_a_run_is_scored_by_what_its_recipe_names(runs: Path) -> None:
    results = json.loads((runs / "chosen" / "all_results.json").read_text())
    assert {"eval_sentiment_f1_macro", "eval_similarity_far_off", "eval_paraphrase_accuracy"} <= set(results)
    assert "eval_similarity_rmse" not in results
    parts = results["eval_sentiment_f1_macro"], (results["eval_similarity_pearson"] + 1) / 2
    assert results["eval_final_score"] == pytest.approx(sum(parts) / 2)
    config = json.loads((runs / "chosen" / "config.json").read_text())
    assert config["tasks"][2]["metrics"] == ["pearson", FAR_OFF]


def test_its_folder_is_scored_again_with_the_same_metrics_and_its_module(runs: Path, run_in_process: Callable) -> None:
    run = run_in_process("evaluate.py", "--model", runs / "chosen", "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((runs / "chosen" / "all_results.json").read_text())
    for key in ("sentiment_f1_macro", "similarity_far_off"):
        name, _, metric = key.partition("_")
        assert f"| {name} | {metric} | {results[f'eval_{key}']:.3f} |" in run.stdout


def test_a_recipes_choice_goes_before_the_models(runs: Path, run_in_process: Callable) -> None:
    flags = ("--tasks.sentiment.metrics", "[f1_weighted]", "--tasks.sentiment.counts", "f1_weighted")
    run = run_in_process("evaluate.py", "--model", runs / "plain", "--use_cpu", *flags)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| sentiment | f1_weighted | " in run.stdout
    assert "| sentiment | accuracy |" not in run.stdout
    assert "| paraphrase | accuracy |" in run.stdout


def test_models_are_compared_by_the_first_ones_metrics(runs: Path, run_in_process: Callable) -> None:
    run = run_in_process("compare.py", runs / "chosen", runs / "plain", "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    for line in ("| sentiment | accuracy |", "| sentiment | f1_macro |", "| similarity | far_off |"):
        assert line in run.stdout
    # They were trained alike.
    assert run.stdout.count("| +0.000 |") == 5


def test_a_module_that_is_not_there_is_named_before_anything_is_read(runs: Path, run_in_process: Callable) -> None:
    run = run_in_process("train.py", "--modules_dir", runs, "--output_dir", runs / "none", *FLAGS)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith(
        "task 'similarity': only_in_this_test:far_off: there is no module 'only_in_this_test' beside the recipe, in "
        "its modules_dir, or on Python's path."
    )


def test_the_f1_of_a_run_is_scikit_learns(runs: Path, run_in_process: Callable, tmp_path: Path) -> None:
    table = pd.read_csv(ROOT / "recipes/quickstart/sentiment-validation.csv")
    source, target = ROOT / "recipes/quickstart/sentiment-validation.csv", tmp_path / "out.jsonl"
    model = runs / "chosen"
    run = run_in_process("predict.py", "--model", model, "--task", "sentiment", "--input", source, "--output", target)
    assert run.returncode == 0, run.stderr[-2000:]
    said = [json.loads(line)["label"] for line in target.read_text().splitlines()]
    results = json.loads((model / "all_results.json").read_text())
    expected = f1_score(table["sentiment"].astype(str), said, average="macro")
    assert results["eval_sentiment_f1_macro"] == pytest.approx(expected)
