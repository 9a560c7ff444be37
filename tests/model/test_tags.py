"""Tags of words: their schemes, the entities that they mark, and how raw ones are read."""

import random
import re
from typing import Any

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from hf_multitask.model.tags import TagReader, entities, find_scheme, tag_types

BIO = ["O", "B-person", "I-person", "B-creative-work", "I-creative-work"]
BIOES = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in "ab")]


@pytest.mark.parametrize("tags", [BIO, BIOES, ["O", "B", "I", "E", "S"]])
def test_entities_are_those_of_seqeval_whatever_the_order_of_tags(tags: list[str]) -> None:
    draw = random.Random(0)
    for _ in range(3000):
        row = [draw.choice(tags) for _ in range(draw.randrange(9))]
        assert [(kind, first, end - 1) for kind, first, end in entities(row)] == get_entities(row), row


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (BIO, "BIO"),
        (BIOES, "BIOES"),
        (["O", "B-city"], "BIO"),
        (["O", "B", "I"], "BIO"),
        (["NOUN", "VERB", "O"], "none"),
        (["A", "B", "C"], "none"),
        (["0", "1", "2"], "none"),
    ],
)
def test_the_scheme_is_told_by_the_tags(labels: list[str], scheme: str) -> None:
    assert find_scheme(labels, "auto") == scheme
    assert find_scheme(labels, "none") == "none"


@pytest.mark.parametrize(
    ("labels", "scheme", "problem"),
    [
        (["B-a", "I-a"], "auto", "labels lacks 'O', the tag of words outside of entities in BIO: mend labels, or say"),
        (["O", "I-a", "B-b"], "auto", "labels has 'I-a' and lacks 'B-a', by which an entity of"),
        (["O", "B-a", "E-b", "S-b"], "auto", "labels has 'E-b' and lacks 'B-b'"),
        (
            ["O", "B-a", "NOUN"],
            "auto",
            "labels has 'NOUN' among tags of BIO, which is none: mend labels, or say scheme",
        ),
        (["O", "B-a", "S-a"], "BIO", "labels has 'S-a', and BIO has no S-: mend labels"),
        (["NOUN", "VERB"], "BIO", "labels has 'NOUN' among tags of BIO"),
    ],
)
def test_tags_that_are_half_a_scheme_are_refused(labels: list[str], scheme: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        find_scheme(labels, scheme)


def test_types_are_in_the_order_of_the_tags() -> None:
    assert tag_types(BIO) == ["person", "creative-work"]


def test_tags_are_read_by_name_or_as_ids_by_the_rule_of_labels() -> None:
    read = TagReader(BIO, "BIO")
    assert read(["O", " B-person "], ["a", "b"]) == ([0, 1], False)
    assert read([0, 4], ["a", "b"]) == ([0, 4], True)
    assert TagReader(BIO, "BIO", {"PER": "B-person", "-": "O"})(["-", "PER"], ["a", "b"]) == ([0, 1], False)
    assert TagReader(BIO, "BIO", own_names=["b-person", "o"])([1, 0], ["a", "b"]) == ([0, 1], False)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is missing."),
        ("O O", "is 'O O', neither a list of tags nor one of spans."),
        (["O"], "has 1 tag(s) for 2 word(s)."),
        ([], "has 0 tag(s) for 2 word(s)."),
        (["O", "B-persn"], "has 'B-persn' as its tag 2, which is none of the task's; did you mean 'B-person'?"),
        (["O", None], "has None as its tag 2, which is none of the task's; known: O, B-person"),
        ([0, 9], "has 9 as its tag 2"),
        (["O", 1], "has names of tags and ids of tags in one row."),
        ([["O"], "O"], "has ['O'] as its tag 1."),
    ],
)
def test_tags_that_cannot_be_used_are_refused(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        TagReader(BIO, "BIO")(value, ["a", "b"])


TEXT = "Ann Lee sang 'Hey Jude'."


def span(start: Any, end: Any, label: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def test_spans_of_a_text_become_tags_of_its_words() -> None:
    spans = [span(14, 22, "creative-work"), span(0, 7, "person")]
    ids, by_id = TagReader(BIO, "BIO")(spans, TEXT)
    assert [BIO[tag] for tag in ids] == [
        *("B-person", "I-person", "O", "O", "B-creative-work", "I-creative-work", "O", "O")
    ]
    assert by_id is False
    assert TagReader(BIO, "BIO")([], TEXT)[0] == [0] * 8
    ids, _ = TagReader(BIOES, "BIOES")([span(0, 7, "a"), span(8, 12, "b")], TEXT)
    assert [BIOES[tag] for tag in ids[:3]] == ["B-a", "E-a", "S-b"]


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        (
            [span(0, 6, "person")],
            "has a span from 0 to 6, which does not begin and end where words do; words there: 'An",
        ),
        (
            [span(50, 60, "person")],
            "has a span from 50 to 60, which does not begin and end where words do; words there: n",
        ),
        ([span(8, 7, "person")], "has a span from 8 to 7"),
        ([span(0, 7, "persn")], "has 'persn' as the label of a span; did you mean 'person'?"),
        ([span(0, 3, "person"), span(0, 7, "person")], "has spans that overlap, at 'Ann Lee'."),
        ([span("0", 7, "person")], "has {'start': '0', 'end': 7, 'label': 'person'} as a span, not a mapping with st"),
        ([{"start": 0}], "has {'start': 0} as a span, not a mapping with start, end, label."),
        (["O", "O"], "has tags, for which the text must be a list of words"),
    ],
)
def test_spans_that_cannot_be_used_are_refused(spans: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        TagReader(BIO, "BIO")(spans, TEXT)


def test_an_entity_that_the_tags_cannot_say_is_refused() -> None:
    with pytest.raises(
        ValueError, match=re.escape("has a 'city' of 2 word(s), for which the task's labels lack 'I-ci")
    ):
        TagReader(["O", "B-city"], "BIO")([span(0, 7, "city")], TEXT)
    with pytest.raises(ValueError, match="tags without a scheme"):
        TagReader(["NOUN", "VERB"], "none")([], TEXT)
