from typing import Any

import pytest
from datasets import ClassLabel, Dataset

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.tokenized import check_tokenized
from tests.conftest import TASKS, sentences, task_rows, tiny_model

MOOD = TaskConfig("single_label_classification", labels=["bad", "good"])
STARS = TaskConfig("single_label_classification", labels=["1", "2"])
SAME = TaskConfig("pair_classification")
STS = TaskConfig("pair_regression")


def rows(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("padding", "side"), [("max_length", "right"), ("max_length", "left"), ("longest", "right"), (False, "right")]
)
def test_padding_that_a_mask_shows_is_left_out(tokenizer: Any, padding: Any, side: str) -> None:
    texts = sentences(20)
    tokenizer.padding_side = side
    tokens = Dataset.from_dict({"sentence": texts, "label": [0, 1] * 10}).map(
        lambda batch: tokenizer(batch["sentence"], padding=padding, truncation=True, max_length=20), batched=True
    )
    checked = check_tokenized(tokens.shuffle(seed=0), MOOD, tokenizer, 64)
    assert "attention_mask" not in checked.column_names
    for row in checked:
        assert row["input_ids"] == tokenizer(row["sentence"])["input_ids"]
        assert row["token_type_ids"] == [0] * len(row["input_ids"])


def test_both_texts_of_a_pair_are_cut_each_by_its_mask(tokenizer: Any) -> None:
    pairs = rows(
        input_ids=[[2, 7, 3, 0], [2, 7, 8, 3]],
        attention_mask=[[1, 1, 1, 0], [1, 1, 1, 1]],
        input_ids_2=[[2, 3, 0], [2, 9, 3]],
        attention_mask_2=[[1, 1, 0], [1, 1, 1]],
    ).with_format("torch")
    checked = check_tokenized(pairs, SAME, tokenizer, 64)
    assert checked["input_ids"][:] == [[2, 7, 3], [2, 7, 8, 3]]
    assert checked["input_ids_2"][:] == [[2, 3], [2, 9, 3]]


@pytest.mark.parametrize("packing", ["on", "off"])
def test_a_trainer_predicts_alike_from_texts_and_from_padded_tokens(
    tmp_path: Any, tokenizer: Any, packing: str
) -> None:
    texts = task_rows(6)
    padded = {}
    for name, table in texts.items():
        padded[name] = table
        for side, column in enumerate(column for column in table.column_names if column != "label"):
            suffix = "_2" * side
            encoded = tokenizer(table[column][:], padding="max_length", max_length=30, return_token_type_ids=False)
            for key, values in encoded.items():
                padded[name] = padded[name].add_column(f"{key}{suffix}", values)
    args = MultiTaskTrainingArguments(str(tmp_path), packing=packing, report_to=[], use_cpu=True)
    trainer = MultiTaskTrainer(tiny_model(), args, texts, processing_class=tokenizer)
    for name in TASKS:
        expected = trainer.predict({name: texts[name]}).predictions[name]
        assert trainer.predict({name: padded[name]}).predictions[name] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "columns", "problem"),
    [
        (SAME, {"input_ids": [[2, 3]]}, "needs a column input_ids, and input_ids_2, the second text's; it has"),
        (MOOD, {"input_ids": [[2, 3]], "input_ids_2": [[2, 3]]}, "and input_ids alone; it has"),
        (MOOD, {"input_ids": [[2, 3], []]}, "row 2 has no input_ids."),
        (MOOD, {"input_ids": [[2, 3], None]}, "row 2 has no input_ids."),
        (MOOD, {"input_ids": [[2, 3], [2] * 9]}, "row 2 is longer than the 8 tokens that the model takes"),
        (MOOD, {"input_ids": [[2, 3], [2, 3, 0]]}, "row 2 has padding, and no attention_mask that shows it"),
        (MOOD, {"input_ids": [[0, 2, 3], [0, 2]]}, "row 1 has padding, .* (2 rows are such)"),
        (MOOD, {"input_ids": [[2, 3]], "attention_mask": [[1]]}, "row 1 has another number of attention_mask than"),
        (MOOD, {"input_ids": [[2, 3]], "token_type_ids": [[0]]}, "row 1 has another number of token_type_ids than"),
        (MOOD, {"input_ids": [[2, 3]], "attention_mask": [[0, 0]]}, "row 1 has no real token"),
        (
            MOOD,
            {"input_ids": [[2, 3]], "attention_mask": [[1, 2]]},
            "row 1 has other numbers in its attention_mask than 0 and 1",
        ),
        (MOOD, {"input_ids": [[2, 5, 3]], "attention_mask": [[1, 0, 1]]}, "row 1 has zeros between the ones"),
    ],
)
def test_tokens_that_cannot_be_used_are_refused(tokenizer: Any, task: Any, columns: Any, problem: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        check_tokenized(rows(**columns), task, tokenizer, 8)
    for part in problem.split(" .* "):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("task", "labels", "problem"),
    [
        (MOOD, [0, -1], "row 2: column 'label' is -1, not one of"),
        (MOOD, [2, 0], "row 1: column 'label' is 2, not one of"),
        (MOOD, ["good", "fine"], "row 2: column 'label' is 'fine', not one of"),
        (MOOD, [0, None], "row 2: column 'label' is missing"),
        (MOOD, [True, False], "row 1: column 'label' is True, a boolean"),
        (MOOD, ["good", "0"], "row 2: column 'label' is a class id, where other rows have the labels' names"),
        (STARS, [1, 0], "row 2: column 'label' is 0, not one of"),
    ],
)
def test_their_labels_are_read_as_those_of_texts_are(tokenizer: Any, task: Any, labels: Any, problem: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        check_tokenized(rows(input_ids=[[2, 3]] * 2, label=labels), task, tokenizer, 8)
    assert f"has 1 bad row(s): {problem}" in str(refusal.value) or "2 bad row(s)" in str(refusal.value)
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("task", "labels", "read"),
    [(MOOD, ["good", "bad"], [1, 0]), (STARS, [1.0, 2.0], [0, 1]), (MOOD, [1, 0], [1, 0])],
)
def test_and_become_ids(tokenizer: Any, task: TaskConfig, labels: Any, read: list[int]) -> None:
    checked = check_tokenized(rows(input_ids=[[2, 3]] * 2, label=labels), task, tokenizer, 8)
    assert checked["label"][:] == read
    assert checked.features["label"] == ClassLabel(names=task.labels)
    # Labels that were read once are not read again: here, an id that is also another label's name.
    swapped = TaskConfig("single_label_classification", labels=["1", "0"])
    ids = checked.cast_column("label", ClassLabel(names=swapped.labels))
    assert check_tokenized(ids, swapped, tokenizer, 8)["label"][:] == read


def test_scores_out_of_range_are_refused_and_others_stay(tokenizer: Any) -> None:
    ids = {"input_ids": [[2, 3]] * 2, "input_ids_2": [[2, 3]] * 2}
    assert check_tokenized(rows(**ids, label=[1, 5]), STS, tokenizer, 8)["label"][:] == [1.0, 5.0]
    for bad in (7.0, float("nan"), "high"):
        with pytest.raises(ValueError, match=r"row 2: column 'label' is .*, not a score from 0 to 5"):
            check_tokenized(rows(**ids, label=["1", bad] if isinstance(bad, str) else [1.0, bad]), STS, tokenizer, 8)
