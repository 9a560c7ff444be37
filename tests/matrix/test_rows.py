"""The rows of each kind: what cannot be one is refused by its column and its number, and a stream gives the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.data.checking import standard_columns
from hf_multitask.data.preparation import prepare
from hf_multitask.data.sources import Source
from hf_multitask_cli.arguments import defaults_of
from tests.matrix.kinds import MAX_LENGTH, TRAINED, TRAINING, Kind, every_kind

BAD = 3
# What a row must not have in a column, by what that holds; of several texts there may be none.
NOTHING: dict[str, list[Any]] = {"text": [None, " "], "words": [None, []], "texts": [[" "]], "label": [None]}


def given(source: Source) -> dict[str, Any]:
    """What a source says of its columns, as a trainer is told it."""
    usual = defaults_of(source)
    return {key: value for key in ("text", "label", "label_map") if (value := getattr(source, key)) != usual[key]}


def spoilt(kind: Kind, name: str) -> Iterator[tuple[str, Dataset]]:
    """Raw rows of a task of which the third lacks something that is read, and the column where it does."""
    task, source = kind.tasks[name], kind.sources[name]
    raw = source.load("train").select(range(4))
    for standard, columns in standard_columns(task, source, "", raw.column_names).items():
        if standard in task.optional_columns or (standard != "label" and not isinstance(columns, str)):
            # Of several columns for texts, a row may leave some out.
            continue
        for column in [columns] if isinstance(columns, str) else columns:
            for nothing in NOTHING[task.text_columns.get(standard, "label")]:
                rows = raw.to_list()
                rows[BAD - 1][column] = nothing
                yield column, Dataset.from_list(rows, features=raw.features)


def trainer(kind: Kind, folder: Path, name: str, rows: Any, **args: Any) -> MultiTaskTrainer:
    settings = MultiTaskTrainingArguments(str(folder), **TRAINING)
    columns = {name: given(kind.sources[name])}
    return MultiTaskTrainer(
        kind.model(), settings, {name: rows}, processing_class=kind.tokenizer, columns=columns, **args
    )


@every_kind
def test_a_row_that_lacks_something_is_refused_by_its_number_and_its_column(kind: Kind, tmp_path: Path) -> None:
    for name in kind.tasks:
        for column, rows in spoilt(kind, name):
            with pytest.raises(ValueError, match=f"task '{name}': .* row {BAD}: column '{column}' (is|has)"):
                trainer(kind, tmp_path, name, rows)


@every_kind
def test_or_it_is_dropped_where_that_is_wanted(kind: Kind, tmp_path: Path) -> None:
    for name in kind.tasks:
        for _, rows in spoilt(kind, name):
            dropping = trainer(kind, tmp_path, name, rows, on_bad_rows="drop")
            assert [row["row"] for row in dropping.train_dataset] == [1, 2, 4]


@every_kind
def test_rows_are_streamed_as_they_are_read_whole(kind: Kind, tmp_path: Path) -> None:
    streamed = {}
    for name, task in kind.tasks.items():
        source = replace(kind.sources[name], streaming=True, shuffle_buffer=1, rows=TRAINED)
        data = prepare({name: task}, {name: source}, ["train"], kind.tokenizer, MAX_LENGTH)
        streamed[name] = data.rows["train"][name]
    for name, rows in streamed.items():
        first, whole = rows[list(range(TRAINED))], kind.data.rows["train"][name][:]
        assert first
        assert first == {key: whole[key] for key in first}
    settings = MultiTaskTrainingArguments(str(tmp_path), **TRAINING)
    MultiTaskTrainer(kind.model(), settings, streamed, processing_class=kind.tokenizer).train()
