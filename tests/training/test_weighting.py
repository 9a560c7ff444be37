import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_multitask.training import trainer as trainer_module
from hf_multitask.training.weighting import build_scalarizer
from tests.conftest import TASKS, tiny_model, without_dropout
from tests.training.conftest import Gradients
from tests.training.test_health import poison

METHODS = ["uncertainty", "dynamic_weight_average", "famo", "imtl", "geometric_mean", "random"]


def logged(trainer: Any, key: str) -> list[float]:
    return [log[key] for log in trainer.state.log_history if key in log]


def test_uncertainty_weighting_starts_with_half_of_each_loss_and_learns_its_weights(make_trainer) -> None:
    """Kendall et al. 2018: Σ ½ exp(−s_i) L_i + ½ s_i, so that ∂/∂s_i = ½ − ½ exp(−s_i) L_i."""
    trainer = make_trainer(
        without_dropout(tiny_model()),
        loss_weighting="uncertainty",
        max_steps=5,
        logging_steps=1,
        head_learning_rate=0.1,
    )
    trainer.train()
    first = trainer.state.log_history[0]
    assert [first[f"weight_{name}"] for name in TASKS] == [0.5] * 3
    assert first["loss"] == pytest.approx(sum(first[f"loss_{name}"] for name in TASKS) / 2, rel=1e-5)
    # Adam's first step is its learning rate, up where the loss is above 1 and down where it is below.
    for name in TASKS:
        s = 0.1 if first[f"loss_{name}"] > 1 else -0.1
        assert logged(trainer, f"weight_{name}")[1] == pytest.approx(0.5 * math.exp(-s), rel=1e-3)


def test_dynamic_weight_average_follows_the_ratio_of_the_last_two_epochs_losses(make_trainer) -> None:
    """Liu et al. 2019: K softmax(L(t − 1) / L(t − 2) / 2)."""
    trainer = make_trainer(
        without_dropout(tiny_model()),
        loss_weighting="dynamic_weight_average",
        epoch_length="2",
        num_train_epochs=3,
        logging_steps=2,
    )
    trainer.train()
    means = {name: logged(trainer, f"loss_{name}") for name in TASKS}
    rates = torch.tensor([values[1] / values[0] for values in means.values()])
    expected = 3 * (rates / 2).softmax(0)
    weights = {name: logged(trainer, f"weight_{name}") for name in TASKS}
    assert [values[1] for values in weights.values()] == [1.0] * 3
    assert [values[2] for values in weights.values()] == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("stop", [2, 4])
def test_an_epoch_that_ends_with_a_checkpoint_is_not_lost(make_trainer, tmp_path: Path, stop: int) -> None:
    method = {"loss_weighting": "dynamic_weight_average", "epoch_length": "2", "num_train_epochs": 4}
    settings = {**method, "save_steps": stop, "logging_steps": 1}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stop}"))
    assert logged(whole, "weight_sst")[-1] != 1.0
    assert logged(resumed, "weight_sst") == logged(whole, "weight_sst")


def test_memory_that_a_checkpoint_cannot_hold_is_warned_of(make_trainer, caplog: Any) -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.kept = {"no": "mapping"}, [torch.ones(1)]

        def forward(self, losses: torch.Tensor) -> torch.Tensor:
            return losses.sum()

    make_trainer(loss_weighting=Remembering(), max_steps=1, save_steps=1).train()
    assert "a checkpoint cannot hold its seen." in caplog.text


def test_famo_is_told_the_losses_of_the_same_batch_after_the_update(make_trainer) -> None:
    trainer = make_trainer(loss_weighting="famo", max_steps=3, learning_rate=0.0, save_strategy="no")
    scalarizer, seen = trainer._weighting.scalarizer, []
    update = scalarizer.update
    scalarizer.update = lambda values: seen.append((scalarizer._prev_losses.clone(), values)) or update(values)
    trainer.train()
    # The weights have not moved, and the dropout masks are those of the pass before: nothing has changed.
    assert len(seen) == 3
    for before, after in seen:
        torch.testing.assert_close(after, before)


def test_famo_compares_losses_that_are_balanced_alike(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    # As those of several processes are, of which one has more labels.
    monkeypatch.setattr(
        trainer_module, "balanced_losses", lambda outputs, *_: {name: 3 * loss for name, loss in outputs.losses.items()}
    )
    trainer = make_trainer(loss_weighting="famo", max_steps=1, learning_rate=0.0, save_strategy="no")
    scalarizer, seen = trainer._weighting.scalarizer, []
    scalarizer.update = lambda values: seen.append((scalarizer._prev_losses.clone(), values))
    trainer.train()
    torch.testing.assert_close(*seen[0])


def test_famo_does_not_see_losses_after_an_update_that_are_not_finite(make_trainer) -> None:
    model = tiny_model()
    # The second pass of each step is that after its update.
    poison(model, "sst", {1})
    trainer = make_trainer(model, loss_weighting="famo", max_steps=3, save_strategy="no")
    trainer.train()
    assert all(value.isfinite().all() for value in trainer._weighting.scalarizer.state_dict().values())
    assert all(value.isfinite().all() for value in model.state_dict().values())


# The others remember nothing from step to step, or as one of these does.
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in ("uncertainty", "dynamic_weight_average", "famo") else pytest.mark.slow)
        for name in METHODS
    ],
)
def test_every_method_trains_and_resumes_bit_for_bit(make_trainer, tmp_path: Path, method: str) -> None:
    settings = {
        "loss_weighting": method,
        "epoch_length": "2",
        "num_train_epochs": 4,
        "save_steps": 5,
        "logging_steps": 1,
    }
    whole = make_trainer(**settings)
    whole.train()
    assert all(math.isfinite(value) for value in logged(whole, "loss"))
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    for name in TASKS:
        assert logged(resumed, f"weight_{name}") == logged(whole, f"weight_{name}")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_users_own_module_weighs_and_learns(make_trainer) -> None:
    class Sharpened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.power = nn.Parameter(torch.tensor(1.0))

        def forward(self, losses: torch.Tensor) -> torch.Tensor:
            return (losses**self.power).sum()

    mine, recorder = Sharpened(), Gradients()
    make_trainer(
        without_dropout(tiny_model()), loss_weighting=mine, callbacks=[recorder], max_steps=1, max_grad_norm=0
    ).train()
    assert float(mine.power) != 1.0
    plain = Gradients()
    make_trainer(without_dropout(tiny_model()), callbacks=[plain], max_steps=1, max_grad_norm=0).train()
    for name, gradient in plain.seen[0].items():
        torch.testing.assert_close(recorder.seen[0][name], gradient)


def test_regularisers_are_added_and_not_weighed(make_trainer) -> None:
    trainer = make_trainer(
        loss_weighting="uncertainty",
        smart={"weight": 1.0, "epsilon": 0.2, "eta": 0.3, "sigma": 0.1},
        max_steps=1,
        logging_steps=1,
    )
    trainer.train()
    log = trainer.state.log_history[0]
    expected = sum(log[f"loss_{name}"] / 2 + log[f"smart_{name}"] for name in TASKS)
    assert log["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weighting": "uncertanty"}, "loss_weighting 'uncertanty' is unknown; did you mean 'uncertainty'"),
        ({"loss_weighting": "uncertainty", "surgery": "sum"}, "loss_weighting and surgery both weigh the tasks"),
        ({"loss_weighting": "uncertainty", "schedule": "proportional"}, "schedule round_robin, not proportional"),
        ({"loss_weighting": "famo", "gradient_accumulation_steps": 2}, "it takes no accumulation"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(make_trainer, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_an_optimizer_of_the_users_must_have_what_the_method_learns(make_trainer) -> None:
    trainer = make_trainer(loss_weighting="uncertainty", max_steps=1)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="does not have the parameters of loss_weighting"):
        trainer.train()


def test_a_checkpoint_of_another_method_is_refused(make_trainer, tmp_path: Path) -> None:
    make_trainer(max_steps=1, save_steps=1).train()
    with pytest.raises(ValueError, match=r"has no loss_weighting\.pt: its run had fixed weights"):
        make_trainer(max_steps=2, loss_weighting="uncertainty").train(str(tmp_path / "out" / "checkpoint-1"))


def test_a_method_is_built_by_its_name() -> None:
    assert type(build_scalarizer("uncertainty", 3)).__name__ == "UW"
