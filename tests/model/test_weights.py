import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from hf_multitask import MultiTaskBertModel
from tests.conftest import TASKS, encoder_config


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], **config: Any) -> Path:
    """A saved tiny encoder whose file of weights, and maybe config, was changed."""
    BertModel(encoder_config()).save_pretrained(folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | config))
    return folder


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda weights: {f"module.{key}": value for key, value in weights.items()}, {}, "lack 37 that"),
        (lambda weights: {k: v for k, v in weights.items() if "layer.1." not in k}, {}, "lack 16 that .*layer.1"),
        (
            lambda weights: {k: v for k, v in weights.items() if "word_emb" not in k},
            {},
            "lack 1 that .*word_embeddings",
        ),
        (lambda weights: weights, {"intermediate_size": 48}, r"has the shape \[32\], and the config asks for \[48\]"),
        (lambda weights: weights, {"vocab_size": 41}, r"has the shape \[40, 16\], and the config asks for \[41, 16\]"),
        (lambda weights: weights, {"num_hidden_layers": 3}, "lack 16 that .*layer.2"),
    ],
)
def test_a_backbone_whose_weights_are_not_all_there_is_refused(
    change: Any, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=message) as error:
        MultiTaskBertModel.from_backbone(changed(tmp_path, change, **config), tasks=TASKS)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("config", "warning"),
    [({}, None), ({"num_hidden_layers": 1}, "16 weights of layers are not used, the first .*layer.1")],
)
def test_a_pooler_is_no_news_and_layers_that_are_not_used_are(
    config: dict[str, Any], warning: str | None, tmp_path: Path, caplog: Any, capfd: Any
) -> None:
    folder = changed(tmp_path, lambda weights: weights, **config)
    capfd.readouterr()
    MultiTaskBertModel.from_backbone(folder, tasks=TASKS)
    printed = capfd.readouterr().err
    assert "pooler" not in printed
    assert "REPORT" not in printed
    if warning:
        assert re.search(warning, caplog.text)
    else:
        assert not caplog.text


def test_a_backbone_without_its_pooler_loads(tmp_path: Path) -> None:
    folder = changed(tmp_path, lambda weights: {k: v for k, v in weights.items() if "pooler" not in k})
    MultiTaskBertModel.from_backbone(folder, tasks=TASKS)
