"""Scores of runs over seeds: one tidy table, and its summary as Markdown and LaTeX.

This is the uncertainty of training. That of a finite evaluation set is another ([`bootstrap_intervals`]).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind
from transformers.utils import CONFIG_NAME

from hf_multitask.evaluation.summary import Cells, Markdown, markdown_table
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.evaluation.uncertainty import holm
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig

# Below it, a difference is called significant.
_LEVEL = 0.05
_LATEX = {"_": r"\_", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$", "±": r"$\pm$", "λ": r"$\lambda$"}
_LATEX |= {"ε": r"$\varepsilon$", "η": r"$\eta$", "μ": r"$\mu$", "σ": r"$\sigma$"}

PaperScores = Mapping[str, Mapping[str, float]]


def tidy_scores(folders: Mapping[tuple[str, int], Path]) -> pd.DataFrame:
    """A row for each score of each run: `run`, `seed`, `score` (a task's name, or `final`) and `value`.

    A task's score is the metric that counts in the final one; of a task of which none does, there is no row.

    Args:
        folders: The output folder of each run, by its name and seed.
    """
    rows = []
    for (name, seed), folder in folders.items():
        config: MultiTaskBertConfig = MultiTaskBertConfig.from_json_file(folder / CONFIG_NAME)
        scores = {f"eval_{task}_{evaluation_of(of).counting}": task for task, of in config.tasks.items()}
        scores["eval_final_score"] = "final"
        results = json.loads((folder / "all_results.json").read_text())
        rows += [(name, seed, scores[key], value) for key, value in results.items() if key in scores]
    return pd.DataFrame(rows, columns=["run", "seed", "score", "value"])


def significantly_best(results: pd.DataFrame, score: str) -> str | None:
    """The run whose mean of a score is above that of every other run, beyond chance.

    Tested by Welch's t-test of its seeds against each other run's, two-sided, at 5 % after Holm's correction.

    Args:
        results: As [`tidy_scores`] gives them.
        score: The score.

    Returns:
        Its name; None if some other run may be as good, if there is no other, if a run has a single seed, or if a value
        is undefined.
    """
    by_run = {str(name): np.asarray(group["value"]) for name, group in _of(results, score).groupby("run", sort=False)}
    is_undefined = any(np.isnan(values).any() for values in by_run.values())
    if is_undefined or len(by_run) < 2 or min(map(len, by_run.values())) < 2:
        return None
    best = max(by_run, key=lambda name: by_run[name].mean())
    others = {name: values for name, values in by_run.items() if name != best}
    p_values = {name: _welch(by_run[best], values) for name, values in others.items()}
    return best if max(holm(p_values).values()) < _LEVEL else None


def _welch(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        # Without any variance t is infinite, or 0 / 0: runs that are the same to the last digit are no better.
        return float(first[0] == second[0])
    return float(ttest_ind(first, second, equal_var=False).pvalue)


def seeds_table(results: pd.DataFrame, paper: PaperScores | None = None) -> str:
    """Mean ± standard deviation over seeds in Markdown, a line for each run; in bold where [`significantly_best`].

    Args:
        results: As [`tidy_scores`] gives them.
        paper: Published scores, by the names of run and score, to stand beside ours.
    """
    return markdown_table(*_cells(results, paper or {}, lambda cell: Markdown(f"**{cell}**")), texts=1)


def latex_table(results: pd.DataFrame, paper: PaperScores | None = None) -> str:
    """[`seeds_table`] as a `tabular` of the LaTeX package booktabs."""
    header, lines = _cells(results, paper or {}, r"\textbf{{{}}}".format)
    # A cell's own braces and backslashes are the marking's, and stay.
    rows = [" & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in line) for line in [header, *lines]]
    columns = "l" + "r" * (len(header) - 1)
    body = [rf"{row} \\" for row in rows]
    top, rest = body[0], body[1:]
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", top, r"\midrule", *rest, r"\bottomrule", r"\end{tabular}"]
    )


def _cells(results: pd.DataFrame, paper: PaperScores, bold: Callable[[str], str]) -> Cells:
    """The header's cells and each line's."""
    scores = sorted(results["score"].unique(), key=lambda score: score != "final")
    best = {score: significantly_best(results, score) for score in scores}
    published = [score for score in scores if any(score in values for values in paper.values())]
    header = ["run", "seeds"]
    for score in scores:
        header += [score, *(["paper"] if score in published else [])]
    lines = []
    for name, run in results.groupby("run", sort=False):
        cells = [str(name), str(run["seed"].nunique())]
        for score in scores:
            values = _of(run, score)["value"]
            cell = _mean_and_deviation(values)
            cells.append(bold(cell) if best[score] == name else cell)
            if score in published:
                number = paper.get(str(name), {}).get(score)
                cells.append("" if number is None else f"{number:.3f}")
        lines.append(cells)
    return header, lines


def _mean_and_deviation(values: pd.Series) -> str:
    if values.isna().any():
        return "undefined"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def _of(results: pd.DataFrame, score: str) -> pd.DataFrame:
    return results[results["score"] == score]
