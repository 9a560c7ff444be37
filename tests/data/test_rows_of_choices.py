"""Rows with choices, from files and as they are tokenized."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_multitask import TaskConfig
from hf_multitask.data.checking import check_rows, standard_columns
from hf_multitask.data.loading import load_split
from hf_multitask.data.sources import FileSource
from hf_multitask.data.tokenization import tokenize
from hf_multitask.data.tokenized import check_tokenized

TASK: Any = TaskConfig("multiple_choice")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_csv_has_a_column_for_each_choice_and_the_last_may_be_empty(tmp_path: Path) -> None:
    train = write(tmp_path / "t.csv", "q,a,b,c,answer\nWho?,he,she,it,C\nWhy?,so,for,,a\n")
    source = FileSource(train=train, text=["q", "a", "b", "c"], label="answer")
    rows, report = load_split("swag", TASK, source, "train")
    assert rows["sentence"] == ["Who?", "Why?"]
    assert rows["choices"] == [["he", "she", "it"], ["so", "for"]]
    assert rows["label"] == [2, 0]
    assert rows.features["label"] == Value("int64")
    assert (report.labels_by_id, report.labels_by_name) == (2, 0)


def test_json_has_a_list_of_them(tmp_path: Path) -> None:
    lines = [
        {"sentence": "Who?", "choices": ["he", "she"], "label": "she"},
        {"sentence": "Why?", "choices": ["so", "for", "as"], "label": "so"},
    ]
    train = write(tmp_path / "t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows, report = load_split("swag", TASK, FileSource(train=train), "train")
    assert rows["label"] == [1, 0]
    assert (report.labels_by_id, report.labels_by_name) == (0, 2)


def test_a_passage_and_a_question_are_two_texts(tmp_path: Path) -> None:
    train = write(tmp_path / "t.csv", "p,q,a,b,answer\nHe ran.,Who?,he,she,0\n")
    source = FileSource(train=train, text=["p", "q", "a", "b"], label="answer")
    rows, _ = load_split("race", TaskConfig("multiple_choice", texts=2), source, "train")
    assert rows[0] == {"sentence1": "He ran.", "sentence2": "Who?", "choices": ["he", "she"], "label": 0, "row": 1}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("Who?,he,,,0", "column ['a', 'b', 'c'] has 1 choice, and a row has at least two."),
        ("Who?,,,,0", "column ['a', 'b', 'c'] has no choices, and a row has at least two."),
        ("Who?,he,,she,0", "column 'b' is empty."),
        ("Who?,he,she,he,0", "column ['a', 'b', 'c'] has the choice 'he' twice"),
        ("Who?,he,she,,2", "column 'answer' is '2', none of the row's 2 choices: give the text of one of them or a"),
        ("Who?,2,3,4,2", "column 'answer' is '2', which is the text of one choice and could be the place of another"),
        ("Who?,he,she,it,", "column 'answer' is empty."),
        ("Who?,he,she,it,B", "column 'answer' is 'B', where other rows have numbers: say by label_map"),
        (",he,she,it,1", "column 'q' is empty."),
    ],
)
def test_a_bad_row_is_named_with_its_column(tmp_path: Path, row: str, problem: str) -> None:
    train = write(tmp_path / "t.csv", f"q,a,b,c,answer\nWhat?,this,that,it,1\n{row}\n")
    source = FileSource(train=train, text=["q", "a", "b", "c"], label="answer")
    with pytest.raises(ValueError, match=re.escape(f"1 bad row(s): row 2: {problem}")):
        load_split("swag", TASK, source, "train")
    rows, report = load_split("swag", TASK, source, "train", on_bad_rows="drop")
    assert (len(rows), report.all_dropped) == (1, 1)


def test_choices_may_come_with_their_letters_as_commonsenseqa_has_them() -> None:
    def check(letters: list[str]) -> tuple[Dataset, list[str]]:
        choices = {"label": letters, "text": ["he", "she"]}
        given = Dataset.from_list([{"sentence": "Who?", "choices": choices, "label": "B"}])
        rows, bad, _ = check_rows(given, TASK, {name: name for name in given.column_names})
        return rows, [row.problem for row in bad]

    rows, bad = check(["A", "B"])
    assert (rows["choices"], rows["label"], bad) == ([["he", "she"]], [1], [])
    # By letters in another order, B is another choice.
    rows, (problem,) = check(["B", "A"])
    assert problem.startswith("column 'choices' is {'label': ['B', 'A']")


def test_classes_of_a_dataset_are_letters_or_numbers() -> None:
    features = Features(
        {"sentence": Value("string"), "choices": List(Value("string")), "label": ClassLabel(names=["A", "B", "C"])}
    )
    given = Dataset.from_dict({"sentence": ["How many?"], "choices": [["2", "0", "1"]], "label": [1]}, features)
    source = FileSource(train="-")
    rows, bad, by_id = check_rows(given, TASK, standard_columns(TASK, source, "-", given.column_names))
    assert (rows["label"], bad, by_id) == ([1], [], 1)


@pytest.mark.parametrize("encoding", ["cross", "bi"])
def test_rows_may_come_tokenized(tokenizer: Any, encoding: str) -> None:
    task: Any = TaskConfig("multiple_choice", pair_encoding=encoding)
    texts = Dataset.from_dict(
        {"sentence": ["a cat", "dog"], "choices": [["sat", "ran"], ["big", "good", "bad"]], "label": [1, 2]}
    )
    tokens = tokenize(texts, task, tokenizer, 16)
    rows, bad, _ = check_tokenized(tokens, task, tokenizer, 16)
    assert (rows["label"], bad) == ([1, 2], [])
    beyond = tokens.remove_columns("label").add_column("label", [2, 2])
    rows, bad, _ = check_tokenized(beyond, task, tokenizer, 16)
    assert (rows["label"], [str(row) for row in bad]) == ([2], ["row 1: has the label 2, and 2 choices, from 0."])
    size = [4] if encoding == "cross" else [2, 2]
    single = tokens.select([0]).remove_columns(["lengths", "input_ids"])
    single = single.add_column("lengths", [size]).add_column("input_ids", [[2] * 4])
    if encoding == "cross":
        single = single.remove_columns("token_type_ids").add_column("token_type_ids", [[0] * 4])
    _, bad, _ = check_tokenized(single, task, tokenizer, 16)
    assert [str(row) for row in bad] == ["row 1: has lengths of 1 choice(s), and a row has at least two."]
