import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_multitask.hub.manifest import problem_of
from hf_multitask.training.callbacks import EmbeddingGradientKeeper, GracefulStop


class SignalAt(TrainerCallback):
    """Sends this process signals when a step begins."""

    def __init__(self, step: int, *numbers: signal.Signals) -> None:
        self.step, self.numbers = step, numbers

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """SIGINT acts as in a shell's foreground, also where these tests run in its background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_with_a_checkpoint_from_which_it_goes_on_as_if_nothing_had_been(
    make_trainer: Any, tmp_path: Path, number: signal.Signals
) -> None:
    # Epochs of four steps, each with an evaluation, a checkpoint and a log at its end.
    settings = {"max_steps": 10, "epoch_length": "4", "save_strategy": "epoch", "eval_strategy": "epoch"}
    settings |= {"logging_steps": 1, "load_best_model_at_end": True}
    whole = make_trainer(**settings)
    whole.train()

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = make_trainer(**settings, output_dir=str(tmp_path / "stopped"))
    stop = GracefulStop(stopped.accelerator)
    stopped.add_callback(SignalAt(6, number))
    stopped.add_callback(stop)
    stopped.train()
    assert stop.signal == number
    assert stopped.state.global_step == 6
    assert problem_of(tmp_path / "stopped" / "checkpoint-6") is None
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers

    resumed = make_trainer(**settings, output_dir=str(tmp_path / "stopped"))
    stop = GracefulStop(resumed.accelerator)
    resumed.add_callback(stop)
    resumed.train(resume_from_checkpoint=True)
    assert stop.signal is None
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    scores = [
        [(log["step"], log["eval_final_score"]) for log in run.state.log_history if "eval_final_score" in log]
        for run in (whole, resumed)
    ]
    assert scores[0] == scores[1]


def test_a_second_signal_acts_as_ever(make_trainer: Any) -> None:
    trainer = make_trainer(max_steps=4, save_strategy="no")
    trainer.add_callback(SignalAt(2, signal.SIGINT, signal.SIGINT))
    trainer.add_callback(GracefulStop(trainer.accelerator))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def test_the_embeddings_gradient_stays_in_its_memory_and_is_the_dense_one() -> None:
    plain, kept = nn.Embedding(50, 4, padding_idx=0), nn.Embedding(50, 4, padding_idx=0)
    kept.load_state_dict(plain.state_dict())
    keeper = EmbeddingGradientKeeper(kept)
    keeper.on_train_begin(None, None, None)
    places = set()
    for step in range(3):
        torch.manual_seed(step)
        plain.zero_grad()
        keeper.on_step_begin(None, None, None)
        for _ in range(2):  # accumulated batches
            ids, weights = torch.randint(50, (6, 7)), torch.randn(6, 7, 4)
            for embedding in (plain, kept):
                (embedding(ids) * weights).sum().backward()
        torch.testing.assert_close(kept.weight.grad, plain.weight.grad)
        assert kept.weight.grad.layout == torch.strided
        places.add(kept.weight.grad.data_ptr())
        kept.zero_grad()
    assert len(places) == 1

    keeper.on_train_end(None, None, None)
    assert not kept.sparse
    assert kept.weight.grad is None


def test_a_signal_that_is_ignored_stays_so(make_trainer: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = make_trainer(max_steps=2, save_strategy="no")
    stop = GracefulStop(trainer.accelerator)
    trainer.add_callback(SignalAt(1, signal.SIGINT))
    trainer.add_callback(stop)
    trainer.train()
    assert (stop.signal, trainer.state.global_step) == (None, 2)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
