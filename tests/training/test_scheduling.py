"""Schedules, and learning rates over their phases, through the trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_multitask import MultiTaskTrainingArguments
from hf_multitask.training.callbacks import EpochLosses
from tests.conftest import TASKS
from tests.training.conftest import Gradients

ARR = {"schedule": "adaptive_round_robin", "epoch_length": "4", "num_train_epochs": 3, "logging_steps": 1}


def logged(trainer: Any, key: str) -> list[float]:
    return [log[key] for log in trainer.state.log_history if key in log]


def test_each_phase_has_its_own_learning_rates(make_trainer) -> None:
    trainer = make_trainer(
        **ARR, lr_scheduler_type="constant", head_learning_rate=1e-2, phase_learning_rates=[1.0, 0.5]
    )
    trainer.train()
    assert logged(trainer, "learning_rate") == pytest.approx([1e-3] * 4 + [5e-4] * 8)
    assert logged(trainer, "head_learning_rate") == pytest.approx([1e-2] * 4 + [5e-3] * 8)


def test_a_warm_restart_gives_each_phase_the_whole_course(make_trainer) -> None:
    trainer = make_trainer(**ARR, lr_scheduler_type="linear", phase_restart=True, phase_learning_rates=[1.0, 0.5])
    trainer.train()
    first = [1e-3 * (1 - step / 4) for step in range(4)]
    second = [5e-4 * (1 - step / 8) for step in range(8)]
    assert logged(trainer, "learning_rate") == pytest.approx(first + second)


def test_a_warm_up_comes_with_each_phase(make_trainer) -> None:
    trainer = make_trainer(**ARR, lr_scheduler_type="constant_with_warmup", warmup_steps=2, phase_restart=True)
    trainer.train()
    assert logged(trainer, "learning_rate") == pytest.approx([0, 5e-4, 1e-3, 1e-3] + [0, 5e-4] + [1e-3] * 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phase_restart": True}, "the schedule round_robin has no phases"),
        ({**ARR, "phase_learning_rates": [1.0]}, r"phase_learning_rates must be 2 numbers, one for each phase"),
        ({**ARR, "phase_learning_rates": [1.0, -1.0]}, "phase_learning_rates must be numbers from 0 on"),
    ],
)
def test_phases_that_are_not_there_are_refused_before_training(make_trainer, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_a_run_that_never_reaches_its_last_phase_is_warned_of(make_trainer, caplog: Any) -> None:
    make_trainer(**{**ARR, "num_train_epochs": 1}).train()
    assert "The run ends before the last phase of its schedule adaptive_round_robin begins." in caplog.text
    caplog.clear()
    make_trainer(**ARR).train()
    assert "last phase" not in caplog.text


def test_another_training_begins_without_the_losses_of_the_one_before(make_trainer) -> None:
    trainer = make_trainer(**{**ARR, "schedule": "adaptive_sampling"})
    trainer.train()
    first = list(trainer._epoch_losses.history)
    trainer.train()
    assert len(trainer._epoch_losses.history) == len(first) == 2
    assert trainer._epoch_losses.history != first


@pytest.mark.parametrize("stop", [3, 4, 6])
@pytest.mark.parametrize(
    "settings",
    [
        {**ARR, "phase_restart": True, "phase_learning_rates": [1.0, 0.5], "lr_scheduler_type": "cosine"},
        {**ARR, "schedule": "adaptive_sampling", "sampling_alpha": 8.0, "learning_rate": 3e-2},
    ],
    ids=["phases", "adaptive_sampling"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_trainer, tmp_path: Path, settings: dict, stop: int
) -> None:
    whole = make_trainer(**settings, save_steps=stop)
    whole.train()
    resumed = make_trainer(**settings, save_steps=stop)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stop}"))
    assert logged(resumed, "learning_rate") == logged(whole, "learning_rate")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_adaptive_sampling_follows_the_epochs_mean_losses(make_trainer) -> None:
    trainer = make_trainer(**{**ARR, "schedule": "adaptive_sampling", "logging_steps": 4}, callbacks=[Gradients()])
    trainer.train()
    history = trainer._epoch_losses.history
    assert len(history) == 2  # of the epochs before the last
    for epoch, means in enumerate(history):
        for name in TASKS:
            assert means[name] == pytest.approx(logged(trainer, f"loss_{name}")[epoch], rel=1e-5)


def test_losses_of_an_epoch_that_ended_before_a_resumption_are_not_lost(tmp_path: Path, make_trainer) -> None:
    accelerator = make_trainer().accelerator
    losses = EpochLosses(["a", "b"], accelerator)
    losses.add("a", torch.tensor(1.0), 3)
    losses.add("a", torch.tensor(2.0), 1)
    losses.add("a", torch.tensor(float("nan")), 4)
    losses.save(str(tmp_path), writes=True)
    resumed = EpochLosses(["a", "b"], accelerator)
    resumed.load(str(tmp_path))

    class State:
        epoch = 1.0

    resumed.on_epoch_begin(None, State(), None)
    assert resumed.history == [{"a": 1.25}]
    with pytest.raises(ValueError, match=r"has no epoch_losses\.json: its run had another schedule"):
        resumed.load(str(tmp_path / "elsewhere"))


@pytest.mark.skipif(
    not hasattr(MultiTaskTrainingArguments, "dataloader_multiprocessing_context"),
    reason="this transformers does not have it",
)
def test_workers_are_started_as_the_arguments_say(make_trainer: Any) -> None:
    trainer = make_trainer(dataloader_multiprocessing_context="spawn", dataloader_num_workers=1)
    assert trainer.get_train_dataloader().multiprocessing_context.get_start_method() == "spawn"
