import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hf_multitask import MultiTaskTrainingArguments
from hf_multitask.training.surgery import GradientSurgery, build_weighting
from tests.conftest import TASKS, tiny_model, without_dropout
from tests.training.conftest import Gradients

# Two tasks that pull apart, and a third that conflicts with neither.
CONFLICT = {"a": [1.0, 0.0, 0.0], "b": [-1.0, 2.0, 0.0], "c": [0.0, 0.5, 1.0]}


def operate(weighting: str, gradients: dict[str, list[float]], accelerator: Any = None) -> tuple[Any, dict[str, float]]:
    """The combined gradient of one shared parameter, given each task's."""
    shared = nn.Parameter(torch.zeros(3))
    accelerator = accelerator or Accelerator(cpu=True)
    surgery = GradientSurgery(build_weighting(weighting), [shared], list(gradients), accelerator)
    for name, gradient in gradients.items():
        with surgery.collecting(name):
            (shared * torch.tensor(gradient)).sum().backward()
        assert shared.grad is None
    cosines = surgery.combine()
    return shared.grad, {name: float(value) for name, value in cosines.items()}


def naive_pcgrad(gradients: list[np.ndarray], orders: list[list[int]]) -> np.ndarray:
    """Algorithm 1 of Yu et al. 2020, on the vectors themselves, with the tasks' orders given."""
    total = np.zeros_like(gradients[0])
    for i, order in enumerate(orders):
        g = gradients[i].copy()
        for j in order:
            if j != i and g @ gradients[j] < 0:
                g -= (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        total += g
    return total


@pytest.mark.parametrize("seed", range(8))
def test_pcgrad_is_its_papers_algorithm(seed: int) -> None:
    gradients = list(np.random.default_rng(seed).normal(size=(3, 3)))
    torch.manual_seed(seed)
    combined, _ = operate("pcgrad", dict(zip("abc", (g.tolist() for g in gradients), strict=True)))
    # Each task meets the two others in one order or the other, drawn at random.
    orders = [[[j, k], [k, j]] for j, k in ((1, 2), (0, 2), (0, 1))]
    possible = [naive_pcgrad(gradients, list(drawn)) for drawn in product(*orders)]
    assert any(np.allclose(combined.numpy(), total, rtol=1e-4, atol=1e-5) for total in possible)


def test_pcgrad_by_hand() -> None:
    # a meets b: (1, 0, 0) + 1/5 (-1, 2, 0); b meets a: (-1, 2, 0) + (1, 0, 0); c is left alone.
    combined, _ = operate("pcgrad", CONFLICT)
    assert combined.tolist() == pytest.approx([0.8 + 0.0 + 0.0, 0.4 + 2.0 + 0.5, 1.0])


def test_upgrad_never_opposes_a_task() -> None:
    combined, _ = operate("upgrad", CONFLICT)
    for gradient in CONFLICT.values():
        assert float(combined @ torch.tensor(gradient)) > -1e-4


def test_the_cosines_are_those_of_the_vectors() -> None:
    _, cosines = operate("sum", CONFLICT)
    assert cosines == {
        "gradient_cosine_a_b": pytest.approx(-1 / 5**0.5),
        "gradient_cosine_a_c": pytest.approx(0.0),
        "gradient_cosine_b_c": pytest.approx(1.0 / (5 * 1.25) ** 0.5),
    }


@pytest.mark.parametrize("weighting", ["sum", "pcgrad", "upgrad", "dualproj"])
def test_without_a_conflict_they_are_the_sum_whatever_the_lengths(weighting: str) -> None:
    combined, _ = operate(weighting, {"a": [10.0, 0, 0], "b": [0.2, 1.0, 0], "c": [0, 0.5, 3.0]})
    assert combined.tolist() == pytest.approx([10.2, 1.5, 3.0], rel=1e-2)


def test_a_gradient_of_nothing_has_no_cosine() -> None:
    _, cosines = operate("pcgrad", {"a": [1.0, 0, 0], "b": [0.0, 0, 0], "c": [1.0, 1.0, 0]})
    assert list(cosines) == ["gradient_cosine_a_c"]


def test_a_step_that_broke_off_leaves_nothing_behind() -> None:
    shared = nn.Parameter(torch.zeros(1))
    surgery = GradientSurgery(build_weighting("sum"), [shared], ["a", "b"], Accelerator(cpu=True))
    with surgery.collecting("a"):
        (100 * shared).sum().backward()
    with pytest.raises(KeyboardInterrupt), surgery.collecting("b"):
        raise KeyboardInterrupt
    for name in ("a", "b"):
        with surgery.collecting(name):
            shared.sum().backward()
    surgery.combine()
    assert shared.grad.tolist() == [2.0]


@pytest.mark.parametrize("weighting", ["sum", "pcgrad", "upgrad", "mgda", "dualproj"])
def test_orthogonal_gradients_of_equal_length_are_summed(weighting: str) -> None:
    combined, _ = operate(weighting, {"a": [1.0, 0, 0], "b": [0, 1.0, 0], "c": [0, 0, 1.0]})
    assert combined.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)


@pytest.mark.parametrize("name", ["pcgard", "weighting", "nashmtl"])
def test_unknown_weightings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"surgery '{name}' is unknown"):
        build_weighting(name)


def test_a_missing_torchjd_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_weighting("sum")
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r"needs TorchJD: pip install hf-multitask\[torchjd\]"):
        build_weighting("pcgrad")


def test_importing_the_package_does_not_import_torchjd() -> None:
    code = "import sys, hf_multitask; assert 'torchjd' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_gradients_that_are_not_finite_reach_the_scaler() -> None:
    combined, _ = operate("pcgrad", {"a": [1.0, 0.0, 0.0], "b": [float("inf"), 0.0, 1.0]})
    assert not combined.isfinite().all()


def test_a_gradient_scalers_factor_does_not_change_the_weights() -> None:
    class Scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
        num_processes = 1

    Scaled.scaler.scale(torch.ones(1))  # a scaler has its scale once it was used
    scaled, _ = operate("upgrad", {name: [2.0**14 * x for x in g] for name, g in CONFLICT.items()}, Scaled())
    plain, _ = operate("upgrad", CONFLICT)
    torch.testing.assert_close(scaled / 2**14, plain)


# ---- Through the trainer ----


@pytest.mark.parametrize("packing", ["on", "off"])
def test_the_sum_is_the_run_without_surgery(make_trainer, packing: str) -> None:
    settings = {"max_steps": 3, "max_grad_norm": 0.0, "logging_steps": 1, "packing": packing}
    plain, summed = Gradients(), Gradients()
    reference = make_trainer(without_dropout(tiny_model()), callbacks=[plain], **settings)
    reference.train()
    trainer = make_trainer(without_dropout(tiny_model()), callbacks=[summed], surgery="sum", **settings)
    trainer.train()
    for expected, gradients in zip(plain.seen, summed.seen, strict=True):
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    logs = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (reference, trainer)]
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    assert all(
        f"gradient_cosine_{pair}" in trainer.state.log_history[0] for pair in ("sst_quora", "sst_sts", "quora_sts")
    )


def test_the_logged_cosine_is_that_of_the_tasks_own_gradients(make_trainer) -> None:
    trainer = make_trainer(without_dropout(tiny_model()), surgery="pcgrad", max_steps=1, logging_steps=1)
    batch = next(iter(trainer.get_train_dataloader()))
    losses = trainer.model.train()(**batch).losses
    shared = [p for p in trainer.model.backbone.parameters() if p.requires_grad]
    gradients = {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)])
        for name, loss in losses.items()
    }
    expected = torch.cosine_similarity(gradients["quora"], gradients["sts"], 0)
    trainer.train()
    assert trainer.state.log_history[0]["gradient_cosine_quora_sts"] == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("weighting", ["sum", "upgrad"])
def test_accumulation_gives_the_gradient_of_the_larger_batch(make_trainer, weighting: str) -> None:
    gradients = []
    for batch_size, steps in ((8, 1), (4, 2)):
        recorder = Gradients()
        make_trainer(
            without_dropout(tiny_model()),
            callbacks=[recorder],
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=3,
            max_grad_norm=0.0,
            surgery=weighting,
        ).train()
        gradients.append(recorder.seen)
    for large, small in zip(*gradients, strict=True):
        for name in large:
            torch.testing.assert_close(small[name], large[name], rtol=1e-2, atol=1e-3, msg=name)


def test_heads_have_the_gradients_of_their_own_losses(make_trainer) -> None:
    plain, operated = Gradients(), Gradients()
    for recorder, surgery in ((plain, "none"), (operated, "mgda")):
        model = without_dropout(tiny_model())
        make_trainer(model, callbacks=[recorder], surgery=surgery, max_steps=1, max_grad_norm=0.0).train()
    differs = []
    for name, gradient in plain.seen[0].items():
        if name.startswith("heads"):
            torch.testing.assert_close(operated.seen[0][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
        else:
            differs.append(not torch.allclose(operated.seen[0][name], gradient, rtol=1e-2))
    assert any(differs)


@pytest.mark.parametrize("settings", [{"schedule": "adaptive_round_robin"}, {"smart": {"weight": 0.1}}])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_trainer, tmp_path: Path, settings: dict) -> None:
    settings = {"surgery": "pcgrad", "epoch_length": "4", "num_train_epochs": 2, "save_steps": 3, **settings}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_frozen_backbone_is_refused(make_trainer) -> None:
    model = tiny_model()
    model.freeze_backbone()
    with pytest.raises(ValueError, match="surgery is for the gradients of the backbone, which is frozen"):
        make_trainer(model, surgery="sum")


def test_processes_whose_tasks_differ_are_refused(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultiTaskTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match="surgery in several processes needs a round_robin schedule, not proportional"):
        make_trainer(surgery="sum", schedule="proportional")


def test_one_task_needs_no_surgery_and_survives_it(make_trainer) -> None:
    trainer = make_trainer(surgery="upgrad", schedule="proportional", mixing="tasks", max_steps=3, logging_steps=1)
    trainer.train()
    assert len(trainer._tasks) == len(TASKS)
    assert not any(key.startswith("gradient_cosine") for log in trainer.state.log_history for key in log)
