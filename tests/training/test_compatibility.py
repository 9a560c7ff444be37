from typing import Any

import pytest
from datasets import Dataset
from transformers import TrainingArguments

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics must be false"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last must be false"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches must be true"),
        ({"label_names": ["label"]}, "label_names must be unset"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be false"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy 'group_by_length' has no effect"),
    ],
)
def test_an_argument_without_a_meaning_here_is_refused(make_trainer: Any, arguments: Any, message: str) -> None:
    if "train_sampling_strategy" in arguments and not hasattr(TrainingArguments, "train_sampling_strategy"):
        pytest.skip("this transformers does not have it")
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


@pytest.mark.parametrize("name", ["compute_loss_func", "model_init"])
def test_so_is_a_function_that_would_never_be_called(tmp_path: Any, name: str) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path))
    with pytest.raises(ValueError, match=f"{name} is not taken: "):
        MultiTaskTrainer(tiny_model(), args, **{name: lambda *_: None})


def test_arguments_of_another_class_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="args must be MultiTaskTrainingArguments, which take all that"):
        MultiTaskTrainer(tiny_model(), TrainingArguments(str(tmp_path)))
    with pytest.raises(ValueError, match="args must be MultiTaskTrainingArguments, not dict"):
        MultiTaskTrainer(tiny_model(), {"output_dir": str(tmp_path)})


def test_no_arguments_are_the_default_ones(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = MultiTaskTrainer(tiny_model(), train_dataset=task_rows(4), processing_class=tokenizer)
    assert trainer.args.output_dir == "tmp_trainer"


def test_tokenized_rows_need_a_tokenizer_too(tmp_path: Any) -> None:
    rows = {"sst": Dataset.from_dict({"input_ids": [[2, 5, 3]], "label": [1]})}
    for packing in ("auto", "off"):
        args = MultiTaskTrainingArguments(str(tmp_path), packing=packing, use_cpu=True)
        with pytest.raises(ValueError, match="processing_class is missing: the tokenizer"):
            MultiTaskTrainer(tiny_model(), args, rows)
