"""Answers as parts of a context: how raw ones are read, and which tokens are right by them."""

import re
from typing import Any

import pytest
from datasets import Dataset

from hf_multitask import TaskConfig
from hf_multitask.data.checking import check_rows
from hf_multitask.model.answers import AnswerReader, right_tokens

TASK: Any = TaskConfig("question_answering", doc_stride=2)
NONE: Any = TaskConfig("question_answering", no_answer=True)
QUESTION, CONTEXT = "what sat", "The cat sat on a mat, not the big hill."


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ({"text": ["cat", "The cat"], "answer_start": [4, 0]}, [4, 7, 0, 7]),
        ({"text": "cat", "answer_start": 4}, [4, 7]),
        ([{"text": "cat", "answer_start": 4}, {"text": "mat", "answer_start": 17}], [4, 7, 17, 20]),
        ({"text": ["cat", "cat", "cat"], "answer_start": [4, 4, 4]}, [4, 7]),
        ("a mat", [15, 20]),
        (" big hill ", [30, 38]),
        (["cat", "mat"], [4, 7, 17, 20]),
        ({"text": [" cat "], "answer_start": [3]}, [4, 7]),
        ([4, 7], [4, 7]),
    ],
)
def test_answers_are_read_as_parts_of_the_context(value: Any, spans: list[int]) -> None:
    assert AnswerReader(False)(value, QUESTION, CONTEXT) == (spans, False)


@pytest.mark.parametrize("value", ["", " ", [], {"text": [], "answer_start": []}])
def test_no_answer_is_one_where_the_task_says_so(value: Any) -> None:
    assert AnswerReader(True)(value, QUESTION, CONTEXT) == ([], False)
    with pytest.raises(ValueError, match="has no answer; if rows may have none, set no_answer: true"):
        AnswerReader(False)(value, QUESTION, CONTEXT)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "is missing; a row without an answer has an empty list, or an empty text."),
        (float("nan"), "is missing; a row without"),
        ("dog", "has an answer 'dog' that is to stand in the context, and does not stand there."),
        ("at", "'at' that is to stand in the context, and stands there 3 times: say by answer_start which it is."),
        ({"text": ["cat"], "answer_start": [5]}, "'cat' with answer_start 5, where the context has 'at '."),
        ({"text": ["cat"], "answer_start": [500]}, "'cat' with answer_start 500, where the context has ''."),
        ({"text": ["cat"], "answer_start": [-1]}, "answer_start -1, not a whole number from 0 on"),
        ({"text": ["cat"], "answer_start": ["4"]}, "answer_start '4', not a whole number from 0 on"),
        ({"text": ["cat", "mat"], "answer_start": [4]}, "has 2 text(s) and 1 answer_start(s)"),
        ({"text": [" "], "answer_start": [3]}, "has an answer ' ', which is blank"),
        ({"text": [7], "answer_start": [3]}, "has an answer 7, which is not text"),
        ({"answer": "cat"}, "is {'answer': 'cat'}, not an answer: a text that stands in the context, a mapping with"),
        (["cat", ""], "is ['cat', ''], in which an answer is empty"),
        (3, "is 3, not an answer"),
        ([4, 7, 9], "is [4, 7, 9], not where answers begin and end in the context"),
        ([4, 99], "is [4, 99], not where answers begin and end in the context"),
    ],
)
def test_what_is_no_answer_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AnswerReader(True)(value, QUESTION, CONTEXT)


def test_without_a_context_answers_need_their_place() -> None:
    assert AnswerReader(False)({"text": ["cat"], "answer_start": [4]}) == ([4, 7], False)
    with pytest.raises(ValueError, match="has an answer 'cat' without answer_start, and no context"):
        AnswerReader(False)("cat")


def test_a_label_map_and_classes_mean_nothing() -> None:
    with pytest.raises(ValueError, match="label_map means nothing for answers"):
        TASK.label_reader({"a": "b"}, None)
    with pytest.raises(ValueError, match=r"the dataset's labels are classes, \['a', 'b'\], and not answers"):
        TASK.label_reader({}, ["a", "b"])


def test_rows_are_checked_and_a_bad_one_is_named() -> None:
    raw = Dataset.from_dict({"question": ["who", "who", " "], "context": [CONTEXT] * 3, "label": ["cat", "dog", "cat"]})
    names = {name: name for name in raw.column_names}
    rows, bad, by_id = check_rows(raw, TASK, names)
    assert rows["label"][:] == [[4, 7]]
    assert [str(one).split(" that")[0] for one in bad] == [
        "row 2: column 'label' has an answer 'dog'",
        "row 3: column 'question' is blank.",
    ]
    assert by_id == 0
    assert TASK.is_label([4, 7])
    assert not any(map(TASK.is_label, [[], [4], [7, 4], [-1, 3]]))
    assert NONE.is_label([])


def test_right_tokens_are_those_of_windows_that_have_the_whole_answer(tokenizer: Any) -> None:
    tokens = TASK.tokenize(tokenizer, {"question": [QUESTION], "context": [CONTEXT]}, 10)
    row = {key: values[0] for key, values in tokens.items()}

    def right(*spans: int) -> list[tuple[int, str, int]]:
        """Window, token and code of what is right."""
        codes, windows = right_tokens({**row, "label": list(spans)}).tolist(), []
        for number, length in enumerate(row["lengths"]):
            windows += [number] * length
        parts = [CONTEXT[start:end] for start, end in zip(row["starts"], row["ends"], strict=True)]
        return [(windows[t], parts[t], code) for t, code in enumerate(codes) if code]

    assert right(4, 7) == [(0, "cat", 3)]
    # "a" stands in two windows, and "a mat" in the second alone.
    assert right(15, 16) == [(0, "a", 3), (1, "a", 3)]
    assert right(15, 20) == [(1, "a", 1), (1, "mat", 2)]
    assert right(4, 7, 4, 11) == [(0, "cat", 3), (0, "sat", 2)]
    # No window has all of it.
    assert right(0, 20) == [(0, "The", 1), (1, "mat", 2)]
    # Within a token, the token; of a blank and what follows, what follows; of blanks alone, nothing.
    assert right(5, 6) == [(0, "cat", 3)]
    assert right(3, 7) == [(0, "cat", 3)]
    assert right(3, 4) == []
    assert right() == [(0, "", 3)]
