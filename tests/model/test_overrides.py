"""What is given to `from_pretrained` beside a checkpoint: checked like the checkpoint's own values."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertModel

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from tests.conftest import TASKS, encoder_config, tiny_model

IDS = torch.arange(5, 25).reshape(4, 5)
SST = TASKS["sst"]
LOADERS = [MultiTaskBertModel.from_pretrained, AutoModel.from_pretrained]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "meen"}, "pooling 'meen' is unknown; did you mean 'mean'"),
        ({"tasks": {"sst": {**SST, "type": "clasification"}}}, "task 'sst': type 'clasification' is unknown"),
        ({"tasks": {"sst": {**SST, "poling": "cls"}}}, "task 'sst': unknown key 'poling'"),
        ({"tasks": {"../x": SST}}, "task name '../x' must be a letter"),
        ({"tasks": [{"type": "pair_regression"}]}, "an entry of the list of tasks must be a mapping with a name"),
        ({"config_version": 7}, "config_version is 7"),
        ({"encoder_config": {"model_type": "bart"}}, "'bart' is an encoder-decoder"),
    ],
)
@pytest.mark.parametrize("load", [*LOADERS, MultiTaskBertConfig.from_pretrained, AutoConfig.from_pretrained])
def test_an_override_is_checked_as_a_value_of_the_constructor_is(
    load: Any, change: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, **change)
    with pytest.raises(ValueError, match=message):
        MultiTaskBertConfig(**{"encoder_config": encoder_config().to_dict(), "tasks": TASKS, **change})


@pytest.mark.parametrize("load", LOADERS)
def test_an_override_that_fits_is_taken(load: Any, folder: Path) -> None:
    expected = tiny_model(pooling="max")
    model = load(folder, pooling="max")
    assert torch.equal(model(IDS).pooler_output, expected(IDS).pooler_output)
    weighted = load(folder, tasks={**TASKS, "sst": {**SST, "weight": 3.0, "dropout": 0.5, "pooling": "cls"}})
    assert weighted.config.tasks["sst"].weight == 3.0
    assert weighted.heads["sst"].dropout.p == 0.5
    assert torch.equal(weighted(IDS, task="sst").embeddings, weighted(IDS).last_hidden_state[:, 0])
    dropped = load(folder, encoder_config={"hidden_dropout_prob": 0.3})
    assert dropped.backbone.config.hidden_dropout_prob == 0.3
    assert dropped.backbone.config.hidden_size == 16
    assert list(dropped.config.tasks) == list(TASKS)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({**TASKS, "nli": {"type": "pair_regression"}}, "no head for the task 'nli', but for sst, quora, sts"),
        ({"sst": {**SST, "num_labels": 4}}, r"task 'sst' has num_labels 4, and the checkpoint's has 5"),
        ({"sst": {"type": SST["type"], "labels": list("43210")}}, r"has labels \['4', .*checkpoint's has \['0', '1'"),
        ({"sst": {"type": "pair_classification", "num_labels": 5}}, "has texts 2, and the checkpoint's has 1"),
        (
            {"quora": {"type": "pair_classification"}},
            r"has pair_features 'u,v', and the check.* has 'u,v,\|u-v\|'",
        ),
        ({"sts": {**TASKS["sts"], "score_range": [0, 1]}}, r"score_range \[0.0, 1.0\], and the .* \[0.0, 5.0\]"),
        ({"sts": {**TASKS["sts"], "projection": "separate"}}, "has projection 'separate', and the checkpoint's has 's"),
    ],
)
@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("way", ["tasks", "config", "foreign config"])
def test_a_table_that_the_weights_do_not_fit_is_refused_with_the_difference(
    load: Any, way: str, tasks: dict[str, Any], message: str, folder: Path
) -> None:
    options: dict[str, Any] = {"tasks": tasks}
    if way == "config":
        options = {"config": MultiTaskBertConfig.from_pretrained(folder, tasks=tasks)}
    elif way != "tasks":
        options = {"config": MultiTaskBertConfig(encoder_config=encoder_config(), tasks=tasks)}
    with pytest.raises(ValueError, match=message) as error:
        load(folder, **options)
    assert str(folder) in str(error.value)
    assert "from_backbone" in str(error.value)


@pytest.mark.parametrize("load", LOADERS)
def test_heads_that_a_table_leaves_out_are_named(load: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(folder, tasks={"sts": TASKS["sts"], "sst": SST})
    assert list(model.heads) == ["sts", "sst"]
    assert torch.equal(model(IDS, task="sst").logits, tiny_model()(IDS, task="sst").logits)
    assert re.search(r"heads\.quora\S*\W+UNEXPECTED", caplog.text)
    assert "heads.sst" not in caplog.text


def test_a_folder_given_as_the_config_is_checked_too(folder: Path, tmp_path: Path) -> None:
    tasks = {"sst": {"type": SST["type"], "labels": list("43210")}}
    MultiTaskBertConfig(encoder_config=encoder_config(), tasks=tasks).save_pretrained(tmp_path / "config")
    with pytest.raises(ValueError, match="the checkpoint's has"):
        MultiTaskBertModel.from_pretrained(folder, config=str(tmp_path / "config"))


def test_an_encoder_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(OSError, match=r"has the shape \[.*16.*\], and the config asks for \[.*32.*\]"):
        AutoModel.from_pretrained(folder, encoder_config={"hidden_size": 32})


@pytest.mark.parametrize("load", LOADERS)
def test_an_unknown_key_is_named(load: Any, folder: Path) -> None:
    with pytest.raises(TypeError, match="from_pretrained takes no 'poling'; did you mean 'pooling'") as error:
        load(folder, poling="max")
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=r"from_pretrained takes no 'unknown_key'; known: .*pooling"):
        load(folder, unknown_key=1)
    with pytest.raises(TypeError, match="takes no 'unknown_key'"):
        load(folder, config=MultiTaskBertConfig.from_pretrained(folder), unknown_key=1)


def test_a_config_without_the_weights_may_have_any_table(folder: Path) -> None:
    config = MultiTaskBertConfig.from_pretrained(folder, tasks={"nli": {"type": "pair_regression"}})
    assert list(MultiTaskBertModel(config).heads) == ["nli"]
    assert list(AutoConfig.from_pretrained(folder, tasks=config.tasks).tasks) == ["nli"]


@pytest.mark.parametrize("load", [MultiTaskBertModel.from_pretrained, MultiTaskBertConfig.from_pretrained])
def test_a_plain_encoder_with_a_table_is_sent_to_from_backbone(load: Any, tmp_path: Path) -> None:
    BertModel(encoder_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a 'bert' configuration has no tasks: from_backbone"):
        load(tmp_path, tasks=TASKS)


def test_new_heads_on_a_plain_encoder_are_said_to_be_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    BertModel(encoder_config()).save_pretrained(tmp_path)
    config = MultiTaskBertConfig(encoder_config=encoder_config(), tasks=TASKS)
    MultiTaskBertModel.from_pretrained(tmp_path, config=config)
    assert [bool(re.search(rf"heads\.{name}\S*\W+MISSING", caplog.text)) for name in TASKS] == [True] * 3
