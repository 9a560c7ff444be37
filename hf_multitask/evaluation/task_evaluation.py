"""What every kind of task says of its evaluation, and the register of evaluations.

Shape legend:
    - B: rows of one task
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from hf_multitask.evaluation.metrics import Metric, Metrics
from hf_multitask.model.configuration_mtbert import TaskConfig

if TYPE_CHECKING:
    # Its libraries take a second to import.
    from hf_multitask.evaluation.blocks import Block

Evaluation = TypeVar("Evaluation", bound=type["TaskEvaluation"])

_EVALUATIONS: dict[str, type["TaskEvaluation"]] = {}


def register_evaluation(name: str) -> Callable[[Evaluation], Evaluation]:
    """Makes an evaluation that of the kind of task of a name, as a decorator of its class."""

    def register(evaluation: Evaluation) -> Evaluation:
        _EVALUATIONS[name] = evaluation
        return evaluation

    return register


def evaluation_of(task: TaskConfig) -> "TaskEvaluation":
    """The evaluation of a task; of a kind that registered none, the one that has no metrics."""
    return _EVALUATIONS.get(task.type, TaskEvaluation)(task)


class TaskEvaluation:
    """How the outputs of a task are scored, compared and reported.

    Args:
        task: The task.
    """

    # By name, in the order in which they are shown.
    metrics: ClassVar[dict[str, Metric]] = {}
    # The metric that enters the final score; None: the task does not.
    counts: ClassVar[str | None] = None
    # What the predictor that ignores the input always says.
    trivial_name: ClassVar[str] = "constant"
    # The Hub's name for such a task, in a card's results.
    hub_task: ClassVar[str] = "text-classification"
    # What a table of errors has of a row, beside its texts, and how many of these columns are texts.
    error_columns: ClassVar[Sequence[str]] = ("label", "predicted")
    error_texts: ClassVar[int] = 0
    # Whether bias probes, which differ in a word, have a meaning: see `probed`.
    is_probed: ClassVar[bool] = False

    def __init__(self, task: Any) -> None:
        self.task = task

    # ---- Scores ----

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs [B, ...] predict, [B, ...], to be compared with labels."""
        return outputs

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the metrics read of B rows: arrays of B, whose rows are drawn again for intervals and comparisons."""
        return np.asarray(predicted), np.asarray(labels)

    def score(self, predicted: np.ndarray, labels: np.ndarray) -> Metrics:
        """The metrics of predictions of B rows, by name."""
        evidence = self.evidence(predicted, labels)
        return {name: float(metric.compute(*evidence)) for name, metric in self.metrics.items()}

    def share(self, metrics: Metrics) -> float | None:
        """What a task adds to the final score, from 0 to 1; None: nothing, or the metric is not there."""
        if self.counts is None or self.counts not in metrics:
            return None
        share = self.metrics[self.counts].share
        return None if share is None else share(metrics[self.counts])

    def constant(self, train_labels: Any) -> Any:
        """What a predictor that ignores the input always says, from the labels that it was trained on."""
        raise NotImplementedError

    def trivial(self, train_labels: Any, labels: np.ndarray) -> Metrics:
        """The metrics of that predictor."""
        if not self.metrics:
            return {}
        return self.score(np.stack([self.constant(train_labels)] * len(labels)), labels)

    # ---- Reports ----

    def errors(self, rows: "TaskPredictions") -> np.ndarray:
        """How far each row is from right, [B]; 0 where it is."""
        raise NotImplementedError

    def error_cells(self, rows: "TaskPredictions", row: int) -> list[str]:
        """What a table of errors says of a row, by `error_columns`."""
        raise NotImplementedError

    def symptom(self, rows: "TaskPredictions") -> str:
        """What nearly all predictions have in common, if they have, as `all 300 predictions are 'good'`."""
        return ""

    def report(self, name: str, rows: "TaskPredictions") -> Iterator["Block"]:
        """What a report has of the task, below its heading.

        Args:
            name: The task's, with which names of figures begin.
            rows: What was predicted.
        """
        yield from ()

    def limits(self) -> Iterator[str]:
        """Sentences for the limits that a model card names."""
        yield from ()

    def probed(self, outputs: np.ndarray) -> np.ndarray:
        """One number for each row, [B], whose differences say whether a prediction is biased."""
        raise NotImplementedError


@dataclass
class TaskPredictions:
    """A model's outputs for the rows of one task, B of them.

    Args:
        task: The task.
        outputs: The head's, [B, ...].
        labels: [B, ...].
        texts: Each row's text, or its two, in the order of the rows; empty where they are not at hand.
    """

    task: TaskConfig
    outputs: np.ndarray
    labels: np.ndarray
    texts: Sequence[tuple[str, ...]] = field(default_factory=list)

    @cached_property
    def evaluation(self) -> TaskEvaluation:
        """The task's."""
        return evaluation_of(self.task)

    @cached_property
    def predicted(self) -> np.ndarray:
        """To be compared with the labels, [B, ...]."""
        return self.evaluation.predicted(self.outputs)

    def worst(self, count: int) -> list[int]:
        """The rows that are furthest from right.

        Returns:
            At most `count` positions, the worst first; rows that are right are not among them.
        """
        errors = self.evaluation.errors(self)
        worst = np.argsort(-errors, kind="stable")[:count]
        return [int(row) for row in worst if errors[row] > 0]
