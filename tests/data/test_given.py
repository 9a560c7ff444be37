"""Datasets given in Python: their columns are named, and their bad rows treated, as a recipe's are."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.given import GivenData
from hf_multitask.data.loading import load_split
from hf_multitask.data.sources import FileSource
from tests.conftest import TASKS, task_rows, tiny_model

MOOD = TaskConfig("single_label_classification", labels=["bad", "good"])
SAME = TaskConfig("pair_classification", labels=["different", "same"])
STS = TaskConfig("pair_regression")
STARS = {"text": "review", "label": "stars", "label_map": {1: "bad", "5": "good"}}
REVIEWS = {"review": ["a film", "", "a dog", "a cat"], "stars": [5, 1, 3, 1], "label": [7, 7, 7, 7]}


def given(tokenizer: Any, columns: Any = None, on_bad_rows: Any = "error", **tasks: TaskConfig) -> GivenData:
    return GivenData(tasks or {"mood": MOOD, "same": SAME, "sts": STS}, tokenizer, 64, 70, columns, on_bad_rows)


def test_rows_are_those_that_a_recipe_reads_from_a_file(tokenizer: Any, tmp_path: Any, caplog: Any) -> None:
    pd.DataFrame(REVIEWS).to_json(tmp_path / "reviews.jsonl", orient="records", lines=True)
    source = FileSource(**STARS, train="reviews.jsonl", data_dir=str(tmp_path))
    expected, expected_report = load_split("mood", MOOD, source, "train", "drop")
    assert expected["row"][:] == [1, 4]
    tables = {"dataset": Dataset.from_dict(REVIEWS), "pandas": pd.DataFrame(REVIEWS)}
    for kind, table in tables.items():
        caplog.clear()
        rows, reports = given(tokenizer, {"mood": STARS}, "drop").prepare("train_dataset", {"mood": table})
        assert [item["row"] for item in rows.__getitems__([0, 1])] == [1, 4], kind
        assert [item["label"] for item in rows.__getitems__([0, 1])] == expected["label"][:] == [1, 0]
        assert [item["input_ids"] for item in rows.__getitems__([0, 1])] == [
            tokenizer(text)["input_ids"] for text in expected["sentence"]
        ]
        assert reports["mood"].dropped == expected_report.dropped
        assert (reports["mood"].rows, reports["mood"].all_dropped) == (4, 2)
        assert "task 'mood': train_dataset has 2 bad row(s): row 2: column 'review' is empty. row 3" in caplog.text
        assert "Dropped; 2 rows are left." in caplog.text


def test_bad_rows_are_refused_unless_told_otherwise_and_some_must_be_left(tokenizer: Any) -> None:
    table = Dataset.from_dict(REVIEWS)
    with pytest.raises(
        ValueError, match=r"train_dataset has 2 bad row\(s\): row 2: .* row 3: .* set on_bad_rows: drop"
    ):
        given(tokenizer, {"mood": STARS}).prepare("train_dataset", {"mood": table})
    with pytest.raises(ValueError, match=r"has 1 bad row\(s\): row 1: column 'review' is empty. No row is left"):
        given(tokenizer, {"mood": STARS}, "drop").prepare("train_dataset", {"mood": table.select([1])})


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"sentence": ["a", "b"], "label": ["good", 1]}, "Conversion failed for column label"),
        ({"sentence": ["a", 5], "label": ["good", "bad"]}, "Conversion failed for column sentence"),
        ({"sentence": ["a", "b"], "label": [["good"], "bad"]}, "Conversion failed for column label"),
    ],
)
def test_a_table_whose_column_holds_several_kinds_is_refused(tokenizer: Any, table: Any, problem: str) -> None:
    for argument in ("train_dataset", "test_dataset"):
        with pytest.raises(ValueError, match=f"task 'mood': {argument} cannot be read as a table: .*{problem}"):
            given(tokenizer).prepare(argument, {"mood": pd.DataFrame(table)})


def test_so_is_one_with_a_column_twice(tokenizer: Any) -> None:
    table = pd.DataFrame([["a", "good", "bad"]], columns=["sentence", "label", "label"])
    with pytest.raises(ValueError, match=r"task 'mood': train_dataset cannot be read as a table: .*label"):
        given(tokenizer).prepare("train_dataset", {"mood": table})


@pytest.mark.parametrize("tokens", [{}, {"input_ids": [[2, 5, 3]] * 2}], ids=["texts", "tokens"])
def test_rows_to_evaluate_by_that_have_no_label_are_told_of(tokenizer: Any, caplog: Any, tokens: Any) -> None:
    columns = {"sentence": ["a cat", "a dog"], **tokens, "labels": [0, 1]}
    rows, _ = given(tokenizer).prepare("eval_dataset", {"mood": Dataset.from_dict(columns)})
    assert "label" not in rows.datasets["mood"].column_names
    assert "task 'mood': eval_dataset has no column 'label', and so no metrics; did you mean 'labels'?" in caplog.text
    caplog.clear()
    given(tokenizer).prepare("test_dataset", {"mood": Dataset.from_dict(columns)})
    assert not caplog.text


def test_which_are_not_the_same(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="columns: task 'same': text names column 'question' twice"):
        given(tokenizer, {"same": {"text": ["question", "question"]}})


@pytest.mark.parametrize("text", [["question", "other"], ("question", "other")])
def test_a_pair_has_two_columns(tokenizer: Any, text: Any) -> None:
    table = Dataset.from_dict({"question": ["a cat"], "other": ["a dog"], "label": ["same"]})
    rows, _ = given(tokenizer, {"same": {"text": text}}).prepare("train_dataset", {"same": table})
    assert rows[0]["input_ids"] == tokenizer("a cat")["input_ids"]
    assert rows[0]["input_ids_2"] == tokenizer("a dog")["input_ids"]


def test_tokenized_rows_have_a_label_column_and_bad_rows_too(tokenizer: Any) -> None:
    table = Dataset.from_dict({"input_ids": [[2, 5, 3], [], [2, 6, 3], [2, 7, 3]], **REVIEWS})
    rows, reports = given(tokenizer, {"mood": STARS}, "drop").prepare("train_dataset", {"mood": table})
    assert [(item["row"], item["label"]) for item in rows.__getitems__([0, 1])] == [(1, 1), (4, 0)]
    assert [row.row for row in reports["mood"].dropped] == [2, 3]
    with pytest.raises(ValueError, match=r"task 'mood': train_dataset has 2 bad row\(s\): row 2: has no input_ids"):
        given(tokenizer, {"mood": STARS}).prepare("train_dataset", {"mood": table})


def test_streams_are_read_by_the_same_names(tokenizer: Any) -> None:
    stream = Dataset.from_dict(REVIEWS).to_iterable_dataset()
    columns = {"mood": {**STARS, "rows": 4, "shuffle_buffer": 1}}
    rows, reports = given(tokenizer, columns, "drop").prepare("train_dataset", {"mood": stream})
    assert rows.sizes == {"mood": 4}
    # A third row is the first one of the next pass.
    assert rows.datasets["mood"][[0, 1, 2]]["row"] == [1, 4, 1]
    assert rows.datasets["mood"][[0, 1, 2]]["label"] == [1, 0, 1]
    rows.streams["mood"].refresh_report()
    assert reports["mood"].all_dropped == 2
    with pytest.raises(ValueError, match="task 'mood': train_dataset: row 2: column 'review' is empty"):
        given(tokenizer, columns).prepare("train_dataset", {"mood": stream})


def test_labels_may_be_absent_unless_they_are_trained_on_or_named(tokenizer: Any) -> None:
    plain, named = given(tokenizer), given(tokenizer, {"mood": {"label": "stars"}})
    table = {"mood": Dataset.from_dict({"sentence": ["a film"]})}
    for data, argument in ((plain, "eval_dataset"), (plain, "test_dataset"), (named, "test_dataset")):
        rows, reports = data.prepare(argument, table)
        assert "label" not in rows[0]
        assert reports["mood"].labels_by_name == reports["mood"].labels_by_id == 0
    for data, argument, column in (
        (plain, "train_dataset", "label"),
        (named, "train_dataset", "stars"),
        (named, "eval_dataset", "stars"),
    ):
        for rows_given in (table, {"mood": Dataset.from_dict({"input_ids": [[2, 3]]})}):
            with pytest.raises(ValueError, match=f"task 'mood': {argument} has no column '{column}'; known: "):
                data.prepare(argument, rows_given)


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow"])
def test_the_format_of_a_dataset_is_nothing_to_its_rows(tokenizer: Any, kind: str) -> None:
    table = Dataset.from_dict({"sentence": ["a film", "a dog"], "label": [1, 0]}).with_format(kind)
    rows, _ = given(tokenizer).prepare("train_dataset", {"mood": table})
    assert [(rows[i]["input_ids"], rows[i]["label"]) for i in (0, 1)] == [
        (tokenizer("a film")["input_ids"], 1),
        (tokenizer("a dog")["input_ids"], 0),
    ]
    columns = {"mood": {"shuffle_buffer": 1}}
    stream = table.to_iterable_dataset().with_format(kind)
    streamed, _ = given(tokenizer, columns).prepare("train_dataset", {"mood": stream})
    assert streamed.datasets["mood"][[0, 1]]["label"] == [1, 0]


def test_cut_rows_are_counted_and_said(tokenizer: Any, caplog: Any) -> None:
    data = GivenData({"mood": MOOD}, tokenizer, 4, 70)
    table = Dataset.from_dict({"sentence": ["a cat sat on the mat", "a cat"], "label": ["good", "bad"]})
    _, reports = data.prepare("train_dataset", {"mood": table})
    assert (reports["mood"].truncated, reports["mood"].also_in_train) == (1, None)
    assert "task 'mood': 1 rows of train_dataset are cut to 4 tokens" in caplog.text


def test_classes_of_the_dataset_and_of_pandas_are_matched_by_name(tokenizer: Any) -> None:
    features = Features({"sentence": Value("string"), "kind": ClassLabel(names=["good", "bad"])})
    table: Any = Dataset.from_dict({"sentence": ["a", "b"], "kind": [0, 1]}, features=features)
    frame = pd.DataFrame({"sentence": ["a", "b"], "kind": pd.Categorical(["good", "bad"])}, index=[7, 9])
    for rows_given in (table, frame):
        rows, _ = given(tokenizer, {"mood": {"label": "kind"}}).prepare("train_dataset", {"mood": rows_given})
        assert [rows[0]["label"], rows[1]["label"]] == [1, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"moods": {}}, "columns: task 'moods' is unknown; did you mean 'mood'?"),
        ({"mood": {"texts": "a"}}, "columns: task 'mood': unknown key 'texts'; did you mean 'text'?"),
        ({"mood": {"train": "a.csv"}}, "columns: task 'mood': unknown key 'train'; known: text, label, label_map"),
        (
            {"mood": "review"},
            "columns: task 'mood': must be a dictionary with keys such as text and label, not 'review'",
        ),
        (["mood"], "columns must be a dictionary with keys such as text and label by task, not ['mood']"),
        ({"mood": {"text": 3}}, "columns: task 'mood': text must be the name of a column, or a list of names, not 3"),
        (
            {"mood": {"label": ["a"]}},
            "columns: task 'mood': label must name one column, as a row of single_label_classification has one",
        ),
        (
            {"same": {"text": "a"}},
            "columns: task 'same': text must name 2 column(s), as a row has 2 text(s), not ['a']",
        ),
        ({"mood": {"rows": 0}}, "columns: task 'mood': rows must be a number from 1 on, not 0"),
    ],
)
def test_columns_that_mean_nothing_are_refused_before_any_row_is_read(
    tokenizer: Any, columns: Any, message: str
) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        given(tokenizer, columns)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "task 'mood': train_dataset has no column 'sentence'; known: review, stars, label. Say by columns="),
        ({"mood": {**STARS, "text": "reviews"}}, "train_dataset has no column 'reviews'; did you mean 'review'?"),
        ({"mood": {**STARS, "label_map": {5: "goood"}}}, "label_map: what 5 stands for is 'goood', not one of"),
    ],
)
def test_columns_that_are_not_there_are_refused_with_those_that_are(tokenizer: Any, columns: Any, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        given(tokenizer, columns).prepare("train_dataset", {"mood": Dataset.from_dict(REVIEWS)})
    assert message in str(refusal.value)


def test_another_treatment_of_bad_rows_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="on_bad_rows 'dropp' is unknown; did you mean 'drop'"):
        given(tokenizer, None, "dropp")


def test_what_is_no_table_is_refused(tokenizer: Any) -> None:
    table = Dataset.from_dict(REVIEWS)
    for wrong in (DatasetDict({"train": table}), REVIEWS, None):
        with pytest.raises(
            ValueError, match=f"task 'mood': train_dataset must be a datasets.Dataset, not {type(wrong).__name__}."
        ):
            given(tokenizer).prepare("train_dataset", {"mood": wrong})


# ---- Through the trainer ----


def renamed(rows: dict[str, Dataset]) -> dict[str, Any]:
    """The same rows under columns of their own, with other labels and a bad row at their beginning."""
    first = {"sst": {"review": "", "stars": "1 star"}, "quora": {"q1": "a", "q2": None, "dup": 1}}
    sst = [{"review": row["sentence"], "stars": f"{row['label'] + 1} stars"} for row in rows["sst"]]
    quora = [{"q1": row["sentence1"], "q2": row["sentence2"], "dup": row["label"]} for row in rows["quora"]]
    return {
        "sst": pd.DataFrame([first["sst"], *sst]),
        "quora": Dataset.from_list([first["quora"], *quora]),
        "sts": rows["sts"],
    }


COLUMNS = {
    "sst": {"text": "review", "label": "stars", "label_map": {f"{i + 1} stars": i for i in range(5)}},
    "quora": {"text": ("q1", "q2"), "label": "dup"},
}


@pytest.fixture
def make(tmp_path: Any, tokenizer: Any) -> Any:
    def build(train: Any, evaluation: Any, **options: Any) -> MultiTaskTrainer:
        args = MultiTaskTrainingArguments(
            str(tmp_path), max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1
        )
        return MultiTaskTrainer(tiny_model(), args, train, evaluation, processing_class=tokenizer, **options)

    return build


def test_a_run_on_renamed_tables_is_the_run_on_plain_ones(make: Any) -> None:
    train, evaluation = task_rows(12, seed=1), task_rows(9, seed=2)
    plain = make(train, evaluation)
    loss = plain.train().training_loss
    other = make(renamed(train), renamed(evaluation), columns=COLUMNS, on_bad_rows="drop")
    assert other.train().training_loss == loss
    for scores in (
        [trainer.evaluate() for trainer in (plain, other)],
        [plain.evaluate("sst"), other.evaluate("sst")],
        [plain.evaluate(task_rows(5, seed=3)), other.evaluate(renamed(task_rows(5, seed=3)))],
    ):
        kept = [{key: value for key, value in each.items() if not key.endswith(("time", "second"))} for each in scores]
        assert kept[0] == kept[1]
    predicted = [plain.predict(task_rows(4, seed=4)), other.predict(renamed(task_rows(4, seed=4)))]
    for name in TASKS:
        assert np.array_equal(predicted[0].predictions[name], predicted[1].predictions[name])
        assert np.array_equal(predicted[0].label_ids[name], predicted[1].label_ids[name])
    reports = other.data_reports
    assert {split: reports[split]["sst"].rows for split in reports} == {
        "train": 13,
        "validation": 10,
        "evaluate": 6,
        "predict": 5,
    }
    for by_task in reports.values():
        assert [len(by_task[name].dropped) for name in TASKS] == [1, 1, 0]
        assert str(by_task["quora"].dropped[0]) == "row 1: column 'q2' is missing."
    other.create_model_card()
    with open(f"{other.args.output_dir}/README.md") as card:
        assert "| sst | train | given in Python | 12 | 1 | not counted | 0 |" in card.read()


def test_a_generators_rows_are_named_too(make: Any) -> None:
    train = renamed(task_rows(12, seed=1))
    train["quora"] = IterableDataset.from_generator(lambda: iter(train["sts"]))
    with pytest.raises(ValueError, match=r"train_dataset has no column 'q1'; .* Say by columns=\{'quora': ...\}"):
        make(train, None, columns=COLUMNS, on_bad_rows="drop")


FLAGS = {"review": ["a film", "the plot", "a cat"], "joy": [1, 0, 0], "grief": [True, False, False]}


def test_labels_of_a_row_may_have_a_column_each(tokenizer: Any, caplog: Any) -> None:
    moods = TaskConfig("multi_label_classification", labels=["grief", "joy"])
    columns = {"moods": {"text": "review", "label": ("joy", "grief")}}
    data = GivenData({"moods": moods}, tokenizer, 16, 64, columns)
    rows, reports = data.prepare("train_dataset", {"moods": Dataset.from_dict(FLAGS)})
    assert [item["label"] for item in (rows[i] for i in range(3))] == [[0, 1], [], []]
    assert reports["moods"].labels_by_name == 3
    unlabelled = Dataset.from_dict({"review": ["a film"]})
    with pytest.raises(ValueError, match="train_dataset has no column 'joy'"):
        data.prepare("train_dataset", {"moods": unlabelled})
    with pytest.raises(ValueError, match="train_dataset has no column 'grief'"):
        data.prepare("train_dataset", {"moods": Dataset.from_dict(FLAGS).remove_columns("grief")})
    tokens, _ = data.prepare("test_dataset", {"moods": unlabelled})
    assert "label" not in tokens[0]
