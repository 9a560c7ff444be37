"""What every kind of task says of its evaluation, and the register of evaluations.

Shape legend:
    - B: rows of one task
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from datasets import Dataset

from hf_multitask.evaluation.metrics import Metric, Metrics
from hf_multitask.evaluation.own_metrics import is_own, read_own_metric
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import nearest

if TYPE_CHECKING:
    # Its libraries take a second to import.
    from hf_multitask.evaluation.blocks import Block

# Predictions are all alike if so many are.
_NEARLY_ALL = 0.95

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


def check_metrics(tasks: Mapping[str, TaskConfig]) -> None:
    """Refuses tasks whose `metrics` or `counts` are none that they could be scored by.

    Raises:
        ValueError: There is one; the message names task and metric.
    """
    for name, task in tasks.items():
        try:
            evaluation_of(task).chosen  # noqa: B018  (looks them up)
        except ValueError as error:
            raise ValueError(f"task {name!r}: {error}") from error


def nearly_all(part: int, whole: int) -> str:
    """How many of something there are, as `all 300` or `295 of 300`, if that is nearly all; empty if it is not."""
    if part < _NEARLY_ALL * whole:
        return ""
    return f"all {part:,}" if part == whole else f"{part:,} of {whole:,}"


def is_greater_better(tasks: Mapping[str, TaskConfig], key: str) -> bool | None:
    """Whether the greatest of the values that evaluations give under a key is the best one; None: that is not known.

    Args:
        tasks: By name.
        key: With the prefix `eval_` or without, such as `eval_sst_accuracy` or `final_score`.
    """
    key = key.removeprefix("eval_")
    known = {"final_score": True, "loss": False} | {f"{name}_loss": False for name in tasks}
    for name, task in tasks.items():
        known |= {f"{name}_{metric}": of.greater_is_better for metric, of in evaluation_of(task).chosen.items()}
    return known.get(key)


class TaskEvaluation:
    """How the outputs of a task are scored, compared and reported.

    Args:
        task: The task.
    """

    # What a task is scored by that chooses nothing, by name, in the order in which they are shown.
    metrics: dict[str, Metric] = {}
    # All that a task may choose of, where there are more.
    more_metrics: dict[str, Metric] = {}
    # The metric that enters the final score unless a task chooses another; None: the task does not.
    counts: str | None = None
    # What the predictor that ignores the input always says.
    trivial_name: str = "constant"
    # The Hub's name for such a task, in a card's results.
    hub_task: ClassVar[str] = "text-classification"
    # What a table of errors has of a row, beside its texts, and how many of these columns are texts.
    error_columns: ClassVar[Sequence[str]] = ("label", "predicted")
    error_texts: ClassVar[int] = 0
    # Whether bias probes, which differ in a word, have a meaning: see `probed`.
    is_probed: ClassVar[bool] = False

    def __init__(self, task: Any) -> None:
        self.task = task

    # ---- What is scored ----

    @cached_property
    def counting(self) -> str | None:
        """The name of the metric that enters the final score; None: the task does not."""
        return None if self.task.counts == "none" else self.task.counts or self.counts

    @cached_property
    def chosen(self) -> dict[str, Metric]:
        """The metrics of the task, by name: those that it chose, or else the kind's, and always the one that counts.

        Raises:
            ValueError: One of them is not known, or cannot count.
        """
        chosen: dict[str, Metric] = {}
        for entry in self.task.metrics or list(self.metrics):
            name, metric = read_own_metric(entry) if is_own(entry) else (entry, self._known(entry))
            if name in chosen or (metric.is_own and name in self._offered()):
                raise ValueError(f"metric {name!r} is there twice; give one of your own another name.")
            chosen[name] = metric
        counting = self.counting
        if counting is not None and counting not in chosen:
            chosen[counting] = self._known(counting, chosen)
        if self.task.counts and counting is not None and chosen[counting].share is None:
            able = [name for name, metric in {**self._offered(), **chosen}.items() if metric.share is not None]
            raise ValueError(
                f"counts {counting!r} cannot enter the final score, since it has no way to [0, 1]; what has: "
                f"{', '.join(able)}; or none."
            )
        return chosen

    def misfit(self, metric: str) -> str:
        """Why one of the kind's metrics has no meaning for the task; empty if it has."""
        return ""

    def _offered(self) -> dict[str, Metric]:
        return {**self.metrics, **self.more_metrics}

    def _known(self, name: str, chosen: Mapping[str, Metric] | None = None) -> Metric:
        """The kind's metric of a name; `chosen` are known too, to an error."""
        if name in (offered := self._offered()):
            if why := self.misfit(name):
                raise ValueError(f"metric {name!r} {why}.")
            return offered[name]
        known = list(dict.fromkeys([*(name for name in offered if not self.misfit(name)), *(chosen or {})]))
        kinds = [kind for kind, of in _EVALUATIONS.items() if name in of.metrics or name in of.more_metrics]
        if kinds:
            raise ValueError(
                f"metric {name!r} is one of {', '.join(kinds)}, not of {self.task.type}, which has "
                f"{', '.join(known) or 'none'}."
            )
        raise ValueError(f"metric {name!r} is unknown; {nearest(name, known)}")

    # ---- Scores ----

    def compared(self, rows: "TaskPredictions") -> tuple[np.ndarray, np.ndarray]:
        """What is predicted and what is right, each [B, ...], as the metrics read them."""
        return self.predicted(rows.outputs), rows.labels

    def labels_of(self, rows: Any, tokenizer: Any = None) -> np.ndarray:
        """What is right of tokenized rows, a dataset of B, as [`compared`] gives it; where rows have no labels, of
        those that an evaluation makes with the tokenizer."""
        stored = rows["label"]
        return self.task.collate(stored).numpy() if self.task.LABEL_IS_LIST else np.asarray(stored)

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs [B, ...] predict, [B, ...], to be compared with labels."""
        return outputs

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the metrics read of B rows: arrays of B, whose rows are drawn again for intervals and comparisons."""
        return np.asarray(predicted), np.asarray(labels)

    def evidence_by_metric(self, predicted: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
        """What each metric reads of B rows, arrays of B: the evidence; if it is a user's, predictions and labels."""
        # Once for all metrics: of words, it is a pass over all rows.
        evidence, plain = self.evidence(predicted, labels), TaskEvaluation.evidence(self, predicted, labels)
        return {name: plain if metric.is_own else evidence for name, metric in self.chosen.items()}

    def score(self, predicted: np.ndarray, labels: np.ndarray) -> Metrics:
        """The metrics of predictions of B rows, by name."""
        evidence = self.evidence_by_metric(predicted, labels)
        return {name: float(metric.compute(*evidence[name])) for name, metric in self.chosen.items()}

    def share(self, metrics: Metrics) -> float | None:
        """What a task adds to the final score, from 0 to 1; None: nothing, or the metric is not there."""
        if self.counting is None or self.counting not in metrics:
            return None
        share = self.chosen[self.counting].share
        return None if share is None else share(metrics[self.counting])

    def learnt_of(self, rows: Any, tokenizer: Any = None) -> Any:
        """What [`trivial`] knows of training, from its tokenized rows: their labels; of a stream, the first ones'."""
        if not isinstance(rows, Dataset):
            return rows.labels
        return rows["label"] if "label" in rows.column_names else []

    def constant(self, train_labels: Any) -> Any:
        """What a predictor that ignores the input always says, from the labels that it was trained on."""
        raise NotImplementedError

    def trivial(self, train_labels: Any, labels: np.ndarray) -> Metrics:
        """The metrics of that predictor; none where a kind has no such."""
        if not self.chosen:
            return {}
        return self.score(np.stack([self.constant(train_labels)] * len(labels)), labels)

    def tuned(self, rows: "TaskPredictions") -> dict[str, Any]:
        """Keys of the task that decide what its outputs predict, as they suit these rows best; none if it has none."""
        return {}

    def are_alike(self, labels: np.ndarray) -> bool:
        """Whether all labels are the same, so that no score could tell a model from such a predictor."""
        return not np.ptp(labels, axis=0).any()

    # ---- Reports ----

    def errors(self, rows: "TaskPredictions") -> np.ndarray:
        """How far each row is from right, [B]; 0 where it is."""
        raise NotImplementedError

    def text_titles(self) -> list[str]:
        """The headings of a row's texts in a table of errors."""
        titles = list(self.task.text_columns)
        named = {
            ("sentence1", "sentence2"): ["first text", "second text"],
            ("sentence",): ["text"],
            ("tokens",): ["text"],
        }
        return named.get(tuple(titles), titles)

    def text_cells(self, rows: "TaskPredictions", row: int) -> list[str]:
        """A row's texts, as a table of errors shows them."""
        return list(rows.texts[row])

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
        labels: [B, ...], as they are collated.
        texts: Each row's texts, by the task's `text_columns`, in the order of the rows; empty where they are not at
            hand.
        rows: The tokenized rows, with the task's `EVALUATED_COLUMNS`; None where the task has none.
    """

    task: TaskConfig
    outputs: np.ndarray
    labels: np.ndarray
    texts: Sequence[tuple[Any, ...]] = field(default_factory=list)
    rows: Any = None

    @cached_property
    def evaluation(self) -> TaskEvaluation:
        """The task's."""
        return evaluation_of(self.task)

    @cached_property
    def _compared(self) -> tuple[np.ndarray, np.ndarray]:
        return self.evaluation.compared(self)

    @property
    def predicted(self) -> np.ndarray:
        """To be compared with the truth, [B, ...]."""
        return self._compared[0]

    @property
    def truth(self) -> np.ndarray:
        """What is right, [B, ...]."""
        return self._compared[1]

    def worst(self, count: int) -> list[int]:
        """The rows that are furthest from right.

        Returns:
            At most `count` positions, the worst first; rows that are right are not among them.
        """
        errors = self.evaluation.errors(self)
        worst = np.argsort(-errors, kind="stable")[:count]
        return [int(row) for row in worst if errors[row] > 0]
