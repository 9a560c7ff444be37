"""Broken and hostile input: whatever comes, it is used, or refused by a sentence, and no row is lost without a word."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_multitask import MultiTaskBertConfig, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.data.loading import load_split
from hf_multitask.data.sources import FileSource, read_file
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.recipe import RecipeParser
from hf_multitask_cli.recipe_yaml import load_yaml
from tests.conftest import ROOT, encoder_config, tiny_model

many = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MOOD = TaskConfig("single_label_classification", num_labels=3)
SCORE = TaskConfig("pair_regression")

# Any text but lone surrogates, which no file in UTF-8 can hold; and what breaks readers more often than chance would.
nasty = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        '"',
        "'",
        "\t",
        ",",
        "\n",
        "\r",
        "\r\n",
        "\u202eשלום",
        "👨‍👩‍👧",
        "\ufeff",
        "\u2028",
        "[SEP]",
        "NA",
    ]
)
texts = st.lists(st.one_of(nasty, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), max_size=5).map(
    "".join
)
labels = st.one_of(
    st.sampled_from(["0", "1", "2", "", "3", "-1", "1.0", "nan", "inf", "1e999", "０", "None", "true"]), texts
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def load(task: TaskConfig, path: Path, text: list[str], label: str = "label") -> Any:
    source = FileSource(text=text, label=label, train=path.name, data_dir=str(path.parent))
    return load_split("mood", task, source, "train", "drop")


@pytest.mark.slow
@many
@given(content=st.binary(max_size=200), kind=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]))
def test_any_bytes_are_a_table_or_a_sentence(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / f"bytes.{kind}"
    path.write_bytes(content)
    try:
        read_file(str(path))
    except ValueError as error:
        said = str(error)
    else:
        return
    assert str(path) in said


def as_csv(rows: list[tuple[str, str]], order: list[str]) -> bytes:
    # Not by Python's csv, which before 3.11 takes no NUL.
    named = [dict(zip(("sentence", "label"), row, strict=True)) for row in rows]
    lines = [order, *([row[column] for column in order] for row in named)]
    cells = (['"' + cell.replace('"', '""') + '"' for cell in line] for line in lines)
    return "".join(",".join(line) + "\n" for line in cells).encode("utf-8-sig")


def as_jsonl(rows: list[tuple[str, str]], order: list[str]) -> bytes:
    named = [dict(zip(("sentence", "label"), row, strict=True)) for row in rows]
    return "".join(json.dumps({column: row[column] for column in order}) + "\n" for row in named).encode()


@pytest.mark.slow
@many
@given(
    rows=st.lists(st.tuples(texts, labels), min_size=1, max_size=12),
    order=st.permutations(["sentence", "label"]),
    kind=st.sampled_from(["csv", "jsonl"]),
)
def test_every_row_is_kept_as_it_is_or_reported(
    tmp_path: Path, tokenizer: Any, rows: list[tuple[str, str]], order: list[str], kind: str
) -> None:
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(as_csv(rows, order) if kind == "csv" else as_jsonl(rows, order))
    try:
        kept, report = load(MOOD, path, ["sentence"])
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "No row is left." in said
        return
    assert report.rows == len(rows)
    assert sorted([*kept["row"], *(bad.row for bad in report.dropped)]) == list(range(1, len(rows) + 1))
    for row in kept:
        # A reader of text files may write the ends of lines its own way; nothing else may change.
        ends = str.maketrans({"\r": "\n"})
        given_text = rows[row["row"] - 1][0]
        assert row["sentence"].translate(ends).split("\n") == given_text.translate(ends).split("\n") or (
            "\r\n" in given_text and row["sentence"] == given_text.replace("\r\n", "\n")
        )
        assert float(rows[row["row"] - 1][1]) == row["label"]
    tokens = tokenize(kept, MOOD, tokenizer, 6)
    uncut = tokenizer(list(kept["sentence"]))["input_ids"]
    assert list(tokens["truncated"]) == [len(ids) > 6 for ids in uncut]


@pytest.mark.slow
@many
@given(value=st.one_of(values, labels, st.lists(labels, max_size=4)), columns=st.booleans())
def test_any_value_is_some_labels_in_their_order_or_a_sentence(value: Any, columns: bool) -> None:
    task: Any = TaskConfig("multi_label_classification", labels=["0", "true", "שלום", "a"])
    reader = task.label_reader({}, ["a", "0"] if columns else None)
    # Columns give numbers of classes.
    value = [bool(value), 0][: len(str(value)) % 3] if columns else value
    with suppress(ValueError):
        ids, by_id = reader(value)
        assert task.is_label(ids)
        assert (by_id is None) == (ids == [])


@pytest.mark.slow
@many
@given(content=st.one_of(st.binary(max_size=80), values.map(lambda value: yaml.safe_dump(value).encode())))
def test_any_yaml_is_a_mapping_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    try:
        read = load_yaml(path)
    except ValueError as error:
        said = str(error)
    else:
        said = f"{tmp_path}"
        assert isinstance(read, dict)
    assert str(tmp_path) in said


@pytest.mark.slow
@many
@given(data=st.data())
def test_any_change_of_a_recipe_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())
    recipe["backbone"] = str(ROOT / "recipes" / "quickstart" / "backbone")
    place = recipe
    for _ in range(data.draw(st.integers(0, 3))):
        deeper = [value for value in place.values() if isinstance(value, dict) and value]
        place = data.draw(st.sampled_from(deeper)) if deeper else place
    key = data.draw(st.one_of(st.sampled_from(sorted(place, key=str)), texts))
    place[key] = data.draw(values)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    # Any other error is none of a recipe's sentences.
    with suppress(ValueError):
        RecipeParser("unused.yaml").parse_recipe(["--config", str(path), "--output_dir", str(tmp_path)])


@pytest.mark.slow
@many
@given(name=texts, task=values, data=st.data())
def test_any_task_is_understood_or_refused(name: str, task: Any, data: st.DataObject) -> None:
    valid: dict[str, Any] = {"type": "pair_regression", "weight": 1.0}
    key = data.draw(st.sampled_from(sorted(TaskConfig.__dataclass_fields__)))
    for entry in (task, {**valid, key: task}):
        with suppress(ValueError):
            config = MultiTaskBertConfig(encoder_config=encoder_config(), tasks={name: entry})
            assert MultiTaskBertConfig.from_dict(config.to_dict()).tasks == config.tasks


@pytest.mark.slow
def test_a_thousand_tasks_train_and_evaluate(tmp_path: Path, tokenizer: Any) -> None:
    tasks = {f"task{number}": {"type": "single_label_classification", "num_labels": 2} for number in range(1000)}
    # One row each, and no more: the smallest datasets there are. Twenty of them are evaluated.
    rows = dict.fromkeys(tasks, Dataset.from_dict({"sentence": ["a film"], "label": [1]}))
    args = MultiTaskTrainingArguments(str(tmp_path), max_steps=2, save_strategy="no", disable_tqdm=True, use_cpu=True)
    trainer = MultiTaskTrainer(tiny_model(tasks), args, rows, dict(list(rows.items())[:20]), processing_class=tokenizer)
    trainer.train()
    assert sum(key.endswith("_accuracy") for key in trainer.evaluate()) == 20
