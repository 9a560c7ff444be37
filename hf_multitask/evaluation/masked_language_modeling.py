"""How masked tokens that are to be found are scored and reported.

Shape legend:
    - B: rows of one task
    - M: masked tokens of the row that has most
    - R: resamples of the rows, any number, of any shape; or none
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from hf_multitask.evaluation.metrics import MeanMetric, Metrics, as_it_is
from hf_multitask.evaluation.task_evaluation import TaskEvaluation, TaskPredictions, register_evaluation
from hf_multitask.model.masked_language_modeling import MaskedLanguageModeling
from hf_multitask.model.rows import PADDING

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block

# Of a row's evidence: tokens that were masked, those that were found, those among the first five, and −ln p, summed.
_TOKENS, _FOUND, _AMONG_FIVE, _SURPRISE = range(4)
# Tokens are told apart by how often they are among the masked ones.
_BANDS = {"once": (1, 2), "2 to 9 times": (2, 10), "10 to 99 times": (10, 100), "100 times or more": (100, np.inf)}


def accuracy(evidence: np.ndarray) -> Any:
    """The share of masked tokens that are the likeliest by the model, [R], from 0 to 1.

    Args:
        evidence: [R, B, 4], as `MaskedLanguageEvaluation.evidence` gives it.
    """
    return _per_token(evidence, _FOUND)


def top_5_accuracy(evidence: np.ndarray) -> Any:
    """The share that are among the five likeliest; the argument is that of [`accuracy`]."""
    return _per_token(evidence, _AMONG_FIVE)


def perplexity(evidence: np.ndarray) -> Any:
    """exp of the mean of −ln p over masked tokens, from 1 on: 1/p, where all have the same probability p. The argument
    is that of [`accuracy`]."""
    with np.errstate(over="ignore"):
        return np.exp(_per_token(evidence, _SURPRISE))


def _per_token(evidence: np.ndarray, kind: int) -> Any:
    means = evidence.mean(axis=-2)
    with np.errstate(invalid="ignore"):
        return means[..., kind] / means[..., _TOKENS]


@register_evaluation("masked_language_modeling")
class MaskedLanguageEvaluation(TaskEvaluation):
    """Perplexity and accuracy of masked tokens; by default none counts in the final score, since the task is there to
    help others. Against a predictor that gives each token the probability that it has in the texts of training, where
    each is counted once more, so that none has 0."""

    task: MaskedLanguageModeling
    metrics = {
        "perplexity": MeanMetric("Perplexity of masked tokens", perplexity, greater_is_better=False),
        "accuracy": MeanMetric("Accuracy of masked tokens", accuracy, share=as_it_is),
    }
    more_metrics = {
        "top_5_accuracy": MeanMetric("Masked tokens among the five likeliest", top_5_accuracy, share=as_it_is)
    }
    trivial_name = "frequencies of tokens"
    hub_task: ClassVar[str] = "fill-mask"
    error_columns = ("masked tokens", "found", "perplexity")

    # ---- Scores ----

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Each masked token has −ln of its probability and its rank, [B, M, 2]; beyond a row's there is -100."""
        return np.asarray(outputs, dtype=np.float64)

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """By row, [B, 4]: how many tokens were masked, were found, are among the five likeliest, and their −ln p,
        summed."""
        surprise, ranks = predicted[..., 0], predicted[..., 1]
        are_there = ranks != PADDING
        parts = (are_there, ranks == 1, are_there & (ranks <= 5), np.where(are_there, surprise, 0.0))
        return (np.stack([part.sum(axis=1) for part in parts], axis=1).astype(np.float64),)

    def labels_of(self, rows: Any, tokenizer: Any = None) -> np.ndarray:
        """The tokens that an evaluation masks, [B, M]; -100 beyond a row's."""
        given = [{"row": place, **row, "is_evaluated": True} for place, row in enumerate(rows.to_list(), start=1)]
        masked = self.task.batch_rows(given, tokenizer)
        return self.task.collate([row["label"] for row in masked]).numpy()

    def learnt_of(self, rows: Any, tokenizer: Any = None) -> np.ndarray:
        """How often each token stands in the texts, [V], special ones never; none of a stream, which is not read."""
        if not isinstance(rows, Dataset):
            return np.zeros(0, dtype=np.int64)
        ids = pc.list_flatten(rows.with_format("arrow")[:]["input_ids"]).to_numpy()
        counts = np.bincount(ids, minlength=len(tokenizer))
        counts[tokenizer.all_special_ids] = 0
        return counts

    def trivial(self, train_labels: Any, labels: np.ndarray) -> Metrics:
        """See the class; `train_labels` are counts, as [`learnt_of`] gives them."""
        counts = np.asarray(train_labels)
        if not len(counts) or not (labels != PADDING).any():
            return {}
        right = counts[labels.clip(min=0)]
        surprise = np.log((counts + 1).sum()) - np.log(right + 1)
        # Of tokens that are as common, others come first.
        ranks = len(counts) - np.searchsorted(np.sort(counts), right)
        kept = np.where((labels == PADDING)[..., None], PADDING, np.stack([surprise, ranks], axis=-1))
        return self.score(kept, labels)

    # ---- Reports ----

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """The mean of −ln p over a row's masked tokens; 0 where all were found."""
        (evidence,) = self.evidence(rows.predicted, rows.labels)
        mean = evidence[:, _SURPRISE] / np.maximum(evidence[:, _TOKENS], 1)
        return np.where(evidence[:, _FOUND] < evidence[:, _TOKENS], mean, 0.0)

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        (evidence,) = self.evidence(rows.predicted[[row]], rows.labels[[row]])
        return [f"{evidence[0, _TOKENS]:.0f}", f"{evidence[0, _FOUND]:.0f}", f"{perplexity(evidence):,.1f}"]

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.blocks import Block
        from hf_multitask.evaluation.summary import number

        are_there = rows.predicted[..., 1] != PADDING
        each, tokens = rows.predicted[are_there], rows.labels[are_there]
        yield Block("paragraph", f"{len(each):,} tokens of {len(are_there):,} rows were masked.")
        if not len(each):
            return
        _, places, times = np.unique(tokens, return_inverse=True, return_counts=True)
        by_band = {}
        for band, (first, end) in _BANDS.items():
            chosen = (times[places] >= first) & (times[places] < end)
            if chosen.any():
                by_band[band] = self.evidence(each[chosen][:, None], tokens[chosen][:, None])[0]
        yield Block(
            "table",
            header=["token is masked", "tokens", *self.metrics],
            rows=[
                [band, f"{len(part):,}", *(number(float(metric.compute(part))) for metric in self.metrics.values())]
                for band, part in by_band.items()
            ],
        )
        figure = figures.histogram_figure(np.exp(-each[:, 0]), "probability of the right token", "share of tokens")
        yield Block("figure", f"{name}: probabilities of the masked tokens.", name=f"{name}-tokens", figure=figure)

    def limits(self) -> Iterator[str]:
        yield "its perplexity is that of masked tokens: models compare by it only with the same tokenizer."
