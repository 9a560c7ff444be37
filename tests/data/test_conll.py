"""CoNLL's files: sentences as rows, in every form in which such files come."""

from pathlib import Path
from typing import Any

import pytest

from hf_multitask import TaskConfig
from hf_multitask.data.loading import load_split
from hf_multitask.data.sources import FileSource, read_file
from hf_multitask.data.streaming import load_stream
from tests.conftest import SHARED_DATA

TASK = TaskConfig("token_classification", labels=["O", "B-animal", "I-animal"])


def write(folder: Path, text: str, name: str = "rows.conll") -> str:
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


@pytest.mark.parametrize(
    "text",
    [
        "the\tO\nbig\tB-animal\ncat\tI-animal\n\na\tO\ndog\tB-animal\n",
        "\ufeffthe O\r\nbig B-animal\r\ncat   I-animal\r\n\r\n\r\na O\r\ndog B-animal",
        "-DOCSTART- O\n\nthe\tO\nbig\tB-animal\ncat\tI-animal\n\t\na\tO\ndog\tB-animal\n \n",
        "the\tO\nbig\tB-animal\ncat\tI-animal\n-DOCSTART- -X- O O\na\tO\ndog\tB-animal\n\n\n",
    ],
    ids=["tabs", "blanks", "a tab alone", "documents"],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_sentence_is_a_row(tmp_path: Path, text: str, streaming: bool) -> None:
    rows = list(read_file(write(tmp_path, text), streaming=streaming))
    assert rows == [
        {"tokens": ["the", "big", "cat"], "label": ["O", "B-animal", "I-animal"]},
        {"tokens": ["a", "dog"], "label": ["O", "B-animal"]},
    ]


def test_a_word_may_have_what_separates_cells_and_lines_elsewhere(tmp_path: Path) -> None:
    (row,) = read_file(write(tmp_path, "New York\tO\na\u00a0b\u2028c\tO\n#\tO\n"))
    assert row["tokens"] == ["New York", "a\u00a0b\u2028c", "#"]


def test_columns_are_named_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, "EU NNP I-NP B-ORG\nrejects VBZ I-VP O\n")
    assert read_file(path).column_names == ["tokens", "2", "3", "label"]
    source = FileSource.from_dict(
        {"train": path, "columns": ["word", "pos", "chunk", "ner"], "text": "word", "label": "pos"}
    )
    rows, _ = load_split("t", TaskConfig("token_classification", labels=["NNP", "VBZ"]), source, "train")
    assert rows[0] == {"tokens": ["EU", "rejects"], "label": [0, 1], "row": 1}


@pytest.mark.parametrize(
    ("text", "columns", "problem"),
    [
        ("the\tO\ncat\n", [], r"line 2 has 1 column\(s\), where other lines have 2\."),
        ("\n \n", [], r"it has no sentences\."),
        ("the\tO\n", ["word"], r"line 1 has 2 column\(s\), and columns names 1: word\."),
        ("the\tO\n", ["word", "word"], r"columns names 'word' twice\."),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_line(
    tmp_path: Path, text: str, columns: list[str], problem: str
) -> None:
    with pytest.raises(ValueError, match=rf"rows\.conll cannot be read as conll: {problem}"):
        read_file(write(tmp_path, text), columns=columns)


def test_a_bad_tag_is_told_by_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "the\tO\n\ncat\tB-anmal\n")
    with pytest.raises(
        ValueError, match=r"row 2: column 'label' has 'B-anmal' as its tag 1, .* did you mean 'B-animal'"
    ):
        load_split("t", TASK, FileSource(train=path), "train")


def test_a_fault_that_a_stream_comes_to_is_a_sentence(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path, "the\tO\n\n" * 1500 + "cat\n")
    with pytest.raises(ValueError, match=r"line 3001 has 1 column\(s\), where other lines have 2"):
        load_stream("t", TASK, FileSource(train=path, streaming=True), "train", tokenizer, 64)[[0]]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs the shared data")
def test_wnut17_is_read_whole() -> None:
    kinds = ("corporation", "creative-work", "group", "location", "person", "product")
    task = TaskConfig("token_classification", labels=["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")])
    for split, count in (("train", 3394), ("dev", 1009)):
        rows, report = load_split(
            "t", task, FileSource(train=str(SHARED_DATA / "more" / f"wnut17-{split}.conll")), "train"
        )
        assert len(rows) == count
        assert not report.dropped
