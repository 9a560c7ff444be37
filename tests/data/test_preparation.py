from pathlib import Path
from typing import Any

import pytest

from hf_multitask import TaskConfig
from hf_multitask.data.preparation import prepare
from hf_multitask.data.sources import FileSource
from hf_multitask.data.tokenization import tokenize
from tests.conftest import task_rows

MOOD = TaskConfig("single_label_classification", labels=["bad", "good"])


def test_overlap_truncation_and_dropped_rows_are_reported(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    (tmp_path / "train.csv").write_text("text,label\na good film,good\na bad film,bad\n,bad\n")
    (tmp_path / "dev.csv").write_text("text,label\na good film,good\na very very big dog ran,bad\n")
    source = FileSource(text="text", train="train.csv", validation="dev.csv", data_dir=str(tmp_path))
    prepared = prepare({"mood": MOOD}, {"mood": source}, ["train", "validation"], tokenizer, 6, "drop")
    train, dev = (prepared.reports[split]["mood"] for split in ("train", "validation"))
    assert (train.rows, len(train.dropped), train.also_in_train, train.truncated) == (3, 1, 0, 0)
    assert (dev.rows, len(dev.dropped), dev.also_in_train, dev.truncated) == (2, 0, 1, 1)
    assert prepared.rows["train"]["mood"].num_rows == 2
    assert prepared.texts["train"]["mood"]["sentence"][:] == ["a good film", "a bad film"]
    assert "1 rows of" in caplog.text
    assert "stand in train too" in caplog.text
    assert "are cut to 6 tokens" in caplog.text


@pytest.mark.parametrize("pair_encoding", ["bi", "cross"])
def test_tokens_are_the_tokenizers(tokenizer: Any, pair_encoding: str) -> None:
    rows = task_rows(5)["quora"]
    tokens = tokenize(rows, TaskConfig("pair_classification", pair_encoding=pair_encoding), tokenizer, 64)
    for row, texts in zip(tokens, rows, strict=True):
        if pair_encoding == "cross":
            expected = tokenizer(texts["sentence1"], texts["sentence2"])
            assert row["input_ids"] == expected["input_ids"]
            assert row["token_type_ids"] == expected["token_type_ids"]
            assert "input_ids_2" not in row
        else:
            assert row["input_ids"] == tokenizer(texts["sentence1"])["input_ids"]
            assert row["input_ids_2"] == tokenizer(texts["sentence2"])["input_ids"]
            assert "token_type_ids" not in row
        assert row["label"] == texts["label"]
        assert not row["truncated"]


def test_no_more_rows_are_evaluated_than_asked_for_and_all_are_checked(
    tmp_path: Path, tokenizer: Any, caplog: Any
) -> None:
    caplog.set_level("INFO")
    lines = [f"film {i},{'good' if i < 5 else 'bad'}" for i in range(10)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "dev.csv").write_text("\n".join(["text,label", *lines, ",good"]))
    source = FileSource(text="text", train="train.csv", validation="dev.csv", data_dir=str(tmp_path))
    arguments = ({"mood": MOOD}, {"mood": source}, ["train", "validation"], tokenizer, 6, "drop")
    prepared = prepare(*arguments, max_eval_rows=4)
    # Over the whole file, in its order: one that is sorted by label keeps both.
    assert prepared.texts["validation"]["mood"]["sentence"][:] == ["film 0", "film 2", "film 5", "film 7"]
    assert prepared.rows["validation"]["mood"].num_rows == 4
    assert prepared.rows["train"]["mood"].num_rows == 10
    dev = prepared.reports["validation"]["mood"]
    assert (dev.rows, len(dev.dropped), dev.not_evaluated, dev.also_in_train) == (11, 1, 6, 4)
    assert "dev.csv: 10 rows, of which 4 are evaluated." in caplog.text
    for enough in (10, 50, None):
        prepared = prepare(*arguments, max_eval_rows=enough)
        assert prepared.rows["validation"]["mood"].num_rows == 10
        assert prepared.reports["validation"]["mood"].not_evaluated == 0
