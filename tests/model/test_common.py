"""What transformers' common tests (tests/test_modeling_common.py) ask of every model of theirs.

Tested elsewhere: saving and loading to the last bit, autocast, frozen backbones, torch.export (test_modeling_mtbert);
tuples, hidden states, attentions (test_outputs); compiling (test_packing); weights that are absent, damaged or of other
shapes, shards, half precision, devices (tests/hub/test_loading); overrides (test_overrides); the configuration
(test_common_configuration).

What cannot apply: generation, caches and output embeddings (no decoder); tied weights (there are none); tests of
`problem_type` (tasks have types of their own); pruning of attention heads, TorchScript and resizing of positions
(transformers 5 has none for BERT); plans of tensor parallelism, several GPUs and flash attention (they need GPUs).
"""

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel

from hf_multitask import MultiTaskBertModel
from hf_multitask.model.packing import lay_out
from tests.conftest import CHECKPOINTING, tiny_model, without_dropout
from tests.model.batches import ALL_TASKS, KINDS, batch

ROWS = {"sst": 3, "quora": 2, "sts": 2, "nli": 2, "close": 1, "paper_sts": 2}


def assert_same(first: Any, second: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Equal logits of every task."""
    inputs = batch(ROWS, first)
    expected = first(**inputs).logits
    torch.testing.assert_close(second(**inputs).logits, expected, rtol=rtol, atol=atol)


# ---- Copies ----


def through_pickle(model: MultiTaskBertModel) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_torch(model: MultiTaskBertModel) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [copy.deepcopy, through_pickle, through_torch])
def test_a_copy_is_the_same_and_another(way: Callable, kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    # Not after states were asked for: the hooks that transformers then installs cannot be pickled, BERT's neither.
    other = way(model)
    assert_same(model, other)
    assert other.config.encoder_config is other.backbone.config
    with torch.no_grad():
        other.get_input_embeddings().weight.zero_()
    assert model.get_input_embeddings().weight.any()
    assert other(**batch(ROWS, other), output_hidden_states=True).hidden_states[0].shape[-1] == 16


@pytest.mark.parametrize("kind", KINDS)
def test_weights_alone_can_be_given(kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    assert_same(model, MultiTaskBertModel.from_pretrained(None, config=model.config, state_dict=model.state_dict()))
    other = MultiTaskBertModel(model.config).eval()
    other.load_state_dict(model.state_dict())
    assert_same(model, other)


# ---- Files ----


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_holds_every_weight_and_no_other(kind: str, tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS, kind)
    dense = model.heads["sst"].dense
    dense.weight = nn.Parameter(dense.weight.detach().T)
    assert not dense.weight.is_contiguous()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(loaded, model, rtol=1e-6, atol=1e-6)


def test_what_was_saved_in_training_is_loaded_for_prediction(tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS).train()
    model.save_pretrained(tmp_path)
    assert model.training
    loaded = AutoModel.from_pretrained(tmp_path)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert_same(loaded, model.eval())


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, "bfloat16"])
def test_a_dtype_is_that_of_all_weights_and_is_saved(key: str, dtype: Any, tmp_path: Path) -> None:
    tiny_model(ALL_TASKS).save_pretrained(tmp_path / "first")
    model = AutoModel.from_pretrained(tmp_path / "first", **{key: dtype})
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert model.dtype == model.config.dtype == wanted
    model.save_pretrained(tmp_path / "second")
    again = AutoModel.from_pretrained(tmp_path / "second", dtype="auto")
    assert again.dtype == wanted
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_a_model_without_heads_is_an_encoder(tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS)
    model.save_pretrained(tmp_path / "whole")
    encoder = AutoModel.from_pretrained(tmp_path / "whole", tasks={})
    assert not list(encoder.heads.parameters())
    encoder.save_pretrained(tmp_path / "encoder")
    ids = torch.randint(5, 40, (3, 6))
    for one in (encoder, AutoModel.from_pretrained(tmp_path / "encoder")):
        assert torch.equal(one(ids).pooler_output, model(ids).pooler_output)


# ---- Devices, as far as one without a GPU can be asked ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_built_on_the_meta_device(kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    with torch.device("meta"):
        empty = AutoModel.from_config(model.config)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert {name: value.shape for name, value in empty.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    empty.load_state_dict(model.state_dict(), assign=True)
    assert {parameter.device.type for parameter in empty.parameters()} == {"cpu"}


def test_a_device_map_does_not_split_the_encoders_layers() -> None:
    model = tiny_model(ALL_TASKS)
    assert set(model._no_split_modules) == set(model.backbone._no_split_modules) != set()
    parts = tuple(name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules)
    assert len(parts) == 3
    split = []
    for whole in ([], list(model._no_split_modules)):
        places = infer_auto_device_map(model, {"cpu": 24_000, "disk": 10**6}, no_split_module_classes=whole)
        assert set(places.values()) == {"cpu", "disk"}
        split.append([name for name in places if name.startswith(tuple(f"{part}." for part in parts))])
    # Without a word, accelerate would divide a layer.
    assert split[0]
    assert not split[1]


@pytest.mark.parametrize(
    "places",
    [
        {"backbone": "cpu", "heads": "disk"},
        {"backbone.embeddings": "cpu", "backbone.encoder": "disk", "heads": "cpu"},
        {"": "disk"},
    ],
)
def test_weights_that_stay_on_the_disk_are_read_when_they_are_needed(places: dict[str, str], tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk")
    assert "meta" in {parameter.device.type for parameter in loaded.parameters()}
    assert_same(model, loaded)


# ---- Weights ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_initialised(kind: str) -> None:
    config = tiny_model(ALL_TASKS, kind).config
    first, second = (MultiTaskBertModel(config) for _ in range(2))
    for name, value in first.state_dict().items():
        assert value.isfinite().all(), name
        # Norms start at 1 and biases at 0; what is drawn is drawn anew.
        if value.dim() < 2 and name.startswith("backbone"):
            assert value.unique().tolist() in ([0.0], [1.0]), name
        elif name.startswith("backbone") and value.is_floating_point():
            deviation = value[1:].std().item()
            assert 0.004 < deviation < 0.04, name
        assert value.dim() < 2 or not torch.equal(value, second.state_dict()[name]), name


def test_no_weight_is_tied_and_no_tensor_is_hidden() -> None:
    model = tiny_model(ALL_TASKS)
    model.tie_weights()
    values = list(model.state_dict(keep_vars=True).values())
    assert len({value.data_ptr() for value in values}) == len(values)
    assert model.get_output_embeddings() is None
    for module in model.modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


def test_parameters_are_counted() -> None:
    model = tiny_model(ALL_TASKS)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert model.num_parameters() == total
    embedded = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding))
    assert model.num_parameters(exclude_embeddings=True) == total - embedded
    model.freeze_backbone()
    assert model.num_parameters(only_trainable=True) == sum(value.numel() for value in model.heads.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_input_embeddings_are_the_encoders_and_can_be_set(kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    assert model.base_model is model.backbone
    assert model.get_input_embeddings() is model.backbone.get_input_embeddings()
    ids = torch.randint(5, 40, (3, 6))
    before = model(ids).pooler_output
    new = nn.Embedding(40, 16)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is model.backbone.get_input_embeddings() is new
    assert not torch.allclose(model(ids).pooler_output, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "multiple", "expected"), [(48, None, 48), (30, None, 30), (41, 16, 48)])
def test_resized_embeddings_keep_their_rows_and_are_saved(
    size: int, multiple: int | None, expected: int, kind: str, tmp_path: Path
) -> None:
    model = tiny_model(ALL_TASKS, kind)
    ids = torch.randint(5, 30, (4, 6))
    before, rows = model(ids, task="quora").logits, model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    kept = min(40, expected)
    assert torch.equal(model.get_input_embeddings().weight[:kept], rows[:kept])
    assert torch.equal(model(ids, task="quora").logits, before)
    assert model.config.encoder_config.vocab_size == model.backbone.config.vocab_size == expected
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    newest = torch.full((4, 3), expected - 1)
    assert torch.equal(loaded(newest, task="quora").logits, model(newest, task="quora").logits)
    with pytest.raises(IndexError):
        loaded(newest + 1)


# ---- Calls ----


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_deterministic_and_training_is_not(kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    assert_same(model, model)
    inputs = batch(ROWS, model)
    model.train()
    assert not torch.equal(model(**inputs).logits["sst"], model(**inputs).logits["sst"])


def test_the_main_input_is_the_first_argument() -> None:
    assert next(iter(inspect.signature(tiny_model().forward).parameters)) == MultiTaskBertModel.main_input_name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", list(ALL_TASKS))
def test_a_row_alone_is_the_row_in_a_batch(task: str, kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    inputs = batch({task: 4}, model)
    ids, mask, side = inputs["input_ids"], inputs["attention_mask"], model.config.tasks[task].sequences_per_row
    together = model(ids, mask, task=task, output_hidden_states=True)
    for row in range(4):
        rows = [row + 4 * number for number in range(side)]
        length = int(mask[rows].sum(1).max())
        alone = model(ids[rows, :length], mask[rows, :length], task=task, output_hidden_states=True)
        torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.embeddings, together.embeddings[rows], rtol=1e-4, atol=1e-5)
        real = mask[rows, :length].bool()
        for one, other in zip(alone.hidden_states, together.hidden_states, strict=True):
            torch.testing.assert_close(one[real], other[rows, :length][real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["sst", "quora", None])
def test_embeddings_in_place_of_ids_give_the_same(task: str | None, kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    inputs = batch({"quora": 3}, model)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    output = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask, task=task)
    name = "logits" if task else "pooler_output"
    torch.testing.assert_close(output[name], model(ids, mask, task=task)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_a_packed_row_give_the_same(kind: str, tokenizer: Any) -> None:
    model = tiny_model(ALL_TASKS, kind)
    inputs = lay_out([{"input_ids": [7] * length} for length in (3, 9, 1)], tokenizer, packed=True)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    output = model(inputs_embeds=embeds, packing=inputs["packing"], task="sst")
    torch.testing.assert_close(output.logits, model(**inputs, task="sst").logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_eager_attention_is_torchs_own(kind: str, tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS, kind)
    model.save_pretrained(tmp_path)
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.backbone.config._attn_implementation == "eager"
    assert_same(model, eager, rtol=1e-4, atol=1e-5)
    eager.set_attn_implementation("sdpa")
    assert eager.backbone.config._attn_implementation == "sdpa"
    assert_same(model, eager)
    eager.set_attn_implementation({"encoder_config": "eager"})
    assert eager.backbone.config._attn_implementation == "eager"


@pytest.mark.parametrize("where", ["model", "encoder"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_chunked_feed_forward_layers_give_the_same(kind: str, where: str, tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS, kind)
    model.save_pretrained(tmp_path)
    chunks = {"chunk_size_feed_forward": 1}
    chunked = AutoModel.from_pretrained(tmp_path, **(chunks if where == "model" else {"encoder_config": chunks}))
    layers = [module for module in chunked.modules() if hasattr(module, "chunk_size_feed_forward")]
    assert len(layers) == 2
    assert [layer.chunk_size_feed_forward for layer in layers] == [1, 1]
    assert_same(model, chunked, rtol=1e-5, atol=1e-6)


# ---- Gradients ----


def gradients(model: MultiTaskBertModel, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_every_parameter_the_same_gradient(reentrant: bool, kind: str) -> None:
    model = without_dropout(tiny_model(ALL_TASKS, kind, encoder={} if kind == "bert" else {"attention_dropout": 0.0}))
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    inputs = batch(ROWS, model)
    expected = gradients(model.train(), inputs)
    assert all(value.isfinite().all() for value in expected.values())
    enable, disable = (getattr(model, f"{CHECKPOINTING}_{what}") for what in ("enable", "disable"))
    enable({"use_reentrant": reentrant})
    assert getattr(model, f"is_{CHECKPOINTING}", True)
    torch.testing.assert_close(gradients(model, inputs), expected)
    disable()
    assert not getattr(model, f"is_{CHECKPOINTING}", False)
    torch.testing.assert_close(gradients(model, inputs), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_and_attentions_keep_their_gradients(kind: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    model.set_attn_implementation("eager")
    output = model(**batch(ROWS, model), output_hidden_states=True, output_attentions=True)
    kept = [*output.hidden_states, *output.attentions]
    for value in kept:
        value.retain_grad()
    output.loss.backward()
    assert all(value.grad is not None and value.grad.any() for value in kept)


def test_inputs_can_be_made_to_require_gradients_of_a_frozen_encoder() -> None:
    model = tiny_model(ALL_TASKS)
    model.freeze_backbone()
    model.enable_input_require_grads()
    states = model(torch.randint(5, 40, (2, 6)), output_hidden_states=True).hidden_states
    assert all(state.requires_grad for state in states)
    model.disable_input_require_grads()
    assert not model(torch.randint(5, 40, (2, 6))).last_hidden_state.requires_grad
