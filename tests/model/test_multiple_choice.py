import re
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F
from transformers import pipeline

from hf_multitask import MultiTaskCollator, TaskConfig
from hf_multitask.data.batch import select_rows
from hf_multitask.model.multiple_choice import ChoiceReader, are_there
from hf_multitask.model.rows import PADDING, sequences_of
from tests.conftest import TASKS, tiny_model
from tests.model.heads import naive_mlp

H = 6
CHOICE = {"type": "multiple_choice"}
TASK: Any = TaskConfig(**CHOICE)
BI: Any = TaskConfig(**CHOICE, pair_encoding="bi")
COLUMNS = {
    "sentence": ["the film was", "a cat", "dog"],
    "choices": [["good", "not very big"], ["sat on the mat", "ran", "and"], ["a hill", "plot"]],
}
LABELS = [1, 2, 0]


def absent(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The logit of a choice that is not there."""
    head = TASK.build_head(H).to(dtype)
    return head(torch.randn(1, 1, H, dtype=dtype), torch.zeros(1, 1))[0, 0].detach()


def test_the_table_says_how_choices_are_read() -> None:
    assert TASK.pair_encoding == "cross"
    assert TASK.text_columns == {"sentence": "text", "choices": "texts"}
    assert TaskConfig(**CHOICE, texts=2).text_columns == {"sentence1": "text", "sentence2": "text", "choices": "texts"}
    assert TaskConfig.from_dict(BI.to_dict()) == BI
    assert TASK.differences(TaskConfig(**CHOICE, labels_are="letters")) == []
    assert TASK.differences(BI) == ["pair_encoding"]
    with pytest.raises(ValueError, match="labels_are 'letter' is unknown; did you mean 'letters'"):
        TaskConfig(**CHOICE, labels_are="letter")


# ---- What a row is ----


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ([], "has no choices, and a row has at least two."),
        (["a"], "has 1 choice, and a row has at least two."),
        (["a", " "], "has a choice that is blank."),
        (["a", "b", "a "], "has the choice 'a' twice, so that no single one could be right."),
    ],
)
def test_choices_of_which_not_exactly_one_could_be_right_are_refused(choices: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        TASK.check_text("choices", choices)
    TASK.check_text("sentence", "a")


def test_a_row_has_a_sequence_for_each_choice_with_its_text(tokenizer: Any) -> None:
    rows = TASK.tokenize(tokenizer, COLUMNS, 32)
    for number, (text, choices) in enumerate(zip(*COLUMNS.values(), strict=True)):
        found = sequences_of({key: values[number] for key, values in rows.items()})
        assert [one["input_ids"] for one in found] == [tokenizer(text, choice)["input_ids"] for choice in choices]
        assert [one["token_type_ids"] for one in found] == [
            tokenizer(text, choice)["token_type_ids"] for choice in choices
        ]
    assert rows["truncated"] == [False] * 3
    assert TASK.tokenize(tokenizer, COLUMNS, 6)["truncated"] == [True, True, False]


def test_texts_and_choices_that_are_encoded_apart_have_a_sequence_each(tokenizer: Any) -> None:
    rows = BI.tokenize(tokenizer, COLUMNS, 32)
    found = sequences_of({key: values[1] for key, values in rows.items()})
    assert [one["input_ids"] for one in found] == [
        tokenizer(text)["input_ids"] for text in ("a cat", "sat on the mat", "ran", "and")
    ]


def test_of_two_texts_the_second_stands_before_each_choice(tokenizer: Any) -> None:
    task = TaskConfig(**CHOICE, texts=2)
    columns = {"sentence1": ["a cat sat"], "sentence2": ["the dog"], "choices": [["ran", "sat"]]}
    rows = task.tokenize(tokenizer, columns, 32)
    found = sequences_of({key: values[0] for key, values in rows.items()})
    assert [one["input_ids"] for one in found] == [
        tokenizer("a cat sat", second)["input_ids"] for second in ("the dog ran", "the dog sat")
    ]


# ---- Labels ----

ROW = ("Who?", ["he", "she", "7"])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (0, (0, True)),
        ("1", (1, True)),
        (2.0, (2, True)),
        ("C", (2, True)),
        ("b", (1, True)),
        ("she", (1, False)),
        (" he ", (0, False)),
        (7, (2, False)),
    ],
)
def test_a_label_is_a_number_a_letter_or_the_choices_text(value: Any, read: tuple[int, bool]) -> None:
    assert ChoiceReader()(value, *ROW) == read


def test_a_label_that_is_none_of_the_choices_is_refused_with_what_would_be_right() -> None:
    right = "the text of one of them or a number from 0 to 2 or a letter from A to C, or say by label_map"
    for value in (3, -1, "D", "it", True, 0.5):
        with pytest.raises(ValueError, match=re.escape(f"none of the row's 3 choices: give {right}")):
            ChoiceReader()(value, *ROW)
    for value in (None, ""):
        with pytest.raises(ValueError, match=r"is missing|is empty"):
            ChoiceReader()(value, *ROW)


def test_a_label_that_could_be_two_choices_is_refused_and_the_table_says_which() -> None:
    numbers = ["2", "0", "1"]
    with pytest.raises(ValueError, match="say which by labels_are: texts or numbers"):
        ChoiceReader()(2, "How many?", numbers)
    assert ChoiceReader("texts")(2, "How many?", numbers) == (0, False)
    assert ChoiceReader("numbers")(2, "How many?", numbers) == (2, True)
    assert ChoiceReader("letters")("b", "Which?", ["b", "a"]) == (1, True)
    # By whichever it is meant.
    assert ChoiceReader()("B", "Which?", ["A", "B"]) == (1, None)
    with pytest.raises(ValueError, match="give a letter from A to C, or say"):
        ChoiceReader("letters")(1, *ROW)


def test_a_column_of_numbers_and_letters_is_refused() -> None:
    read = ChoiceReader()
    assert read("B", *ROW) == (1, True)
    with pytest.raises(ValueError, match="is '1', where other rows have letters: say by label_map which number"):
        read("1", *ROW)
    mapped = ChoiceReader(label_map={"A": 0, "B": 1, "1": 0, "2": 1})
    assert mapped("B", *ROW) == (1, None)
    assert mapped(1, *ROW) == (0, None)
    with pytest.raises(ValueError, match="is 'C', which label_map does not have"):
        mapped("C", *ROW)


def test_a_datasets_own_classes_are_numbers_letters_or_texts() -> None:
    assert ChoiceReader(own_names=["A", "B", "C"])(2, *ROW) == (2, True)
    assert ChoiceReader(own_names=["0", "1"])(1, *ROW) == (1, True)
    assert ChoiceReader(own_names=["she", "he"])(0, *ROW) == (1, False)
    assert ChoiceReader(label_map={"first": 0, "second": 1}, own_names=["second", "first"])(0, *ROW) == (1, None)
    with pytest.raises(ValueError, match="not the number of one of the dataset's classes"):
        ChoiceReader(own_names=["A", "B"])(2, *ROW)


def test_without_its_choices_a_label_is_a_number() -> None:
    assert ChoiceReader()(3) == (3, True)
    with pytest.raises(ValueError, match="not the number of a choice, from 0"):
        ChoiceReader()("he")


# ---- The head ----


def test_the_head_is_hidden_layer_relu_output_layer_for_each_choice() -> None:
    head = TASK.build_head(H).eval()
    embeddings, there = torch.randn(2, 3, H), torch.tensor([[1, 1, 1], [1, 1, 0]])
    outputs = head(embeddings, there)
    torch.testing.assert_close(outputs[0], naive_mlp(head, embeddings[0]))
    torch.testing.assert_close(outputs[1, :2], naive_mlp(head, embeddings[1, :2]))
    assert are_there(outputs).tolist() == there.bool().tolist()
    assert len(TASK.each_output(outputs)) == 5


def test_the_head_of_texts_apart_compares_each_choice_with_the_text() -> None:
    head = BI.build_head(H).eval()
    embeddings, there = torch.randn(2, 3, H), torch.tensor([[1, 1, 1], [1, 1, 0]])
    outputs = head(embeddings, there)
    assert outputs.shape == (2, 2)
    u, v = embeddings[0, :1], embeddings[0, 1:]
    features = torch.cat([u.expand_as(v), v, (u - v).abs(), u * v], dim=-1)
    torch.testing.assert_close(outputs[0], naive_mlp(head, features))
    assert are_there(outputs).tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_absent_choice_is_known_in_half_precision(dtype: torch.dtype) -> None:
    outputs = torch.stack([torch.zeros((), dtype=dtype), absent(dtype)])[None]
    assert outputs.isfinite().all()
    assert are_there(outputs).tolist() == [[True, False]]
    assert TASK.probabilities(outputs).tolist() == [[1.0, 0.0]]


# ---- Loss and divergence ----


def padded_outputs() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of rows of 4, 2 and 3 choices, [3, 4], and those of each."""
    rows = [torch.randn(4) * 3, torch.randn(2) * 3, torch.randn(3) * 3]
    outputs = absent().expand(3, 4).clone()
    for place, row in enumerate(rows):
        outputs[place, : len(row)] = row
    # As evaluations fill up rows.
    outputs[2, 3] = PADDING
    return outputs, rows


def test_a_rows_loss_is_the_cross_entropy_over_its_own_choices() -> None:
    outputs, rows = padded_outputs()
    labels = torch.tensor([3, 0, 1])
    naive = [-(row.double()[label] - row.double().exp().sum().log()) for row, label in zip(rows, labels, strict=True)]
    torch.testing.assert_close(TASK.losses(outputs, labels).double(), torch.stack(naive), rtol=1e-5, atol=1e-5)
    assert TASK.losses(outputs.bfloat16(), labels).dtype == torch.float32


def test_absent_choices_have_no_gradient() -> None:
    outputs, _ = padded_outputs()
    outputs.requires_grad_()
    TASK.losses(outputs, torch.tensor([3, 0, 1])).sum().backward()
    assert (outputs.grad != 0).tolist() == are_there(outputs).tolist()


def test_a_rows_divergence_is_the_symmetric_kl_over_its_own_choices() -> None:
    outputs, rows = padded_outputs()
    others, other_rows = padded_outputs()
    naive = []
    for mine, their in zip(rows, other_rows, strict=True):
        p, q = Categorical(logits=mine.double()), Categorical(logits=their.double())
        naive.append(kl_divergence(p, q) + kl_divergence(q, p))
    torch.testing.assert_close(TASK.divergences(outputs, others).double(), torch.stack(naive), rtol=1e-4, atol=1e-5)
    same = outputs.clone().requires_grad_()
    still = TASK.divergences(same, outputs)
    still.sum().backward()
    assert not still.any()
    assert not same.grad.any()


# ---- In the model ----


@pytest.fixture
def batch_of(tokenizer: Any):
    """Rows of `swag`, of two and three choices, beside one of `sst`."""

    def make(packing: bool, task: Any = TASK, rows: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
        tokens = task.tokenize(tokenizer, COLUMNS, 32)
        swag = [
            {"task": "swag", "label": LABELS[row], **{key: values[row] for key, values in tokens.items()}}
            for row in rows
        ]
        sst = {"task": "sst", "input_ids": tokenizer("a good film")["input_ids"], "label": 1}
        configs = {"swag": task, "sst": TaskConfig.from_dict(TASKS["sst"])}
        return MultiTaskCollator(tokenizer, configs, packing)([*swag, sst])

    return make


@pytest.mark.parametrize("task", [TASK, BI], ids=["cross", "bi"])
def test_packed_equals_padded_and_a_row_by_itself(batch_of: Any, task: Any) -> None:
    model = tiny_model({"swag": task.to_dict(), "sst": TASKS["sst"]}).eval()
    gradients, outputs = [], []
    for packing in (True, False):
        model.zero_grad()
        outputs.append(model(**batch_of(packing, task)))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(outputs[0].logits["swag"], outputs[1].logits["swag"], rtol=1e-4, atol=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    for row, count in enumerate((2, 3, 2)):
        (alone,) = model(**batch_of(False, task, (row,))).logits["swag"]
        assert alone.shape == (count,)
        torch.testing.assert_close(outputs[1].logits["swag"][row, :count], alone, rtol=1e-4, atol=1e-5)
    expected = F.cross_entropy(outputs[0].logits["swag"], torch.tensor(LABELS))
    torch.testing.assert_close(outputs[0].losses["swag"], expected)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("task", [TASK, BI], ids=["cross", "bi"])
def test_a_part_of_a_batch_has_its_rows_choices(batch_of: Any, task: Any, packing: bool) -> None:
    model = tiny_model({"swag": task.to_dict(), "sst": TASKS["sst"]}).eval()
    part = select_rows(batch_of(packing, task), {"swag": torch.tensor([1, 2])}, model.config.tasks)
    expected, found = model(**batch_of(packing, task, (1, 2))), model(**part)
    torch.testing.assert_close(found.logits["swag"], expected.logits["swag"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.losses["swag"], expected.losses["swag"], rtol=1e-4, atol=1e-5)


def test_tasks_come_and_go(batch_of: Any) -> None:
    model = tiny_model({"sst": TASKS["sst"]})
    model.add_task("swag", CHOICE)
    assert model(**batch_of(False)).logits["swag"].shape == (3, 3)
    model.drop_task("swag")
    assert list(model.heads) == ["sst"]


# ---- What is said ----


def test_predictions_are_the_likeliest_choices_with_their_probabilities() -> None:
    outputs, rows = padded_outputs()
    choices = [["a", "b", "c", "d"], ["e", "f"], ["g", "h", "i"]]
    said = TASK.predictions_for([{"choices": row} for row in choices], outputs)
    for answer, texts, row in zip(said, choices, rows, strict=True):
        shares = row.double().softmax(0)
        best = int(shares.argmax())
        assert answer == {"choice": texts[best], "choice_id": best, "score": pytest.approx(float(shares[best]))}
    ranked = TASK.predictions_for([{"choices": row} for row in choices], outputs, top_k=None)
    assert [len(row) for row in ranked] == [4, 2, 3]
    assert all(sum(answer["score"] for answer in row) == pytest.approx(1) for row in ranked)
    assert [len(row) for row in TASK.predictions(outputs, top_k=3)] == [3, 2, 3]
    assert set(TASK.predictions(outputs)[0]) == {"choice_id", "score"}


@pytest.fixture
def pipe(tokenizer: Any) -> Any:
    tasks = {"swag": CHOICE, "race": {**CHOICE, "texts": 2}, "sst": TASKS["sst"]}
    return pipeline("multi-task", model=tiny_model(tasks).eval(), tokenizer=tokenizer)


def test_the_pipeline_answers_with_a_choice(pipe: Any) -> None:
    inputs = [("the film was", ["good", "not very big"]), {"text": "a cat", "candidates": ["sat", "ran", "and"]}]
    many = pipe(inputs, task="swag")
    assert many[0]["choice"] == inputs[0][1][many[0]["choice_id"]]
    assert pipe(inputs[0], task="swag") == pytest.approx(many[0])
    assert [answer["choice_id"] for answer in pipe(inputs[1], task="swag", top_k=None)] != [0]
    pair = (("a cat sat", "the dog"), ["ran", "sat"])
    assert pipe(pair, task="race")["choice"] in pair[1]
    assert pipe({"text": "a cat sat", "text_pair": "the dog", "candidates": ["ran", "sat"]}, task="race") == pipe(
        pair, task="race"
    )
    # What the tasks of one text or of candidates read of it.
    assert list(pipe(pair)) == ["race"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("a", ["b"]), "input 1: task 'swag': 'choices' has 1 choice, and a row has at least two."),
        (("a", ["b", "b"]), "input 1: task 'swag': 'choices' has the choice 'b' twice"),
        (("a", ["b", " "]), "input 1: task 'swag': 'choices' has a choice that is blank."),
        (("a", []), "input 1: give a text, or two, and its candidates, at least one"),
        ("a", "input 1: task 'swag' reads a text with candidates, (text, [text, text])"),
        ((("a", "b"), ["c", "d"]), "input 1: task 'swag' reads a text with candidates"),
    ],
)
def test_the_pipeline_refuses_what_is_no_choice(pipe: Any, given: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        pipe(given, task="swag")
    with pytest.raises(ValueError, match="reads a pair of texts with candidates"):
        pipe(("a", "b"), task="race")
