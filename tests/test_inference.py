from typing import Any

import numpy as np
import pytest
import torch

from hf_multitask.inference import encode, predict
from tests.conftest import sentences, tiny_model

PAIRS = list(zip(sentences(11, 1), sentences(11, 2), strict=True))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_predictions_are_those_of_each_row_alone_whatever_the_batch(kind: str, tokenizer: Any) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = tiny_model(kind=kind)
    alone = [predict(model, tokenizer, "quora", [pair])[0] for pair in PAIRS]
    for batch_size in (1, 4, 64):
        together = predict(model, tokenizer, "quora", PAIRS, batch_size)
        assert [row["label_id"] for row in together] == [row["label_id"] for row in alone]
        assert [row["score"] for row in together] == pytest.approx([row["score"] for row in alone], abs=1e-5)


def test_a_class_comes_with_its_name_and_probability(tokenizer: Any) -> None:
    model = tiny_model({"mood": {"type": "single_label_classification", "labels": ["bad", "so-so", "good"]}})
    (row,) = predict(model, tokenizer, "mood", ["a lovely film"])
    logits = model(**tokenizer("a lovely film", return_tensors="pt"), task="mood").logits[0]
    assert row["label_id"] == int(logits.argmax())
    assert row["label"] == ["bad", "so-so", "good"][row["label_id"]]
    assert row["score"] == pytest.approx(torch.softmax(logits, 0).max().item(), abs=1e-6)


def test_a_score_is_within_the_tasks_range(tokenizer: Any) -> None:
    rows = predict(tiny_model(), tokenizer, "sts", PAIRS)
    assert all(0 <= row["score"] <= 5 for row in rows)


@pytest.mark.parametrize(
    ("task", "texts", "message"),
    [
        ("stss", ["a"], "task 'stss' is unknown; did you mean 'sts'"),
        ("sst", ["a cat", " "], "1 text\\(s\\) cannot be read, the first row 2: column 'sentence' is blank"),
        ("quora", [("a", "b"), ("a", None)], "row 2: column 'sentence2' is missing"),
        ("sst", [], "there are no texts"),
    ],
)
def test_what_cannot_be_predicted_is_refused(tokenizer: Any, task: str, texts: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(tiny_model(), tokenizer, task, texts)


def test_embeddings_are_the_pooled_states_in_the_texts_order(tokenizer: Any) -> None:
    model, texts = tiny_model(), sentences(13)
    expected = [model(**tokenizer(text, return_tensors="pt")).pooler_output[0].detach().numpy() for text in texts]
    for batch_size in (1, 5, 64):
        np.testing.assert_allclose(encode(model, tokenizer, texts, batch_size), expected, rtol=1e-4, atol=1e-5)
    assert encode(model, tokenizer, []).shape == (0, 16)
