"""Training, saving, resuming and loading adapters of PEFT."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModel, set_seed

from hf_multitask import (
    MultiTaskBertModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TaskConfig,
    export_sentence_transformer,
)
from hf_multitask.hub.adapters import check_trainable, describe_adapter
from hf_multitask.hub.checkpoints import check_same_model
from tests.conftest import ROOT, TASKS, task_rows, tiny_model
from tests.hub.server import LoopbackHub, card_problems

peft = pytest.importorskip("peft")

ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "multitask_config.json", "README.md"}
ADAPTER_FILES |= {"tokenizer.json", "tokenizer_config.json", "training_args.json"}


@pytest.fixture
def base(tmp_path: Path, tokenizer: Any) -> Path:
    """A model of ours, saved."""
    tiny_model().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def plain(tmp_path: Path, tokenizer: Any) -> Path:
    """An encoder, saved."""
    tiny_model().backbone.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def adapted(model: Any, kind: str = "LoraConfig", **options: Any) -> Any:
    set_seed(3)
    options = {"target_modules": ["query", "value"], "modules_to_save": list(TASKS), **options}
    return peft.get_peft_model(model, getattr(peft, kind)(**options))


@pytest.fixture
def make(tmp_path: Path, tokenizer: Any) -> Any:
    def build(model: Any, **arguments: Any) -> MultiTaskTrainer:
        settings = {"max_steps": 4, "save_steps": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True}
        settings |= {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, **arguments}
        args = MultiTaskTrainingArguments(**{"output_dir": str(tmp_path / "out"), **settings})
        return MultiTaskTrainer(model, args, task_rows(20), task_rows(9, seed=2), processing_class=tokenizer)

    return build


def same_weights(one: Any, other: Any) -> bool:
    values, others = one.state_dict(), other.state_dict()
    return values.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in values.items())


def load(folder: Path) -> MultiTaskBertModel:
    return MultiTaskBertModel.from_pretrained(folder)


# ---- Training ----


@pytest.mark.parametrize("kind", ["LoraConfig", "LoHaConfig"])
def test_an_adapter_trains_with_its_heads_and_leaves_the_rest(make: Any, base: Path, kind: str) -> None:
    model = adapted(load(base), kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make(model, head_learning_rate=1e-3)
    trainer.train()
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert {name.split(".heads.")[1].split(".")[0] for name in changed if ".heads." in name} == set(TASKS)
    for name in changed:
        assert any(part in name for part in ("lora_", "hada_", ".modules_to_save.")), name
    rates = {group["lr"] for group in trainer.create_optimizer().param_groups}
    assert len(rates) <= 2
    trainer.save_model()
    loaded = peft.PeftModel.from_pretrained(load(base), trainer.args.output_dir)
    assert same_weights(loaded, model)


@pytest.mark.parametrize(
    "method",
    [
        {"smart": {"weight": 1.0}},
        {"proximal": {"weight": 1.0, "use_average": True}},
        {"surgery": "pcgrad"},
        {"loss_weighting": "uncertainty"},
        {"packing": "off"},
        {"bf16": True},
    ],
    ids=str,
)
def test_so_it_does_with_every_method(make: Any, base: Path, method: dict[str, Any]) -> None:
    model = load(base)
    frozen = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    wrapped = adapted(model)
    make(wrapped, **method).train()
    inside = wrapped.get_base_model().backbone.state_dict()
    for name, value in frozen.items():
        found = [inside[key] for key in (name, re.sub(r"\.(weight|bias)$", r".base_layer.\1", name)) if key in inside]
        assert torch.equal(found[0], value), name


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make: Any, base: Path) -> None:
    whole = make(adapted(load(base)))
    whole.train()
    resumed = make(adapted(load(base)))
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
    assert same_weights(resumed.model, whole.model)
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def test_the_best_checkpoint_is_loaded_at_the_end(make: Any, base: Path) -> None:
    saving = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "loss"}
    # The loss falls: by the greatest one, the last checkpoint is not the best.
    trainer = make(adapted(load(base)), load_best_model_at_end=True, greater_is_better=True, **saving)
    trainer.train()
    losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    best = max(losses, key=lambda step: losses[step])
    assert best < 4
    assert trainer.state.best_global_step == best
    assert trainer.evaluate()["eval_loss"] == losses[best]
    saved = peft.PeftModel.from_pretrained(load(base), f"{trainer.args.output_dir}/checkpoint-{best}")
    assert same_weights(saved, trainer.model)


# ---- What cannot work ----


def test_a_new_head_that_nobody_would_save_is_refused(make: Any, plain: Path, base: Path, caplog: Any) -> None:
    message = r"task 'sts': its head is new, .* give modules_to_save=\['sst', 'quora', 'sts'\]"
    with pytest.raises(ValueError, match=message):
        make(adapted(MultiTaskBertModel.from_backbone(str(plain), tasks=TASKS), modules_to_save=["sst", "quora"]))
    with pytest.raises(ValueError, match="task 'sst': its head is new"):
        make(adapted(tiny_model(), modules_to_save=None))
    # A head without weights has nothing to save.
    tasks = {**TASKS, "rank": {"type": "ranking"}}
    make(adapted(MultiTaskBertModel.from_backbone(str(plain), tasks=tasks)))
    # One that was saved lies there still.
    make(adapted(load(base), modules_to_save=["sst", "quora"]))
    assert "task 'sts': its head stays as it is, since the adapter's modules_to_save" in caplog.text
    assert "task 'sst'" not in caplog.text


def test_an_adapter_that_adds_tokens_is_refused(make: Any, base: Path) -> None:
    sizes = {"num_virtual_tokens": 3, "num_layers": 2, "token_dim": 16, "num_attention_heads": 2}
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", **sizes)
    with pytest.raises(ValueError, match="an adapter of type PROMPT_TUNING adds tokens to every text"):
        make(peft.get_peft_model(load(base), config))


def test_a_mixed_model_is_refused(make: Any, base: Path) -> None:
    config = peft.LoraConfig(target_modules=["query"], modules_to_save=list(TASKS))
    with pytest.raises(ValueError, match="a PeftMixedModel cannot be saved: give a model from get_peft_model"):
        make(peft.get_peft_model(load(base), config, mixed=True))


def test_an_adapter_that_transformers_added_is_evaluated_and_not_trained(make: Any, base: Path) -> None:
    trainer = make(adapted(load(base)))
    trainer.train()
    scores = trainer.evaluate()
    trainer.save_model()
    loaded = AutoModel.from_pretrained(trainer.args.output_dir)
    assert type(loaded) is MultiTaskBertModel
    other = make(loaded)
    assert other.evaluate()["eval_loss"] == pytest.approx(scores["eval_loss"], rel=1e-6)
    with pytest.raises(ValueError, match="an adapter from add_adapter or AutoModel"):
        other.train()
    check_trainable(tiny_model())


def test_checkpoints_of_another_kind_or_of_other_tasks_are_refused(make: Any, base: Path, tmp_path: Path) -> None:
    make(adapted(load(base))).train()
    make(load(base), output_dir=str(tmp_path / "whole")).train()
    adapter, whole = tmp_path / "out" / "checkpoint-2", tmp_path / "whole" / "checkpoint-2"
    with pytest.raises(ValueError, match="it is of an adapter of PEFT, and the run trains a whole model"):
        make(load(base)).train(resume_from_checkpoint=str(adapter))
    with pytest.raises(ValueError, match="it is of a whole model, and the run trains an adapter of PEFT"):
        make(adapted(load(base))).train(resume_from_checkpoint=str(whole))
    other = load(base)
    other.config.tasks["quora"].labels = ["no", "yes"]
    with pytest.raises(ValueError, match=r"labels of task 'quora' is .* and \['no', 'yes'\] in the run"):
        check_same_model(adapter, other.config)


# ---- The card ----


def snippet(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


@pytest.mark.parametrize("kind", [pytest.param("ours", marks=pytest.mark.slow), "plain", "going on"])
def test_the_cards_snippet_loads_what_was_trained(
    make: Any, base: Path, plain: Path, tmp_path: Path, run_python: Callable, kind: str
) -> None:
    tasks = {**TASKS, "mood": {"type": "single_label_classification", "labels": ['a "b" c', "it's"], "pooling": "max"}}
    if kind == "ours":
        model = load(base)
    elif kind == "plain":
        model = MultiTaskBertModel.from_backbone(str(plain), tasks=tasks, pooling="cls")
    else:
        model = MultiTaskBertModel.from_backbone(str(base), tasks=tasks)
    trainer = make(adapted(model, modules_to_save=list(model.config.tasks)))
    trainer.train()
    trainer.save_model()
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == ADAPTER_FILES
    card = (tmp_path / "out" / "README.md").read_text()
    start = "plain" if kind == "plain" else "base"
    assert "This is an adapter of PEFT (LORA): what was trained, without the model" in card
    assert f"`{start}` is the name that a folder had" in card
    assert "AutoModel.from_pretrained" not in card
    assert snippet((tmp_path / "out" / "checkpoint-2" / "README.md").read_text()) == snippet(card)
    assert str(tmp_path) not in card
    code = snippet(card) + "\nimport torch\nprint(model(**tokens(['a film']), task='sst').logits.tolist())"
    code = code.replace("import torch", "tokens = lambda texts: pipe.tokenizer(texts, return_tensors='pt')")
    libraries = [str(ROOT), str(Path(peft.__file__).parents[1])]
    run = run_python(code, PYTHONPATH=os.pathsep.join(libraries))
    assert run.returncode == 0, run.stderr[-3000:]
    inputs = trainer.processing_class(["a film"], return_tensors="pt")
    expected = trainer.model.eval()(**inputs, task="sst").logits
    torch.testing.assert_close(torch.tensor(eval(run.stdout.splitlines()[-1])), expected)
    assert len(run.stdout.splitlines()) >= len(model.config.tasks) + 2
    assert "not supported" not in run.stderr


def test_a_card_does_not_name_a_model_that_nobody_has(make: Any) -> None:
    trainer = make(adapted(tiny_model()))
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "Which one that was, is not recorded" in card
    assert "```python" not in card
    assert 'by `PeftModel.from_pretrained(base, "out")`' in card


def test_a_push_is_of_the_adapter_and_names_its_base_on_the_hub(
    hub: LoopbackHub, make: Any, base: Path, tmp_path: Path
) -> None:
    model = load(base)
    model.name_or_path = "user/base"
    pushing = {"push_to_hub": True, "hub_model_id": "user/run", "hub_strategy": "every_save", "hub_always_push": True}
    trainer = make(adapted(model), **pushing)
    trainer.train()
    trainer.push_to_hub()
    assert set(hub.files("user/run")) == ADAPTER_FILES | {"trainer_state.json"}
    card = hub.files("user/run")["README.md"].read_text()
    assert card_problems(card) == []
    data = yaml.safe_load(card.split("---")[1])
    assert (data["library_name"], data["base_model"]) == ("peft", "user/base")
    assert "hf-multitask" in data["tags"]
    assert 'MultiTaskBertModel.from_backbone("user/base", tasks=tasks, pooling="mean")' in card
    assert 'PeftModel.from_pretrained(base, "user/run")' in card
    assert "is the name that a folder had" not in card
    loaded = peft.PeftModel.from_pretrained(load(base), "user/run", cache_dir=tmp_path / "cache")
    assert same_weights(loaded, trainer.model)


def test_an_adapter_with_a_name_lies_in_a_folder_of_its_own(make: Any, base: Path) -> None:
    config = peft.LoraConfig(target_modules=["query"], modules_to_save=list(TASKS))
    trainer = make(peft.get_peft_model(load(base), config, adapter_name="mine"))
    trainer.train()
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert 'PeftModel.from_pretrained(base, "out", subfolder="mine")' in card
    resumed = make(peft.get_peft_model(load(base), config, adapter_name="mine"))
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    assert resumed.state.global_step == 4


def test_the_table_of_tasks_is_written_as_it_is_read() -> None:
    tasks = {**TASKS, "mood": {"type": "single_label_classification", "labels": ["bad", "good"], "weight": 2.0}}
    model = adapted(tiny_model(tasks), modules_to_save=list(tasks))
    adapter = describe_adapter(model)
    assert adapter is not None
    read = {name: TaskConfig(**values) for name, values in eval(adapter.tasks).items()}
    assert read == model.config.tasks
    assert eval(adapter.tasks)["mood"] == tasks["mood"]
    assert describe_adapter(SimpleNamespace()) is None


def test_it_is_merged_before_it_is_exported(make: Any, base: Path, tokenizer: Any, tmp_path: Path) -> None:
    trainer = make(adapted(load(base)))
    trainer.train()
    with pytest.raises(ValueError, match=r"the model has an adapter .*: export model\.merge_and_unload"):
        export_sentence_transformer(trainer.model, tmp_path / "export", tokenizer)
    inputs = tokenizer(["a film"], return_tensors="pt")
    expected = trainer.model.eval()(**inputs).pooler_output
    merged = trainer.model.merge_and_unload()
    export_sentence_transformer(merged, tmp_path / "export", tokenizer)
    states = AutoModel.from_pretrained(tmp_path / "export")(**inputs).last_hidden_state
    torch.testing.assert_close(states.mean(1), expected)
