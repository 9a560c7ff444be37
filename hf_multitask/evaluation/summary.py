"""The tables that a run ends with."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.evaluation.uncertainty import Comparison, Interval, holm
from hf_multitask.model.configuration_mtbert import TaskConfig


class Markdown(str):
    """A cell that is Markdown already; all others are escaped."""


# A header, and rows of as many cells.
Cells = tuple[list[str], list[list[str]]]


def results_cells(
    tasks: Mapping[str, TaskConfig],
    metrics: Metrics,
    trivial: Mapping[str, Metrics],
    intervals: Mapping[str, Interval] | None = None,
) -> Cells:
    """Every task's metrics beside those of the predictor that ignores the text.

    Args:
        tasks: The table of tasks.
        metrics: What `evaluate` gave; tasks that were not evaluated are left out.
        trivial: The metrics of each task's trivial predictor, by name, where they are known.
        intervals: From [`all_intervals`], where they were computed.
    """
    between = [] if intervals is None else ["95 % interval"]

    def between_bounds(key: str) -> list[str]:
        return [] if intervals is None else [bounds(intervals[key])]

    rows = []
    for name, task in tasks.items():
        evaluation = evaluation_of(task)
        guess = evaluation.trivial_name
        for metric in evaluation.chosen:
            if (value := metrics.get(f"eval_{name}_{metric}")) is not None:
                known = trivial.get(name, {}).get(metric)
                shown = "not measured" if known is None else f"{number(known)}{f' ({guess})' if known == known else ''}"
                rows.append([name, metric, number(value), *between_bounds(f"{name}_{metric}"), shown])
    if "eval_final_score" in metrics:
        rows.append(["all", "final score", number(metrics["eval_final_score"]), *between_bounds("final_score"), ""])
    return ["task", "metric", "score", *between, "trivial predictor"], rows


def results_table(*args: Any, **kwargs: Any) -> str:
    """[`results_cells`] as Markdown."""
    return markdown_table(*results_cells(*args, **kwargs), texts=2)


def comparison_table(first: Metrics, second: Metrics, comparisons: Mapping[str, Mapping[str, Comparison]]) -> str:
    """A Markdown table of two models' scores and of what tells them apart.

    Args:
        first, second: What `evaluate` gave for each.
        comparisons: By task and metric.
    """
    header = ["task", "metric", "first", "second", "difference", "95 % interval", "p", "p (Holm)"]
    each = {f"{name}_{metric}": (name, metric) for name, by_metric in comparisons.items() for metric in by_metric}
    adjusted = holm({key: comparisons[name][metric].p_value for key, (name, metric) in each.items()})
    rows = []
    for key, (name, metric) in each.items():
        comparison = comparisons[name][metric]
        scores = [number(metrics[f"eval_{key}"]) for metrics in (first, second)]
        difference = [f"{comparison.difference.value:+.3f}", bounds(comparison.difference, "+")]
        rows.append([name, metric, *scores, *difference, number(comparison.p_value), number(adjusted[key])])
    return markdown_table(header, rows, texts=2)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A table in Markdown.

    Args:
        header, rows: The cells, as they are to be read; what Markdown would take for something else is escaped here,
            but for a cell of the class [`Markdown`].
        texts: How many of the first columns are of text; the others stand to the right.
    """
    header, rows = [escaped(cell) for cell in header], [[escaped(cell) for cell in row] for row in rows]
    alignment = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(
        "|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in [header, alignment, *rows]
    )


def escaped(text: str) -> str:
    """A text on one line that breaks out of no Markdown table, and is no HTML, no link, no picture and no emphasis."""
    if isinstance(text, Markdown):
        return text
    # An underscore within a word is one; at its edge it could begin emphasis.
    line = re.sub(r"([\\|`*\[\]~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
    return re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")


def number(value: float) -> str:
    """A score with three decimals, or that it is undefined."""
    return "undefined" if value != value else f"{value:.3f}"


def bounds(interval: Any, sign: str = "") -> str:
    """The bounds of an interval, what has `low` and `high`, or that it is undefined."""
    return "undefined" if interval.low != interval.low else f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"
