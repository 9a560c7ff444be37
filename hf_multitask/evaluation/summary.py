"""The table that a run ends with."""

from collections.abc import Mapping

from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.model.configuration_mtbert import TaskConfig


def results_table(
    tasks: Mapping[str, TaskConfig], metrics: Metrics, trivial: Mapping[str, Metrics], prefix: str = "eval"
) -> str:
    """A Markdown table of every task's metrics beside those of the predictor that ignores the text.

    Args:
        tasks: The table of tasks.
        metrics: What `evaluate` gave.
        trivial: Each task's [`trivial_score`], by name.
        prefix: Of the keys in `metrics`.
    """
    lines = ["| task | metric | score | trivial predictor |", "| --- | --- | ---: | ---: |"]
    for name in trivial:
        guess = "mean score" if tasks[name].is_regression else "majority class"
        for metric, value in trivial[name].items():
            shown = "undefined" if value != value else f"{value:.3f} ({guess})"
            lines.append(f"| {name} | {metric} | {metrics[f'{prefix}_{name}_{metric}']:.3f} | {shown} |")
    lines.append(f"| all | final score | {metrics[f'{prefix}_final_score']:.3f} | |")
    return "\n".join(lines)
