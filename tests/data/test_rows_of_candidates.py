"""Rows of a text, another that belongs with it, and any number that do not."""

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import IterableDataset

from hf_multitask import TaskConfig
from hf_multitask.data.given import GivenSource
from hf_multitask.data.loading import count_overlap, load_split
from hf_multitask.data.sources import FileSource
from hf_multitask.data.streaming import load_stream

TASK: Any = TaskConfig("ranking")


def load(path: Path, content: str, **keys: Any) -> Any:
    path.write_text(content)
    return load_split("facts", TASK, FileSource(train=str(path), **keys), "train")[0]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["negative"], "[anchor, positive, negative]"),
        (["Negative_1", "hard_negative"], "[anchor, positive, Negative_1, "),
    ],
)
def test_negatives_under_another_name_are_not_left_unread(tmp_path: Path, names: list[str], text: str) -> None:
    content = f"anchor,positive,{','.join(names)},source\na,b{',c' * len(names)},web\n"
    shown = ", ".join(map(repr, names))
    with pytest.raises(ValueError, match=re.escape(f"text must say whether {shown} is read, as negatives: {text}")):
        load(tmp_path / "t.csv", content)
    assert load(tmp_path / "t.csv", content, text=["anchor", "positive"])[0] == {
        "anchor": "a",
        "positive": "b",
        "row": 1,
    }
    rows = load(tmp_path / "t.csv", content, text=["anchor", "positive", *names])
    assert rows["negatives"] == [["c"] * len(names)]


def test_an_empty_cell_is_no_negative(tmp_path: Path) -> None:
    rows = load(tmp_path / "t.csv", "anchor,positive,negatives\na,b,\nc,d,e\n")
    assert rows["negatives"] == [[], ["e"]]


def test_an_empty_cell_between_others_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: column 'n' is empty"):
        load(tmp_path / "t.csv", "q,p,n,o\na,b,,e\n", text=["q", "p", "n", "o"])


def test_several_texts_are_not_taken_for_the_words_of_one(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"row 1: column 'positive' has several texts, such as 'It rained\.', where a row"
    ):
        load(tmp_path / "t.jsonl", '{"anchor": "a", "positive": ["It rained.", "It snowed."]}')
    assert load(tmp_path / "t.jsonl", '{"anchor": "a", "positive": ["It", "rained"]}')["positive"] == ["It rained"]


def test_rows_that_stand_in_both_splits_are_counted_whatever_their_negatives(tmp_path: Path) -> None:
    train = load(tmp_path / "t.jsonl", '{"anchor": "a", "positive": "b", "negatives": ["c"]}')
    other = load(tmp_path / "v.csv", "anchor,positive\na,b\nd,e\n")
    assert (count_overlap(train, other, TASK), count_overlap(other, train, TASK)) == (1, 1)


def test_a_label_that_is_not_read_is_told_of(tmp_path: Path, caplog: Any) -> None:
    # Of pairs that are duplicates or not, all would count as such.
    load(tmp_path / "t.csv", "anchor,positive,label\na,b,0\n")
    assert "t.csv has a column 'label' that is not read: rows of ranking have no label." in caplog.text


def test_rows_of_a_stream_may_have_negatives_where_the_first_has_none(tokenizer: Any) -> None:
    def rows() -> Any:
        yield from ({"anchor": "a", "positive": "cat"} for _ in range(1500))
        yield {"anchor": "a", "positive": "dog", "negatives": ["cat", "hill"]}
        yield {"positive": "dog", "negatives": ["cat"]}

    source = GivenSource(dataset=IterableDataset.from_generator(rows), shuffle_buffer=1)
    stream = load_stream("facts", TASK, source, "train", tokenizer, 8)
    assert [len(lengths) for lengths in stream[[0, 1499, 1500]]["lengths"]] == [2, 2, 4]
    with pytest.raises(ValueError, match="row 1502: column 'anchor' is missing"):
        stream[[1501]]
