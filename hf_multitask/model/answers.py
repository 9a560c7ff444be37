"""Answers as parts of a context: the one rule by which they are read, and which tokens are right by them.

An answer is stored as where it begins and ends in the context, in characters; several are one after the other, and an
empty list says that there is none.

Shape legend:
    - T: tokens of all windows of a row
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Of a token's code, what says that an answer begins or ends there.
BEGINS, ENDS = 1, 2


class AnswerReader:
    """Reads the raw answers of rows.

    Args:
        no_answer: Whether there may be none.

    Example:
        >>> AnswerReader(False)("Rome", "Where?", "In Rome, he said.")
        ([3, 7], False)
    """

    def __init__(self, no_answer: bool) -> None:
        self._no_answer = no_answer

    def __call__(self, value: Any, *texts: Any) -> tuple[list[int], bool]:
        """Where answers begin and end in the context, one after the other, in characters; that they are no class ids.

        Args:
            value: SQuAD's mapping of `text` and `answer_start`, which are lists, or one of each; a text that stands in
                the context once; a list of these; or an empty text or empty lists, where there is no answer. Or what
                is given here. Of rows that come tokenized, whose context is not there, texts need an `answer_start`.
            texts: The question and the context.

        Raises:
            ValueError: It is none; the message continues a sentence that begins with the column's name.
        """
        context = None
        if texts:
            context = " ".join(map(str, texts[1])) if isinstance(texts[1], (list, tuple)) else texts[1]
            if not isinstance(context, str):
                raise ValueError("cannot be read without a context.")
        if isinstance(value, (list, tuple)) and value and all(type(place) is int for place in value):
            spans, most = pairs(value) if len(value) % 2 == 0 else [], max(value) if context is None else len(context)
            if not spans or not all(0 <= start < end <= most for start, end in spans):
                raise ValueError(f"is {value!r:.100}, not where answers begin and end in the context.")
        else:
            spans = [_span(text, start, context) for text, start in _given(value)]
        if not spans and not self._no_answer:
            raise ValueError("has no answer; if rows may have none, set no_answer: true.")
        # Several people may have given the same answer.
        return [place for span in dict.fromkeys(spans) for place in span], False


def _given(value: Any) -> list[tuple[Any, Any]]:
    """Texts of answers, and where each begins, None where that is not said."""
    if value is None or value != value:
        raise ValueError("is missing; a row without an answer has an empty list, or an empty text.")
    if isinstance(value, (list, tuple)):
        if any(not _given(one) for one in value):
            raise ValueError(f"is {value!r:.100}, in which an answer is empty.")
        return [answer for one in value for answer in _given(one)]
    if isinstance(value, str):
        return [(value, None)] if value.strip() else []
    if not isinstance(value, Mapping) or "text" not in value or not value.keys() <= {"text", "answer_start"}:
        forms = "a text that stands in the context, a mapping with text and answer_start, or a list of these"
        raise ValueError(f"is {value!r:.100}, not an answer: {forms}.")
    texts, starts = (
        list(each) if isinstance(each, (list, tuple)) else [each]
        for each in (value["text"], value.get("answer_start", []))
    )
    if starts and len(starts) != len(texts):
        raise ValueError(f"has {len(texts)} text(s) and {len(starts)} answer_start(s): {value!r:.100}.")
    return list(zip(texts, starts or [None] * len(texts), strict=True))


def _span(text: Any, start: int | None, context: str | None) -> tuple[int, int]:
    """Where an answer begins and ends in the context, without blanks around it."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"has an answer {text!r:.100}, which is {'blank' if isinstance(text, str) else 'not text'}.")
    if start is not None and (type(start) is not int or start < 0):
        raise ValueError(f"has an answer {text!r:.100} with answer_start {start!r}, not a whole number from 0 on.")
    if start is None and context is None:
        raise ValueError(f"has an answer {text!r:.100} without answer_start, and no context that it could stand in.")
    if start is None:
        text = text.strip()
        start, count = str(context).find(text), _count(text, str(context))
        if count != 1:
            where = f"stands there {count} times: say by answer_start which it is" if count else "does not stand there"
            raise ValueError(f"has an answer {text!r:.100} that is to stand in the context, and {where}.")
    elif context is not None and (there := context[start : start + len(text)]) != text:
        raise ValueError(
            f"has an answer {text!r:.100} with answer_start {start}, where the context has {there!r:.100}."
        )
    begin = start + len(text) - len(text.lstrip())
    return begin, begin + len(text.strip())


def _count(text: str, context: str) -> int:
    """How often a text stands in another, also where it overlaps itself."""
    return sum(context.startswith(text, place) for place in range(len(context) - len(text) + 1))


def right_tokens(row: Mapping[str, Any]) -> Tensor:
    """The code of each token of a row, int64 [T]: 1 where an answer begins, 2 where one ends, 3 for both; else 0.

    A token is right in every window that has the whole answer; if none has, in every window. Where no token covers an
    answer's first or last character, the next one within the answer stands for it. No answer is the first token.

    Args:
        row: With `lengths`, `starts` and `ends`, and `label`, where answers begin and end in the context.
    """
    starts, ends = torch.as_tensor(row["starts"]), torch.as_tensor(row["ends"])
    lengths = torch.as_tensor(row["lengths"])
    windows = torch.arange(len(lengths)).repeat_interleave(lengths)
    codes = torch.zeros(len(starts), dtype=torch.int64)
    for start, end in pairs(row["label"]):
        are_inside = (starts >= 0) & (starts < end) & (ends > start)
        if not are_inside.any():
            continue
        begins = are_inside & (starts <= starts[are_inside].min().clamp(min=start))
        finishes = are_inside & (ends >= ends[are_inside].max().clamp(max=end))
        are_whole = torch.isin(windows, windows[begins]) & torch.isin(windows, windows[finishes])
        are_whole |= ~are_whole.any()
        codes[begins & are_whole] |= BEGINS
        codes[finishes & are_whole] |= ENDS
    if not len(row["label"]):
        codes[:1] = BEGINS | ENDS
    return codes


def pairs(values: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers two by two."""
    return list(zip(values[::2], values[1::2], strict=True))
