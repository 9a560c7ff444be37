"""How the choice of one of a row's own texts is scored and reported.

Shape legend:
    - B: rows of one task
    - N: choices of the row that has most
    - R: resamples of the rows, any number, of any shape; or none
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from hf_multitask.evaluation.metrics import MeanMetric, Metrics, as_it_is
from hf_multitask.evaluation.task_evaluation import TaskEvaluation, TaskPredictions, nearly_all, register_evaluation
from hf_multitask.model.multiple_choice import MultipleChoice, are_there
from hf_multitask.model.rows import PADDING

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block

# A row's choices are as good as even if the likeliest is above a guess by less.
_GUESS = 0.01


def mean_credit(credits: np.ndarray, place: int) -> Any:
    """The mean over rows of one of their credits.

    Args:
        credits: From 0 to 1, [R, B, credits].
        place: Which one.
    """
    return credits.mean(axis=-2)[..., place]


@register_evaluation("multiple_choice")
class MultipleChoiceEvaluation(TaskEvaluation):
    """Accuracy, and by rank the mean reciprocal rank and how often the right choice is among the first two, against
    guessing.

    The predictor that ignores the text guesses: each of a row's n choices is right with a chance of 1/n, and its scores
    are what is to be expected of it, such as the mean of 1/n for accuracy. To say always the same number would be no
    fair opponent: a choice's place says nothing to the model, so that rows may as well have the right one first.

    Choices that are exactly as likely share their ranks, as if lots were drawn: a model whose outputs are all the same
    has the scores of a guess, wherever the right choices stand.
    """

    task: MultipleChoice
    metrics = {"accuracy": MeanMetric("Accuracy", partial(mean_credit, place=0), share=as_it_is)}
    more_metrics = {
        "mrr": MeanMetric("Mean reciprocal rank", partial(mean_credit, place=1), share=as_it_is),
        "top_2_accuracy": MeanMetric("Top-2 accuracy", partial(mean_credit, place=2), share=as_it_is),
    }
    counts = "accuracy"
    trivial_name = "guess"
    hub_task: ClassVar[str] = "multiple-choice"
    error_columns = ("right choice", "chosen", "probability")
    error_texts = 2

    # ---- Scores ----

    def compared(self, rows: TaskPredictions) -> tuple[np.ndarray, np.ndarray]:
        """The probability of each choice, and 1 for the right one and 0 for others, both [B, N]; of choices that a row
        does not have, 0 and -100."""
        outputs = torch.from_numpy(np.asarray(rows.outputs))
        counts = are_there(outputs).sum(-1).numpy()
        return self.task.probabilities(outputs).numpy(), _truth(rows.labels, counts, outputs.shape[1])

    def labels_of(self, rows: Any, tokenizer: Any = None) -> np.ndarray:
        has_text = 0 if self.task.reads_pairs else 1
        counts = np.array([len(lengths) - has_text for lengths in rows["lengths"]], dtype=np.int64)
        return _truth(np.asarray(rows["label"]), counts, int(counts.max(initial=0)))

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of each row, [B, 3]: whether the likeliest choice is right, the reciprocal of the right one's rank, and
        whether that is 1 or 2; of choices that are as likely, the mean over their orders."""
        predicted, labels = np.asarray(predicted), np.asarray(labels)
        right = np.take_along_axis(predicted, (labels == 1).argmax(1)[:, None], axis=1)
        is_there = labels != PADDING
        above = (is_there & (predicted > right)).sum(1)
        alike = (is_there & (predicted == right)).sum(1)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, predicted.shape[1] + 1))])
        first, second = (np.clip(count - above, 0, alike) for count in (1, 2))
        # Of outputs that are no numbers, none is alike, and all credits are 0.
        return (
            np.stack([first, harmonic[above + alike] - harmonic[above], second], 1) / np.maximum(alike, 1)[:, None],
        )

    def trivial(self, train_labels: Any, labels: np.ndarray) -> Metrics:
        """What is to be expected of a guess; `train_labels` say nothing that it could use."""
        is_there = np.asarray(labels) != PADDING
        return self.score(is_there / is_there.sum(1, keepdims=True), labels) if self.chosen else {}

    def are_alike(self, labels: np.ndarray) -> bool:
        """Never: see the class."""
        return False

    # ---- Reports ----

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """How sure a wrong choice is."""
        return np.where(rows.predicted.argmax(1) != rows.labels, rows.predicted.max(1), 0.0)

    def text_titles(self) -> list[str]:
        return ["first text", "second text"] if self.task.texts == 2 else ["text"]

    def text_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        """Those beside the choices."""
        return list(rows.texts[row][:-1])

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        shares, choices = rows.predicted[row], rows.texts[row][-1]
        return [choices[rows.labels[row]], choices[shares.argmax()], f"{shares.max():.3f}"]

    def symptom(self, rows: TaskPredictions) -> str:
        even = int((rows.predicted.max(1) < 1 / _counts(rows.truth) + _GUESS).sum())
        said = nearly_all(even, len(rows.predicted))
        return said and f"in {said} rows, choices are as good as even"

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.analysis import analyse_classification
        from hf_multitask.evaluation.blocks import Block

        shares, counts = rows.predicted, _counts(rows.truth)
        places = [str(place) for place in range(shares.shape[1])]
        analysis = analyse_classification(places, shares, rows.labels)
        wrong = int((self.errors(rows) > 0).sum())
        yield Block(
            "paragraph",
            f"{wrong} of {len(counts)} rows are wrong. The right choice has a probability of "
            f"{shares[rows.truth == 1].mean():.3f} in the mean. Expected calibration error: "
            f"{analysis.calibration_error:.3f}.",
        )
        yield Block("table", header=["choices", "rows", "accuracy", "guess"], rows=list(self._by_count(rows, counts)))
        caption = f"{name}: accuracy by confidence; a point's size is its share of the rows, and one of fewer than "
        caption += f"{figures.FEW_ROWS} is hollow and beside the line."
        figure = figures.calibration_figure(analysis)
        yield Block("figure", caption, name=f"{name}-calibration", figure=figure)

    def _by_count(self, rows: TaskPredictions, counts: np.ndarray) -> Iterator[list[str]]:
        """How many rows have so many choices, how many of these are right, and how many of a guess would be."""
        (credits,) = self.evidence(rows.predicted, rows.truth)
        for count in np.unique(counts):
            of_count = credits[counts == count]
            yield [str(count), str(len(of_count)), f"{mean_credit(of_count, 0):.3f}", f"{1 / count:.3f}"]

    def limits(self) -> Iterator[str]:
        yield "a probability is a share among the choices that are given: that none of them is right is never said."


def _truth(labels: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """1 for the right choice of each row, 0 for its others, and -100 for those that it does not have, [B, width]."""
    truth = np.where(np.arange(width) < counts[:, None], 0, PADDING)
    truth[np.arange(len(labels)), labels] = 1
    return truth


def _counts(truth: np.ndarray) -> np.ndarray:
    """How many choices each row has, [B]."""
    return (truth != PADDING).sum(1)
