"""How rankings are scored and reported: where the texts that belong with a text stand among all that were evaluated.

Shape legend:
    - B: rows of one task
    - N: texts of the row that has most: its anchor, its positive and its negatives
    - A: different anchors
    - C: different candidates, the positives and negatives of all rows
    - P: right candidates of the anchor that has most
    - H: hidden size
    - R: resamples of the rows
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from hf_multitask.evaluation.metrics import MeanMetric, Metric, Metrics, as_it_is
from hf_multitask.evaluation.task_evaluation import TaskEvaluation, TaskPredictions, nearly_all, register_evaluation
from hf_multitask.model.ranking import Ranking, identities
from hf_multitask.model.rows import PADDING

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block

# Similarities that are held at a time.
_BLOCK = 1 << 24
# Below any cosine: what is no number, and what does not compete.
_NO_NUMBER, _NO_RIVAL = -2.0, -3.0
# Of the figure, and of the table.
_CURVE, _SHOWN = 50, (1, 3, 5, 10, 20, 50)
_DEPTH = 10


class Candidates:
    """What the rows of an evaluation ask for: each different anchor, and among which candidates its right ones are.

    A text is one whose identity is that of others. An anchor's right candidates are the positives of all rows that have
    this anchor, and a candidate that is the anchor's own text is none of its candidates, but for that.

    Args:
        labels: Identities, [B, N]; -100 where a row has no such text.
    """

    def __init__(self, labels: np.ndarray) -> None:
        ids, self.rows, self.anchor_of = np.unique(labels[:, 0], return_index=True, return_inverse=True)
        rows, places = np.nonzero(labels[:, 1:] != PADDING)
        candidates, first = np.unique(labels[rows, places + 1], return_index=True)
        # Where each is first: in which row, and as which of its texts.
        self.places = np.stack([rows[first], places[first] + 1])
        pairs = self.anchor_of * len(candidates) + np.searchsorted(candidates, labels[:, 1])
        # Of each right candidate its anchor, in their order, and itself.
        self.right = np.divmod(np.unique(pairs), len(candidates))
        own = np.searchsorted(candidates, ids).clip(max=len(candidates) - 1)
        # Of anchors that are candidates too: which, but for those that are right for themselves.
        is_own = candidates[own] == ids
        is_own[self.right[0][self.right[1] == own[self.right[0]]]] = False
        self.own = np.where(is_own, own, -1)

    @property
    def counts(self) -> np.ndarray:
        """How many right candidates each anchor has, [A]."""
        return np.bincount(self.right[0], minlength=len(self.rows))

    @property
    def sizes(self) -> np.ndarray:
        """Among how many candidates each anchor's are sought, [A]."""
        return self.places.shape[1] - (self.own >= 0)

    def ranks(self, outputs: np.ndarray) -> "Ranks":
        """Where the right candidates of each anchor stand.

        Of candidates that are equally similar, right ones come last, so that a model which embeds all texts alike has
        the worst ranks and not the best.

        Args:
            outputs: Embeddings of length 1, [B, N, H].
        """
        anchors = torch.from_numpy(outputs[self.rows, 0].astype(np.float32))
        candidates = torch.from_numpy(outputs[self.places[0], self.places[1]].astype(np.float32))
        size = max(1, _BLOCK // len(candidates))
        parts = [
            self._ranks_of(first, anchors[first : first + size] @ candidates.T)
            for first in range(0, len(anchors), size)
        ]
        ranks = np.concatenate([part[0] for part in parts])
        return Ranks(ranks, np.concatenate([part[1] for part in parts]))

    def _ranks_of(self, first: int, scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Of some anchors, from the first on, and their similarities to all candidates; what [`Ranks`] has of them."""
        scores = scores.nan_to_num(_NO_NUMBER)
        own = torch.from_numpy(self.own[first : first + len(scores)])
        has_own = own >= 0
        scores[has_own, own[has_own]] = _NO_RIVAL
        begin, end = np.searchsorted(self.right[0], [first, first + len(scores)])
        anchors, right = (torch.from_numpy(side[begin:end]) for side in self.right)
        anchors, counts = anchors - first, torch.from_numpy(self.counts[first : first + len(scores)])
        nth = torch.arange(len(anchors)) - (counts.cumsum(0) - counts)[anchors]
        found = torch.full((len(scores), int(self.counts.max())), -torch.inf)
        found[anchors, nth] = scores[anchors, right]
        found = found.sort(1, descending=True).values
        # What is right does not compete with what is right.
        scores[anchors, right] = _NO_RIVAL
        ranks = torch.full(found.shape, PADDING)
        for place in range(int(counts.max())):
            has_one = counts > place
            ahead = (scores[has_one] >= found[has_one, place : place + 1]).sum(1)
            ranks[has_one, place] = place + 1 + ahead
        return ranks.numpy(), scores.argmax(1).numpy()


@dataclass
class Ranks:
    """What is found of each anchor.

    Args:
        ranks: Those of its right candidates, from 1, in their order, [A, P]; -100 where it has fewer.
        wrong: The most similar of the other candidates, by its number, [A].
    """

    ranks: np.ndarray
    wrong: np.ndarray

    @cached_property
    def are_right(self) -> np.ndarray:
        """Whether a right candidate is the first, [A]."""
        return self.ranks[:, 0] == 1


def mean_over_anchors(evidence: np.ndarray, axis: int = -2, *, column: int) -> Any:
    """The mean over different anchors of one of the values of [`RankingEvaluation.evidence`], however many rows have
    the same anchor.

    Args:
        evidence: [..., B, values], of which the first is what a row counts.
        axis: Ignored: it is the last but one.
        column: The value.
    """
    means = np.asarray(evidence).mean(-2)
    with np.errstate(invalid="ignore"):
        return means[..., column] / means[..., 0]


def _metric(title: str, column: int, **kwargs: Any) -> MeanMetric:
    return MeanMetric(title, partial(mean_over_anchors, column=column), takes_axis=True, **kwargs)


MRR = _metric("Mean reciprocal rank among the first 10", 1, share=as_it_is)
RANKING_METRICS: dict[str, Metric] = {
    "mrr_at_10": MRR,
    "recall_at_1": _metric("Recall among the first 1", 2, share=as_it_is),
    "recall_at_5": _metric("Recall among the first 5", 3, share=as_it_is),
    "recall_at_10": _metric("Recall among the first 10", 4, share=as_it_is),
    "ndcg_at_10": _metric("NDCG of the first 10", 5, share=as_it_is),
}
MEAN_RANK = _metric("Mean rank of the first right text", 6, greater_is_better=False)


@register_evaluation("ranking")
class RankingEvaluation(TaskEvaluation):
    """Reciprocal ranks, recall and discounted gain of the right texts among all texts that were evaluated, means over
    the different anchors as in the information retrieval of sentence-transformers; against a random order.

    What is compared, and what a metric of one's own reads: as predictions the ranks of an anchor's right candidates,
    int64 [B, P], as labels the identities of each row's texts, [B, N], both with -100 where there are fewer.
    """

    task: Ranking
    metrics = RANKING_METRICS
    more_metrics = {"mean_rank": MEAN_RANK}
    counts = "mrr_at_10"
    trivial_name = "random order"
    # The Hub's `text-ranking` is of models that read a query and a text as one input.
    hub_task: ClassVar[str] = "sentence-similarity"
    error_columns = ("ranked first", "rank")
    error_texts = 1

    def __init__(self, task: Ranking) -> None:
        super().__init__(task)
        self._found: tuple[Any, Candidates, Ranks] | None = None

    # ---- Scores ----

    def found(self, rows: TaskPredictions) -> tuple[Candidates, Ranks]:
        """The candidates of the rows, and the ranks of those that are right; they are computed once."""
        if self._found is None or self._found[0] is not rows.outputs:
            candidates = Candidates(rows.labels)
            self._found = (rows.outputs, candidates, candidates.ranks(rows.outputs))
        return self._found[1:]

    def compared(self, rows: TaskPredictions) -> tuple[np.ndarray, np.ndarray]:
        candidates, found = self.found(rows)
        return found.ranks[candidates.anchor_of], rows.labels

    def labels_of(self, rows: Any, tokenizer: Any = None) -> np.ndarray:
        tokens = zip(rows["input_ids"], rows["lengths"], strict=True)
        each = [identities({"input_ids": ids, "lengths": lengths}) for ids, lengths in tokens]
        return self.task.collate(each).numpy()

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """One array, [B, 7]: what a row counts, 1 for the first that has its anchor and 0 for the others, which say the
        same, so that an interval does not take them for so many more anchors; and, times that, the reciprocal rank,
        recall at 1, 5 and 10, the normalised discounted gain, and the first rank."""
        are_first = np.zeros(len(labels))
        are_first[np.unique(labels[:, 0], return_index=True)[1]] = 1
        return (_counted(_values(predicted), are_first),)

    def trivial(self, train_labels: Any, labels: np.ndarray) -> Metrics:
        """What is expected of a random order; of a metric of one's own, what it has of one such order."""
        candidates = Candidates(labels)
        evidence = _counted(_expected(candidates.counts, candidates.sizes), np.ones(len(candidates.rows)))
        own = {name: metric for name, metric in self.chosen.items() if metric.is_own}
        expected = {name: float(metric.compute(evidence)) for name, metric in self.chosen.items() if name not in own}
        if own:
            drawn = _drawn(candidates)[candidates.anchor_of]
            expected |= {name: float(metric.compute(drawn, labels)) for name, metric in own.items()}
        return {name: expected[name] for name in self.chosen}

    def are_alike(self, labels: np.ndarray) -> bool:
        """Whether there is but one candidate."""
        return Candidates(labels).places.shape[1] < 2

    # ---- Reports ----

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """How many candidates are before the first right one, of one row with each anchor."""
        candidates, found = self.found(rows)
        errors = np.zeros(len(rows.labels))
        errors[candidates.rows] = found.ranks[:, 0] - 1
        return errors

    def text_titles(self) -> list[str]:
        return ["anchor", "right text"]

    def text_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        return list(rows.texts[row][:2])

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        candidates, found = self.found(rows)
        anchor = candidates.anchor_of[row]
        text = self._text(rows, candidates, int(found.wrong[anchor]))
        return [text, f"{found.ranks[anchor, 0]:,} of {candidates.sizes[anchor]:,}"]

    def _text(self, rows: TaskPredictions, candidates: Candidates, number: int) -> str:
        row, place = candidates.places[:, number]
        texts = rows.texts[row]
        return texts[1] if place == 1 else texts[2][place - 2]

    def symptom(self, rows: TaskPredictions) -> str:
        _, found = self.found(rows)
        wrong = found.wrong[~found.are_right]
        most = int(np.bincount(wrong).max()) if len(wrong) else 0
        said = nearly_all(most, len(found.ranks))
        return said and f"the same text is ranked first for {said}"

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        import pandas as pd

        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.blocks import Block

        candidates, found = self.found(rows)
        first, most = found.ranks[:, 0], candidates.places.shape[1]
        median = np.median(first)
        yield Block(
            "paragraph",
            f"{int(found.are_right.sum()):,} of {len(first):,} different anchors have a right text first, among "
            f"{most:,} candidates, the texts of all rows that were evaluated; the median rank is {median:,.0f}.",
        )
        asked = candidates.counts, candidates.sizes
        shares = pd.Series({k: np.mean(first <= k) for k in range(1, min(_CURVE, most) + 1)})
        by_chance = pd.Series({k: _found_by_chance(*asked, k).mean() for k in shares.index})
        yield Block(
            "table",
            header=["among the first", "anchors with a right text", "in a random order"],
            rows=[[str(k), f"{shares[k]:.3f}", f"{by_chance[k]:.3f}"] for k in _SHOWN if k in shares.index],
        )
        figure = figures.trace_figure(
            {"model": shares, "random order": by_chance}, "share of anchors", xlabel="among the first"
        )
        caption = f"{name}: the share of anchors that have a right text among the first candidates."
        yield Block("figure", caption, name=f"{name}-ranks", figure=figure)

    def limits(self) -> Iterator[str]:
        yield "ranks are those among the texts of the rows that were evaluated: among more texts, they are worse."


def _counted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What a row counts, and its values times that, [.., 1 + values]."""
    return np.column_stack([weights, values * weights[:, None]])


def _values(ranks: np.ndarray) -> np.ndarray:
    """Reciprocal rank, recall at 1, 5 and 10, normalised discounted gain and first rank, [B, 6], from ranks [B, P]."""
    are_there, first = ranks != PADDING, ranks[:, 0]
    counts = are_there.sum(1)
    recalls = [(are_there & (ranks <= k)).sum(1) / counts for k in (1, 5, _DEPTH)]
    are_near = are_there & (ranks <= _DEPTH)
    gain = (are_near / np.log2(np.where(are_near, ranks, 1) + 1)).sum(1) / _best_gain(counts)
    return np.column_stack([np.where(first <= _DEPTH, 1 / first, 0), *recalls, gain, first])


def _best_gain(counts: np.ndarray) -> np.ndarray:
    """The discounted gain where so many right texts stand first."""
    gains = np.cumsum(1 / np.log2(np.arange(2, _DEPTH + 2)))
    return gains[np.minimum(counts, _DEPTH) - 1]


def _expected(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What is expected of [`_values`] in a random order, [A, 6], of anchors with so many right ones of so many."""
    depths = range(1, _DEPTH + 1)
    # That the first right text stands at k: not among fewer, but among k.
    until = np.column_stack([_found_by_chance(counts, sizes, k) for k in range(_DEPTH + 1)])
    reciprocal = np.diff(until, axis=1) @ (1 / np.arange(1, _DEPTH + 1))
    recalls = [np.minimum(k / sizes, 1) for k in (1, 5, _DEPTH)]
    gain = sum((k <= sizes) * counts / sizes / np.log2(k + 1) for k in depths) / _best_gain(counts)
    return np.column_stack([reciprocal, *recalls, gain, (sizes + 1) / (counts + 1)])


def _found_by_chance(counts: np.ndarray, sizes: np.ndarray, depth: int) -> np.ndarray:
    """How likely one of so many right ones stands among the first, in a random order of so many candidates, [A]."""
    missed = np.ones(len(counts))
    for place in range(depth):
        missed *= np.clip((sizes - counts - place) / np.maximum(sizes - place, 1), 0, 1)
    return 1 - missed


def _drawn(candidates: Candidates) -> np.ndarray:
    """The ranks of right candidates in one random order, [A, P]."""
    draw, counts = random.Random(0), candidates.counts
    ranks = np.full((len(counts), counts.max()), PADDING)
    for row, (count, size) in enumerate(zip(counts.tolist(), candidates.sizes.tolist(), strict=True)):
        ranks[row, :count] = sorted(draw.sample(range(1, size + 1), count))
    return ranks
