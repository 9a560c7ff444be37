"""The pipeline over tasks that read words."""

from typing import Any

import pytest
import torch
from transformers import pipeline

from hf_multitask import MultiTaskPipeline
from hf_multitask.model.words import Words, tokenize_words
from tests.conftest import TASKS, sentences, tiny_model

NER = {"type": "token_classification", "labels": ["O", "B-animal", "I-animal", "B-place", "I-place"]}
POS = {"type": "token_classification", "labels": ["DET", "NOUN", "OTHER"]}
TEXT = "The cat, a big dog  sat\non the mat."


@pytest.fixture
def pipe(tokenizer: Any) -> MultiTaskPipeline:
    model = tiny_model({"ner": NER, **TASKS, "pos": POS})
    # Chance finds few entities.
    model.heads["ner"].out_proj.bias.data[0] = -3
    return pipeline("multi-task", model=model, tokenizer=tokenizer)


def about(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, but for rounding."""
    return [{**entity, "score": pytest.approx(entity["score"], abs=1e-5)} for entity in said]


def expected(pipe: MultiTaskPipeline, name: str, words: Words) -> list[dict[str, Any]]:
    """What the model says of one text, by itself."""
    tokens = tokenize_words(pipe.tokenizer, [words.words], 64)
    starts = {"word_starts": torch.tensor(tokens["word_starts"])}
    logits = pipe.model(torch.tensor(tokens["input_ids"]), task=name, head_inputs=starts).logits.detach()
    (said,) = pipe.model.config.tasks[name].predictions_for([{"tokens": words}], logits)
    return about(said)


@pytest.mark.parametrize("name", ["ner", "pos"])
def test_a_texts_entities_are_those_of_the_model_and_stand_in_the_text(pipe: MultiTaskPipeline, name: str) -> None:
    said = pipe(TEXT, task=name)
    assert said == expected(pipe, name, Words.of_text(TEXT))
    assert said
    for entity in said:
        assert entity["word"] == TEXT[entity["start"] : entity["end"]]
        assert list(entity) == ["entity_group", "score", "word", "start", "end"]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_many_texts_are_said_in_their_order_in_batches_of_any_size(pipe: MultiTaskPipeline, batch_size: int) -> None:
    texts = [*sentences(20), "", "the, cat", "   ", TEXT]
    for text, said in zip(texts, pipe(texts, task="ner", batch_size=batch_size), strict=True):
        assert said == expected(pipe, "ner", Words.of_text(text))


def test_a_text_goes_through_the_encoder_once_for_all_tasks(pipe: MultiTaskPipeline) -> None:
    seen: list[int] = []
    hook = pipe.model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["packing"]["mask"])), with_kwargs=True
    )
    said = pipe([TEXT, "a good film"])
    hook.remove()
    assert seen == [2]
    assert list(said[0]) == ["ner", "sst", "pos"]
    assert said[1]["ner"] == about(pipe("a good film", task="ner"))
    assert said[1]["sst"]["score"] == pytest.approx(pipe("a good film", task="sst")["score"], abs=1e-5)


def test_words_that_come_apart_are_read_as_they_are(pipe: MultiTaskPipeline) -> None:
    words = ["the", "cat-dog", "sat"]
    said = pipe({"tokens": words}, task="pos")
    assert said == expected(pipe, "pos", Words.of_list(words))
    assert [entity["word"] for entity in said] == words
    assert [pipe([{"tokens": words}, "a cat"])[0]["sst"]] == about([pipe("the cat-dog sat", task="sst")])


def test_both_texts_of_a_pair_are_read(pipe: MultiTaskPipeline) -> None:
    said = pipe(("the cat", "a dog sat"))
    assert said["pos"] == [about(pipe("the cat", task="pos")), about(pipe("a dog sat", task="pos"))]


def test_words_that_are_cut_off_are_in_no_entity(pipe: MultiTaskPipeline) -> None:
    said = pipe("the cat sat on a mat", task="pos", max_length=4)
    assert [entity["word"] for entity in said] == ["the", "cat"]


@pytest.mark.parametrize("words", ["a b", ["a", ""], ["a", 5], None])
def test_words_that_are_none_are_refused(pipe: MultiTaskPipeline, words: Any) -> None:
    with pytest.raises(ValueError, match=r"input 2: tokens must be a list of words, none of them blank, not "):
        pipe(["a", {"tokens": words}], task="ner")


def test_a_backbone_that_cannot_pack_says_the_same(pipe: MultiTaskPipeline, tokenizer: Any) -> None:
    packed = pipe([TEXT, "a cat"], task="ner")
    pipe.model.set_attn_implementation("eager")
    for one, other in zip(packed, pipe([TEXT, "a cat"], task="ner"), strict=True):
        assert other == about(one)


def test_for_one_task_it_is_what_transformers_calls_a_token_classification(pipe: MultiTaskPipeline) -> None:
    bound = pipe.for_task("ner")
    assert bound.task == "token-classification"
    assert bound.model.config.id2label[1] == "B-animal"
    assert bound(TEXT) == about(pipe(TEXT, task="ner"))
