import math
import re
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from hf_multitask import MultiTaskCollator, TaskConfig
from hf_multitask.data.batch import select_rows
from hf_multitask.model.words import Words, tokenize_words
from tests.conftest import TASKS, tiny_model
from tests.model.heads import naive_mlp

H = 6
LABELS = ["B-animal", "I-animal", "O", "B-place"]
NER = {"type": "token_classification", "labels": LABELS}
POS = {"type": "token_classification", "labels": ["DET", "NOUN", "OTHER"]}
TASK: Any = TaskConfig(**NER)
ROWS = [["the", "big", "cat", "sat"], ["dog"], ["a", "film-plot", "was", "not", "good"]]
TAGS = [[2, 0, 1, 2], [0], [2, 3, 2, 2, 0]]


def cut_off(*shape: int) -> torch.Tensor:
    """The outputs of words without a token."""
    head = TASK.build_head(H)
    return head(torch.randn(1, 1, H), torch.ones(1, 1), torch.tensor([[-1]]))[0, 0].detach().expand(*shape, len(LABELS))


def test_the_table_says_the_scheme() -> None:
    assert TASK.scheme == "BIO"
    assert TASK.types == ["animal", "place"]
    assert TASK.outside == 2
    assert TaskConfig(**POS).scheme == "none"
    assert TaskConfig("token_classification", num_labels=3).labels == ["0", "1", "2"]
    assert TaskConfig.from_dict(TASK.to_dict()) == TASK
    with pytest.raises(ValueError, match=r"scheme 'BOI' is unknown; known: auto, none, BIO, BIOES"):
        TaskConfig(**NER, scheme="BOI")
    with pytest.raises(
        ValueError, match="texts must be 1, the number of texts in a row of token_classification, not 2"
    ):
        TaskConfig(**NER, texts=2)


# ---- The head ----


def test_the_head_is_hidden_layer_relu_output_layer_at_each_words_first_token() -> None:
    head = TASK.build_head(H).eval()
    states, mask = torch.randn(2, 5, H), torch.ones(2, 5)
    outputs = head(states, mask, torch.tensor([[1, 3], [2, -1]]))
    assert outputs.shape == (2, 2, 4)
    for row, word, token in ((0, 0, 1), (0, 1, 3), (1, 0, 2)):
        torch.testing.assert_close(outputs[row, word], naive_mlp(head, states[row, token : token + 1])[0])
    assert outputs[1, 1].argmax() == TASK.outside
    assert outputs[1, 1].softmax(-1).tolist() == [0, 0, 1, 0]


def test_without_words_each_token_has_logits_and_padding_none() -> None:
    head = TASK.build_head(H).eval()
    states, mask = torch.randn(2, 3, H), torch.tensor([[1, 1, 1], [1, 1, 0]])
    outputs = head(states, mask)
    torch.testing.assert_close(outputs[0], naive_mlp(head, states[0]))
    assert TASK.tag_ids(outputs)[1, 2] == TASK.outside
    assert len(TASK.each_output(outputs)) == 5


def test_a_word_that_was_cut_off_is_no_tag_where_there_is_no_outside() -> None:
    pos: Any = TaskConfig(**POS)
    outputs = pos.build_head(H)(torch.randn(1, 2, H), torch.ones(1, 2), torch.tensor([[0, -1]]))
    assert pos.tag_ids(outputs)[0, 1] == -1
    assert pos.tag_ids(outputs)[0, 0] >= 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_word_that_was_cut_off_is_known_in_half_precision(dtype: torch.dtype) -> None:
    head = TASK.build_head(H).to(dtype)
    outputs = head(torch.randn(1, 2, H, dtype=dtype), torch.ones(1, 2), torch.tensor([[1, -1]]))
    assert TASK.label_counts(outputs, torch.tensor([[0, 0]])).tolist() == [1]


# ---- Loss and divergence ----


def test_a_rows_loss_is_the_mean_over_its_words_that_have_a_token() -> None:
    outputs = torch.randn(2, 3, 4)
    outputs[0, 2] = cut_off()
    labels = torch.tensor([[0, 3, 1], [2, -100, -100]])
    first = F.cross_entropy(outputs[0, :2].double(), torch.tensor([0, 3]))
    second = F.cross_entropy(outputs[1, :1].double(), torch.tensor([2]))
    torch.testing.assert_close(TASK.losses(outputs, labels).double(), torch.stack([first, second]))
    assert TASK.label_counts(outputs, labels).tolist() == [2, 1]
    assert TASK.losses(outputs.bfloat16(), labels).dtype == torch.float32


def test_words_that_were_cut_off_and_padding_have_no_gradient_and_a_row_of_nothing_else_no_loss() -> None:
    outputs = torch.randn(2, 2, 4)
    outputs[0, 1] = cut_off()
    outputs[1] = cut_off(2)
    outputs.requires_grad_()
    losses = TASK.losses(outputs, torch.tensor([[0, 0], [1, -100]]))
    losses.sum().backward()
    assert losses[1] == 0
    assert not outputs.grad[0, 1].any()
    assert not outputs.grad[1].any()


def test_outputs_by_token_are_no_match_for_labels_by_word() -> None:
    with pytest.raises(
        ValueError, match=re.escape("outputs (1, 5, 4) of a token_classification do not fit labels (1, 3)")
    ):
        TASK.losses(torch.randn(1, 5, 4), torch.zeros(1, 3, dtype=torch.long))


def test_a_rows_divergence_is_the_mean_symmetric_kl_of_its_words() -> None:
    outputs, others = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    outputs[0, 2] = others[0, 2] = cut_off()
    p, q = (Categorical(logits=z.double()) for z in (outputs, others))
    by_word = kl_divergence(p, q) + kl_divergence(q, p)
    expected = torch.stack([by_word[0, :2].mean(), by_word[1].mean()])
    torch.testing.assert_close(TASK.divergences(outputs, others).double(), expected, rtol=1e-4, atol=1e-6)
    same = outputs.clone().requires_grad_()
    still = TASK.divergences(same, outputs)
    still.sum().backward()
    assert not still.any()
    assert not same.grad.any()


# ---- In the model ----


@pytest.fixture
def batch_of(tokenizer: Any):
    """Rows of `ner`, of which the last is cut after its third token, beside one of `sst`."""

    def make(packing: bool, rows: list[int] | None = None) -> dict[str, Any]:
        tokens = tokenize_words(tokenizer, ROWS, 6)
        ner = [
            {"task": "ner", "label": tags, **{key: values[number] for key, values in tokens.items()}}
            for number, tags in enumerate(TAGS)
        ]
        sst = {"task": "sst", "input_ids": tokenizer("a good film")["input_ids"], "label": 1}
        configs = {"ner": TASK, "sst": TaskConfig.from_dict(TASKS["sst"])}
        chosen = ner if rows is None else [ner[row] for row in rows]
        return MultiTaskCollator(tokenizer, configs, packing)([*chosen, sst])

    return make


def test_a_batch_has_words_and_tags_of_equal_shape(batch_of) -> None:
    batch = batch_of(False)
    assert batch["head_inputs"]["ner"]["word_starts"].tolist() == [
        [1, 2, 3, 4, -1],
        [1, -1, -1, -1, -1],
        [1, 2, -1, -1, -1],
    ]
    assert batch["labels"]["ner"].tolist() == [[2, 0, 1, 2, -100], [0, *[-100] * 4], [2, 3, 2, 2, 0]]


def test_packed_equals_padded_and_the_loss_is_a_mean_over_words(batch_of) -> None:
    model = tiny_model({"ner": NER, "sst": TASKS["sst"]})
    gradients, outputs = [], []
    for packing in (True, False):
        model.zero_grad()
        outputs.append(model(**batch_of(packing)))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name in ("ner", "sst"):
        torch.testing.assert_close(outputs[0].logits[name], outputs[1].logits[name], rtol=1e-4, atol=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    # Of row 3, three words were cut off.
    logits = outputs[0].logits["ner"]
    words = torch.cat([logits[0, :4], logits[1, :1], logits[2, :2]])
    expected = F.cross_entropy(words, torch.tensor([2, 0, 1, 2, 0, 2, 3]))
    torch.testing.assert_close(outputs[0].losses["ner"], expected)


@pytest.mark.parametrize("packing", [True, False])
def test_a_part_of_a_batch_has_its_rows_words(batch_of, packing: bool) -> None:
    model = tiny_model({"ner": NER, "sst": TASKS["sst"]})
    part = select_rows(batch_of(packing), {"ner": torch.tensor([1, 2])}, model.config.tasks)
    expected = model(**batch_of(packing, [1, 2]))
    found = model(**part)
    torch.testing.assert_close(found.logits["ner"], expected.logits["ner"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.losses["ner"], expected.losses["ner"], rtol=1e-4, atol=1e-5)


def test_one_task_of_a_model_is_called_with_words_or_without() -> None:
    model = tiny_model({"ner": NER})
    ids = torch.arange(5, 15).reshape(2, 5)
    by_token = model(ids, task="ner").logits
    assert by_token.shape == (2, 5, 4)
    starts = torch.tensor([[1, 3], [2, -1]])
    by_word = model(ids, task="ner", head_inputs={"word_starts": starts}, labels=torch.tensor([[0, 1], [2, -100]]))
    torch.testing.assert_close(by_word.logits[0], by_token[0, [1, 3]])
    assert by_word.loss.isfinite()


# ---- What is said ----


def logits_of(tags: list[str], sure: float = math.log(7)) -> torch.Tensor:
    """Logits [1, W, C] whose likeliest tags are these, each with probability 7 in 10."""
    outputs = torch.zeros(1, len(tags), len(LABELS))
    for place, tag in enumerate(tags):
        outputs[0, place, LABELS.index(tag)] = sure
    return outputs


def test_predictions_are_entities_with_their_place_in_the_text() -> None:
    words = Words.of_text("My big cat, in Rome")
    (said,) = TASK.predictions_for([{"tokens": words}], logits_of(["O", "B-animal", "I-animal", "O", "O", "B-place"]))
    assert said == [
        {"entity_group": "animal", "score": pytest.approx(0.7), "word": "big cat", "start": 3, "end": 10},
        {"entity_group": "place", "score": pytest.approx(0.7), "word": "Rome", "start": 15, "end": 19},
    ]
    assert TASK.predictions(logits_of(["O", "B-animal"]))[0] == [
        {"entity_group": "animal", "score": pytest.approx(0.7), "start": 1, "end": 2}
    ]


def test_tags_without_a_scheme_are_said_word_by_word() -> None:
    pos: Any = TaskConfig(**POS)
    outputs = torch.tensor([[[3.0, 0, 0], [0, 3.0, 0], [0, 3.0, 0]]])
    (said,) = pos.predictions_for([{"tokens": Words.of_text("the cat film")}], outputs)
    assert [(entity["entity_group"], entity["word"]) for entity in said] == [
        ("DET", "the"),
        ("NOUN", "cat"),
        ("NOUN", "film"),
    ]
