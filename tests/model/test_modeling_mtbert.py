import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoModel,
    BertForMaskedLM,
    BertModel,
    FunnelModel,
    T5EncoderModel,
    UMT5EncoderModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel, MultiTaskOutput, TaskOutput
from tests.conftest import CHECKPOINTING, TASKS, encoder_config, tiny_model
from tests.model.batches import ALL_TASKS, KINDS, OneTask, batch


def naive_loss(model: MultiTaskBertModel, inputs: dict[str, Any], name: str, start: int) -> torch.Tensor:
    """One task's loss as a plain loop would compute it: every sentence alone, unpadded, each text in its own pass."""
    task, rows = model.config.tasks[name], inputs["tasks"][name]

    def embed(sequence: int) -> torch.Tensor:
        ids = inputs["input_ids"][sequence][inputs["attention_mask"][sequence].bool()]
        states = model.backbone(ids[None]).last_hidden_state[0]
        return {"cls": states[0], "mean": states.mean(0), "max": states.max(0).values}[model.config.pooling_of(name)]

    sides = [
        torch.stack([embed(start + side * rows + row) for row in range(rows)]) for side in range(task.sequences_per_row)
    ]
    logits, labels = model.heads[name](*sides), inputs["labels"][name]
    if not task.label_names:
        return ((logits - labels) ** 2).sum() / rows
    if logits.dim() == 1:
        chances = torch.sigmoid(logits)
        return -torch.where(labels == 1, chances, 1 - chances).log().sum() / rows
    return -sum(logits[row].softmax(0)[labels[row]].log() for row in range(rows)) / rows


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_of_a_step_equal_a_naive_loop_over_tasks_and_sentences(kind: str) -> None:
    weights = {"sst": 1.0, "quora": 0.5, "sts": 2.0, "nli": 1.0, "close": 0.1, "paper_sts": 1.0}
    model = tiny_model({name: {**task, "weight": weights[name]} for name, task in ALL_TASKS.items()}, kind).double()
    inputs = batch({"sst": 3, "quora": 2, "sts": 4, "nli": 2, "close": 3, "paper_sts": 2}, model)
    output = model(**inputs)
    output.loss.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()

    start, losses = 0, {}
    for name, rows in inputs["tasks"].items():
        losses[name] = naive_loss(model, inputs, name, start)
        start += rows * model.config.tasks[name].sequences_per_row
    total = sum(weights[name] * loss for name, loss in losses.items())
    total.backward()
    # Losses are computed in fp32, everything else here in fp64.
    torch.testing.assert_close(output.loss.double(), total, rtol=1e-6, atol=1e-6)
    for name, loss in losses.items():
        torch.testing.assert_close(output.losses[name].double(), loss.double(), rtol=1e-6, atol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_adding_padding_changes_nothing(kind: str, pooling: str) -> None:
    model = tiny_model(kind=kind, pooling=pooling)
    inputs = batch({"sst": 3, "quora": 2, "sts": 2}, model)
    padding = torch.zeros(inputs["input_ids"].shape[0], 5, dtype=torch.long)
    longer = {key: torch.cat([inputs[key], padding], dim=1) for key in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**{**inputs, **longer}).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_without_a_task_it_is_an_encoder_whose_pooler_output_is_the_embedding() -> None:
    model = tiny_model()
    ids = torch.randint(5, 40, (2, 6))
    output = model(ids, output_hidden_states=True)
    assert isinstance(output, BaseModelOutputWithPooling)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(1))
    assert len(output.hidden_states) == 3


def test_one_task_gives_the_same_as_a_batch_of_only_that_task() -> None:
    model = tiny_model()
    inputs = batch({"quora": 3}, model)
    several = model(**inputs)
    one = model(inputs["input_ids"], inputs["attention_mask"], task="quora", labels=inputs["labels"]["quora"])
    assert isinstance(one, TaskOutput)
    assert isinstance(several, MultiTaskOutput)
    assert torch.equal(one.logits, several.logits["quora"])
    assert torch.equal(one.loss, several.loss)
    assert one.embeddings.shape == (6, 16)


def test_the_first_half_of_a_pair_tasks_sequences_are_the_first_texts(tokenizer: Any) -> None:
    model = tiny_model({"quora": {"type": "pair_classification"}})
    firsts, seconds = ["a cat sat", "the film"], ["the dog ran", "was very dull"]
    together = model(**tokenizer(firsts + seconds, padding=True, return_tensors="pt"), task="quora").logits
    pairs = [tokenizer(list(pair), padding=True, return_tensors="pt") for pair in zip(firsts, seconds, strict=True)]
    alone = [model(**pair, task="quora").logits for pair in pairs]
    torch.testing.assert_close(together, torch.cat(alone))


def test_labels_are_optional() -> None:
    model = tiny_model()
    ids = torch.randint(5, 40, (4, 6))
    assert model(ids, task="sst").loss is None
    assert model(ids, tasks={"sts": 1, "quora": 1}).losses is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "stss"}, "did you mean 'sst'|did you mean 'sts'"),
        ({"tasks": {"nope": 2}}, "task 'nope' is unknown"),
        ({"tasks": {"sst": 3, "quora": 2}}, "do not fit"),
        ({"tasks": {}}, "do not fit"),
        ({"task": "quora", "tasks": {"quora": 2}}, "not both"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model()(torch.randint(5, 40, (4, 6)), **wrong)


def test_a_model_that_fsdp_divides_is_saved_with_its_own_code(tmp_path: Path) -> None:
    class FSDPMultiTaskBertModel(FSDPModule, MultiTaskBertModel):
        __module__ = FSDPModule.__module__

    tiny_model().save_pretrained(tmp_path / "whole")
    model = tiny_model()
    model.__class__ = FSDPMultiTaskBertModel
    model.save_pretrained(tmp_path / "divided")
    assert type(model) is FSDPMultiTaskBertModel
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "divided")]
    assert files[0] == files[1]
    configs = [(tmp_path / name / "config.json").read_text() for name in ("whole", "divided")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_gives_the_same_logits_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    model = tiny_model(ALL_TASKS, kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, MultiTaskBertModel)
    assert not loaded.training
    for rows in (1, 2, 5):
        inputs = batch(dict.fromkeys(ALL_TASKS, rows), model)
        for name, logits in model(**inputs).logits.items():
            assert torch.equal(loaded(**inputs).logits[name], logits), name


def test_a_new_process_needs_only_the_import(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    ids = torch.arange(5, 25).reshape(4, 5)
    script = (
        "import torch, hf_multitask; from transformers import AutoModel;"
        f"model = AutoModel.from_pretrained({str(tmp_path)!r});"
        "print(model(torch.arange(5, 25).reshape(4, 5), task='quora').logits.tolist())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(model(ids, task="quora").logits.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_from_backbone_keeps_the_pretrained_weights_in_fp32_and_has_no_pooler(kind: str, tmp_path: Path) -> None:
    pretrained = AutoModel.from_config(encoder_config(kind))
    pretrained.half().save_pretrained(tmp_path)
    model = MultiTaskBertModel.from_backbone(tmp_path, tasks=TASKS, pooling="max")
    assert model.config.pooling == "max"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weights = pretrained.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, weights[name].float()), name
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]


def test_from_backbone_reads_the_encoder_out_of_a_model_with_a_head(tmp_path: Path) -> None:
    pretrained = BertForMaskedLM(encoder_config())
    pretrained.save_pretrained(tmp_path)
    model = MultiTaskBertModel.from_backbone(tmp_path, tasks=TASKS)
    expected = pretrained.bert.embeddings.word_embeddings.weight
    assert torch.equal(model.get_input_embeddings().weight, expected)


def test_from_pretrained_on_a_plain_encoder_loads_it_under_new_heads(tmp_path: Path) -> None:
    pretrained = BertModel(encoder_config())
    pretrained.save_pretrained(tmp_path)
    model = MultiTaskBertModel.from_pretrained(tmp_path, config=tiny_model().config)
    assert torch.equal(model.get_input_embeddings().weight, pretrained.get_input_embeddings().weight)


def test_from_backbone_can_be_told_a_dtype(tmp_path: Path) -> None:
    BertModel(encoder_config()).save_pretrained(tmp_path)
    model = MultiTaskBertModel.from_backbone(tmp_path, tasks=TASKS, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["t5", "umt5", "funnel"])
def test_an_encoder_that_transformers_keeps_beside_others_is_built_and_loaded(kind: str, tmp_path: Path) -> None:
    classes = {"t5": T5EncoderModel, "umt5": UMT5EncoderModel, "funnel": FunnelModel}
    size = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    if kind == "funnel":
        size = {"vocab_size": 40, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "block_sizes": [1, 1]}
    pretrained = classes[kind](classes[kind].config_class(**size)).eval()
    pretrained.save_pretrained(tmp_path / "encoder")
    model = MultiTaskBertModel.from_backbone(tmp_path / "encoder", tasks=TASKS).eval()
    assert type(model.backbone) is classes[kind]
    ids = torch.randint(5, 40, (2, 12))
    assert torch.equal(model(ids).last_hidden_state, pretrained(ids).last_hidden_state)
    model.save_pretrained(tmp_path / "ours")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "ours")(ids).pooler_output, model(ids).pooler_output)
    new = MultiTaskBertModel(MultiTaskBertConfig.from_backbone(tmp_path / "encoder", tasks=TASKS))
    assert type(new.backbone) is classes[kind]


@pytest.mark.parametrize("task", list(ALL_TASKS))
def test_it_exports_with_any_number_of_rows_and_tokens(task: str) -> None:
    model = tiny_model(ALL_TASKS)
    sequences = 2 * model.config.tasks[task].sequences_per_row
    inputs = {"input_ids": torch.randint(5, 40, (sequences, 8)), "attention_mask": torch.ones(sequences, 8).long()}
    rows = torch.export.Dim("rows", min=2, max=64)
    first = 2 * rows if sequences == 4 else rows
    dynamic = {name: {0: first, 1: torch.export.Dim("tokens", min=2, max=64)} for name in inputs}
    exported = torch.export.export(OneTask(model, task), (), inputs, dynamic_shapes=dynamic, strict=False).module()
    other = {"input_ids": torch.randint(5, 40, (6, 11)), "attention_mask": torch.ones(6, 11).long()}
    torch.testing.assert_close(exported(**other), model(**other, task=task).logits)


def test_a_backbone_that_does_not_exist_is_named() -> None:
    with pytest.raises(OSError, match="backbone 'no/such-model' is neither a folder"):
        MultiTaskBertModel.from_backbone("no/such-model", tasks=TASKS)


@pytest.mark.parametrize("way", ["new", "from_pretrained"])
def test_new_heads_are_initialised_as_torchs_linear_layers_are(way: str, tmp_path: Path) -> None:
    config = tiny_model(encoder={"hidden_size": 256}).config
    model = MultiTaskBertModel(config)
    if way == "from_pretrained":
        BertModel(config.encoder_config).save_pretrained(tmp_path)
        model = MultiTaskBertModel.from_pretrained(tmp_path, config=config)
    weight = model.heads["sst"].dense.weight
    assert weight.abs().max().item() <= 1 / math.sqrt(256)
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.05)
    assert model.backbone.encoder.layer[0].output.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_loading_in_another_dtype(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    output = model(torch.randint(5, 40, (4, 6)), task="quora", labels=torch.tensor([0, 1]))
    assert output.loss.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_resized_embeddings_survive_saving(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind=kind)
    model.resize_token_embeddings(48)
    assert model.get_input_embeddings().weight.shape[0] == 48
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).get_input_embeddings().weight.shape[0] == 48


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_gives_the_same_gradients(kind: str) -> None:
    model = tiny_model(kind=kind, encoder={"attention_dropout": 0.0} if kind != "bert" else {})
    inputs = batch({"sst": 2, "quora": 2}, model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")()
        model.train()
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_frozen_backbone_gets_no_gradient() -> None:
    model = tiny_model()
    model.freeze_backbone()
    model(**batch({"sst": 2, "quora": 2, "sts": 2}, model)).loss.backward()
    assert {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "heads"
    }


def test_bf16_autocast_agrees_with_fp32() -> None:
    model = tiny_model()
    inputs = batch({"sst": 4, "quora": 4, "sts": 4}, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(**inputs)
    assert mixed.loss.dtype == torch.float32
    torch.testing.assert_close(mixed.loss, model(**inputs).loss, rtol=0.05, atol=0.05)
