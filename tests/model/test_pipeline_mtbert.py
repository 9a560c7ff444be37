from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset as Rows
from tokenizers import processors
from torch.utils.data import Dataset
from transformers import AutoModel, pipeline

from hf_multitask import MultiTaskPipeline
from hf_multitask.evaluation.metrics import Accuracy
from tests.conftest import TASKS, encoder_config, sentences, tiny_model

PAIRS = list(zip(sentences(11, 1), sentences(11, 2), strict=True))
ALL_TASKS = {
    **TASKS,
    "nli": {"type": "pair_classification", "num_labels": 3, "pair_encoding": "cross", "pooling": "cls"},
    "close": {"type": "pair_regression", "pair_encoding": "cross", "pooling": "max"},
}


@pytest.fixture
def pipe(tokenizer: Any) -> MultiTaskPipeline:
    return pipeline("multi-task", model=tiny_model(ALL_TASKS), tokenizer=tokenizer)


def logits_alone(pipe: MultiTaskPipeline, task: str, *texts: str) -> torch.Tensor:
    """The logits of one row, by the tokenizer and the model alone."""
    cross = len(texts) == 2 and pipe.model.config.tasks[task].pair_encoding == "cross"
    inputs = pipe.tokenizer(*([text] for text in texts), return_tensors="pt") if cross else None
    inputs = inputs or pipe.tokenizer(list(texts), padding=True, return_tensors="pt")
    return pipe.model(**inputs, task=task).logits[0].detach()


def test_a_class_comes_with_its_name_and_probability(tokenizer: Any) -> None:
    model = tiny_model({"mood": {"type": "single_label_classification", "labels": ["bad", "so-so", "good"]}})
    pipe = MultiTaskPipeline(model, tokenizer)
    prediction = pipe("a lovely film", task="mood")
    chances = logits_alone(pipe, "mood", "a lovely film").softmax(0)
    assert prediction["label_id"] == int(chances.argmax())
    assert prediction["label"] == ["bad", "so-so", "good"][prediction["label_id"]]
    assert prediction["score"] == pytest.approx(chances.max().item(), abs=1e-6)


@pytest.mark.parametrize(
    "column",
    [
        list,
        np.array,
        pd.Series,
        lambda texts: Rows.from_dict({"text": texts})["text"],
        lambda texts: np.array(texts, dtype=object),
        lambda texts: pd.Series(texts, index=range(5, 5 + len(texts)), dtype="string"),
    ],
)
def test_whatever_holds_several_texts_is_taken(pipe: MultiTaskPipeline, column: Any) -> None:
    texts = sentences(5)
    assert pipe(column(texts), task="sst") == pipe(texts, task="sst")
    assert np.array_equal(pipe.embed(column(texts)), pipe.embed(texts))


def test_pairs_may_stand_in_an_array(pipe: MultiTaskPipeline) -> None:
    assert pipe(np.array(PAIRS), task="sts") == pipe(PAIRS, task="sts")


def test_one_text_has_one_embedding(pipe: MultiTaskPipeline) -> None:
    assert np.array_equal(pipe.embed("a film"), pipe.embed(["a film"]))
    assert pipe.embed("a film").shape == (1, 16)
    for other in ([1], [("a", "b")], [None], ["a", float("nan")]):
        with pytest.raises(ValueError, match=f"input {len(other)}: embed takes texts, not"):
            pipe.embed(other)


@pytest.mark.parametrize("task", ["quora", "nli"])
def test_top_k_gives_the_likeliest_classes_whose_probabilities_sum_to_1(pipe: MultiTaskPipeline, task: str) -> None:
    (ranked,) = pipe([PAIRS[0]], task=task, top_k=None)
    assert len(ranked) == pipe.model.config.tasks[task].num_labels
    scores = [entry["score"] for entry in ranked]
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert pipe(PAIRS[0], task=task) == ranked[0]
    assert pipe(PAIRS[0], task=task, top_k=2) == ranked[:2]
    logits = logits_alone(pipe, task, *PAIRS[0])
    positive = torch.sigmoid(logits) if task == "quora" else logits.softmax(0)[1]
    assert next(entry["score"] for entry in ranked if entry["label_id"] == 1) == pytest.approx(positive.item(), 1e-5)


@pytest.mark.parametrize("task", ["sts", "close"])
def test_a_score_is_the_models_output(pipe: MultiTaskPipeline, task: str) -> None:
    for pair, prediction in zip(PAIRS, pipe(PAIRS, task=task), strict=True):
        assert prediction == {"score": pytest.approx(logits_alone(pipe, task, *pair).item(), abs=1e-4)}
        assert 0 <= prediction["score"] <= 5


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_predictions_are_those_of_each_row_alone_whatever_the_batch(kind: str, tokenizer: Any) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    pipe = MultiTaskPipeline(tiny_model(kind=kind), tokenizer)
    alone = [pipe(pair, task="quora") for pair in PAIRS]
    for batch_size in (1, 4, 64):
        together = pipe(PAIRS, task="quora", batch_size=batch_size)
        assert [row["label_id"] for row in together] == [row["label_id"] for row in alone]
        assert [row["score"] for row in together] == pytest.approx([row["score"] for row in alone], abs=1e-5)


def test_all_tasks_at_once_are_each_task_alone_in_the_tables_order(pipe: MultiTaskPipeline) -> None:
    everything = pipe(PAIRS)
    for task in ("quora", "sts", "nli", "close"):
        alone = pipe(PAIRS, task=task)
        for row, prediction in zip(everything, alone, strict=True):
            assert row[task]["score"] == pytest.approx(prediction["score"], abs=1e-4)
    assert list(everything[0]) == list(ALL_TASKS)
    assert pipe("a film") == {"sst": pipe("a film", task="sst")}
    for row, pair in zip(everything, PAIRS, strict=True):
        alone = [pipe(text, task="sst") for text in pair]
        assert [entry["label"] for entry in row["sst"]] == [entry["label"] for entry in alone]
    assert list(pipe(PAIRS[0], task=["sts", "quora"])) == ["quora", "sts"]


def test_a_text_goes_through_the_encoder_once_however_many_tasks_and_rows_read_it(pipe: MultiTaskPipeline) -> None:
    seen = []
    pipe.model.backbone.register_forward_hook(lambda *call: seen.append(call))
    packs = []
    forward = pipe.model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        packs.append(kwargs["packing"]["mask"].shape[0])
        return forward(*args, **kwargs)

    pipe.model.forward = counting
    pipe([("a cat", "a dog"), ("a dog", "a film"), ("a cat", "a film")])
    # Three texts, and three pairs that the two cross-encoded tasks share.
    assert packs == [6]
    assert len(seen) == 1


@pytest.mark.parametrize(("asked", "batches"), [(None, 1), (1, 11), (4, 3)])
def test_a_batch_holds_as_many_texts_as_asked(pipe: MultiTaskPipeline, asked: int | None, batches: int) -> None:
    calls: list[Any] = []
    pipe.model.backbone.register_forward_hook(lambda *call: calls.append(call))
    pipe(["film " * number for number in range(1, 12)], task="sst", batch_size=asked)
    assert len(calls) == batches


@pytest.mark.parametrize("form", [("a cat", "a dog"), ["a cat", "a dog"], {"text": "a cat", "text_pair": "a dog"}])
def test_a_pair_has_several_forms(pipe: MultiTaskPipeline, form: Any) -> None:
    assert pipe([form], task="sts") == pipe([("a cat", "a dog")], task="sts")


def test_a_list_is_many_inputs_and_a_tuple_is_a_pair(pipe: MultiTaskPipeline) -> None:
    assert pipe(("a cat", "a dog"), task="sts") == pipe({"text": "a cat", "text_pair": "a dog"}, task="sts")
    assert len(pipe(["a cat", "a dog"], task="sst")) == 2
    assert pipe([], task="sst") == []
    assert pipe({"text": "a cat"}, task="sst") == pipe("a cat", task="sst")


def test_generators_and_datasets_are_read_as_they_go(pipe: MultiTaskPipeline) -> None:
    texts, taken = sentences(300), []

    class Texts(Dataset):
        def __len__(self) -> int:
            return len(texts)

        def __getitem__(self, index: int) -> str:
            if index >= len(texts):
                raise IndexError
            return texts[index]

    def generate() -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    expected = [row["label"] for row in pipe(texts, task="sst", batch_size=2)]
    results = pipe(generate(), task="sst", batch_size=2)
    first = next(results)
    assert len(taken) < len(texts)
    assert [row["label"] for row in (first, *results)] == expected
    assert [row["label"] for row in pipe(Texts(), task="sst", batch_size=2)] == expected


COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "a nested column": lambda texts: Rows.from_dict({"row": [{"text": text} for text in texts]})["row"]["text"],
    "a pandas index": pd.Index,
    "a pyarrow array": pa.array,
    "a chunked array": lambda texts: pa.chunked_array([texts]),
    "values of a mapping": lambda texts: dict(enumerate(texts)).values(),
    "a deque": deque,
}


@pytest.mark.parametrize("form", COLUMNS)
def test_a_column_of_texts_is_many_inputs(pipe: MultiTaskPipeline, form: str) -> None:
    texts = sentences(5)
    assert pipe(COLUMNS[form](texts), task="sst") == pipe(texts, task="sst")
    np.testing.assert_array_equal(pipe.embed(COLUMNS[form](texts)), pipe.embed(texts))


def test_columns_of_pairs_are_many_pairs(pipe: MultiTaskPipeline) -> None:
    expected = pipe(PAIRS, task="quora")
    assert pipe(np.array(PAIRS), task="quora") == expected
    assert pipe(pd.Series(PAIRS), task="quora") == expected
    rows = Rows.from_list([{"text": first, "text_pair": second} for first, second in PAIRS])
    assert pipe(rows, task="quora") == expected
    assert list(pipe(rows.to_iterable_dataset(), task="quora")) == expected


def test_what_has_no_length_is_read_as_it_goes(pipe: MultiTaskPipeline) -> None:
    texts = sentences(5)
    results = pipe(map(str.upper, texts), task="sst")
    assert isinstance(results, Iterator)
    assert list(results) == pipe(texts, task="sst")
    assert pipe.embed(iter(texts)).shape == (5, 16)


def test_a_numpy_string_is_one_text(pipe: MultiTaskPipeline) -> None:
    for text in (np.array(["a cat"])[0], np.array("a cat")):
        assert pipe(text, task="sst") == pipe("a cat", task="sst")
        np.testing.assert_array_equal(pipe.embed(text), pipe.embed("a cat"))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series(["a cat", None]), "input 2: give a text"),
        (np.array([1.0, 2.0]), "input 1: give a text, .*, not 1.0"),
        (pd.DataFrame({"text": ["a cat"]}), "input 1: give a text"),
        (b"a cat", "input 1: give a text"),
    ],
)
def test_columns_of_what_is_no_text_are_refused(pipe: MultiTaskPipeline, column: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(column, task="sst")
    with pytest.raises(ValueError, match=message.split(":")[0]):
        pipe.embed(column)


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_a_blank_text_is_predicted_like_any_other(pipe: MultiTaskPipeline, blank: str) -> None:
    together = pipe(["a cat", blank, "a dog"], task="sst", top_k=None)
    alone = logits_alone(pipe, "sst", blank).softmax(0)  # of [CLS] [SEP]
    assert {entry["label_id"]: entry["score"] for entry in together[1]} == pytest.approx(
        dict(enumerate(alone.tolist())), abs=1e-5
    )
    assert together[::2] == pipe(["a cat", "a dog"], task="sst", top_k=None)
    for task in ("sts", "close"):
        score = logits_alone(pipe, task, "a cat", blank).item()
        assert pipe(("a cat", blank), task=task) == {"score": pytest.approx(score, abs=1e-4)}
    expected = pipe.model(**pipe.tokenizer(blank, return_tensors="pt")).pooler_output[0].detach()
    np.testing.assert_allclose(pipe.embed(["a cat", blank])[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_blank_text_is_predicted_without_special_tokens_too(kind: str, tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    pipe = MultiTaskPipeline(tiny_model(kind=kind), tokenizer)
    assert tokenizer("")["input_ids"] == []
    # The one token that there is for it.
    expected = pipe("[UNK]", task="sst")
    assert pipe(["a cat", ""], task="sst")[1]["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert np.isfinite(pipe.embed("")).all()


@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [
        ("stss", "a", "task 'stss' is unknown; did you mean 'sts'"),
        ("sst", ["a cat", None], "input 2: give a text"),
        ("sst", (), "input 1: give a text"),
        ("sst", [("a", "b", "c")], "not 3 texts; many texts are a list"),
        ("quora", [("a", "b"), ("a", None)], "input 2: give a text, a pair"),
        ("quora", ["a", "b"], r"input 1: task 'quora' reads a pair of texts: \(text, text\); a list, .* is two inputs"),
        ("sst", ("a", "b"), r"input 1: task 'sst' reads one text, not a pair; many texts are a list, \[text, text\]"),
        ("sst", [3], "input 1: give a text"),
        (["sst", "quora"], "a", "task 'quora' reads a pair"),
        ("sst", {"text": "a", "label": 1}, "mapping with text and text_pair"),
    ],
)
def test_what_cannot_be_predicted_is_refused(pipe: MultiTaskPipeline, task: Any, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(inputs, task=task)


@pytest.mark.parametrize(
    "mapping",
    [
        {"text": "a", "candidates": "b"},
        {"text": "a", "candidates": None},
        {"text": "a", "text_pair": ["b", "c"]},
        {"text": ["a", "b"]},
        {"question": "a"},
        {"question": "a", "context": None},
        {"text": "a", "context": "b"},
    ],
)
def test_a_mapping_is_not_taken_for_what_its_names_do_not_say(pipe: MultiTaskPipeline, mapping: Any) -> None:
    with pytest.raises(ValueError, match=r"input 2: give a text, a pair .*, or a mapping with text and text_pair"):
        pipe(["a cat", mapping])


def test_the_number_of_a_bad_input_counts_from_the_start_of_a_stream(pipe: MultiTaskPipeline) -> None:
    with pytest.raises(ValueError, match="input 71: give a text"):
        list(pipe((text for text in ["a cat"] * 70 + [None]), task="sst", batch_size=2))


def test_a_model_of_pairs_only_says_so_of_a_text(tokenizer: Any) -> None:
    pipe = MultiTaskPipeline(tiny_model({"quora": TASKS["quora"]}), tokenizer)
    with pytest.raises(ValueError, match=r"no task reads this; task 'quora' reads a pair of texts: \(text, text\)"):
        pipe("a cat")


def test_unknown_arguments_and_other_models_are_refused(pipe: MultiTaskPipeline, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown argument 'topk'; known: .*top_k"):
        pipe("a cat", topk=2)
    with pytest.raises(ValueError, match="is a bert model without tasks"):
        MultiTaskPipeline(AutoModel.from_config(encoder_config()), tokenizer)


def test_longer_inputs_are_cut(pipe: MultiTaskPipeline) -> None:
    long = " ".join(["a cat"] * 100)
    assert pipe(long, task="sst") == pipe(" ".join(["a cat"] * 31), task="sst")  # 64 tokens with [CLS] and [SEP]
    assert pipe(long, task="sst", max_length=4) == pipe("a cat", task="sst")


def test_embeddings_are_the_pooled_states_in_the_texts_order(pipe: MultiTaskPipeline) -> None:
    texts = sentences(13)
    model, tokenizer = pipe.model, pipe.tokenizer
    expected = [model(**tokenizer(text, return_tensors="pt")).pooler_output[0].detach().numpy() for text in texts]
    for batch_size in (1, 5, 64):
        np.testing.assert_allclose(pipe.embed(texts, batch_size), expected, rtol=1e-4, atol=1e-5)
    assert pipe.embed([]).shape == (0, 16)


def test_bound_to_a_classification_it_is_a_text_classification_pipeline(pipe: MultiTaskPipeline) -> None:
    bound = pipe.for_task("quora")
    assert bound.task == "text-classification"
    assert bound(PAIRS, truncation=True) == pipe(PAIRS, task="quora")
    assert pipe.task == "multi-task"
    assert "sst" in pipe(PAIRS[0])
    assert pipe.for_task("sts").task == "multi-task"
    with pytest.raises(ValueError, match="'quor' is unknown"):
        pipe.for_task("quor")


def test_evaluates_evaluator_takes_a_classification(pipe: MultiTaskPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    # evaluate 0.4.6 asks whether a pipeline is a TFPreTrainedModel, which transformers 5 no longer has.
    theirs = import_module("evaluate.evaluator.base").transformers
    monkeypatch.setattr(theirs, "TFPreTrainedModel", type("TFPreTrainedModel", (), {}), raising=False)
    from evaluate import evaluator

    firsts, seconds = map(list, zip(*PAIRS, strict=True))
    labels = [0, 1] * 5 + [0]
    predicted = [row["label_id"] for row in pipe(PAIRS, task="quora")]
    results = evaluator("text-classification").compute(
        pipe.for_task("quora"),
        Rows.from_dict({"a": firsts, "b": seconds, "label": labels}),
        metric=Accuracy(keep_in_memory=True),
        input_column="a",
        second_input_column="b",
        label_mapping={"0": 0, "1": 1},
    )
    assert results["accuracy"] == pytest.approx(np.mean(np.equal(predicted, labels)))


def test_a_pipeline_without_packing_gives_the_same(pipe: MultiTaskPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pipe(PAIRS)
    pipe.model.backbone.config._attn_implementation = "eager"
    assert not pipe.model.can_pack
    for row, other in zip(pipe(PAIRS), packed, strict=True):
        for task in ("quora", "sts", "nli", "close"):
            assert row[task]["score"] == pytest.approx(other[task]["score"], abs=1e-4)


def test_tokens_beyond_the_models_vocabulary_are_refused(pipe: MultiTaskPipeline) -> None:
    pipe.tokenizer.add_tokens(["zebra", *(f"word{number}" for number in range(30))])
    assert pipe(["a cat"], task="sst")
    with pytest.raises(ValueError, match=r"the tokenizer gives tokens beyond the model's vocabulary of 40"):
        pipe(["a word29"], task="sst")


def test_a_second_argument_is_no_second_text(pipe: MultiTaskPipeline) -> None:
    with pytest.raises(ValueError, match=r"two texts that belong together are a pair, pipe\(\(text, text\)\)"):
        pipe("a dog", "a cat")


@pytest.mark.parametrize("text", ["\ud800", "a \udc00 cat"])
def test_half_a_character_is_refused_with_the_inputs_number(pipe: MultiTaskPipeline, text: str) -> None:
    for call in (lambda texts: pipe(texts, task="sst"), pipe.embed):
        with pytest.raises(ValueError, match=r"input 2: a text has .*, one half of a character"):
            call(["a cat", text])
    with pytest.raises(ValueError, match="input 1: a text has"):
        pipe(("a cat", text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length must be a whole number from 4 on, not 0"),
        ({"max_length": -3}, "max_length must be"),
        ({"max_length": 2}, "max_length must be"),
        ({"top_k": 0}, "top_k must be a whole number from 1 on, not 0"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_k": 1.5}, "top_k must be"),
        ({"batch_size": -1}, "batch_size must be a whole number from 1 on, not -1"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"task": []}, "task must be a name or several, not none"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    pipe: MultiTaskPipeline, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(["a cat"], **arguments)


def test_a_text_that_is_too_long_and_must_not_be_cut_is_refused(pipe: MultiTaskPipeline) -> None:
    with pytest.raises(ValueError, match="a text has 102 tokens, and the model takes 64: leave out truncation"):
        pipe(["cat " * 100], task="sst", truncation=False)
