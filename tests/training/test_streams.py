"""Training on streamed tasks."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model
from tests.training.conftest import TRAINING

RUN = {"max_steps": 6, "epoch_length": "4", "logging_steps": 1, "save_steps": 5}


@pytest.fixture
def make_streamed(tmp_path: Path, tokenizer: Any) -> Any:
    """A trainer of which one task, sst, is streamed."""

    def make(train: Any = None, evaluation: Any = None, **args: Any) -> MultiTaskTrainer:
        rows = task_rows(40, seed=1)
        stream = rows["sst"].to_iterable_dataset(num_shards=4)
        return MultiTaskTrainer(
            tiny_model(),
            MultiTaskTrainingArguments(**{"output_dir": str(tmp_path / "out"), **TRAINING, **RUN, **args}),
            {**rows, "sst": stream, **(train or {})},
            evaluation,
            processing_class=tokenizer,
        )

    return make


def losses(trainer: MultiTaskTrainer) -> list[float]:
    return [log["loss_sst"] for log in trainer.state.log_history if "loss_sst" in log]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_streamed: Any, tmp_path: Path, workers: int
) -> None:
    settings = {"gradient_accumulation_steps": 2, "bf16": True}
    whole = make_streamed(**settings)
    whole.train()
    # Step 5 is in the middle of the second epoch.
    resumed = make_streamed(**settings, dataloader_num_workers=workers)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert losses(resumed) == losses(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    # Six steps of eight rows of forty: the stream went round.
    assert whole.train_dataset.streams["sst"].report.rows == 40


def test_accumulation_reads_the_rows_of_the_larger_batch(make_streamed: Any) -> None:
    runs = []
    for size, accumulation in ((8, 1), (2, 4)):
        trainer = make_streamed(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)
        batches = list(trainer.get_train_dataloader())
        runs.append([row for batch in batches for row in batch["rows"]["sst"]])
    assert runs[0] == runs[1]
    assert len(runs[0]) == 32


def test_schedules_that_go_by_size_want_to_know_it(make_streamed: Any) -> None:
    for args in ({"epoch_length": "largest"}, {"schedule": "proportional"}, {"schedule": "adaptive_round_robin"}):
        with pytest.raises(
            ValueError, match="task 'sst' is streamed, and how many rows it has is not known: give rows"
        ):
            make_streamed(**args)
    make_streamed(schedule="adaptive_sampling").train()


def test_only_training_rows_can_be_streamed_and_only_texts(make_streamed: Any, tokenizer: Any) -> None:
    stream = task_rows(9)["sst"].to_iterable_dataset()
    with pytest.raises(ValueError, match="task 'sst': eval_dataset is a stream, and only train_dataset can have those"):
        make_streamed(evaluation={"sst": stream})
    tokenized = Dataset.from_dict({"input_ids": [[2, 3]], "label": [0]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="task 'sst': train_dataset has no column 'sentence'; known: input_ids"):
        make_streamed(train={"sst": tokenized})
    wrong = IterableDataset.from_generator(lambda: iter([{"sentence": "a film", "label": 9}]))
    with pytest.raises(ValueError, match="task 'sst': train_dataset: row 1: column 'label' is 9"):
        make_streamed(train={"sst": wrong})


def test_the_card_of_a_run_on_a_stream_says_how_many_rows_it_has_read(make_streamed: Any, tmp_path: Path) -> None:
    trainer = make_streamed(bf16=True)
    for least in (0, 24):  # Six steps of four rows; loaders read ahead.
        trainer.create_model_card()
        card = (tmp_path / "out" / "README.md").read_text()
        (rows,) = re.findall(r"^\| sst \| train \| given in Python \| (\d+) \| 0 \|", card, re.M)
        assert least <= int(rows) <= 40
        trainer.train()
    assert "| mixed_precision | bf16 |" in card
