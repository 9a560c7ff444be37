"""Tuples, hidden states and attentions, asked for in a call or in a config, as of transformers' own models."""

from typing import Any

import pytest
import torch
from transformers import BertModel
from transformers.modeling_outputs import ModelOutput

from hf_multitask import MultiTaskBertModel
from hf_multitask.model.packing import lay_out
from tests.conftest import encoder_config, tiny_model
from tests.model.batches import KINDS, batch


def inputs_of(model: MultiTaskBertModel, how: str) -> dict[str, Any]:
    """The same sequences, read by no task, by one with labels, or by several with labels."""
    inputs = batch({"sst": 2, "quora": 2} if how == "tasks" else {"quora": 3}, model)
    rows, labels = inputs.pop("tasks"), inputs.pop("labels")
    if how == "task":
        return {**inputs, "task": "quora", "labels": labels["quora"]}
    return {**inputs, "tasks": rows, "labels": labels} if how == "tasks" else inputs


def assert_equal(first: Any, second: Any) -> None:
    """Equal values within tuples and mappings of any depth."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        assert_equal(tuple(first.values()), tuple(second.values()))
    else:
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("how", ["none", "task", "tasks"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tuple_holds_what_the_output_by_name_holds(kind: str, how: str) -> None:
    model = tiny_model(kind=kind)
    model.set_attn_implementation("eager")
    inputs = inputs_of(model, how) | {"output_hidden_states": True, "output_attentions": True}
    output = model(**inputs)
    assert isinstance(output, ModelOutput)
    values = tuple(value for value in output.values() if value is not None)
    assert_equal(model(**inputs, return_dict=False), values)
    model.config.return_dict = False
    assert_equal(model(**inputs), values)
    # PEFT passes None, which leaves it to the config.
    assert_equal(model(**inputs, return_dict=None), values)
    assert isinstance(model(**inputs, return_dict=True), ModelOutput)
    model.config.encoder_config.return_dict = False
    assert_equal(model(**inputs), values)


def test_a_saved_config_that_asks_for_tuples_does_so_after_loading(tmp_path: Any) -> None:
    model = tiny_model()
    model.config.return_dict = False
    model.save_pretrained(tmp_path)
    assert isinstance(MultiTaskBertModel.from_pretrained(tmp_path)(torch.ones(2, 3).long(), task="sst"), tuple)


@pytest.mark.parametrize("where", ["call", "config", "encoder"])
@pytest.mark.parametrize("how", ["none", "task", "tasks"])
def test_hidden_states_and_attentions_are_asked_for_in_a_call_or_in_a_config(how: str, where: str) -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    inputs = inputs_of(model, how)
    asked = {"output_hidden_states": True, "output_attentions": True}
    plain = model(**inputs)
    assert plain.hidden_states is None
    assert plain.attentions is None
    if where == "call":
        output = model(**inputs, **asked)
    else:
        config = model.config if where == "config" else model.config.encoder_config
        for name in asked:
            setattr(config, name, True)
        output = model(**inputs)
        # What a call says counts for more than a config.
        assert model(**inputs, output_hidden_states=False).hidden_states is None
        assert model(**inputs, output_hidden_states=None).hidden_states is not None
    rows, length = inputs["input_ids"].shape
    assert [tuple(state.shape) for state in output.hidden_states] == [(rows, length, 16)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(rows, 2, length, length)] * 2
    real = inputs["attention_mask"][:, None, None, :]
    sums = torch.stack([(weights * real).sum(-1) for weights in output.attentions])
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_loading_takes_what_is_asked_for_as_bert_does(tmp_path: Any) -> None:
    tiny_model().save_pretrained(tmp_path / "ours")
    BertModel(encoder_config()).save_pretrained(tmp_path / "bert")
    ids = torch.randint(5, 40, (2, 6))
    options = {"output_hidden_states": True, "output_attentions": True, "attn_implementation": "eager"}
    ours = MultiTaskBertModel.from_pretrained(tmp_path / "ours", **options)(ids, task="sst")
    bert = BertModel.from_pretrained(tmp_path / "bert", **options)(ids)
    for name in ("hidden_states", "attentions"):
        assert [value.shape for value in ours[name]] == [value.shape for value in bert[name]]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_of_a_packed_row_stand_by_sequence(kind: str, tokenizer: Any) -> None:
    model = tiny_model(kind=kind)
    sequences = [{"input_ids": torch.randint(5, 40, (length,)).tolist()} for length in (3, 9, 20, 1)]
    packed, padded = (lay_out(sequences, tokenizer, packed) for packed in (True, False))
    real = padded["attention_mask"].bool()
    model.config.output_hidden_states = True
    outputs = [model(**inputs).hidden_states for inputs in (packed, padded)]
    assert len(outputs[0]) == len(outputs[1]) == 3
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one[real], other[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["config", "encoder"])
def test_a_config_that_asks_for_attentions_has_packed_rows_padded(where: str, tokenizer: Any) -> None:
    model = tiny_model()
    sequences = [{"input_ids": torch.randint(5, 40, (length,)).tolist()} for length in (3, 9, 1)]
    expected = model(**lay_out(sequences, tokenizer, packed=True)).pooler_output
    model.set_attn_implementation("eager")
    (model.config if where == "config" else model.config.encoder_config).output_attentions = True
    output = model(**lay_out(sequences, tokenizer, packed=True))
    assert output.attentions[0].shape == (3, 2, 9, 9)
    torch.testing.assert_close(output.pooler_output, expected, rtol=1e-4, atol=1e-5)
