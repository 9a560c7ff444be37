"""How the choice of several labels, or none, is scored and reported.

Shape legend:
    - B: rows of one task
    - C: labels
    - R: resamples of the rows, any number, of any shape; or none
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve

from hf_multitask.evaluation.metrics import MeanMetric, as_it_is
from hf_multitask.evaluation.task_evaluation import (
    TaskEvaluation,
    TaskPredictions,
    nearly_all,
    register_evaluation,
)
from hf_multitask.model.multi_label_classification import MultiLabelClassification

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block

_NONE = "no label"


def f1_macro(hits: np.ndarray, predicted: np.ndarray, labels: np.ndarray, are_right: np.ndarray) -> Any:
    """The mean over labels of F1, as scikit-learn's `f1_score` with `average="macro"` and `zero_division=np.nan`.

    A label that no row has and none is predicted is left out of the mean: nothing is right or wrong about it. One that
    no row has and some are predicted counts 0. Where all labels are left out, it is NaN.

    Args:
        hits, predicted, labels: Whether a row is rightly predicted each label, is predicted it, has it, [R, B, C].
        are_right: Not read.
    """
    f1 = _f1(*(values.mean(axis=-2) for values in (hits, predicted, labels)))
    with warnings.catch_warnings():
        # NaN says it.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(f1, axis=-1)


def f1_micro(hits: np.ndarray, predicted: np.ndarray, labels: np.ndarray, are_right: np.ndarray) -> Any:
    """F1 of all pairs of a row and a label together, with arguments as for [`f1_macro`]; NaN where there is neither."""
    return _f1(*(values.mean(axis=-2).sum(axis=-1) for values in (hits, predicted, labels)))


def exact_match(hits: np.ndarray, predicted: np.ndarray, labels: np.ndarray, are_right: np.ndarray) -> Any:
    """The share of rows whose labels are all right and no others: scikit-learn's subset accuracy.

    Args:
        hits, predicted, labels: Not read.
        are_right: Whether a row is, [R, B, 1].
    """
    return are_right.mean(axis=-2)[..., 0]


def _f1(hits: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> Any:
    with np.errstate(invalid="ignore"):
        return 2 * hits / (predicted + labels)


@register_evaluation("multi_label_classification")
class MultiLabelEvaluation(TaskEvaluation):
    """F1 over labels and over all, and exact matches, against those of the training set's commonest labels."""

    task: MultiLabelClassification
    metrics = {
        "f1_macro": MeanMetric("Macro F1", f1_macro, share=as_it_is),
        "f1_micro": MeanMetric("Micro F1", f1_micro, share=as_it_is),
        "exact_match": MeanMetric("Exact match", exact_match, share=as_it_is),
    }
    counts = "f1_macro"
    trivial_name = "commonest labels"
    error_columns = ("labels", "predicted")
    error_texts = 2

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """1 where a label reaches its threshold, and else 0, [B, C]."""
        return self.task.are_predicted(torch.from_numpy(np.asarray(outputs))).numpy().astype(np.int64)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Of the labels, [B, C]."""
        return self.task.probabilities(torch.from_numpy(np.asarray(outputs))).numpy()

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Whether each label of a row is rightly predicted, is predicted, and is there, [B, C], and whether all of the
        row's are right, [B, 1]."""
        predicted, labels = np.asarray(predicted) > 0, np.asarray(labels) > 0
        are_right = (predicted == labels).all(axis=-1, keepdims=True)
        return tuple(values.astype(np.float64) for values in (predicted & labels, predicted, labels, are_right))

    def constant(self, train_labels: Any) -> np.ndarray:
        """The labels that more than half of the rows have, or if none is such, the commonest one, [C]."""
        ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in train_labels] or [np.zeros(0, np.int64)])
        rows = np.bincount(ids, minlength=self.task.num_labels)
        are_common = rows > len(train_labels) / 2
        if not are_common.any():
            are_common[rows.argmax()] = rows.any()
        return are_common.astype(np.int64)

    def tuned(self, rows: TaskPredictions) -> dict[str, Any]:
        """Thresholds with the best F1 of each label.

        They lie in the middle between two probabilities, so that no rounding changes what is predicted; of several
        that are as good, it is the one nearest to 0.5. A label that no row has keeps its own.
        """
        shares, thresholds = self.probabilities(rows.outputs), list(self.task.each_threshold)
        for label in np.flatnonzero(np.any(rows.labels > 0, axis=0)):
            precision, recall, known = precision_recall_curve(rows.labels[:, label] > 0, shares[:, label])
            f1 = _f1(precision * recall, precision, recall)[:-1]
            middles = (known + np.concatenate([[0.0], known[:-1]])) / 2
            best = middles[f1 >= np.nanmax(f1) * (1 - 1e-12)]
            thresholds[label] = float(best[np.abs(best - 0.5).argmin()])
        return {"thresholds": thresholds}

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """The sum, over a row's wrong labels, of how sure the model was of each."""
        shares = self.probabilities(rows.outputs)
        sure = np.where(rows.predicted > 0, shares, 1 - shares)
        return np.where(rows.predicted != rows.labels, sure, 0.0).sum(axis=-1)

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        (shares,) = self.probabilities(rows.outputs[row : row + 1])
        predicted = [
            f"{self.task.labels[label]} ({shares[label]:.2f})" for label in np.flatnonzero(rows.predicted[row])
        ]
        return [self._names(rows.labels[row]), ", ".join(predicted) or _NONE]

    def _names(self, are_in: np.ndarray) -> str:
        return ", ".join(self.task.labels[label] for label in np.flatnonzero(are_in)) or _NONE

    def symptom(self, rows: TaskPredictions) -> str:
        sets, each = np.unique(rows.predicted, axis=0, return_counts=True)
        said = nearly_all(int(each.max()), len(rows.predicted))
        return said and f"{said} predictions are {self._names(sets[each.argmax()])!r}"

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.analysis import analyse_labels
        from hf_multitask.evaluation.blocks import Block, class_table

        table = analyse_labels(self.task.labels, rows.predicted, rows.labels)
        table["threshold"] = self.task.each_threshold
        wrong = int(np.sum(np.any(rows.predicted != rows.labels, axis=-1)))
        sizes, predicted = (np.sum(each > 0, axis=-1) for each in (rows.labels, rows.predicted))
        yield Block(
            "paragraph",
            f"{wrong} of {len(sizes)} rows have other labels than are predicted. In the mean, a row has "
            f"{sizes.mean():.2f} labels and is predicted {predicted.mean():.2f}; {np.sum(sizes == 0)} rows have none, "
            f"and {np.sum(predicted == 0)} are predicted none.",
        )
        yield class_table("label", table)
        names, legend = figures.axis_names(self.task.labels, most=len(self.task.labels))
        caption = " ".join([f"{name}: F1, precision and recall of each label.", *legend])
        yield Block("figure", caption, name=f"{name}-labels", figure=figures.label_figure(table.set_axis(names)))

    def limits(self) -> Iterator[str]:
        if set(self.task.each_threshold) == {0.5}:
            yield "a label is predicted from a probability of 0.5 on, which no data chose (`tune_thresholds` would)."
