"""Every kind of task by every method, each with a task of another kind beside it."""

import math
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from hf_multitask import MultiTaskTrainer
from hf_multitask.training.smart import SmartArguments
from hf_multitask.training.surgery import surgery_names
from hf_multitask.training.weighting import weighting_names
from hf_multitask_cli.arguments import MultiTaskArguments, ScheduleName
from tests.matrix.kinds import PERTURBED, Kind, as_id, choices, every_kind_mixed

Logs = list[dict[str, float]]
MIXINGS = [choice["mixing"] for choice in choices(MultiTaskArguments) if "mixing" in choice]
# Each value of each choice that SMART has, and of its numbers those that take a way of their own.
SMART = [*choices(SmartArguments), {"steps": 0}, {"steps": 2}, {"layer": 0}, {"layer": 1}, {"fraction": 0.5}]


def logs(trainer: MultiTaskTrainer) -> Logs:
    """Trains, and gives what was logged of each step, which is finite, as all losses were."""
    trainer.train()
    entries = trainer.state.log_history
    assert trainer.state.global_step == trainer.args.max_steps
    assert all(math.isfinite(value) for entry in entries for value in entry.values())
    assert not (Path(str(trainer.args.output_dir)) / "_nonfinite_losses.jsonl").exists()
    return [entry for entry in entries if "loss" in entry]


def of_tasks(entry: dict[str, float], term: str, kind: Kind) -> dict[str, float]:
    """What is logged of a regulariser, by task: of those whose divergence has a meaning, and of no other."""
    assert [name for name in kind.tasks if f"{term}_{name}" in entry] == kind.diverging
    return {name: entry[f"{term}_{name}"] for name in kind.diverging}


@pytest.mark.parametrize("smart", SMART, ids=lambda smart: "-".join(f"{key}={value}" for key, value in smart.items()))
@every_kind_mixed
def test_smart(mixed: Kind, smart: dict[str, Any], tmp_path: Path) -> None:
    for entry in logs(mixed.trainer(tmp_path, smart={**PERTURBED, **smart})):
        assert all(value > 0 for value in of_tasks(entry, "smart", mixed).values())


@every_kind_mixed
def test_smart_of_a_perturbation_that_is_none_is_nothing(mixed: Kind, tmp_path: Path) -> None:
    none = {**PERTURBED, "projection": "normalized", "sigma": 0.0, "eta": 0.0}
    for entry in logs(mixed.trainer(tmp_path, smart=none)):
        assert not any(of_tasks(entry, "smart", mixed).values())


@every_kind_mixed
def test_the_proximal_point_begins_at_nothing(mixed: Kind, tmp_path: Path) -> None:
    first, second = logs(mixed.trainer(tmp_path, proximal={"weight": 1.0, "early_momentum": 1.0, "momentum": 1.0}))
    assert not any(of_tasks(first, "proximal", mixed).values())
    assert all(value > 0 for value in of_tasks(second, "proximal", mixed).values())


@pytest.mark.parametrize(("schedule", "mixing"), [*product(get_args(ScheduleName), MIXINGS)])
@every_kind_mixed
def test_schedule(mixed: Kind, schedule: str, mixing: str, tmp_path: Path) -> None:
    # Two epochs, so that schedules in phases and those that look back come to their second part.
    args = {"schedule": schedule, "mixing": mixing, "epoch_length": "2", "max_steps": 3}
    assert len(logs(mixed.trainer(tmp_path, **args))) == 3


@pytest.mark.parametrize("weighting", weighting_names())
@every_kind_mixed
def test_loss_weighting(mixed: Kind, weighting: str, tmp_path: Path) -> None:
    for entry in logs(mixed.trainer(tmp_path, loss_weighting=weighting)):
        assert weighting == "fixed" or all(f"weight_{name}" in entry for name in mixed.tasks)


@pytest.mark.parametrize("surgery", surgery_names())
@every_kind_mixed
def test_surgery(mixed: Kind, surgery: str, tmp_path: Path) -> None:
    names = list(mixed.tasks)
    for entry in logs(mixed.trainer(tmp_path, surgery=surgery)):
        assert -1 <= entry[f"gradient_cosine_{names[0]}_{names[-1]}"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("packing", [{"packing": "on"}, {"packing": "off"}], ids=as_id)
@every_kind_mixed
def test_all_at_once(mixed: Kind, packing: dict[str, Any], tmp_path: Path) -> None:
    both = {"smart": PERTURBED, "proximal": {"weight": 1.0}, "gradient_accumulation_steps": 2, "bf16": True}
    logs(mixed.trainer(tmp_path, surgery="upgrad", schedule="adaptive_sampling", max_steps=6, **both, **packing))
