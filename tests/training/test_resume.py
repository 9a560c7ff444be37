"""A run that is stopped and resumed equals one that was not, whatever it is made of."""

from pathlib import Path
from typing import Any

import pytest
import torch

REGULARISERS = {
    "smart": {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3, "every": 2},
    "proximal": {"weight": 0.3, "use_average": True},
}
SCHEDULES = [
    {"schedule": "round_robin"},
    {"schedule": "adaptive_round_robin", "phase_learning_rates": [1.0, 0.5]},
    {"schedule": "proportional"},
    {"schedule": "temperature", "mixing": "tasks"},
    {"schedule": "annealed"},
    {"schedule": "adaptive_sampling", "sampling_alpha": 4.0},
]
METHODS = [
    REGULARISERS,
    {"surgery": "upgrad", "smart": REGULARISERS["smart"]},
    {"surgery": "pcgrad", "proximal": REGULARISERS["proximal"]},
]
# Each schedule with a method, each method with Round Robin; weightings are for that alone.
RUNS = [{**schedule, **METHODS[number % len(METHODS)]} for number, schedule in enumerate(SCHEDULES)]
RUNS += [{**SCHEDULES[0], **method} for method in METHODS[1:]]
RUNS += [{"loss_weighting": name, **REGULARISERS} for name in ("uncertainty", "dynamic_weight_average")]


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "settings",
    RUNS,
    ids=lambda settings: "-".join(str(value) for value in settings.values() if isinstance(value, str)),
)
def test_stopped_in_either_epoch_and_resumed_it_is_the_same_run_bit_for_bit(
    make_trainer: Any, tmp_path: Path, settings: dict[str, Any], bf16: bool
) -> None:
    settings = {**settings, "bf16": bf16, "epoch_length": "4", "num_train_epochs": 2, "logging_steps": 1}
    settings |= {"gradient_accumulation_steps": 2, "save_steps": 3}
    whole = make_trainer(**settings)
    whole.train()
    for stop, workers in ((3, 2), (6, 0)):
        resumed = make_trainer(**settings, dataloader_num_workers=workers, output_dir=str(tmp_path / f"from {stop}"))
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stop}"))
        logs = [
            [{k: v for k, v in log.items() if k == "learning_rate" or "loss" in k} for log in run.state.log_history[:8]]
            for run in (whole, resumed)
        ]
        assert logs[0] == logs[1]
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name
