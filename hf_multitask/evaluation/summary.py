"""The table that a run ends with."""

from collections.abc import Mapping

from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.uncertainty import Comparison, Interval, holm
from hf_multitask.model.configuration_mtbert import TaskConfig

# What is shown of a task, by whether it is a regression.
METRICS = {
    False: {"accuracy": "Accuracy"},
    True: {"pearson": "Pearson correlation", "rmse": "Root mean squared error"},
}


def results_table(
    tasks: Mapping[str, TaskConfig],
    metrics: Metrics,
    trivial: Mapping[str, Metrics],
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
) -> str:
    """A Markdown table of every task's metrics beside those of the predictor that ignores the text.

    Args:
        tasks: The table of tasks.
        metrics: What `evaluate` gave; tasks that were not evaluated are left out.
        trivial: Each task's [`trivial_score`], by name, where it is known.
        intervals: Of each task's metrics, by name, where they were computed.
    """
    lines = ["| task | metric | score | trivial predictor |", "| --- | --- | ---: | ---: |"]
    if intervals is not None:
        lines = ["| task | metric | score | 95 % interval | trivial predictor |", "| --- | --- | ---: | ---: | ---: |"]
    for name, task in tasks.items():
        guess = "mean score" if task.is_regression else "majority class"
        for metric in METRICS[task.is_regression]:
            if (value := metrics.get(f"eval_{name}_{metric}")) is not None:
                known = trivial[name][metric] if name in trivial else None
                shown = (
                    "not measured" if known is None else f"{_number(known)}{f' ({guess})' if known == known else ''}"
                )
                between = "" if intervals is None else f" {_bounds(intervals[name][metric])} |"
                lines.append(f"| {name} | {metric} | {_number(value)} |{between} {shown} |")
    if "eval_final_score" in metrics:
        rest = " |" if intervals is None else " | |"
        lines.append(f"| all | final score | {_number(metrics['eval_final_score'])} |{rest}")
    return "\n".join(lines)


def comparison_table(first: Metrics, second: Metrics, comparisons: Mapping[str, Mapping[str, Comparison]]) -> str:
    """A Markdown table of two models' scores and of what tells them apart.

    Args:
        first, second: What `evaluate` gave for each.
        comparisons: By task and metric.
    """
    lines = [
        "| task | metric | first | second | difference | 95 % interval | p | p (Holm) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    each = {f"{name}_{metric}": (name, metric) for name, by_metric in comparisons.items() for metric in by_metric}
    adjusted = holm({key: comparisons[name][metric].p_value for key, (name, metric) in each.items()})
    for key, (name, metric) in each.items():
        comparison = comparisons[name][metric]
        scores = " | ".join(_number(metrics[f"eval_{key}"]) for metrics in (first, second))
        difference = f"{comparison.difference.value:+.3f} | {_bounds(comparison.difference, '+')}"
        p_values = f"{_number(comparison.p_value)} | {_number(adjusted[key])}"
        lines.append(f"| {name} | {metric} | {scores} | {difference} | {p_values} |")
    return "\n".join(lines)


def _bounds(interval: Interval, sign: str = "") -> str:
    return "undefined" if interval.low != interval.low else f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _number(value: float) -> str:
    return "undefined" if value != value else f"{value:.3f}"
