"""A checkpoint that was saved under config version 1, with every kind and key that it had."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from hf_multitask import MultiTaskBertModel, TaskConfig

FOLDER = Path(__file__).with_name("version_1")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads((FOLDER / "outputs.json").read_text())


@pytest.fixture(scope="module")
def logits(stored: dict[str, Any]) -> dict[str, Tensor]:
    model = MultiTaskBertModel.from_pretrained(FOLDER).eval()
    inputs = {key: torch.tensor(stored[key]) for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model(**inputs, tasks=stored["tasks"]).logits


def test_its_tasks_mean_the_same() -> None:
    tasks = MultiTaskBertModel.from_pretrained(FOLDER).config.tasks
    assert {name: (task.type, task.texts, task.pair_encoding) for name, task in tasks.items()} == {
        "sst": ("single_label_classification", 1, "bi"),
        "quora": ("single_label_classification", 2, "bi"),
        "nli": ("single_label_classification", 2, "cross"),
        "sts": ("regression", 2, "bi"),
        "near": ("regression", 2, "cross"),
    }
    assert (tasks["sst"].labels, tasks["sst"].pooling, tasks["sst"].weight) == (["bad", "fair", "good"], "cls", 0.5)
    assert tasks["quora"].pair_features == "u,v,|u-v|"
    assert (tasks["sts"].score_range, tasks["sts"].projection) == ([0, 5], "separate")
    assert (tasks["sts"].score_activation, tasks["near"].score_range) == ("leaky_relu", [-1, 1])
    assert tasks["near"].dropout == 0.2


def test_its_logits_are_those_that_were_stored(stored: dict[str, Any], logits: dict[str, Tensor]) -> None:
    for name, values in stored["logits"].items():
        # Another processor may round otherwise.
        torch.testing.assert_close(logits[name], torch.tensor(values), rtol=1e-5, atol=1e-6)


def test_its_logits_are_to_the_last_bit_those_of_its_weights(stored: dict[str, Any], logits: dict[str, Tensor]) -> None:
    # In memory of their own: a kernel sums in another order where an operand is not aligned.
    weights = {key: value.clone() for key, value in load_file(FOLDER / "model.safetensors").items()}
    config = json.loads((FOLDER / "config.json").read_text())["encoder_config"]
    bert = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
    bert.load_state_dict({k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")})
    mask = torch.tensor(stored["attention_mask"])
    with torch.no_grad():
        hidden = bert(torch.tensor(stored["input_ids"]), attention_mask=mask).last_hidden_state
    real = mask.unsqueeze(-1).float()
    mean, first = (hidden * real).sum(1) / real.sum(1), hidden[:, 0]

    def linear(layer: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"heads.{layer}.weight"], weights[f"heads.{layer}.bias"])

    def feed_forward(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.out_proj", F.relu(linear(f"{name}.dense", x)))

    u, v = mean[2:4], mean[4:6]
    a, b = linear("sts.dense_u", mean[8:11]), linear("sts.dense_v", mean[11:14])
    expected = {
        "sst": feed_forward("sst", first[:2]),
        "quora": feed_forward("quora", torch.cat([u, v, (u - v).abs()], dim=1)).squeeze(1),
        "nli": feed_forward("nli", mean[6:8]),
        "sts": 0 + 5 * F.relu(F.cosine_similarity(a, b)),
        "near": -1 + 2 * torch.sigmoid(feed_forward("near", mean[14:16]).squeeze(1)),
    }
    for name, values in expected.items():
        assert torch.equal(logits[name], values), name


def test_saved_again_it_is_of_version_2_and_the_same(tmp_path: Path, stored: dict[str, Any]) -> None:
    model = MultiTaskBertModel.from_pretrained(FOLDER)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["config_version"] == 2
    sts = {task["name"]: task for task in saved["tasks"]}["sts"]
    assert (sts["type"], sts["texts"]) == ("regression", 2)
    assert MultiTaskBertModel.from_pretrained(tmp_path).config.tasks == model.config.tasks


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ({"type": "pair_classification"}, {"type": "single_label_classification", "texts": 2}),
        ({"type": "pair_regression"}, {"type": "regression", "texts": 2, "score_range": [0, 5]}),
        ({"type": "pair_regression", "score_range": [1, 9]}, {"type": "regression", "texts": 2, "score_range": [1, 9]}),
    ],
)
def test_a_recipes_former_type_is_the_kind_of_today(former: dict[str, Any], now: dict[str, Any]) -> None:
    assert TaskConfig.from_dict(former) == TaskConfig.from_dict(now) == TaskConfig(**former)
