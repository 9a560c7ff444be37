"""Models on the Hub and in folders, loaded in every way that users of transformers expect."""

import json
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel, pipeline

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from tests.conftest import TASKS, encoder_config, tiny_model
from tests.hub.server import READER_TOKEN, LoopbackHub

IDS = torch.arange(5, 25).reshape(4, 5)
CODE = {"configuration_mtbert.py", "modeling_mtbert.py", "pipeline_mtbert.py", "heads.py", "pooling.py", "packing.py"}
CODE |= {"dropout.py", "encoder.py", "messages.py", "outputs.py", "own_types.py", "positions.py", "weights.py"}
CODE |= {"labels.py", "multi_label_classification.py", "regression.py", "single_label_classification.py"}
CODE |= {"divergences.py", "kinds.py", "task_config.py", "task_types.py"}
CODE |= {"masked_language_modeling.py"}
CODE |= {"multiple_choice.py"}
CODE |= {"answers.py", "question_answering.py"}
CODE |= {
    "pipeline_inputs.py",
    "pipeline_reading.py",
    "plan.py",
    "rows.py",
    "tags.py",
    "token_classification.py",
    "words.py",
}
CODE |= {"processes.py", "ranking.py"}


def assert_same(loaded: Any, model: MultiTaskBertModel) -> None:
    """Equal logits of every task, to the last bit."""
    for task in TASKS:
        assert torch.equal(loaded(IDS, task=task).logits, model(IDS, task=task).logits)


def test_a_pushed_model_is_what_was_sent_and_loads_from_the_hub(
    hub: LoopbackHub, model: MultiTaskBertModel, tmp_path: Path
) -> None:
    model.push_to_hub("user/mtbert")
    model.save_pretrained(tmp_path)
    sent = hub.files("user/mtbert")
    assert CODE | {"config.json", "model.safetensors", "README.md"} <= set(sent)
    for path in tmp_path.iterdir():
        assert sent[path.name].read_bytes() == path.read_bytes(), path.name
    loaded = AutoModel.from_pretrained("user/mtbert", cache_dir=tmp_path / "cache")
    assert type(loaded) is MultiTaskBertModel
    assert_same(loaded, model)


def test_lfs_uploads_arrive_byte_for_byte(hub: LoopbackHub, model: MultiTaskBertModel, tmp_path: Path) -> None:
    hub.lfs_from = 1_000
    model.push_to_hub("user/large")
    assert any(path.startswith("/lfs/") for _, path in hub.requests)
    model.save_pretrained(tmp_path)
    assert hub.files("user/large")["model.safetensors"].read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert_same(AutoModel.from_pretrained("user/large", cache_dir=tmp_path / "cache"), model)


def test_revision_subfolder_and_private_repositories(
    hub: LoopbackHub, model: MultiTaskBertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.push_to_hub("user/private", private=True)
    other = tiny_model()
    with torch.no_grad():
        other.heads["sst"].out_proj.bias.add_(1)
    other.push_to_hub("user/private", revision="second")
    cache = {"cache_dir": tmp_path / "cache"}
    assert_same(AutoModel.from_pretrained("user/private", **cache), model)
    assert_same(AutoModel.from_pretrained("user/private", revision="second", **cache), other)
    assert_same(AutoModel.from_pretrained("user/private", token=READER_TOKEN, **cache), model)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="user/private"):
        AutoModel.from_pretrained("user/private", cache_dir=tmp_path / "other", token=False)
    hub.add("user/nested", {f"best/{path.name}": path.read_bytes() for path in saved(model, tmp_path / "m").iterdir()})
    assert_same(AutoModel.from_pretrained("user/nested", subfolder="best", **cache), model)


def saved(model: MultiTaskBertModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def test_sharded_checkpoints(model: MultiTaskBertModel, tmp_path: Path) -> None:
    folder = saved(model, tmp_path, max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").exists()
    assert not (folder / "model.safetensors").exists()
    assert_same(AutoModel.from_pretrained(folder), model)


@pytest.mark.parametrize(
    "options", [{"device_map": "auto"}, {"device_map": {"": "cpu"}}, {"low_cpu_mem_usage": True}, {"dtype": "auto"}]
)
def test_options_of_loading(model: MultiTaskBertModel, tmp_path: Path, options: dict[str, Any]) -> None:
    assert_same(AutoModel.from_pretrained(saved(model, tmp_path), **options), model)


def test_half_precision_is_kept_if_asked_for(model: MultiTaskBertModel, tmp_path: Path) -> None:
    folder = saved(model.to(torch.bfloat16), tmp_path)
    assert AutoModel.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    assert AutoModel.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32


def test_nothing_saved_is_a_pickle_or_names_a_folder_of_this_machine(tmp_path: Path) -> None:
    BertModel(encoder_config()).save_pretrained(tmp_path / "backbone")
    model = MultiTaskBertModel.from_backbone(tmp_path / "backbone", tasks=TASKS)
    folder = saved(model, tmp_path / "model")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".py", ".safetensors"}
    assert str(tmp_path) not in (folder / "config.json").read_text()


# ---- Versions ----


def config_file(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def test_a_checkpoint_from_before_versions_loads(model: MultiTaskBertModel, tmp_path: Path) -> None:
    folder = config_file(saved(model, tmp_path), config_version=None, auto_map=None, custom_pipelines=None)
    loaded = AutoModel.from_pretrained(folder)
    assert_same(loaded, model)
    assert loaded.config.to_dict()["config_version"] == 2


def test_a_checkpoint_of_a_newer_version_is_refused(model: MultiTaskBertModel, tmp_path: Path) -> None:
    folder = config_file(saved(model, tmp_path), config_version=3)
    with pytest.raises(ValueError, match=r"config_version is 3, .* up to 2: upgrade it, or load"):
        AutoConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match="config_version is 3"):
        MultiTaskBertModel.from_backbone(folder)


# ---- Malicious and damaged checkpoints ----


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL"],)


def test_a_pickle_is_neither_read_nor_run(
    model: MultiTaskBertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    folder = saved(model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil()))
    for load in (AutoModel.from_pretrained, MultiTaskBertModel.from_backbone):
        for options in ({}, {"use_safetensors": False}):
            with pytest.raises((OSError, ValueError), match="safetensors"):
                load(folder, **options)
    BertModel(encoder_config()).save_pretrained(tmp_path / "backbone")
    (tmp_path / "backbone" / "model.safetensors").rename(tmp_path / "backbone" / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"has no model\.safetensors; weights in any other format are not read"):
        MultiTaskBertModel.from_backbone(tmp_path / "backbone", tasks=TASKS)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a/b", "..", "a\x00b", "__class__", ""])
def test_a_tasks_name_cannot_leave_the_directory(model: MultiTaskBertModel, tmp_path: Path, name: str) -> None:
    tasks = [{"name": name, "type": "pair_regression"}]
    folder = config_file(saved(model, tmp_path), tasks=tasks)
    with pytest.raises(ValueError, match=r"task name .* must be a letter"):
        AutoModel.from_pretrained(folder)


def weights(folder: Path, change: Any) -> Path:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


DENSE = "heads.sst.dense.weight"
EMBEDDINGS = "backbone.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.update({DENSE: torch.zeros(3, 3)}), rf"{DENSE} has the shape \[3, 3\], .* \[16, 16\]"),
        (lambda tensors: tensors.pop(DENSE), f"the weights lack 1 that the config asks for, the first {DENSE}"),
        (lambda tensors: tensors.pop(EMBEDDINGS), f"lack 1 that the config asks for, the first {EMBEDDINGS}"),
    ],
)
def test_damaged_weights_are_refused(model: MultiTaskBertModel, tmp_path: Path, change: Any, message: str) -> None:
    folder = weights(saved(model, tmp_path), change)
    with pytest.raises(OSError, match=message):
        AutoModel.from_pretrained(folder)
    with pytest.raises(OSError, match=message):
        MultiTaskBertModel.from_backbone(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights_are_refused(model: MultiTaskBertModel, tmp_path: Path, share: float) -> None:
    file = saved(model, tmp_path) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(OSError, match="its safetensors file is damaged or not whole"):
        AutoModel.from_pretrained(tmp_path)


def test_offline_what_is_cached_works_and_what_is_not_fails_in_one_sentence(
    hub: LoopbackHub, model: MultiTaskBertModel, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.push_to_hub("user/cached")
    model.push_to_hub("user/cached")
    cache = {"cache_dir": str(tmp_path / "cache")}
    AutoTokenizer.from_pretrained("user/cached", **cache)
    online = pipeline("multi-task", model="user/cached", model_kwargs=cache)("a cat", task="sst")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert pipeline("multi-task", model="user/cached", model_kwargs=cache)("a cat", task="sst") == online
    with pytest.raises(OSError, match="'user/other' is neither a folder with a model nor a model on the Hub"):
        MultiTaskBertModel.from_backbone("user/other", tasks=TASKS)
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        AutoModel.from_pretrained("user/other")
    assert len(hub.requests) == before


# ---- Continuing ----


def test_a_model_of_ours_and_a_plain_encoder_start_by_the_same_call(hub: LoopbackHub, tmp_path: Path) -> None:
    plain = BertModel(encoder_config())
    plain.push_to_hub("user/plain")
    first = MultiTaskBertModel.from_backbone("user/plain", tasks=TASKS, pooling="max", cache_dir=tmp_path / "cache")
    first.push_to_hub("user/ours")
    again = MultiTaskBertModel.from_backbone("user/ours", cache_dir=tmp_path / "cache")
    assert again.config.pooling == "max"
    assert list(again.config.tasks) == list(TASKS)
    assert_same(again.eval(), first.eval())
    with pytest.raises(ValueError, match="tasks is missing: user/plain is an encoder without any"):
        MultiTaskBertModel.from_backbone("user/plain", cache_dir=tmp_path / "cache")


def test_heads_are_kept_where_a_task_reads_and_says_the_same(
    model: MultiTaskBertModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = {
        "new": {"type": "pair_regression"},
        "sts": {**TASKS["sts"], "weight": 2.0},
        "quora": {**TASKS["quora"], "dropout": 0.3},
        "sst": {"type": "single_label_classification", "num_labels": 3},
    }
    with caplog.at_level("WARNING"):
        other = MultiTaskBertModel.from_backbone(saved(model, tmp_path), tasks=tasks).eval()
    assert list(other.heads) == list(tasks)
    for task in ("sts", "quora"):
        assert torch.equal(other(IDS, task=task).logits, model(IDS, task=task).logits)
    assert other.config.tasks["sts"].weight == 2.0
    assert other.heads["quora"].dropout.p == 0.3
    assert other(IDS, task="sst").logits.shape == (4, 3)
    said = [record.getMessage() for record in caplog.records]
    assert "task 'new': the head is new." in said
    assert "task 'sst': the head is new." in said
    assert not any("'quora'" in line or "'sts'" in line for line in said)
    with caplog.at_level("WARNING"):
        MultiTaskBertModel.from_backbone(tmp_path, tasks={"sts": TASKS["sts"]})
    assert caplog.records[-1].getMessage() == "task 'quora': the head is left out."


def test_tasks_are_added_and_dropped_and_the_others_stay(model: MultiTaskBertModel, tmp_path: Path) -> None:
    before = {task: model(IDS, task=task).logits for task in TASKS}
    model.add_task("nli", {"type": "pair_classification", "num_labels": 3})
    model.drop_task("quora")
    loaded = AutoModel.from_pretrained(saved(model, tmp_path))
    assert list(loaded.config.tasks) == ["sst", "sts", "nli"]
    for task in ("sst", "sts"):
        assert torch.equal(loaded(IDS, task=task).logits, before[task])
    assert torch.equal(loaded(IDS, task="nli").logits, model(IDS, task="nli").logits)
    with pytest.raises(ValueError, match="task 'quora' is unknown"):
        loaded(IDS, task="quora")
    with pytest.raises(ValueError, match="task 'sst' is there twice"):
        model.add_task("sst", TASKS["sst"])
    with pytest.raises(ValueError, match="task 'quora' is unknown"):
        model.drop_task("quora")
    model.to(torch.bfloat16).train().add_task("later", TASKS["sts"])
    assert {parameter.dtype for parameter in model.heads["later"].parameters()} == {torch.bfloat16}
    assert model.heads["later"].training


# ---- Without the package ----

UNINSTALLED = """
import sys
sys.modules["hf_multitask"] = None
import torch
from transformers import AutoModel, pipeline
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
pipe = pipeline("multi-task", model=sys.argv[1], trust_remote_code=True)
print(model(torch.arange(5, 25).reshape(4, 5), task="quora").logits.tolist())
print(pipe(("a cat", "a dog")))
model.save_pretrained(sys.argv[2])
"""
IMPORTED = """
import sys
import torch
import hf_multitask
from transformers import AutoModel, pipeline
model = AutoModel.from_pretrained(sys.argv[1])
assert type(model) is hf_multitask.MultiTaskBertModel
pipe = pipeline("multi-task", model=sys.argv[1])
print(model(torch.arange(5, 25).reshape(4, 5), task="quora").logits.tolist())
print(pipe(("a cat", "a dog")))
"""


def test_new_processes_load_equal_models_with_the_package_and_without(
    hub: LoopbackHub, model: MultiTaskBertModel, tokenizer: Any, tmp_path: Path, run_python: Any
) -> None:
    tokenizer.push_to_hub("user/everywhere")
    model.push_to_hub("user/everywhere")
    logits = model(IDS, task="quora").logits.tolist()
    predicted = pipeline("multi-task", model=model, tokenizer=tokenizer)(("a cat", "a dog"))
    for code in (IMPORTED, UNINSTALLED):
        run = run_python(code, "user/everywhere", tmp_path / "again")
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.splitlines() == [str(logits), str(predicted)]
    # What the copy of the code has saved, code and all, is as good as what the package saves.
    assert {path.name for path in (tmp_path / "again").iterdir()} >= CODE
    assert_same(AutoModel.from_pretrained(tmp_path / "again"), model)


def test_a_folder_too_loads_by_its_own_code(
    model: MultiTaskBertModel, tokenizer: Any, tmp_path: Path, run_python: Any
) -> None:
    # Of a folder, transformers reads the configuration's code and the model's as two modules of that name.
    folder = saved(model, tmp_path)
    tokenizer.save_pretrained(folder)
    run = run_python(UNINSTALLED, folder, tmp_path / "again")
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[0] == str(model(IDS, task="quora").logits.tolist())
    assert_same(AutoModel.from_pretrained(tmp_path / "again"), model)


def test_the_code_of_a_checkpoint_imports_nothing_of_the_package(model: MultiTaskBertModel, tmp_path: Path) -> None:
    folder = saved(model, tmp_path)
    code = {path.name for path in folder.glob("*.py")}
    assert code >= CODE
    for name in code:
        text = (folder / name).read_text()
        assert not re.search(r"^\s*(import|from) hf_multitask", text, re.MULTILINE), name


def test_a_checkpoint_with_code_asks_for_no_trust_where_the_package_is(
    model: MultiTaskBertModel, tokenizer: Any, tmp_path: Path
) -> None:
    folder = saved(model, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    assert values["auto_map"] == {
        "AutoConfig": "configuration_mtbert.MultiTaskBertConfig",
        "AutoModel": "modeling_mtbert.MultiTaskBertModel",
    }
    assert values["custom_pipelines"]["multi-task"]["impl"] == "pipeline_mtbert.MultiTaskPipeline"
    assert type(AutoConfig.from_pretrained(folder)) is MultiTaskBertConfig
    assert pipeline("multi-task", model=str(folder))("a cat", task="sst")["label"] in "01234"
    assert not any(name.startswith("transformers_modules.model") for name in sys.modules)
