"""Scores over seeds: what is tabulated and what is called best."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_multitask import MultiTaskBertConfig
from hf_multitask.evaluation.seeds import latex_table, seeds_table, significantly_best, tidy_scores


def scores(**runs: list[float]) -> pd.DataFrame:
    rows = [(run, seed, "final", value) for run, values in runs.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["run", "seed", "score", "value"])


def test_the_scores_that_count_are_read_from_the_results_of_each_run(tmp_path: Path) -> None:
    classes = {"type": "single_label_classification", "num_labels": 2}
    tasks = {
        "a_b": classes,
        "sts": {"type": "regression"},
        "mcc": {**classes, "metrics": ["f1"], "counts": "mcc"},
        "aside": {**classes, "counts": "none"},
    }
    MultiTaskBertConfig(tasks=tasks).save_pretrained(tmp_path)
    results = {"eval_a_b_accuracy": 0.5, "eval_sts_pearson": 0.25, "eval_sts_rmse": 1.0, "eval_final_score": 0.6}
    results |= {"eval_mcc_f1": 0.7, "eval_mcc_mcc": 0.4, "eval_aside_accuracy": 0.9}
    (tmp_path / "all_results.json").write_text(json.dumps({**results, "train_loss": 3.0, "epoch": 1.0}))
    tidy = tidy_scores({("plain", 7): tmp_path})
    assert list(tidy.itertuples(index=False, name=None)) == [
        ("plain", 7, "a_b", 0.5),
        ("plain", 7, "sts", 0.25),
        ("plain", 7, "final", 0.6),
        ("plain", 7, "mcc", 0.4),
    ]


def test_a_run_is_best_only_if_it_is_significantly_above_every_other() -> None:
    clear = scores(low=[0.50, 0.51, 0.52], high=[0.70, 0.71, 0.72], middle=[0.60, 0.61, 0.62])
    assert significantly_best(clear, "final") == "high"
    rivalled = scores(low=[0.50, 0.51, 0.52], high=[0.70, 0.71, 0.72], rival=[0.69, 0.70, 0.73])
    assert significantly_best(rivalled, "final") is None
    assert significantly_best(scores(low=[0.5], high=[0.7]), "final") is None
    assert significantly_best(scores(only=[0.5, 0.6]), "final") is None
    undefined = scores(low=[0.10, 0.11, 0.12], high=[0.90, 0.91, 0.92], lacking=[0.95, 0.96, np.nan])
    assert significantly_best(undefined, "final") is None
    assert "| lacking | 3 | undefined |" in seeds_table(undefined)
    assert significantly_best(scores(first=[0.5, 0.5], same=[0.5, 0.5]), "final") is None


def test_equal_runs_are_rarely_told_apart() -> None:
    draws = np.random.default_rng(0).normal(0.7, 0.01, (400, 3, 3))
    found = sum(significantly_best(scores(a=list(x), b=list(y), c=list(z)), "final") is not None for x, y, z in draws)
    # The best of three is chosen before it is tested; demanding that it beats both others keeps the rate below 5 %.
    assert found / len(draws) <= 0.05


def test_the_tables_show_mean_and_deviation_beside_the_papers_scores() -> None:
    results = scores(plain=[0.50, 0.51, 0.52], SMART_1=[0.70, 0.71, 0.72])
    paper = {"plain": {"final": 0.763}}
    assert seeds_table(results, paper).splitlines() == [
        "| run | seeds | final | paper |",
        "| --- | ---: | ---: | ---: |",
        "| plain | 3 | 0.510 ± 0.010 | 0.763 |",
        "| SMART_1 | 3 | **0.710 ± 0.010** | |",
    ]
    assert latex_table(results, paper).splitlines() == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"run & seeds & final & paper \\",
        r"\midrule",
        r"plain & 3 & 0.510 $\pm$ 0.010 & 0.763 \\",
        r"SMART\_1 & 3 & \textbf{0.710 $\pm$ 0.010} &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(("name", "written"), [("λ_s = 5 %", r"$\lambda$\_s = 5 \%"), ("a & b", r"a \& b")])
def test_names_are_escaped_for_latex(name: str, written: str) -> None:
    assert f"\n{written} & 1 & 0.500" in latex_table(scores(**{name: [0.5]}))
