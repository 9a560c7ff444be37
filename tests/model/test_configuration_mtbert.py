import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, BitsAndBytesConfig

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from tests.conftest import TASKS, encoder_config


def test_a_saved_config_comes_back_through_autoconfig_with_its_tasks_in_order(tmp_path: Path) -> None:
    tasks = {
        "zebra": TASKS["sts"],
        "ant": TASKS["sst"],
        "mole": {"type": "pair_classification", "labels": ["no", "yes"]},
    }
    config = MultiTaskBertConfig(encoder_config=encoder_config("distilbert"), tasks=tasks, pooling="max")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MultiTaskBertConfig)
    assert list(loaded.tasks) == ["zebra", "ant", "mole"]
    assert loaded.tasks == config.tasks
    assert loaded.encoder_config.model_type == "distilbert"
    assert loaded.pooling == "max"
    assert json.loads((tmp_path / "config.json").read_text())["tasks"][2]["labels"] == ["no", "yes"]


CLASSES = {"type": "single_label_classification", "num_labels": 5}


@pytest.mark.parametrize("name", ["", "a b", "../up", "a.b", "1st", "x" * 65, "keys", "forward"])
def test_a_name_that_could_not_be_a_module_or_a_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="task name"):
        MultiTaskBertConfig(tasks={name: CLASSES})


def test_a_task_that_is_in_the_list_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="task 'sst' is there twice"):
        MultiTaskBertConfig(tasks=[{"name": "sst", **CLASSES}, {"name": "sst", **CLASSES}])


def test_a_misspelt_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        MultiTaskBertConfig(pooling="maen")


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="'t5' is an encoder-decoder"):
        MultiTaskBertConfig(encoder_config={"model_type": "t5"})


@pytest.mark.parametrize(("positions", "longest"), [(70, 64), (50, 50)])
def test_the_longest_input_is_what_tokenizer_and_encoder_both_allow(
    positions: int, longest: int, tokenizer: Any
) -> None:
    config = MultiTaskBertConfig(encoder_config=encoder_config(max_position_embeddings=positions))
    assert config.longest_input(tokenizer) == longest  # the tokenizer's is 64


@pytest.mark.parametrize(
    ("encoder", "longest"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 70, "pad_token_id": 5}, 64),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ({"model_type": "longformer", "max_position_embeddings": 4098, "pad_token_id": 1}, 4096),
        ({"model_type": "esm", "max_position_embeddings": 1026, "pad_token_id": 1}, 1024),
        ({"model_type": "esm", "max_position_embeddings": 1026, "position_embedding_type": "rotary"}, 1026),
        ({"model_type": "xlnet"}, 2**31 - 1),
    ],
)
def test_without_a_tokenizers_limit_the_longest_input_is_what_the_positions_hold(
    encoder: dict[str, Any], longest: int, tokenizer: Any
) -> None:
    config = MultiTaskBertConfig(encoder_config=encoder, tasks=TASKS)
    tokenizer.model_max_length = int(1e30)
    assert config.longest_input(tokenizer) == longest
    tokenizer.model_max_length = 64
    assert config.longest_input(tokenizer) == min(64, longest)
    tokenizer("a film", truncation=True, max_length=longest)


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}, {"trust_remote_code": False}])
def test_a_backbone_with_code_of_its_own_is_refused_before_training(tmp_path: Path, options: dict[str, bool]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}})
    )
    (tmp_path / "configuration_own.py").write_text(
        "from transformers import PreTrainedConfig\nclass OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(ValueError, match="comes with code of its own, which would not travel"):
        MultiTaskBertConfig.from_backbone(str(tmp_path), tasks=TASKS, **options)


@pytest.mark.parametrize("kind", ["plain", "ours", "ours_by_its_encoder"])
@pytest.mark.parametrize("is_saved", [False, True])
def test_a_quantized_backbone_is_refused_before_its_weights_are_read(tmp_path: Path, kind: str, is_saved: bool) -> None:
    config = encoder_config() if kind == "plain" else MultiTaskBertConfig(encoder_config=encoder_config(), tasks=TASKS)
    quantization = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    if is_saved:
        (config.encoder_config if kind == "ours_by_its_encoder" else config).quantization_config = quantization
    config.save_pretrained(tmp_path)
    options = {} if is_saved else {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    with pytest.raises(ValueError, match=r"must not be quantized: .* quantize what was saved, by AutoModel"):
        MultiTaskBertModel.from_backbone(str(tmp_path), tasks=TASKS, **options)
