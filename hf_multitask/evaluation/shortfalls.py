"""Which tasks a model does no better at than a predictor that ignores the text, and what of its training may be why."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.summary import number
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import Interval
from hf_multitask.model.configuration_mtbert import TaskConfig

# Below it, a new head takes thousands of Adam's steps: each moves a weight by about the rate.
_SLOW_HEAD = 1e-4
# Adam's rates above it undo what an encoder has learnt, or keep a new one from learning.
_FAST_PRETRAINED, _FAST_NEW = 2e-4, 2e-3
# A loss that fell by less has not fallen, one that rose by more has risen, and one of half its size was learnt.
_FALLEN, _RISEN, _LEARNT = 0.98, 1.1, 0.5


@dataclass(frozen=True)
class Training:
    """What of a training may say why a task was not learnt; what is not known is left as it is here.

    Args:
        steps: Updates that were made.
        rows: By task, the rows that it was trained on.
        passes: By task, how often they were read.
        learning_rate: The backbone's.
        head_learning_rate: The heads', if they have one of their own.
        optimizer: Its name, such as `adamw_torch`.
        is_frozen: Whether the backbone was.
        from_scratch: Whether the backbone began with random weights.
        history: The trainer's log.
    """

    steps: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    passes: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    optimizer: str = ""
    is_frozen: bool = False
    from_scratch: bool | None = None
    history: Sequence[Mapping[str, Any]] = ()


def counting_score(task: TaskConfig, metrics: Metrics, prefix: str = "") -> float | None:
    """The metric of a task that counts in the final score; None where it is not among the metrics."""
    return metrics.get(f"{prefix}{evaluation_of(task).counting}")


def uninformed_score(task: TaskConfig, trivial: Metrics) -> float:
    """What the metric that counts is for a predictor that ignores its input.

    A constant has no correlation: its r is undefined, and here it is taken for 0, which says as little.
    """
    evaluation = evaluation_of(task)
    counts = str(evaluation.counting)
    known = evaluation.chosen[counts].uninformed
    return trivial[counts] if known is None else known


def no_better(task: TaskConfig, value: float, trivial: Metrics) -> bool:
    """Whether a score that counts is at most that of the predictor that ignores its input, or undefined."""
    return not value > uninformed_score(task, trivial)


def shortfalls(
    predicted: Mapping[str, TaskPredictions],
    metrics: Metrics,
    trivial: Mapping[str, Metrics],
    intervals: Mapping[str, Interval],
    training: Training | None = None,
) -> dict[str, str]:
    """By task, what is to be said of those that are not shown to be better than a predictor that ignores the text.

    Such is a task whose score, the one that counts in the final score, is at most the trivial predictor's (a tie is
    no better), or undefined, or above it by so little that its interval reaches down to it. Where all labels are
    alike, no score could tell, which is said in place of a reason.

    Args:
        predicted: What the model said of each task's rows.
        metrics: What an evaluation gave for them, with the prefix `eval`.
        trivial: The metrics of each task's trivial predictor; tasks without them are not compared.
        intervals: From [`all_intervals`].
        training: The model's, if it is known.
    """
    found = {}
    for name, rows in predicted.items():
        value = counting_score(rows.task, metrics, f"eval_{name}_")
        if value is None or name not in trivial:
            continue
        if rows.evaluation.are_alike(rows.truth):
            found[name] = (
                f"whether it is better than a predictor that ignores the text cannot be told, since all "
                f"{len(rows.truth):,} labels that were scored are the same."
            )
            continue
        interval = intervals.get(f"{name}_{rows.evaluation.counting}")
        if (compared := _compared(rows.task, value, trivial[name], interval)) is None:
            continue
        reasons = list(_reasons(name, rows.task, training)) if training else []
        why = f" Likely {'reasons' if len(reasons) > 1 else 'reason'}: {'; '.join(reasons)}." if reasons else ""
        found[name] = f"{compared}{_symptom(rows)}.{why}"
    return found


def _compared(task: TaskConfig, value: float, trivial: Metrics, interval: Interval | None) -> str | None:
    """The two scores, if the model's is not shown to be better."""
    known = uninformed_score(task, trivial)
    if no_better(task, value, trivial):
        verdict, reach = "no better", ""
    elif interval is not None and interval.low <= known:
        verdict, reach = "not shown to be better", f" (95 % interval {interval.low:.3f} to {interval.high:.3f})"
    else:
        return None
    return f"{verdict} than a predictor that ignores the text: {compared_scores(task, value, trivial, reach)}"


def compared_scores(task: TaskConfig, value: float, trivial: Metrics, reach: str = "") -> str:
    """A score that counts, with its interval, beside the trivial predictor's: `accuracy 0.400, that of the majority
    class 0.500`."""
    evaluation = evaluation_of(task)
    counts = str(evaluation.counting)
    said = f"{counts} {number(value)}{reach}"
    if evaluation.chosen[counts].uninformed is not None:
        return said
    return f"{said}, that of the {evaluation.trivial_name} {trivial[counts]:.3f}"


def _symptom(rows: TaskPredictions) -> str:
    """What all outputs have in common, if they have."""
    if not np.isfinite(rows.outputs).all():
        return "; its outputs are not all finite"
    symptom = rows.evaluation.symptom(rows)
    return f"; {symptom}" if symptom else ""


def _reasons(name: str, task: TaskConfig, training: Training) -> Iterator[str]:
    """What in a training may be why a task was not learnt, the surest first."""
    if task.weight == 0:
        yield "its weight in the loss is 0"
        return
    rates = (training.learning_rate, training.head_learning_rate)
    head = rates[0] if rates[1] is None else rates[1]
    if head == 0:
        yield "its head has a learning rate of 0"
    passes = training.passes.get(name, 1.0)
    if passes == 0:
        # A schedule in phases may not have come to it.
        yield f"the {training.steps:,} steps read none of its {training.rows[name]:,} rows"
    elif passes < 1:
        yield (
            f"{training.steps:,} steps read only about {passes * training.rows[name]:,.0f} of its "
            f"{training.rows[name]:,} rows, and one pass over them takes {math.ceil(training.steps / passes):,}"
        )
    is_adam = "adam" in training.optimizer
    if is_adam and head is not None and 0 < head < _SLOW_HEAD:
        yield f"its head learns at {head:g}, which is slow for a new one (--head_learning_rate 1e-3 is usual)"
    if training.is_frozen and training.from_scratch:
        yield "the backbone is frozen with the random weights that it began with"
    elif training.is_frozen:
        yield "the backbone is frozen, so that only the heads learn"
    elif rates[0] == 0:
        yield "the backbone has a learning rate of 0, so that only the heads learn"
    elif _is_fast(training, is_adam, rates[0]):
        kind = "new" if training.from_scratch else "pretrained"
        yield f"a learning rate of {rates[0]:g} is high for a {kind} backbone"
    if training.from_scratch and not training.is_frozen:
        yield "the backbone began with random weights, which take many more steps than pretrained ones"
    yield from _loss(name, training.history)


def _is_fast(training: Training, is_adam: bool, rate: float | None) -> bool:
    """Whether the backbone's rate is high for what it is; of one that is not known, nothing is said."""
    if not is_adam or rate is None or training.from_scratch is None:
        return False
    return rate > (_FAST_NEW if training.from_scratch else _FAST_PRETRAINED)


def _loss(name: str, history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a task's training loss says, where it was logged."""
    logs = [(int(entry.get("step", 0)), float(entry[f"loss_{name}"])) for entry in history if f"loss_{name}" in entry]
    bad = [step for step, loss in logs if not math.isfinite(loss)]
    if bad:
        yield f"its training loss was not finite in {len(bad)} of {len(logs)} logs, first at step {bad[0]:,}"
    elif len(logs) > 1:
        (begin, first), (end, last) = logs[0], logs[-1]
        course = f"from {first:.4g} at step {begin:,} to {last:.4g} at step {end:,}"
        if last > _RISEN * first:
            yield f"its training loss rose, {course}: a lower learning rate may help"
        elif last > _FALLEN * first:
            yield f"its training loss did not fall, {course}"
        elif last < _LEARNT * first:
            yield f"its training loss fell {course}, so that the rows that were scored may be unlike those of training"
