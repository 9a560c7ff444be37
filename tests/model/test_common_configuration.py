"""What transformers' common tests (tests/test_configuration_common.py) ask of every configuration of theirs.

What cannot apply: `num_labels` and `id2label`, which each task has for itself.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from tests.conftest import encoder_config
from tests.model.batches import ALL_TASKS, KINDS

COMMON: dict[str, Any] = {
    "output_hidden_states": True,
    "return_dict": False,
    "chunk_size_feed_forward": 5,
    "dtype": torch.float16,
    "architectures": ["MultiTaskBertModel"],
    "problem_type": "regression",
}


def config_of(kind: str = "bert", **more: Any) -> MultiTaskBertConfig:
    return MultiTaskBertConfig(encoder_config=encoder_config(kind), tasks=ALL_TASKS, pooling="max", **more)


def through_a_file(config: MultiTaskBertConfig, folder: Path) -> MultiTaskBertConfig:
    config.to_json_file(folder / "one.json")
    return MultiTaskBertConfig.from_json_file(folder / "one.json")


def through_a_folder(config: MultiTaskBertConfig, folder: Path) -> MultiTaskBertConfig:
    config.save_pretrained(folder / "sub" / "folder")
    return AutoConfig.from_pretrained(folder / "sub", subfolder="folder")


WAYS = {
    "mapping": lambda config, _: MultiTaskBertConfig.from_dict(config.to_dict()),
    "keywords": lambda config, _: MultiTaskBertConfig(**config.to_dict()),
    "difference": lambda config, _: MultiTaskBertConfig.from_dict(config.to_diff_dict()),
    "text": lambda config, _: MultiTaskBertConfig.from_dict(json.loads(config.to_json_string())),
    "all the text": lambda config, _: MultiTaskBertConfig.from_dict(json.loads(config.to_json_string(use_diff=False))),
    "file": through_a_file,
    "folder": through_a_folder,
    "copy": lambda config, _: copy.deepcopy(config),
    "pickle": lambda config, _: pickle.loads(pickle.dumps(config)),
}


def values_of(config: MultiTaskBertConfig) -> dict[str, Any]:
    """All values, but for the place that it was read from, and the names of its code, which saving notes in it."""
    return {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "auto_map")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_comes_back_with_every_value(kind: str, way: str, tmp_path: Path) -> None:
    config = config_of(kind, **COMMON)
    before = values_of(config)
    other = WAYS[way](config, tmp_path)
    assert type(other) is MultiTaskBertConfig
    assert values_of(other) == values_of(config)
    assert other.tasks == config.tasks
    assert list(other.tasks) == list(ALL_TASKS)
    assert type(other.encoder_config) is type(config.encoder_config)
    for key, value in COMMON.items():
        assert getattr(other, key) == value, key
    assert values_of(config) == before


def test_one_without_arguments_can_be_made_and_saved(tmp_path: Path) -> None:
    config = MultiTaskBertConfig()
    config.save_pretrained(tmp_path)
    assert MultiTaskBertConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.tasks == {}
    assert config.encoder_config.model_type == "bert"
    assert "MultiTaskBertConfig" in repr(config)


def test_what_it_is_made_of_stays_as_it_was() -> None:
    tasks, encoder = copy.deepcopy(ALL_TASKS), encoder_config().to_dict()
    given = copy.deepcopy((tasks, encoder))
    config = MultiTaskBertConfig.from_dict({"encoder_config": encoder, "tasks": tasks}, pooling="cls")
    config.encoder_config.hidden_size = 8
    config.tasks["sst"].labels.append("more")
    assert (tasks, encoder) == given
    listed = config.to_dict()["tasks"]
    listed[0]["labels"].append("other")
    assert "other" not in config.tasks["sst"].labels


def test_attention_is_a_matter_of_loading_and_not_saved(tmp_path: Path) -> None:
    config = config_of()
    config._attn_implementation = "eager"
    assert config.encoder_config._attn_implementation == "eager"
    config.save_pretrained(tmp_path)
    assert "attn" not in (tmp_path / "config.json").read_text().replace("attention", "")
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation is None


@pytest.mark.parametrize("way", ["new", "loaded", "backbone"])
def test_the_encoders_configuration_is_the_models_part(way: str, tmp_path: Path) -> None:
    model = MultiTaskBertModel(config_of())
    if way == "loaded":
        model.save_pretrained(tmp_path)
        model = MultiTaskBertModel.from_pretrained(tmp_path)
    elif way == "backbone":
        model.backbone.save_pretrained(tmp_path)
        model = MultiTaskBertModel.from_backbone(tmp_path, tasks=ALL_TASKS)
    assert model.backbone.config is model.config.encoder_config
    assert model.config.get_text_config() is model.config.encoder_config
    assert model.config.hidden_size == model.config.encoder_config.hidden_size == 16
