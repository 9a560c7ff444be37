"""How tags of words are scored and reported: entities by seqeval's definition, or words, where tags have no scheme.

Shape legend:
    - B: rows of one task
    - W: words of the row that has most
    - R: resamples of the rows
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from hf_multitask.evaluation.metrics import Metric, Metrics, as_it_is
from hf_multitask.evaluation.single_label_classification import SingleLabelEvaluation
from hf_multitask.evaluation.task_evaluation import (
    TaskEvaluation,
    TaskPredictions,
    nearly_all,
    register_evaluation,
)
from hf_multitask.model.rows import PADDING
from hf_multitask.model.single_label_classification import SingleLabelClassification
from hf_multitask.model.token_classification import TokenClassification

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block

# Of a row, what a table of errors shows.
_SHOWN = 200


def precision(true: np.ndarray, said: np.ndarray, right: np.ndarray, *rest: np.ndarray, axis: int = -1) -> Any:
    """The share of the entities that are predicted which are right; 0 if none is, as in seqeval.

    Args:
        true, said, right: By row, how many entities there are, are predicted, and are both, with type and borders.
        rest: What other metrics read.
        axis: Of the rows.
    """
    return _share(right.sum(axis), said.sum(axis))


def recall(true: np.ndarray, said: np.ndarray, right: np.ndarray, *rest: np.ndarray, axis: int = -1) -> Any:
    """The share of the entities that are found; the arguments are those of [`precision`]."""
    return _share(right.sum(axis), true.sum(axis))


def f1(true: np.ndarray, said: np.ndarray, right: np.ndarray, *rest: np.ndarray, axis: int = -1) -> Any:
    """The harmonic mean of the two; the arguments are those of [`precision`]."""
    return _share(2 * right.sum(axis), true.sum(axis) + said.sum(axis))


def word_accuracy(*counts: np.ndarray, axis: int = -1) -> Any:
    """The share of words whose tag is right.

    Args:
        counts: By row, of which the last two are how many words have the right tag, and how many there are.
        axis: Of the rows.
    """
    right, words = counts[-2:]
    return _share(right.sum(axis), words.sum(axis))


def _share(part: Any, whole: Any) -> Any:
    return np.divide(part, whole, out=np.zeros_like(whole, dtype=np.float64), where=np.greater(whole, 0))[()]


F1 = Metric("F1 of entities", f1, takes_axis=True, share=as_it_is, uninformed=0.0)
ENTITIES = {
    "f1": F1,
    "precision": Metric("Precision of entities", precision, takes_axis=True),
    "recall": Metric("Recall of entities", recall, takes_axis=True),
}
WORD_ACCURACY = Metric("Accuracy of words", word_accuracy, takes_axis=True, share=as_it_is)


@register_evaluation("token_classification")
class TokenEvaluation(TaskEvaluation):
    """Precision, recall and F1 of entities, of which F1 counts, and the accuracy of words, which counts where tags have
    no scheme; against a predictor that finds no entity, or says the commonest tag."""

    task: TokenClassification
    metrics: dict[str, Metric]
    hub_task: ClassVar[str] = "token-classification"
    error_texts: ClassVar[int] = 2

    def __init__(self, task: TokenClassification) -> None:
        super().__init__(task)
        self.has_entities = task.scheme != "none"
        self.metrics = {**(ENTITIES if self.has_entities else {}), "accuracy": WORD_ACCURACY}
        self.counts = "f1" if self.has_entities else "accuracy"
        self.trivial_name = "predictor of O" if self.has_entities else "commonest tag"

    # ---- Scores ----

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Tags' ids, [B, W]."""
        return self.task.tag_ids(torch.from_numpy(np.asarray(outputs))).numpy()

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """By row, [B]: entities that are there, predicted, and both, where tags have a scheme; words with the right
        tag, and words."""
        are_words = labels != PADDING
        words = (are_words.sum(1), (are_words & (predicted == labels)).sum(1))
        if not self.has_entities:
            return words[1], words[0]
        both = [self._groups(ids, labels) for ids in (labels, predicted)]
        right = [len(true & said) for true, said in zip(*both, strict=True)]
        counts = [np.array([len(row) for row in side], dtype=np.int64) for side in both]
        return (*counts, np.array(right, dtype=np.int64), words[1], words[0])

    def _groups(self, ids: np.ndarray, labels: np.ndarray) -> list[set[tuple[str, int, int]]]:
        """Each row's entities, in its words, which are those that have a label."""
        lengths = (labels != PADDING).sum(1)
        return [set(self.task.groups(row[:count].tolist())) for row, count in zip(ids, lengths, strict=True)]

    def constant(self, train_labels: Any) -> int:
        """The tag of all words."""
        if self.has_entities:
            return int(self.task.outside or 0)
        ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in train_labels])
        return int(np.bincount(ids, minlength=self.task.num_labels).argmax())

    def trivial(self, train_labels: Any, labels: Any) -> Metrics:
        padded = self.task.collate(list(labels)).numpy()
        return self.score(np.full_like(padded, self.constant(train_labels)), padded)

    def are_alike(self, labels: np.ndarray) -> bool:
        return len(np.unique(labels[labels != PADDING])) < 2

    # ---- Reports ----

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """How many entities are missed or made up, or how many tags are wrong."""
        evidence = self.evidence(rows.predicted, rows.labels)
        if self.has_entities:
            true, said, right = evidence[:3]
            return true + said - 2 * right
        return evidence[1] - evidence[0]

    def text_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        return [" ".join(rows.texts[row][0])]

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        return [self._said(rows, row, ids) for ids in (rows.labels[row], rows.predicted[row])]

    def _said(self, rows: TaskPredictions, row: int, ids: np.ndarray) -> str:
        """The entities of a row with their words, or the tags that differ."""
        (words,) = rows.texts[row]
        if self.has_entities:
            groups = self.task.groups(ids[: len(words)].tolist())
            said = [f"{kind}: {' '.join(words[first:end])}" for kind, first, end in groups]
        else:
            names = [*self.task.labels, "none"]
            differ = np.flatnonzero(rows.labels[row][: len(words)] != rows.predicted[row][: len(words)])
            said = [f"{words[place]}: {names[ids[place]]}" for place in differ]
        text = "; ".join(said) or "none"
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"

    def symptom(self, rows: TaskPredictions) -> str:
        if self.has_entities:
            without = int((self.evidence(rows.predicted, rows.labels)[1] == 0).sum())
            said = nearly_all(without, len(rows.predicted))
            return said and f"no entity is predicted in {said} rows"
        ids = rows.predicted[rows.labels != PADDING]
        by_tag = np.bincount(ids[ids >= 0], minlength=self.task.num_labels)
        said = nearly_all(int(by_tag.max()), len(ids))
        return said and f"{said} words are tagged {self.task.labels[int(by_tag.argmax())]!r}"

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        yield from self._entities(name, rows) if self.has_entities else self._words(name, rows)

    def _entities(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.analysis import analyse_entities
        from hf_multitask.evaluation.blocks import Block, class_table

        true, said = (self._groups(ids, rows.labels) for ids in (rows.labels, rows.predicted))
        analysis = analyse_entities(self.task.types, true, said)
        wrong = int(np.sum(self.errors(rows) > 0))
        counts = f"{sum(map(len, true)):,} entities, and {sum(map(len, said)):,} are predicted"
        yield Block("paragraph", f"{wrong} of {len(rows.labels)} rows are wrong. There are {counts}.")
        yield class_table("entity", analysis.by_class)
        labels = [*self.task.types, "none"]
        caption = f"{name}: entities with the same borders by type and predicted type; 'none' is what one side lacks."
        caption = " ".join([caption, *figures.axis_names(labels)[1]])
        figure = figures.confusion_figure(analysis, labels)
        yield Block("figure", caption, name=f"{name}-confusion", figure=figure)

    def _words(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        """The report of a classification, of words in place of rows."""
        from hf_multitask.evaluation.blocks import Block

        are_words = rows.labels != PADDING
        are_read = are_words & (rows.predicted >= 0)
        wrong = int(np.sum(self.errors(rows) > 0))
        cut = int((are_words & ~are_read).sum())
        said = f"; {cut:,} words were cut off" if cut else ""
        yield Block("paragraph", f"{wrong} of {len(rows.labels)} rows have a wrong tag{said}. Below, rows are words.")
        if are_read.any():
            words = SingleLabelClassification("single_label_classification", labels=self.task.labels)
            each = TaskPredictions(words, rows.outputs[are_read], rows.labels[are_read])
            yield from SingleLabelEvaluation(words).report(name, each)

    def limits(self) -> Iterator[str]:
        if self.has_entities:
            yield "an entity counts as right only with its type and both of its borders."
