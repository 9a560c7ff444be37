"""The table that a run ends with."""

from collections.abc import Mapping

from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.model.configuration_mtbert import TaskConfig

# What is shown of a task, by whether it is a regression.
METRICS = {
    False: {"accuracy": "Accuracy"},
    True: {"pearson": "Pearson correlation", "rmse": "Root mean squared error"},
}


def results_table(
    tasks: Mapping[str, TaskConfig], metrics: Metrics, trivial: Mapping[str, Metrics], prefix: str = "eval"
) -> str:
    """A Markdown table of every task's metrics beside those of the predictor that ignores the text.

    Args:
        tasks: The table of tasks.
        metrics: What `evaluate` gave; tasks that were not evaluated are left out.
        trivial: Each task's [`trivial_score`], by name, where it is known.
        prefix: Of the keys in `metrics`.
    """
    lines = ["| task | metric | score | trivial predictor |", "| --- | --- | ---: | ---: |"]
    for name, task in tasks.items():
        guess = "mean score" if task.is_regression else "majority class"
        for metric in METRICS[task.is_regression]:
            if (value := metrics.get(f"{prefix}_{name}_{metric}")) is not None:
                known = trivial[name][metric] if name in trivial else None
                shown = (
                    "not measured" if known is None else f"{_number(known)}{f' ({guess})' if known == known else ''}"
                )
                lines.append(f"| {name} | {metric} | {_number(value)} | {shown} |")
    if f"{prefix}_final_score" in metrics:
        lines.append(f"| all | final score | {_number(metrics[f'{prefix}_final_score'])} | |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "undefined" if value != value else f"{value:.3f}"
