from typing import Any

import pytest
import torch
from transformers import XLNetConfig

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from tests.conftest import TASKS, tiny_model
from tests.model.batches import KINDS

IDS = torch.arange(5, 25).reshape(4, 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": 1}, "forward takes no 'label'; did you mean 'labels'"),
        ({"output_hidden_state": True}, "no 'output_hidden_state'; did you mean 'output_hidden_states'"),
        ({"input_ids_2": IDS}, "no 'input_ids_2'; known: .*input_ids"),
        ({"zzz": None}, "no 'zzz'; known: .*input_ids"),
    ],
)
def test_a_keyword_that_neither_model_nor_encoder_takes_is_refused(
    kind: str, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        tiny_model(kind=kind)(IDS, task="sst", **wrong)


def test_what_one_encoder_takes_another_refuses() -> None:
    extra = {"encoder_attention_mask": torch.ones(4, 5)}
    tiny_model()(IDS, **extra)
    with pytest.raises(TypeError, match="forward takes no 'encoder_attention_mask'"):
        tiny_model(kind="distilbert")(IDS, **extra)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [
        {"num_items_in_batch": torch.tensor(4)},  # of Trainer
        {"rows": {"sst": [0, 1, 2, 3]}},  # of our collator
        {
            "output_attentions": None,
            "output_hidden_states": None,
            "return_dict": None,
            "inputs_embeds": None,
        },  # of PEFT
        {"return_dict": True},  # of sentence-transformers
        {"position_ids": torch.arange(5).expand(4, 5)},
    ],
)
def test_what_callers_pass_is_taken_and_changes_nothing(kind: str, more: dict[str, Any]) -> None:
    model = tiny_model(kind=kind)
    if kind == "roberta" and "position_ids" in more:
        more = {"position_ids": more["position_ids"] + 1}
    assert torch.equal(model(IDS, task="sst", **more).logits, model(IDS, task="sst").logits)


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_token_types_which_tokenizers_give_to_any_model_are_left_out_where_an_encoder_has_none(kind: str) -> None:
    model = tiny_model(kind=kind)
    output = model(IDS, token_type_ids=torch.ones_like(IDS))
    assert torch.equal(output.pooler_output, model(IDS).pooler_output)


def test_positions_that_an_encoder_does_not_read_are_refused() -> None:
    encoder = XLNetConfig(vocab_size=40, d_model=16, n_layer=1, n_head=2, d_inner=32)
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=encoder, tasks=TASKS)).eval()
    with pytest.raises(ValueError, match="a xlnet backbone takes no position_ids"):
        model(IDS, position_ids=torch.arange(5).expand(4, 5))
    assert model(IDS, inputs_embeds=None).pooler_output.shape == (4, 16)


def test_labels_without_a_task_are_refused() -> None:
    with pytest.raises(ValueError, match="labels need a task"):
        tiny_model()(IDS, labels=torch.zeros(4).long())


def test_a_compiled_call_asks_for_hidden_states_in_one_graph() -> None:
    model = tiny_model()
    model.config.output_hidden_states = True
    # The first call installs transformers' hooks, which a compiler cannot.
    expected = model(IDS, task="sst").hidden_states
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS, task="sst").hidden_states, expected)
