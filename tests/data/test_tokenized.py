from typing import Any

import pytest
from datasets import ClassLabel, Dataset, List

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.tokenized import check_tokenized
from tests.conftest import TASKS, sentences, task_rows, tiny_model

MOOD = TaskConfig("single_label_classification", labels=["bad", "good"])
STARS = TaskConfig("single_label_classification", labels=["1", "2"])
SAME = TaskConfig("pair_classification")
STS = TaskConfig("pair_regression")


def check(*args: Any) -> Dataset:
    """The rows, which all have to be good."""
    checked, bad, _ = check_tokenized(*args)
    assert not bad
    return checked


def problems(*args: Any) -> list[str]:
    return [str(row) for row in check_tokenized(*args)[1]]


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
    checked = check(tokens.shuffle(seed=0), MOOD, tokenizer, 64)
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
    checked = check(pairs, SAME, tokenizer, 64)
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
        (MOOD, {"input_ids": [[2, 3], []]}, "row 2: has no input_ids."),
        (MOOD, {"input_ids": [[2, 3], None]}, "row 2: has no input_ids."),
        (MOOD, {"input_ids": [[2, 3], [2] * 9]}, "row 2: is longer than the 8 tokens that the model takes"),
        (MOOD, {"input_ids": [[2, 3], [2, 3, 0]]}, "row 2: has padding, and no attention_mask that shows it"),
        (MOOD, {"input_ids": [[0, 2, 3], [0, 2]]}, "row 1: has padding, .* row 2: has padding, "),
        (MOOD, {"input_ids": [[2, 3]], "attention_mask": [[1]]}, "row 1: has another number of attention_mask than"),
        (MOOD, {"input_ids": [[2, 3]], "token_type_ids": [[0]]}, "row 1: has another number of token_type_ids than"),
        (MOOD, {"input_ids": [[2, 3]], "attention_mask": [[0, 0]]}, "row 1: has no real token"),
        (
            MOOD,
            {"input_ids": [[2, 3]], "attention_mask": [[1, 2]]},
            "row 1: has other numbers in its attention_mask than 0 and 1",
        ),
        (MOOD, {"input_ids": [[2, 3], [2, None, 3]]}, "row 2: lacks a number in its input_ids."),
        (MOOD, {"input_ids": [[2, 5, 3]], "attention_mask": [[1, 0, 1]]}, "row 1: has zeros between the ones"),
    ],
)
def test_tokens_that_cannot_be_used_are_bad_rows(tokenizer: Any, task: Any, columns: Any, problem: str) -> None:
    found = problems(rows(**columns), task, tokenizer, 8)
    assert len(found) == problem.count("row ")
    for part in problem.split(" .* "):
        assert part in " ".join(found)


@pytest.mark.parametrize(
    ("ids", "are_bad"),
    [([2, 5, 3], False), ([2, 5, 3, 3], True), ([3, 3, 2, 5], True), ([3, 2, 5], False), ([3], False), ([2], False)],
)
def test_padding_by_the_token_that_ends_a_text_is_told_by_two_of_them(
    tokenizer: Any, ids: list[int], are_bad: bool
) -> None:
    # As users of GPT-2 set it.
    tokenizer.pad_token = tokenizer.sep_token
    found = problems(rows(input_ids=[[2, 6, 3], ids]), MOOD, tokenizer, 8)
    assert [problem[:18] for problem in found] == ["row 2: has padding"] * are_bad


def test_a_pair_that_is_read_as_one_input_needs_its_token_types(tokenizer: Any) -> None:
    cross = TaskConfig("pair_classification", pair_encoding="cross")
    pairs = rows(input_ids=[[2, 5, 3, 6, 3]])
    with pytest.raises(ValueError, match="needs a column token_type_ids, which tells the two texts apart"):
        check(pairs, cross, tokenizer, 8)
    assert check(pairs.add_column("token_type_ids", [[0, 0, 0, 1, 1]]), cross, tokenizer, 8)
    # Single texts, and encoders without token types, need none.
    assert check(pairs, MOOD, tokenizer, 8)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert check(pairs, cross, tokenizer, 8)


@pytest.mark.parametrize(
    ("task", "columns", "problem"),
    [
        (MOOD, {"input_ids": [[2, 39], [2, 40], [2, 99, 3]]}, "row 2: has 40 among its input_ids, .* row 3: has 99"),
        (MOOD, {"input_ids": [[2, -5, 3]]}, "row 1: has -5 among its input_ids, and the model knows 0 to 39: "),
        (SAME, {"input_ids": [[2, 3]], "input_ids_2": [[2, 41]]}, "row 1: has 41 among its input_ids_2, "),
        (MOOD, {"input_ids": [[2, 3]], "token_type_ids": [[0, 2]]}, "row 1: has 2 among its token_type_ids, "),
    ],
)
def test_tokens_that_the_model_does_not_know_are_bad_rows(
    tokenizer: Any, task: Any, columns: Any, problem: str
) -> None:
    sizes = {"input_ids": 40, "token_type_ids": 2}
    _, bad, _ = check_tokenized(rows(**columns), task, tokenizer, 8, sizes=sizes)
    assert len(bad) == problem.count("row ")
    for part in problem.split(" .* "):
        assert part in " ".join(map(str, bad))
    # Where nobody knows how many there are, a number is at least not negative.
    assert len(check_tokenized(rows(**columns), task, tokenizer, 8)[1]) == ("-5" in problem)


def test_what_stands_in_padding_is_not_looked_at(tokenizer: Any) -> None:
    # Rows to predict may have no column but these two.
    padded = rows(input_ids=[[2, 3, -100]], attention_mask=[[1, 1, 0]])
    assert check_tokenized(padded, MOOD, tokenizer, 8, sizes={"input_ids": 40})[0]["input_ids"][:] == [[2, 3]]


@pytest.mark.parametrize("kind", ["tokens", "texts"])
def test_a_tokenizer_with_more_words_than_the_model_is_found_before_training(
    tmp_path: Any, tokenizer: Any, kind: str
) -> None:
    tokenizer.add_tokens([f"word{i}" for i in range(40)])
    table = task_rows(4)["sst"].to_list()
    table[2]["sentence"] = "a word39 film"
    data = Dataset.from_list(table)
    if kind == "tokens":
        data = data.map(lambda row: {"input_ids": tokenizer(row["sentence"])["input_ids"]})
    args = MultiTaskTrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match=r"row 3: has .* among its input_ids"):
        MultiTaskTrainer(tiny_model(), args, {"sst": data}, processing_class=tokenizer)
    model = tiny_model()
    model.resize_token_embeddings(len(tokenizer))
    assert MultiTaskTrainer(model, args, {"sst": data}, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("task", "columns"), [(SAME, {"input_ids": [[2, 3]]}), (MOOD, {"input_ids": [[2, 3]], "input_ids_2": [[2, 3]]})]
)
def test_another_number_of_texts_than_the_task_reads_is_refused(tokenizer: Any, task: Any, columns: Any) -> None:
    wanted = "input_ids, and input_ids_2, the second text's" if task is SAME else "input_ids, and input_ids alone"
    with pytest.raises(ValueError, match=f"needs a column {wanted}; it has "):
        check(rows(**columns), task, tokenizer, 8)


@pytest.mark.parametrize(("ids", "kind"), [(["2 3"], "string"), ([2], "int"), ([[2.0, 3.0]], "list<.*double>")])
def test_a_column_of_anything_but_lists_of_numbers_is_refused(tokenizer: Any, ids: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"column 'input_ids' must hold lists of whole numbers, not .*{kind}"):
        check(rows(input_ids=ids), MOOD, tokenizer, 8)


@pytest.mark.parametrize("numbered", [False, True])
def test_the_good_rows_are_left_with_their_numbers(tokenizer: Any, numbered: bool) -> None:
    columns: dict[str, Any] = {
        "input_ids": [[2, 5, 3, 0], [], [2] * 9, [2, 6, 3, 0], [2, 7, 3], [0, 0]],
        "attention_mask": [[1, 1, 1, 0], [], [1] * 9, [1, 1, 1, 0], [1, 1, 1], [0, 0]],
        "stars": ["good", "good", "bad", "fine", "bad", "bad"],
        # Of another meaning.
        "label": [9] * 6,
    }
    if numbered:
        columns["row"] = [11, 12, 13, 14, 15, 16]
    checked, bad, by_id = check_tokenized(rows(**columns), MOOD, tokenizer, 8, "stars", {"good": "bad", "bad": "good"})
    assert [(row.row, row.problem[:12]) for row in bad] == [
        (2, "has no input"),
        (3, "is longer th"),
        (4, "column 'star"),
        (6, "has no real "),
    ]
    assert checked["input_ids"][:] == [[2, 5, 3], [2, 7, 3]]
    assert checked["label"][:] == [0, 1]
    assert checked["row"][:] == ([11, 15] if numbered else [1, 5])
    assert by_id == 0


def test_of_rows_that_are_all_bad_none_is_left(tokenizer: Any) -> None:
    checked, bad, _ = check_tokenized(rows(input_ids=[[], None], label=["good", "bad"]), MOOD, tokenizer, 8)
    assert (len(checked), len(bad)) == (0, 2)
    # To a table of several, `datasets` adds no column without rows.
    several = rows(input_ids=[[2, 5, 3]] * 2).add_column("label", ["fine"] * 2)
    checked, bad, _ = check_tokenized(several, MOOD, tokenizer, 8)
    assert (len(checked), len(bad)) == (0, 2)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"attention_mask": [[1, 1, 1, 1, 1, 0]]}, "has padding, and its sequences stand end to end"),
        ({"input_ids": [[2, 5, 0, 2, 6, 3]]}, "has padding, and its sequences stand end to end"),
        ({"attention_mask": [[1, 1, 1]]}, "has another number of attention_mask than of input_ids."),
        ({"token_type_ids": [[0, 0, 0]]}, "has another number of token_type_ids than of input_ids."),
        ({"token_type_ids": [[0, 0, 0, 0, 7, 0]]}, "has 7 among its token_type_ids, and the model knows 0 to 1"),
        ({"lengths": [[6]]}, "has lengths of 1 text, and a row has an anchor and its positive."),
    ],
)
def test_rows_of_any_number_of_sequences_are_looked_at_too(tokenizer: Any, columns: Any, problem: str) -> None:
    tokens = {"input_ids": [[2, 5, 3, 2, 6, 3]], "lengths": [[3, 3]]}
    task = TaskConfig("ranking")
    whole = check(rows(**tokens, attention_mask=[[1] * 6]), task, tokenizer, 8)
    assert whole.column_names == ["input_ids", "lengths"]
    _, (bad,), _ = check_tokenized(rows(**tokens | columns), task, tokenizer, 8, sizes={"token_type_ids": 2})
    assert str(bad).startswith(f"row 1: {problem}")


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
    assert problem in " ".join(problems(rows(input_ids=[[2, 3]] * 2, label=labels), task, tokenizer, 8))


@pytest.mark.parametrize(
    ("task", "labels", "read"),
    [(MOOD, ["good", "bad"], [1, 0]), (STARS, [1.0, 2.0], [0, 1]), (MOOD, [1, 0], [1, 0])],
)
def test_and_become_ids(tokenizer: Any, task: TaskConfig, labels: Any, read: list[int]) -> None:
    checked = check(rows(input_ids=[[2, 3]] * 2, label=labels), task, tokenizer, 8)
    assert checked["label"][:] == read
    assert checked.features["label"] == ClassLabel(names=task.labels)
    # Labels that were read once are not read again: here, an id that is also another label's name.
    swapped = TaskConfig("single_label_classification", labels=["1", "0"])
    ids = checked.cast_column("label", ClassLabel(names=swapped.labels))
    assert check(ids, swapped, tokenizer, 8)["label"][:] == read


def test_scores_out_of_range_are_refused_and_others_stay(tokenizer: Any) -> None:
    ids = {"input_ids": [[2, 3]] * 2, "input_ids_2": [[2, 3]] * 2}
    assert check(rows(**ids, label=[1, 5]), STS, tokenizer, 8)["label"][:] == [1.0, 5.0]
    for bad in (7.0, float("nan"), "high"):
        labels = ["1", bad] if isinstance(bad, str) else [1.0, bad]
        (problem,) = problems(rows(**ids, label=labels), STS, tokenizer, 8)
        assert problem == f"row 2: column 'label' is {bad!r}, not a score from 0 to 5."


MOODS = TaskConfig("multi_label_classification", labels=["joy", "grief", "fear"])


def test_several_labels_become_lists_of_ids_and_are_read_once(tokenizer: Any) -> None:
    for labels in ([["fear", "joy"], []], [[2, 0], []], ["fear,joy", ""]):
        checked = check(rows(input_ids=[[2, 3]] * 2, label=labels), MOODS, tokenizer, 8)
        assert checked["label"][:] == [[0, 2], []]
        assert checked.features["label"] == List(ClassLabel(names=MOODS.labels))
        assert check(checked, MOODS, tokenizer, 8)["label"][:] == [[0, 2], []]
    given = rows(input_ids=[[2, 3]] * 2, joy=[1, 0], grief=[0, 0], fear=[1, 0])
    checked, bad, _ = check_tokenized(given, MOODS, tokenizer, 8, label=["joy", "grief", "fear"])
    assert (checked["label"][:], bad) == ([[0, 2], []], [])
    assert set(checked.column_names) == {"input_ids", "label"}
    assert (
        "row 2: column 'label' is [3], in which a label is 3"
        in problems(rows(input_ids=[[2, 3]] * 2, label=[[0], [3]]), MOODS, tokenizer, 8)[0]
    )
