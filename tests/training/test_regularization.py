"""SMART and the proximal point through the trainer."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_multitask.training.proximal import AVERAGE_NAME
from hf_multitask.training.smart import Smart
from tests.conftest import CHECKPOINTING, TASKS, tiny_model, without_dropout
from tests.training.conftest import Gradients

SMART = {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_smart_is_in_the_loss_and_in_the_logs(make_trainer) -> None:
    trainer = make_trainer(
        without_dropout(tiny_model()), smart={**SMART, "tasks": {"sst": 1.0, "sts": 0.5}}, max_steps=2, logging_steps=1
    )
    trainer.train()
    for log in trainer.state.log_history[:2]:
        tasks = log["loss_sst"] + log["loss_quora"] + log["loss_sts"]
        assert log["loss"] == pytest.approx(tasks + 0.5 * (log["smart_sst"] + 0.5 * log["smart_sts"]), rel=1e-5)
        assert -1 <= log["smart_cosine"] <= 1
        assert log["smart_radius"] > 0
        assert log["smart_skipped"] == 0
        assert "smart_quora" not in log


def test_smart_is_off_in_evaluation(make_trainer, monkeypatch: Any) -> None:
    expected = make_trainer().evaluate()["eval_loss"]
    monkeypatch.setattr(Smart, "__call__", lambda *args: pytest.fail("SMART in an evaluation"))
    assert make_trainer(smart=SMART).evaluate()["eval_loss"] == expected


@pytest.mark.parametrize("bf16", [False, True])
def test_a_weight_of_0_is_the_run_without_smart_bit_for_bit(make_trainer, bf16: bool) -> None:
    runs = []
    for smart in (None, {**SMART, "weight": 0}):
        trainer = make_trainer(smart=smart, max_steps=3, bf16=bf16)
        trainer.train()
        runs.append(trainer.model.state_dict())
    for name, value in runs[0].items():
        assert torch.equal(runs[1][name], value), name


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulation_gives_the_gradient_of_the_larger_batch(make_trainer, reduction: str) -> None:
    gradients = []
    for batch_size, steps in ((8, 1), (4, 2)):
        recorder = Gradients()
        # The sum over half a batch is half a sum, but is also divided by the accumulation steps.
        weight = 0.5 * (8 / batch_size if reduction == "sum" else 1)
        make_trainer(
            without_dropout(tiny_model()),
            callbacks=[recorder],
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=3,
            max_grad_norm=0.0,
            smart={**SMART, "weight": weight, "reduction": reduction},
            proximal={"weight": 0.3},
        ).train()
        gradients.append(recorder.seen)
    for large, small in zip(*gradients, strict=True):
        for name in large:
            torch.testing.assert_close(small[name], large[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.usefixtures("same_noise")
def test_the_sum_is_the_mean_times_the_rows_of_a_task_in_a_batch(make_trainer) -> None:
    mean = make_trainer(without_dropout(tiny_model()), smart={**SMART, "weight": 4 * 0.5}, max_steps=2)
    mean.train()
    total = make_trainer(without_dropout(tiny_model()), smart={**SMART, "reduction": "sum"}, max_steps=2)
    total.train()  # batches of 4
    for name, value in mean.model.state_dict().items():
        torch.testing.assert_close(total.model.state_dict()[name], value, msg=name)


@pytest.mark.usefixtures("same_noise")
def test_every_second_step_has_twice_the_weight(make_trainer) -> None:
    always, sometimes = Gradients(), Gradients()
    settings = {"max_steps": 4, "learning_rate": 0.0, "max_grad_norm": 0.0, "epoch_length": "4"}
    plain = Gradients()
    make_trainer(without_dropout(tiny_model()), callbacks=[plain], **settings).train()
    make_trainer(without_dropout(tiny_model()), callbacks=[always], smart=SMART, **settings).train()
    make_trainer(without_dropout(tiny_model()), callbacks=[sometimes], smart={**SMART, "every": 2}, **settings).train()
    for step in range(4):
        for name, gradient in plain.seen[step].items():
            expected = gradient + (2 * (always.seen[step][name] - gradient) if step % 2 == 0 else 0)
            torch.testing.assert_close(sometimes.seen[step][name], expected, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_trainer, tmp_path: Path, bf16: bool) -> None:
    settings = {
        "smart": {**SMART, "every": 2, "fraction": 0.5},
        "proximal": {"weight": 0.3, "momentum": 0.5},
        "epoch_length": "5",
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_steps": 3,
        "bf16": bf16,
    }
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert losses(resumed) == losses(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    for name, value in whole._proximal.average.state_dict().items():
        assert torch.equal(resumed._proximal.average.state_dict()[name], value), name


def test_the_momentum_is_lower_in_the_first_tenth_of_the_updates(make_trainer) -> None:
    trainer = make_trainer(max_steps=20, proximal={"momentum": 0.7, "early_momentum": 0.2})
    seen = []
    trainer._proximal.update = seen.append
    trainer.train()
    assert seen == [0.2] * 2 + [0.7] * 18


def test_the_proximal_term_is_in_the_loss(make_trainer) -> None:
    trainer = make_trainer(
        max_steps=3, logging_steps=1, proximal={"weight": 2.0, "early_momentum": 1.0, "momentum": 1.0}
    )
    trainer.train()
    first, *others = trainer.state.log_history[:3]
    assert [first[f"proximal_{name}"] for name in TASKS] == [0.0] * 3
    for log in others:
        terms = [log[f"proximal_{name}"] for name in TASKS]
        assert min(terms) > 0
        assert log["loss"] == pytest.approx(sum(log[f"loss_{name}"] for name in TASKS) + 2 * sum(terms), rel=1e-4)


@pytest.mark.parametrize("best", [False, True])
def test_the_average_can_be_evaluated_and_become_the_model(make_trainer, tmp_path: Path, best: bool) -> None:
    trainer = make_trainer(
        max_steps=6,
        learning_rate=1e-2,
        proximal={"weight": 0, "momentum": 0.6, "use_average": True},
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=best,
    )
    trainer.train()
    seen = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    step = trainer.state.best_global_step if best else 6
    assert trainer.evaluate()["eval_loss"] == pytest.approx(seen[step], rel=1e-6)
    for name, value in trainer._proximal.average.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    # The checkpoint's model is the trained one, which training would go on from.
    trained = make_trainer(type(trainer.model).from_pretrained(tmp_path / "out" / f"checkpoint-{step}"))
    assert abs(trained.evaluate()["eval_loss"] - seen[step]) > 1e-3


def test_a_checkpoint_keeps_the_average_beside_the_model_and_what_is_saved_does_not(
    make_trainer, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=2, save_steps=2, proximal={})
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert (tmp_path / "out" / "checkpoint-2" / AVERAGE_NAME).is_file()
    assert not (tmp_path / "final" / AVERAGE_NAME).exists()


def test_packing_changes_nothing_with_regularisers(make_trainer, same_noise: None) -> None:
    runs = []
    for packing in ("on", "off"):
        trainer = make_trainer(
            without_dropout(tiny_model()), packing=packing, max_steps=3, logging_steps=1, smart=SMART, proximal={}
        )
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


# Transformers before 5.21 computes a layer again with its hooks, which then are gone.
REPLAYS_HOOKS = "__call__" in vars(GradientCheckpointingLayer)


@pytest.mark.parametrize("layer", [None, pytest.param(1, marks=pytest.mark.skipif(REPLAYS_HOOKS, reason="refused"))])
def test_activation_checkpointing_changes_nothing_with_regularisers(
    make_trainer, same_noise: None, layer: int | None
) -> None:
    runs = []
    for checkpointing in (False, True):
        trainer = make_trainer(
            max_steps=3,
            logging_steps=1,
            smart={**SMART, "layer": layer},
            proximal={},
            **{CHECKPOINTING: checkpointing},
        )
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_checkpoints_that_would_lose_a_layers_perturbation_are_refused(make_trainer, monkeypatch: Any) -> None:
    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", torch.nn.Module.__call__, raising=False)
    with pytest.raises(ValueError, match=r"smart\.layer with checkpointing of activations needs transformers 5\.21"):
        make_trainer(smart={**SMART, "layer": 1}, **{CHECKPOINTING: True})


def test_a_frozen_backbone_trains_with_regularisers(make_trainer) -> None:
    model = tiny_model()
    model.freeze_backbone()
    trainer = make_trainer(model, max_steps=2, smart=SMART, proximal={})
    assert math.isfinite(trainer.train().training_loss)


def test_the_best_checkpoint_needs_no_average_that_is_not_used(make_trainer) -> None:
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "save_only_model": True}
    make_trainer(proximal={}, **settings).train()
    with pytest.raises(ValueError, match="save_only_model must be off"):
        make_trainer(proximal={"use_average": True}, **settings)


def test_noise_sized_by_padded_sequences_is_refused(make_trainer) -> None:
    with pytest.raises(ValueError, match="use it with packing off alone"):
        make_trainer(neftune_noise_alpha=5.0)
    make_trainer(neftune_noise_alpha=5.0, packing="off", max_steps=1).train()


def test_a_compiled_model_is_refused(make_trainer) -> None:
    with pytest.raises(ValueError, match="torch_compile must be off with smart or proximal"):
        make_trainer(torch_compile_backend="eager", smart={})


def test_arguments_are_written_as_json(make_trainer) -> None:
    args = make_trainer(smart=SMART).args
    assert json.loads(args.to_json_string())["smart"]["epsilon"] == 0.2
