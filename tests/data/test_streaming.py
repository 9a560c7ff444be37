"""Rows that are read while training."""

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader

from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.given import GivenSource
from hf_multitask.data.sources import FileSource, Source
from hf_multitask.data.streaming import StreamedRows, StreamError, load_stream
from hf_multitask.model.configuration_mtbert import TaskConfig
from tests.conftest import WORDS

MOOD = TaskConfig(type="single_label_classification", num_labels=3)
SAME = TaskConfig(type="pair_classification", num_labels=2)


def write(folder: Path, rows: int, bad: dict[int, str] | None = None) -> Path:
    """A csv file whose r-th row, from 1, has the r-th word (cyclically) and the label r mod 3."""
    lines = [(bad or {}).get(row, f"{WORDS[row % len(WORDS)]},{row % 3}") for row in range(1, rows + 1)]
    path = folder / "rows.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def open_stream(path: Path, tokenizer: Any, on_bad_rows: Any = "error", **source: Any) -> StreamedRows:
    keys = {"text": ["text"], "train": path.name, "data_dir": str(path.parent), "streaming": True, **source}
    return load_stream("mood", MOOD, FileSource(**keys), "train", tokenizer, 16, on_bad_rows)


def test_a_position_has_the_row_that_reading_in_order_gives(tmp_path: Path, tokenizer: Any) -> None:
    rows = open_stream(write(tmp_path, 50), tokenizer, shuffle_buffer=1)
    batch = rows[[0, 1, 2]]
    assert batch["row"] == [1, 2, 3]
    assert batch["label"] == [1, 2, 0]
    assert batch["input_ids"] == tokenizer([WORDS[1], WORDS[2], WORDS[3]])["input_ids"]
    # Onwards, back, past the end, and nothing.
    assert rows[[10, 49]]["row"] == [11, 50]
    assert rows[[4]]["row"] == [5]
    assert rows[[50, 101]]["row"] == [1, 2]
    assert rows[[]] == {}


def test_every_pass_has_every_row_once_in_an_order_of_its_own(tmp_path: Path, tokenizer: Any) -> None:
    rows = open_stream(write(tmp_path, 60), tokenizer, shuffle_buffer=16)
    passes = [rows[list(range(start, start + 60))]["row"] for start in (0, 60, 120)]
    for order in passes:
        assert sorted(order) == list(range(1, 61))
    assert passes[0] != passes[1] != passes[2] != passes[0]
    assert passes[0] != list(range(1, 61))
    # A function of the seed and the position alone.
    again = open_stream(tmp_path / "rows.csv", tokenizer, shuffle_buffer=16)
    assert again[list(range(90, 120))]["row"] == passes[1][30:]
    again.set_seed(1)
    assert again[list(range(60))]["row"] != passes[0]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_of_a_loader_do_not_change_which_rows_make_a_batch(
    tmp_path: Path, tokenizer: Any, workers: int
) -> None:
    dataset = MultiTaskDataset({"mood": open_stream(write(tmp_path, 40), tokenizer)})
    batches = [list(range(start, start + 4)) for start in range(8, 88, 4)]
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list)
    rows = [[row["row"] for row in batch] for batch in loader]
    assert rows == [[row["row"] for row in dataset.__getitems__(batch)] for batch in batches]
    assert dataset.sizes == {"mood": None}


def test_streams_and_datasets_stand_side_by_side(tmp_path: Path, tokenizer: Any) -> None:
    fixed = Dataset.from_dict({"input_ids": [[5], [6]], "label": [0, 1]})
    stream = open_stream(write(tmp_path, 40), tokenizer, shuffle_buffer=1, rows=40)
    dataset = MultiTaskDataset({"stream": stream, "fixed": fixed})
    assert dataset.sizes == {"stream": 40, "fixed": 2}
    items = dataset.__getitems__([dataset.offsets["fixed"] + 1, dataset.offsets["stream"] + 41])
    assert [(item["task"], item["row"]) for item in items] == [("fixed", 2), ("stream", 2)]


def test_a_bad_row_among_the_first_is_refused_at_the_start(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path, 30, bad={17: "fine,7"})
    with pytest.raises(ValueError, match=r"task 'mood': .*rows.csv: row 17: column 'label' is '7', not one of the lab"):
        open_stream(path, tokenizer)


def test_dropped_rows_are_logged_and_counted_once_however_often_the_stream_goes_round(
    tmp_path: Path, tokenizer: Any, caplog: Any
) -> None:
    rows = open_stream(write(tmp_path, 20, bad={3: ",1", 9: "good,x"}), tokenizer, "drop", shuffle_buffer=1)
    with caplog.at_level(logging.WARNING):
        assert rows[list(range(54))]["row"] == [row for row in range(1, 21) if row not in (3, 9)] * 3
    report = rows.refresh_report()
    assert (report.rows, report.all_dropped, [bad.row for bad in report.dropped]) == (20, 2, [3, 9])
    assert "row 3: column 'text' is empty. Dropped; that makes 1." in caplog.text
    assert caplog.text.count("row 9:") == 1


def test_of_many_dropped_rows_the_count_is_logged_ever_more_rarely(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    rows = open_stream(write(tmp_path, 200, bad=dict.fromkeys(range(1, 101), ",1")), tokenizer, "drop")
    # The last of them is of the next pass: all rows have been read.
    rows[list(range(101))]
    counts = [int(message.rpartition(" ")[2].rstrip(".")) for message in caplog.messages]
    assert counts == [1, 2, 3, 4, 5, 8, 16, 32, 64]
    report = rows.refresh_report()
    assert (report.rows, report.all_dropped, len(report.dropped)) == (200, 100, 5)


def test_rows_that_are_cut_are_counted(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    rows = open_stream(write(tmp_path, 9, bad={2: f"{'a ' * 30},1", 5: f"{'a ' * 30},1"}), tokenizer, shuffle_buffer=1)
    rows[list(range(4))]
    assert rows.refresh_report().truncated == 1
    rows[list(range(4, 9))]
    assert rows.refresh_report().truncated == 2
    assert "task 'mood': 2 rows" in caplog.text
    assert "so far are cut to 16 tokens." in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, r"rows.csv has no column 'text'|rows.csv has no rows"),
        ({1: ",1", 2: ",2"}, r"rows.csv has no rows left"),
    ],
)
def test_a_stream_without_rows_is_refused_and_does_not_go_round_for_ever(
    tmp_path: Path, tokenizer: Any, rows: dict[int, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_stream(write(tmp_path, len(rows), bad=rows), tokenizer, "drop")


def test_missing_columns_and_files_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path, 3)
    with pytest.raises(ValueError, match=r"task 'mood': .*rows.csv has no column 'txt'; did you mean 'text'"):
        open_stream(path, tokenizer, text=["txt"])
    with pytest.raises(ValueError, match=r"task 'mood': .*none.csv is not there"):
        open_stream(path, tokenizer, train="none.csv")


@pytest.mark.parametrize(("key", "value"), [("rows", 0), ("rows", "many"), ("shuffle_buffer", 0)])
def test_wrong_numbers_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key} must be a number from 1 on, not {value!r}"):
        Source.__subclasses__()[0](**{"train": "a.csv", key: value})


def test_the_error_of_a_worker_is_the_sentence_alone(tmp_path: Path, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("hf_multitask.data.streaming.LOOKED_AT", 2)
    stream = open_stream(write(tmp_path, 30, bad={17: "fine,7"}), tokenizer, shuffle_buffer=1)
    loader = DataLoader(MultiTaskDataset({"mood": stream}), batch_sampler=[[2], [20]], num_workers=1, collate_fn=list)
    with pytest.raises(StreamError) as error:
        list(loader)
    assert str(error.value).startswith("task 'mood': ")
    assert "\n" not in str(error.value)


def test_streams_without_known_columns_are_read_too(tokenizer: Any) -> None:
    def rows() -> Any:
        for number in range(10):
            yield {"sentence2": "a film", "sentence1": WORDS[number], "label": number % 2, "other": None}

    columns = {column: column for column in ("sentence1", "sentence2", "label")}
    stream = StreamedRows("same", SAME, IterableDataset.from_generator(rows), columns, "here", tokenizer, 16)
    batch = stream[[0, 1]]
    assert set(batch) == {"input_ids", "input_ids_2", "label", "row"}
    assert sorted(stream[list(range(10))]["row"]) == list(range(1, 11))


def test_another_seed_is_another_order_of_which_nothing_was_counted_yet(
    tmp_path: Path, tokenizer: Any, caplog: Any
) -> None:
    bad = dict.fromkeys(range(10, 500, 50), ",1") | dict.fromkeys(range(2, 500, 100), f"{'a ' * 30},1")
    rows = open_stream(write(tmp_path, 500, bad=bad), tokenizer, "drop", shuffle_buffer=100)
    for seed in (0, 7):
        rows.set_seed(seed)
        assert rows.refresh_report().rows == rows.refresh_report().all_dropped == 0
        # Two passes, of which only the first is counted.
        rows[list(range(981))]
        report = rows.refresh_report()
        assert (report.rows, report.all_dropped, len(report.dropped), report.truncated) == (500, 10, 5, 5)


def test_the_first_rows_of_the_source_are_looked_at_whatever_the_order_of_training(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = write(tmp_path, 3000, bad={900: "fine,7"})
    for buffer in (1, 10_000):
        with pytest.raises(ValueError, match="row 900: column 'label' is '7'"):
            open_stream(path, tokenizer, shuffle_buffer=buffer)


GOOD = TaskConfig(type="single_label_classification", labels=["bad", "good"])


@pytest.mark.parametrize(
    ("labels", "bad"),
    [(["good", "1", "bad"], [2]), (["1", "good", "0"], [1, 3]), (["bad"] * 1500 + ["0"], [1501])],
    ids=["some ids", "ids first", "beyond those that are looked at"],
)
def test_a_column_has_names_or_ids_as_in_rows_that_are_held(tokenizer: Any, labels: list[str], bad: list[int]) -> None:
    table = Dataset.from_dict({"sentence": ["a cat"] * len(labels), "label": labels}).to_iterable_dataset()
    source = GivenSource(dataset=table, shuffle_buffer=1)
    problem = "is a class id, where other rows have the labels' names"
    with pytest.raises(StreamError, match=f"row {bad[0]}: column 'label' {problem}"):
        load_stream("mood", GOOD, source, "train_dataset", tokenizer, 16)[[len(labels) - 1]]
    rows = load_stream("mood", GOOD, source, "train_dataset", tokenizer, 16, "drop")
    left = [row for row in range(1, len(labels) + 1) if row not in bad]
    assert rows[list(range(len(left)))]["row"] == left
    assert rows[[len(left)]]["row"] == left[:1]
    report = rows.refresh_report()
    assert ([row.row for row in report.dropped], report.labels_by_id) == (bad, 0)
    # Only those that can be used are counted by a predictor that ignores the text.
    assert len(rows.labels) == min(len(left), 1000)


def test_a_name_where_the_first_rows_have_ids_is_a_bad_row(tokenizer: Any) -> None:
    labels = ["1"] * 1200 + ["good"]
    table = Dataset.from_dict({"sentence": ["a cat"] * len(labels), "label": labels}).to_iterable_dataset()
    rows = load_stream("mood", GOOD, GivenSource(dataset=table, shuffle_buffer=1), "train_dataset", tokenizer, 16)
    assert rows[[1199]]["row"] == [1200]
    with pytest.raises(StreamError, match="row 1201: column 'label' has a label's name, where other rows have ids"):
        rows[[1200]]


@pytest.mark.parametrize(
    "columns",
    [
        {"label": [["fear", "joy"], [], ["grief"]]},
        {"label": [[2, 0], [], [1]]},
        {"label": ["fear,joy", "", "grief"]},
        {"joy": [1, 0, 0], "grief": [0, 0, 1], "fear": [1, 0, 0]},
    ],
    ids=["names", "ids", "text", "columns"],
)
def test_several_labels_come_through_as_lists_of_ids(tokenizer: Any, columns: Any) -> None:
    table = Dataset.from_dict({"sentence": ["a cat"] * 3, **columns}).to_iterable_dataset()
    label = "label" if "label" in columns else list(columns)
    source = GivenSource(dataset=table, shuffle_buffer=1, label=label)
    moods = TaskConfig("multi_label_classification", labels=["joy", "grief", "fear"])
    rows = load_stream("moods", moods, source, "train_dataset", tokenizer, 16)
    # Also those that a predictor which ignores the text knows.
    assert rows.labels == rows[[0, 1, 2]]["label"] == [[0, 2], [], [1]]
    report = rows.refresh_report()
    assert (report.rows, report.labels_by_id) == (3, 2 if columns.get("label", [[""]])[0] == [2, 0] else 0)


def test_rows_without_labels_have_none_by_name(tokenizer: Any) -> None:
    given = Dataset.from_dict({"sentence": ["a cat"] * 4, "label": [1] * 4}).to_iterable_dataset()
    task = TaskConfig("masked_language_modeling")
    rows = StreamedRows("mlm", task, given, {"sentence": "sentence"}, "-", tokenizer, 16)
    rows[[0, 1]]
    report = rows.refresh_report()
    assert (report.rows, report.labels_by_name, report.labels_by_id) == (2, 0, 0)
