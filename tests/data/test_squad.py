"""SQuAD's own files: questions as rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_multitask import TaskConfig
from hf_multitask.data.loading import load_split
from hf_multitask.data.sources import FileSource
from hf_multitask.data.streaming import load_stream

TASK = TaskConfig("question_answering", no_answer=True)
CONTEXT = "He was in Paris once."
QUESTIONS: list[dict[str, Any]] = [
    {"id": "1", "question": "where?", "answers": [{"text": "Paris", "answer_start": 10}], "is_impossible": False},
    {"id": "2", "question": "who?", "answers": [], "is_impossible": True},
]


def write(path: Path, *paragraphs: Any, **options: Any) -> FileSource:
    articles = [{"title": "Paris", "paragraphs": list(paragraphs)}]
    path.write_text("\ufeff" + json.dumps({"version": "v2.0", "data": articles}, **options))
    return FileSource(train=str(path), label="answers")


@pytest.mark.parametrize("options", [{}, {"indent": 1}])
@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_a_question_is_a_row(tmp_path: Path, tokenizer: Any, name: str, options: Any) -> None:
    source = write(tmp_path / name, {"context": CONTEXT, "qas": QUESTIONS}, **options)
    rows, _ = load_split("qa", TASK, source, "train")
    assert rows.to_list() == [
        {"question": "where?", "context": CONTEXT, "label": [10, 15], "row": 1},
        {"question": "who?", "context": CONTEXT, "label": [], "row": 2},
    ]
    source.shuffle_buffer = 1
    stream = load_stream("qa", TASK, source, "train", tokenizer, 16)
    assert stream[[0, 1, 2]]["label"] == [[10, 15], [], [10, 15]]


@pytest.mark.parametrize(
    ("paragraph", "message"),
    [
        ({"qas": QUESTIONS}, r"it begins as SQuAD's files do, and after 0 question\(s\) lacks 'context'"),
        ({"context": CONTEXT, "qas": [QUESTIONS[0], {"id": 2}]}, r"after 1 question\(s\) lacks 'question'"),
        ({"context": CONTEXT, "qas": []}, "it has no questions"),
        ({"context": CONTEXT, "qas": [{**QUESTIONS[0], "answers": [{"text": "a"}]}]}, "lacks 'answer_start'"),
    ],
)
def test_what_is_none_of_them_is_refused(tmp_path: Path, paragraph: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"task 'qa': .*t\.json cannot be read as json: .*{message}"):
        load_split("qa", TASK, write(tmp_path / "t.json", paragraph), "train")


def test_a_question_without_answers_in_the_file_is_a_bad_row(tmp_path: Path) -> None:
    source = write(tmp_path / "t.json", {"context": CONTEXT, "qas": [QUESTIONS[0], {"id": "2", "question": "who?"}]})
    with pytest.raises(ValueError, match="row 2: column 'answers' is missing"):
        load_split("qa", TASK, source, "train")
