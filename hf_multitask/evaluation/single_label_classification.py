"""How the choice of one of several labels is scored and reported (paper sections 5.2 and 6.1)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_multitask.evaluation.class_metrics import CLASS_METRICS
from hf_multitask.evaluation.metrics import ACCURACY
from hf_multitask.evaluation.task_evaluation import (
    TaskEvaluation,
    TaskPredictions,
    nearly_all,
    register_evaluation,
)
from hf_multitask.model.single_label_classification import SingleLabelClassification

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block


@register_evaluation("single_label_classification")
class SingleLabelEvaluation(TaskEvaluation):
    """Accuracy and what else class ids can be scored by, against those of the training set's commonest class."""

    task: SingleLabelClassification
    metrics = {"accuracy": ACCURACY}
    more_metrics = CLASS_METRICS
    counts = "accuracy"
    trivial_name = "majority class"
    error_columns = ("label", "predicted", "confidence")
    error_texts = 2
    is_probed = True

    def misfit(self, metric: str) -> str:
        if metric != "f1" or self.task.num_labels == 2:
            return ""
        return (
            f"is that of the second of two labels, and there are {self.task.num_labels}: take f1_macro or f1_weighted"
        )

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Class ids, [B]."""
        return (outputs > 0).astype(np.int64) if self.task.is_binary else np.argmax(outputs, axis=-1)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Of the labels, [B, labels]."""
        return self.task.probabilities(torch.from_numpy(np.asarray(outputs))).numpy()

    def constant(self, train_labels: Any) -> int:
        ids = np.asarray(train_labels, dtype=np.int64)
        return int(np.bincount(ids, minlength=self.task.num_labels).argmax())

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """How sure a wrong label is."""
        return np.where(rows.predicted != rows.labels, self.probabilities(rows.outputs).max(axis=-1), 0.0)

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        label, predicted = (self.task.labels[ids[row]] for ids in (rows.labels, rows.predicted))
        return [label, predicted, f"{self.probabilities(rows.outputs[row : row + 1]).max():.3f}"]

    def symptom(self, rows: TaskPredictions) -> str:
        by_class = np.bincount(rows.predicted, minlength=self.task.num_labels)
        most, label = int(by_class.max()), self.task.labels[int(by_class.argmax())]
        said = nearly_all(most, len(rows.predicted))
        return said and f"{said} predictions are {label!r}"

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.analysis import analyse_classification
        from hf_multitask.evaluation.blocks import Block, class_table

        labels = self.task.labels
        analysis = analyse_classification(labels, self.probabilities(rows.outputs), rows.labels)
        wrong = int(np.sum(rows.predicted != rows.labels))
        text = f"{wrong} of {len(rows.labels)} rows are wrong"
        if len(labels) > 2 and wrong:
            text += f", {analysis.adjacent_errors:.1%} of these by one class (where the classes are in an order)"
        yield Block("paragraph", f"{text}. Expected calibration error: {analysis.calibration_error:.3f}.")
        yield class_table("class", analysis.by_class)
        confusion = figures.confusion_figure(analysis, labels)
        caption = " ".join([f"{name}: rows by label and prediction.", *figures.axis_names(labels)[1]])
        yield Block("figure", caption, name=f"{name}-confusion", figure=confusion)
        calibration = figures.calibration_figure(analysis)
        caption = f"{name}: accuracy by confidence; a point's size is its share of the rows, and one of fewer than "
        caption += f"{figures.FEW_ROWS} is hollow and beside the line."
        yield Block("figure", caption, name=f"{name}-calibration", figure=calibration)

    def limits(self) -> Iterator[str]:
        if self.task.num_labels == 2:
            yield "errors of the two kinds were not weighed against each other; the threshold is 0.5."

    def probed(self, outputs: np.ndarray) -> np.ndarray:
        """The probability of a pair's last label, or the label's expected place among the labels, from 0 to 1."""
        shares = self.probabilities(outputs)
        return shares[:, -1] if self.task.texts == 2 else shares @ np.linspace(0, 1, shares.shape[1])
