"""How answers to questions are scored and reported: exact match and F1 by SQuAD's definition.

Shape legend:
    - B: rows of one task
    - R: resamples of the rows, any number, of any shape; or none
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch

from hf_multitask.evaluation.metrics import MeanMetric, as_it_is
from hf_multitask.evaluation.task_evaluation import TaskEvaluation, TaskPredictions, nearly_all, register_evaluation
from hf_multitask.model.question_answering import QuestionAnswering

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block

# A table of errors shows so much of a context.
_SHOWN = 200
# A table says it in place of an empty answer.
_NONE = "no answer"
# A table has the words that begin so many questions, and together those that begin fewer.
_FIRST_WORDS = 8
# The lengths of answers, in words, by which they are reported: from each on, up to the next.
_LENGTHS = {"no answer": 0, "1 word": 1, "2 words": 2, "3 to 4": 3, "5 to 8": 5, "9 or more": 9}
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def f1(matches: np.ndarray, shares: np.ndarray, *rest: np.ndarray) -> Any:
    """The mean over rows of F1.

    Args:
        matches: Whether a row's answer is right to the word, [R, B, 1].
        shares: Its F1, [R, B, 1].
        rest: What other metrics read.
    """
    return shares.mean(axis=-2)[..., 0]


def exact_match(matches: np.ndarray, *rest: np.ndarray) -> Any:
    """The share of rows whose answer is right to the word; the arguments are those of [`f1`]."""
    return matches.mean(axis=-2)[..., 0]


def has_answer_f1(matches: np.ndarray, shares: np.ndarray, have: np.ndarray, answered: np.ndarray) -> Any:
    """The mean of F1 over rows that have an answer; NaN if none has.

    Args:
        matches, shares: As for [`f1`], and not read.
        have: Whether a row has an answer, [R, B, 1].
        answered: F1 of those that have, and else 0, [R, B, 1].
    """
    return _ratio(answered, have)


def no_answer_accuracy(matches: np.ndarray, shares: np.ndarray, have: np.ndarray, answered: np.ndarray) -> Any:
    """The share, among rows without an answer, of those that are given none; NaN if all have one.

    The arguments are those of [`has_answer_f1`]: of a row without an answer, F1 is 1 if it is given none, and else 0.
    """
    return _ratio(shares - answered, 1 - have)


def _ratio(part: np.ndarray, whole: np.ndarray) -> Any:
    with np.errstate(invalid="ignore"):
        return (part.mean(axis=-2) / whole.mean(axis=-2))[..., 0]


def normalized(answer: str) -> str:
    """An answer as SQuAD's script compares it: in lower case, without punctuation, articles and needless blanks."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(_PUNCTUATION)).split())


def agreement(answer: str, right: Sequence[str]) -> tuple[float, float, float, float]:
    """How well an answer agrees with that of several right ones with which it agrees best, each from 0 to 1.

    Args:
        answer: What is predicted; empty: that there is none.
        right: The right answers; none if there is none. One that normalising leaves nothing of counts as none.

    Returns:
        Whether it is the same, and of the words that they share, F1, precision and recall (SQuAD's definitions: where
        either side has no words, all are 1 if both have none, and else 0). The same answer need not be best by all.
    """
    said, each = normalized(answer), list(filter(None, map(normalized, right))) or [""]
    return (float(said in each), *max(_overlap(said, one) for one in each))


def _overlap(said: str, right: str) -> tuple[float, float, float]:
    """F1, precision and recall of the words of one answer among those of another."""
    words, wanted = said.split(), right.split()
    if not words or not wanted:
        return (float(words == wanted),) * 3
    common = sum((Counter(words) & Counter(wanted)).values())
    precision, recall = common / len(words), common / len(wanted)
    return 2 * common / (len(words) + len(wanted)), precision, recall


@register_evaluation("question_answering")
class AnswerEvaluation(TaskEvaluation):
    """F1, which counts, and exact match, by SQuAD's definition; where rows may have no answer, also F1 of those that
    have one and accuracy of those that have none. Against a predictor that never answers, which is right where there is
    no answer and has 0 elsewhere."""

    task: QuestionAnswering
    metrics: dict[str, MeanMetric]  # type: ignore[assignment]
    counts = "f1"
    trivial_name = "empty answer"
    hub_task: ClassVar[str] = "question-answering"
    error_columns = ("right", "predicted")
    error_texts: ClassVar[int] = 2

    def __init__(self, task: QuestionAnswering) -> None:
        super().__init__(task)
        self.metrics = {
            "f1": MeanMetric("F1 of answers", f1, share=as_it_is),
            "exact_match": MeanMetric("Exact match", exact_match, share=as_it_is),
        }
        if task.no_answer:
            self.metrics |= {
                "has_answer_f1": MeanMetric("F1 of rows with an answer", has_answer_f1, share=as_it_is),
                "no_answer_accuracy": MeanMetric("Accuracy of rows without one", no_answer_accuracy, share=as_it_is),
            }

    # ---- Scores ----

    def compared(self, rows: TaskPredictions) -> tuple[np.ndarray, np.ndarray]:
        """Of each row the answer that is predicted, empty for none, and all right ones: arrays of str, and of tuples of
        str, [B]."""
        said = [answer["answer"] for answer in self._said(rows)]
        return _objects(said), self.labels_of(rows.rows)

    def _said(self, rows: TaskPredictions) -> list[dict[str, Any]]:
        """What is predicted of each row, as the pipeline has it."""
        columns = {key: rows.rows[key] for key in ("context", "starts", "ends")}
        read = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return self.task.predictions_for(read, torch.from_numpy(np.asarray(rows.outputs)))

    def labels_of(self, rows: Any, tokenizer: Any = None) -> np.ndarray:
        """The right answers of each row, tuples of str, [B]."""
        spans = (list(zip(places[::2], places[1::2], strict=True)) for places in rows["label"])
        each = zip(rows["context"], spans, strict=True)
        return _objects([tuple(context[start:end] for start, end in places) for context, places in each])

    def evidence(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """By row, each [B, 1]: whether the answer is right to the word, F1, whether there is an answer, and F1 if
        there is one."""
        found = np.array([agreement(said, right)[:2] for said, right in zip(predicted, labels, strict=True)])
        have = np.array([float(bool(right)) for right in labels])
        columns = (*found.reshape(-1, 2).T, have, found.reshape(-1, 2)[:, 1] * have)
        return tuple(column[:, None] for column in columns)

    def constant(self, train_labels: Any) -> str:
        """That there is no answer."""
        return ""

    def are_alike(self, labels: np.ndarray) -> bool:
        return len(set(labels)) < 2

    # ---- Reports ----

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """What F1 lacks of 1, times the probability of what is said; 0 of rows that are right to the word."""
        matches, shares, *_ = self.evidence(rows.predicted, rows.truth)
        sure = np.array([answer["score"] for answer in self._said(rows)])
        # What is said with a probability of 0 is an error too.
        return np.where(matches[:, 0] == 1, 0.0, (1 - shares[:, 0]) * (sure + 1e-9))

    def text_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        """The question, and the context from a little before its answer on."""
        question, context = rows.texts[row]
        spans = rows.rows["label"][row]
        begin = max(0, min(spans[0] - _SHOWN // 2, len(context) - _SHOWN)) if len(spans) else 0
        end = begin + _SHOWN
        return [question, f"{'…' * (begin > 0)}{context[begin:end]}{'…' * (end < len(context))}"]

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        right = " / ".join(dict.fromkeys(rows.truth[row]))
        return [right or _NONE, rows.predicted[row] or _NONE]

    def symptom(self, rows: TaskPredictions) -> str:
        ((answer, most),) = Counter(rows.predicted.tolist()).most_common(1)
        said = nearly_all(most, len(rows.predicted))
        return said and f"{said} answers are {answer or _NONE!r}"

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.blocks import Block, class_table

        pairs = list(zip(rows.predicted, rows.truth, strict=True))
        columns = ["exact match", "f1", "precision", "recall"]
        table = pd.DataFrame([agreement(said, right) for said, right in pairs], columns=columns).assign(rows=1)
        wrong, without = int((table["exact match"] < 1).sum()), sum(not right for _, right in pairs)
        missed, made_up = (
            sum(bool(right) and not said for said, right in pairs),
            sum(bool(said) > bool(right) for said, right in pairs),
        )
        yield Block(
            "paragraph",
            f"{wrong} of {len(pairs)} answers are not one of the right ones to the word. {without} rows have no "
            f"answer, of which {made_up} are given one; {missed} rows that have one are given none. Precision and "
            "recall are of an answer's words, and means over rows.",
        )
        if len(rows.texts):
            yield class_table("question begins", _means(table, _first_words([texts[0] for texts in rows.texts])))
        lengths = np.array([max((len(one.split()) for one in right), default=0) for _, right in pairs])
        bands = np.array(list(_LENGTHS))[np.searchsorted(list(_LENGTHS.values()), lengths, side="right") - 1]
        by_length = _means(table, bands)
        by_length = by_length.loc[[band for band in _LENGTHS if band in by_length.index]]
        yield class_table("answer's length", by_length)
        caption = f"{name}: F1, precision and recall of answers by the length of the longest right one, in words."
        yield Block("figure", caption, name=f"{name}-lengths", figure=figures.label_figure(by_length))

    def limits(self) -> Iterator[str]:
        yield f"an answer is one part of the context, of at most {self.task.max_answer_length} tokens."
        if self.task.no_answer:
            yield "that there is no answer is said where it is likelier than every answer; no data chose a threshold."


def _first_words(questions: Sequence[str]) -> np.ndarray:
    """The word that each question begins with, if many do."""
    words = [question.split()[0].lower() if question.strip() else "" for question in questions]
    common = {word for word, _ in Counter(words).most_common(_FIRST_WORDS)}
    return np.array([word if word in common else "another word" for word in words])


def _means(table: pd.DataFrame, keys: np.ndarray) -> pd.DataFrame:
    """The means of rows by a key, those of many rows first, and how many there are."""
    groups = table.groupby(keys)
    return groups.mean().assign(rows=groups.size()).sort_values("rows", ascending=False, kind="stable")


def _objects(values: Sequence[Any]) -> np.ndarray:
    """An array of objects, which numpy would else read as an array of more dimensions."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
