"""Rows whose words have tags, from wherever rows come: files, Python, streams, and tokenized ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.given import GivenData
from hf_multitask.data.loading import count_overlap, load_split
from hf_multitask.data.sources import FileSource
from hf_multitask.data.streaming import load_stream
from hf_multitask.data.tokenization import tokenize
from hf_multitask.data.tokenized import check_tokenized
from tests.conftest import tiny_model, without_dropout

LABELS = ["O", "B-animal", "I-animal"]
NER = TaskConfig("token_classification", labels=LABELS)
TEXT = TaskConfig("single_label_classification", labels=["bad", "good"])
WORDS, TAGS = [["the", "big", "cat"], ["a", "dog"]], [["O", "B-animal", "I-animal"], ["O", "B-animal"]]
STORED = [[0, 1, 2], [0, 1]]


def written(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> FileSource:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileSource(train=str(folder / "rows.jsonl"), **keys)


def load(folder: Path, *rows: dict[str, Any], **keys: Any) -> list[dict[str, Any]]:
    return list(load_split("ner", NER, written(folder, list(rows), **keys), "train")[0])


# ---- Files ----


def test_lists_of_words_and_tags_are_rows(tmp_path: Path) -> None:
    rows = [{"tokens": words, "slots": tags} for words, tags in zip(WORDS, TAGS, strict=True)]
    assert load(tmp_path, *rows, label="slots") == [
        {"tokens": words, "label": tags, "row": number}
        for number, (words, tags) in enumerate(zip(WORDS, STORED, strict=True), 1)
    ]


def test_a_text_with_spans_becomes_words_with_tags(tmp_path: Path) -> None:
    spans = [{"start": 4, "end": 11, "label": "animal"}]
    rows = [{"text": "The big cat, sat.", "spans": spans}, {"text": "Nothing here", "spans": []}]
    assert [(row["tokens"], row["label"]) for row in load(tmp_path, *rows, text="text", label="spans")] == [
        (["The", "big", "cat", ",", "sat", "."], [0, 1, 2, 0, 0, 0]),
        (["Nothing", "here"], [0, 0]),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "label": ["O"]}, r"column 'label' has 1 tag\(s\) for 2 word\(s\)\."),
        ({"tokens": [], "label": []}, r"column 'tokens' has no words\."),
        ({"tokens": ["a", None], "label": ["O", "O"]}, r"column 'tokens' has a word 2 that is missing\."),
        ({"tokens": ["a", " "], "label": ["O", "O"]}, r"column 'tokens' has a word 2 that is blank\."),
        ({"tokens": ["a"], "label": ["B-anmal"]}, r"column 'label' has 'B-anmal' as its tag 1, .*did you mean 'B-ani"),
        ({"tokens": ["a"], "label": None}, r"column 'label' is missing\."),
        ({"tokens": None, "label": ["O"]}, r"column 'tokens' is missing\."),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, row: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"task 'ner': .*rows\.jsonl has 1 bad row\(s\): row 2: {problem}"):
        load(tmp_path, {"tokens": ["a", "b"], "label": ["O", "B-animal"]}, row)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": [3, 4], "label": ["O", "O"]}, r"column 'tokens' has a word 1 that is 3, not text\."),
        ({"tokens": 5, "label": ["O"]}, r"column 'tokens' is 5, neither text nor a list of words\."),
        (
            {"tokens": "a b", "label": ["O", "O"]},
            r"column 'label' has tags, for which the text must be a list of words",
        ),
        ({"tokens": ["a"], "label": "O"}, r"column 'label' is 'O', neither a list of tags nor one of spans\."),
        (
            {"tokens": "cats", "label": [{"start": 0, "end": 3, "label": "animal"}]},
            r"column 'label' has a span from 0 to 3, which does not begin and end where words do; words there: 'cats'",
        ),
    ],
)
def test_so_is_one_of_another_kind(tmp_path: Path, row: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"rows\.jsonl has 1 bad row\(s\): row 1: {problem}"):
        load(tmp_path, row)


def test_ids_in_one_row_and_names_in_another_are_not_mixed() -> None:
    rows = Dataset.from_dict({"tokens": [["a"], ["b"], ["c"]], "label": [["0"], ["O"], ["B-animal"]]})
    with pytest.raises(
        ValueError, match="row 1: column 'label' is a class id, where other rows have the labels' names"
    ):
        GivenData({"ner": NER}, object(), 64, 64).prepare("train_dataset", {"ner": rows})  # type: ignore[arg-type]


def test_a_datasets_own_tags_are_matched_by_name(tokenizer: Any) -> None:
    names = ClassLabel(names=["I-Animal", "B-Animal", "O"])
    features = Features({"tokens": List(Value("string")), "ner_tags": List(names)})
    rows = Dataset.from_dict({"tokens": WORDS, "ner_tags": [[2, 1, 0], [2, 1]]}, features)
    data, _ = GivenData({"ner": NER}, tokenizer, 64, 64, {"ner": {"label": "ner_tags"}}).prepare(
        "train_dataset", {"ner": rows}
    )
    assert [row["label"] for row in data.__getitems__([0, 1])] == STORED
    other = rows.cast_column("ner_tags", List(ClassLabel(names=["O", "B-x", "I-x"])))
    with pytest.raises(ValueError, match=r"the dataset's classes \['O', 'B-x', 'I-x'\] are not the task's labels"):
        GivenData({"ner": NER}, tokenizer, 64, 64, {"ner": {"label": "ner_tags"}}).prepare(
            "train_dataset", {"ner": other}
        )


def test_a_task_of_one_text_reads_words_as_a_text(tmp_path: Path) -> None:
    source = written(tmp_path, [{"tokens": ["not", "bad"], "intent": "good"}], text="tokens", label="intent")
    rows, _ = load_split("mood", TEXT, source, "train")
    assert rows[0] == {"sentence": "not bad", "label": 1, "row": 1}


def test_rows_that_stand_in_both_splits_are_counted() -> None:
    one, other = (Dataset.from_dict({"tokens": words}) for words in (WORDS, [["a", "dog"], ["a", "cat"]]))
    assert count_overlap(one, other, NER) == 1


# ---- Tokens ----


def test_tokenized_rows_have_the_places_of_their_words_and_all_tags(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"tokens": WORDS, "label": STORED})
    cut = tokenize(rows, NER, tokenizer, 4)
    assert cut["word_starts"][:] == [[1, 2, -1], [1, 2]]
    assert cut["label"][:] == STORED
    assert cut["truncated"][:] == [True, False]
    assert "tokens" not in cut.column_names


def given(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"input_ids": [[2, 6, 7, 3], [2, 6, 3]], "label": [["O", "O"], ["B-animal"]], **columns})


def test_rows_that_come_tokenized_say_where_words_begin(tokenizer: Any) -> None:
    rows, bad, _ = check_tokenized(given(word_starts=[[1, 2], [1]]), NER, tokenizer, 64)
    assert not bad
    assert rows["label"][:] == [[0, 0], [1]]
    with pytest.raises(ValueError, match="needs a column word_starts, which the tokenizing of"):
        check_tokenized(given(), NER, tokenizer, 64)


def test_padding_before_the_tokens_moves_the_words(tokenizer: Any) -> None:
    padded = Dataset.from_dict(
        {
            "input_ids": [[0, 0, 2, 6, 7, 3], [2, 6, 3, 0, 0, 0]],
            "attention_mask": [[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]],
            "word_starts": [[3, 4, -1], [1]],
            "label": [["O", "O", "O"], ["O"]],
        }
    )
    rows, bad, _ = check_tokenized(padded, NER, tokenizer, 64)
    assert not bad
    assert rows["input_ids"][:] == [[2, 6, 7, 3], [2, 6, 3]]
    assert rows["word_starts"][:] == [[1, 2, -1], [1]]


@pytest.mark.parametrize(
    ("starts", "problem"),
    [
        ([[1, 4], [1]], "row 1: has word_starts that are no places of its input_ids."),
        ([[1, -2], [1]], "row 1: has word_starts that are no places of its input_ids."),
        ([[2, 1], [1]], "row 1: has word_starts that do not rise."),
        ([[1, 2], [1, 2]], "row 2: has another number of label than of word_starts."),
        ([[1, 2], []], "row 2: has no word_starts."),
    ],
)
def test_words_that_begin_at_no_token_are_refused_by_row(tokenizer: Any, starts: list, problem: str) -> None:
    good, bad, _ = check_tokenized(given(word_starts=starts), NER, tokenizer, 64)
    assert [str(row) for row in bad] == [problem]
    assert len(good) == 1


# ---- In Python and streamed ----


def rows(count: int) -> dict[str, list[Any]]:
    words = [[*WORDS[i % 2]] for i in range(count)]
    return {"tokens": words, "label": [TAGS[i % 2] for i in range(count)]}


def generate(count: int) -> Iterator[dict[str, Any]]:
    table = rows(count)
    yield from (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))


@pytest.mark.parametrize(
    "table",
    [
        lambda tokenizer: Dataset.from_dict(rows(8)),
        lambda tokenizer: pd.DataFrame(rows(8)),
        lambda tokenizer: IterableDataset.from_generator(generate, gen_kwargs={"count": 8}),
        lambda tokenizer: tokenize(Dataset.from_dict(rows(8)), NER, tokenizer, 64),
    ],
    ids=["dataset", "pandas", "stream", "tokenized"],
)
@pytest.mark.parametrize("packing", ["on", "off"])
def test_a_trainer_learns_from_any_of_them(tokenizer: Any, tmp_path: Path, table: Any, packing: str) -> None:
    args = {"max_steps": 60, "learning_rate": 3e-3, "packing": packing, "use_cpu": True, "report_to": []}
    trainer = MultiTaskTrainer(
        without_dropout(tiny_model({"ner": NER})),
        MultiTaskTrainingArguments(str(tmp_path), disable_tqdm=True, save_strategy="no", **args),
        {"ner": table(tokenizer)},
        {"ner": Dataset.from_dict(rows(8))},
        processing_class=tokenizer,
        columns={"ner": {"rows": 8}},
    )
    trainer.train()
    assert trainer.evaluate()["eval_ner_f1"] == 1


def test_a_streams_rows_are_those_that_are_held(tmp_path: Path, tokenizer: Any) -> None:
    source = written(tmp_path, list(generate(6)), streaming=True, shuffle_buffer=1)
    stream = load_stream("ner", NER, source, "train", tokenizer, 4)
    held = tokenize(load_split("ner", NER, source, "train")[0], NER, tokenizer, 4)
    found = stream[[0, 1, 5]]
    for column in ("input_ids", "word_starts", "label", "row"):
        assert found[column] == [held[place][column] for place in (0, 1, 5)]
    assert stream.labels[:2] == STORED
    assert stream.refresh_report().truncated == 1
