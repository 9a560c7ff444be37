import math
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_multitask import TaskConfig
from hf_multitask.data.checking import check_rows, row_checker
from hf_multitask.data.loading import count_overlap, load_split
from hf_multitask.data.sources import FileSource
from hf_multitask.data.tokenization import batch_tokenizer

SST = TaskConfig("single_label_classification", num_labels=5)
MOOD = TaskConfig("single_label_classification", labels=["bad", "good"])
STS = TaskConfig("pair_regression")


def check(task: TaskConfig, rows: list[tuple], **options: Any) -> tuple[Dataset, list[str]]:
    names = [*(["sentence1", "sentence2"] if task.texts == 2 else ["sentence"]), "label"]
    raw = Dataset.from_dict({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    good, bad, _ = check_rows(raw, task, {name: name for name in names}, **options)
    return good, [str(row) for row in bad]


@pytest.mark.parametrize(
    ("task", "value", "label"),
    [
        (SST, 4, 4),
        (SST, "3", 3),
        (SST, "2.0", 2),
        (SST, 1.0, 1),
        (MOOD, "good", 1),
        (MOOD, " bad ", 0),
        (MOOD, "1", 1),
        (TaskConfig("single_label_classification", labels=["1", "2"]), "1", 0),
    ],
)
def test_a_class_is_given_by_name_or_id(task: TaskConfig, value: Any, label: int) -> None:
    rows, bad = check(task, [("a film", value)])
    assert not bad
    assert rows["label"][0] == label
    assert rows.features["label"] == ClassLabel(names=task.labels)


@pytest.mark.parametrize("value", [2.6, "2.6", 0, "5"])
def test_scores_stay_floats(value: Any) -> None:
    rows, bad = check(STS, [("a", "b", value)])
    assert not bad
    assert rows["label"][0] == float(value)
    assert rows.features["label"] == Value("float64")


@pytest.mark.parametrize(
    ("task", "row", "problem"),
    [
        (SST, ("a", 7), "column 'label' is 7, not one of the labels"),
        (SST, ("a", "7"), "column 'label' is '7', not one of the labels"),
        (SST, ("a", 1.5), "column 'label' is 1.5, not one of"),
        (SST, ("a", -1), "column 'label' is -1, not one of"),
        (SST, ("a", math.nan), "column 'label' is nan, not one of"),
        (MOOD, ("a", "fine"), "is 'fine', not one of the labels ['bad', 'good'] or their ids 0 to 1"),
        (SST, ("a", None), "column 'label' is missing"),
        (SST, ("a", ""), "column 'label' is empty"),
        (SST, ("", "1"), "column 'sentence' is empty"),
        (SST, (" \t", "1"), "column 'sentence' is blank"),
        (SST, (None, "1"), "column 'sentence' is missing"),
        (SST, (5, "1"), "column 'sentence' is 5, not text"),
        (STS, ("a", "", 1.0), "column 'sentence2' is empty"),
        (STS, ("a", "b", 5.1), "column 'label' is 5.1, not a score from 0 to 5"),
        (STS, ("a", "b", math.nan), "column 'label' is nan, not a score"),
        (STS, ("a", "b", "inf"), "column 'label' is 'inf', not a score"),
        (STS, ("a", "b", "high"), "column 'label' is 'high', not a score"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_column_and_value(task: TaskConfig, row: tuple, problem: str) -> None:
    rows, bad = check(task, [row])
    assert rows.num_rows == 0
    assert len(bad) == 1
    assert bad[0].startswith("row 1: ")
    assert problem in bad[0]


@pytest.mark.parametrize("text", ["\ud800", "well \udfff", "\udcff a"])
def test_half_a_character_is_no_text(text: str) -> None:
    task = TaskConfig("single_label_classification", labels=["bad", "good"])
    checked = row_checker(None, task, {"sentence": "s"})({"s": [text, "\U0001f600"]}, [0, 1])
    place = next(i for i, sign in enumerate(text) if sign >= "\ud800")
    problem = f"column 's' has {text[place]!r}, one half of a character, as its character {place + 1}."
    assert checked["problem"] == [problem, ""]


@pytest.mark.parametrize(
    ("values", "special"),
    [
        ({"type": "single_label_classification", "num_labels": 2}, 2),
        ({"type": "pair_classification"}, 2),
        ({"type": "pair_classification", "pair_encoding": "cross"}, 3),
    ],
)
def test_an_input_has_room_for_more_than_special_tokens(tokenizer: Any, values: Any, special: int) -> None:
    task = TaskConfig(**values)
    for max_length in (1, special):
        message = f"max_length must be above the {special} special tokens of an input, not {max_length}"
        with pytest.raises(ValueError, match=message):
            batch_tokenizer(task, tokenizer, max_length)
    batch_tokenizer(task, tokenizer, special + 1)


def test_a_label_map_comes_first() -> None:
    rows, bad = check(MOOD, [("a", "+"), ("b", "0"), ("c", "?")], label_map={"+": "good", 0: "bad"})
    assert rows["label"][:] == [1, 0]
    assert bad == ["row 3: column 'label' is '?', which label_map does not have; known: +, 0."]


def test_a_column_has_names_or_ids_and_not_both(tmp_path: Path) -> None:
    rows, bad = check(MOOD, [("a", "good"), ("b", "1"), ("c", "fine"), ("d", "bad")])
    assert rows["label"][:] == [1, 0]
    assert bad[0] == "row 2: column 'label' is a class id, where other rows have the labels' names."
    assert [row[:6] for row in bad] == ["row 2:", "row 3:"]


@pytest.mark.parametrize(("labels", "counts"), [("good,bad", (2, 0)), ("1,0", (0, 2)), ("1.0,0.0", (0, 2))])
def test_the_report_counts_what_was_read_by_name_and_by_id(tmp_path: Path, labels: str, counts: Any) -> None:
    rows = "".join(f"a film,{label}\n" for label in labels.split(","))
    _, report = load_split("mood", MOOD, source(tmp_path, f"text,mood\n{rows}"), "train")
    assert (report.labels_by_name, report.labels_by_id) == counts


def test_the_hubs_own_class_names_are_matched_by_name_and_not_by_number() -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    raw = Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]}, features=features)
    rows, _, _ = check_rows(raw, MOOD, {"sentence": "sentence", "label": "label"})
    assert rows["label"][:] == [1, 0]


def source(folder: Path, content: str) -> FileSource:
    (folder / "t.csv").write_text(content)
    return FileSource(text="text", label="mood", train="t.csv", data_dir=str(folder))


BAD = "text,mood\na film,good\n,bad\na dog,fine\na cat,bad\n"


def test_bad_rows_are_an_error_that_names_task_file_and_rows(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"task 'mood': .*t.csv has 2 bad row\(s\): row 2: column 'text' is empty. row 3"
    ):
        load_split("mood", MOOD, source(tmp_path, BAD), "train")


def test_or_they_are_dropped_and_reported_and_rows_keep_their_numbers(tmp_path: Path, caplog: Any) -> None:
    rows, report = load_split("mood", MOOD, source(tmp_path, BAD), "train", "drop")
    assert rows["row"][:] == [1, 4]
    assert rows["sentence"][:] == ["a film", "a cat"]
    assert (report.rows, [bad.row for bad in report.dropped]) == (4, [2, 3])
    assert "2 bad row(s)" in caplog.text
    assert "Dropped; 2 rows are left" in caplog.text


def test_data_with_no_good_row_are_refused_even_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No row is left"):
        load_split("mood", MOOD, source(tmp_path, "text,mood\n,bad\n"), "train", "drop")


def test_many_bad_rows_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 30 bad row\(s\): row 2: .* row 6: .* and 25 more"):
        load_split("mood", MOOD, source(tmp_path, "text,mood\nx,good\n" + ",bad\n" * 30), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("texts,mood\na,good\n", "has no column 'text'; did you mean 'texts'"),
        ("text,label\na,good\n", "has no column 'mood'"),
        ("text,mood\n", "has no rows"),
    ],
)
def test_a_missing_column_and_a_file_of_only_a_header_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"task 'mood': .*t.csv {message}"):
        load_split("mood", MOOD, source(tmp_path, content), "train")


def test_a_pair_needs_two_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text must name 2 column\(s\), as a row has 2 text\(s\), not \['text'\]"):
        load_split("sts", STS, source(tmp_path, BAD), "train")


def test_rows_that_stand_in_both_splits_are_counted() -> None:
    train = Dataset.from_dict({"sentence1": ["a", "b", "c"], "sentence2": ["x", "y", "z"]})
    other = Dataset.from_dict({"sentence1": ["a", " b ", "c", "x"], "sentence2": ["x", "y", "x", "a"]})
    assert count_overlap(train, other, STS) == 2


# ---- Several labels of a row ----

MOODS = TaskConfig("multi_label_classification", labels=["joy", "grief", "fear"])


def test_several_labels_are_stored_as_a_list_of_ids() -> None:
    rows, bad = check(MOODS, [("a", "fear,joy"), ("b", ""), ("c", "grief")])
    assert not bad
    assert rows["label"][:] == [[0, 2], [], [1]]
    assert rows.features["label"] == List(ClassLabel(names=MOODS.labels))


def test_rows_without_labels_stand_beside_names_and_beside_ids() -> None:
    for labels in ([["grief"], [], ["joy"]], [[1], [], [0]]):
        raw = Dataset.from_dict({"sentence": list("abc"), "label": labels})
        rows, bad, by_id = check_rows(raw, MOODS, {"sentence": "sentence", "label": "label"})
        assert (rows["label"][:], bad, by_id) == ([[1], [], [0]], [], 2 * isinstance(labels[0][0], int))
    _, bad = check(MOODS, [("a", "grief"), ("b", ""), ("c", "1"), ("d", "x")])
    assert bad[0] == "row 3: column 'label' is a class id, where other rows have the labels' names."
    assert bad[1].startswith("row 4: column 'label' is 'x', not one of the labels")


def test_no_row_needs_a_label() -> None:
    rows, bad = check(MOODS, [("a", ""), ("b", "")])
    assert (rows["label"][:], bad) == ([[], []], [])


def test_lists_of_the_hubs_classes_are_matched_by_name() -> None:
    feature = List(ClassLabel(names=["Fear", "Grief", "Joy"]))
    features = Features({"sentence": Value("string"), "label": feature})
    raw = Dataset.from_dict({"sentence": ["a", "b"], "label": [[0, 2], []]}, features=features)
    rows, _, by_id = check_rows(raw, MOODS, {"sentence": "sentence", "label": "label"})
    assert (rows["label"][:], by_id) == ([[0, 2], []], 0)
    strange = List(ClassLabel(names=["Fear", "Anger"]))
    with pytest.raises(ValueError, match=r"the dataset's classes .* are not the task's labels"):
        row_checker(features | {"label": strange}, MOODS, {"sentence": "sentence", "label": "label"})


COLUMNS = {"sentence": "sentence", "label": ["Fear", "joy", "grief"]}


def flags(*rows: tuple) -> Dataset:
    names = ["sentence", "Fear", "joy", "grief"]
    return Dataset.from_dict({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


@pytest.mark.parametrize(
    ("yes", "no"), [(1, 0), ("1", "0"), (True, False), ("true", "false"), ("TRUE", "False"), (1.0, 0.0)]
)
def test_labels_may_have_a_column_each(yes: Any, no: Any) -> None:
    raw = flags(("a", yes, no, yes), ("b", no, no, no), ("c", no, yes, no))
    rows, bad, by_id = check_rows(raw, MOODS, COLUMNS)
    assert (rows["label"][:], bad, by_id) == ([[1, 2], [], [0]], [], 0)
    assert rows.column_names == ["sentence", "label", "row"]


def test_a_column_that_does_not_say_whether_is_a_bad_row() -> None:
    _, bad, _ = check_rows(flags(("a", "1", "0", "1"), ("b", "0", "maybe", "0"), ("c", "0", "0", "")), MOODS, COLUMNS)
    assert list(map(str, bad)) == [
        "row 2: column 'joy' is 'maybe', not 0 or 1, nor false or true.",
        "row 3: column 'grief' is empty.",
    ]


def test_columns_are_matched_to_labels_by_name_or_as_a_map_says() -> None:
    raw = flags(("a", 1, 0, 0), ("b", 0, 1, 1))
    with pytest.raises(ValueError, match=r"the dataset's classes \['Fear', 'joy', 'grief'\] are not the task's labels"):
        check_rows(raw, TaskConfig("multi_label_classification", labels=["fright", "joy"]), COLUMNS)
    two = TaskConfig("multi_label_classification", labels=["bad", "good"])
    rows, _, _ = check_rows(raw, two, COLUMNS, {"Fear": "bad", "grief": "bad", "joy": "good"})
    assert rows["label"][:] == [[0], [0, 1]]


def test_a_file_may_have_a_column_for_each_label(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,joy,grief,fear\na film,1,0,1\nthe plot,0,0,0\n")
    source = FileSource(text=["text"], label=["joy", "grief", "fear"], train="t.csv", data_dir=str(tmp_path))
    rows, report = load_split("moods", MOODS, source, "train")
    assert rows["label"][:] == [[0, 2], []]
    assert (report.labels_by_name, report.labels_by_id) == (2, 0)
    source.label = ["joy", "gref", "fear"]
    with pytest.raises(ValueError, match=r"t\.csv has no column 'gref'; did you mean 'grief'"):
        load_split("moods", MOODS, source, "train")
    with pytest.raises(ValueError, match="task 'sst': label must name one column, as a row of single_label_classific"):
        load_split("sst", SST, source, "train")
