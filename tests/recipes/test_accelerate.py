"""The launch configurations."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def read(path: Path, *flags: str) -> Any:
    """A configuration as `accelerate launch` reads it."""
    args = launch_command_parser().parse_args(["--config_file", str(path), *flags, "recipes/train.py"])
    return _validate_launch_command(args)[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_every_key(path: Path) -> None:
    # It raises at keys that it does not know.
    config = load_config_from_file(str(path))
    assert config.num_processes == config.num_machines * {"t4_fp16": 1, "gpu_bf16": 1, "cpu": 2}.get(path.stem, 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t4_fp16", {"mixed_precision": "fp16", "multi_gpu": False}),
        ("gpu_bf16", {"mixed_precision": "bf16", "multi_gpu": False}),
        ("ddp", {"mixed_precision": "bf16", "multi_gpu": True, "num_processes": 4}),
        ("nodes", {"multi_gpu": True, "num_machines": 2, "num_processes": 8, "main_process_port": 29500}),
        ("fsdp", {"use_fsdp": True, "fsdp_version": 2, "fsdp_transformer_layer_cls_to_wrap": "BertLayer"}),
        ("deepspeed_zero2", {"use_deepspeed": True, "zero_stage": 2}),
        ("cpu", {"use_cpu": True, "multi_gpu": True, "num_processes": 2}),
    ],
)
def test_a_configuration_launches_what_its_name_says(name: str, expected: dict[str, Any]) -> None:
    args = read(ROOT / "recipes" / "accelerate" / f"{name}.yaml")
    assert {
        key: int(value) if key == "zero_stage" else value
        for key in expected
        if (value := getattr(args, key, None)) is not None
    } == expected


def test_fsdp_tells_the_processes_what_they_are_to_divide() -> None:
    environment = prepare_multi_gpu_env(read(ROOT / "recipes" / "accelerate" / "fsdp.yaml"))
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "BertLayer"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


@pytest.mark.slow
def test_the_processors_configuration_runs_two_processes(tmp_path: Path) -> None:
    command = ["accelerate", "launch", "--config_file", "recipes/accelerate/cpu.yaml", "recipes/train.py", *QUICK]
    run = subprocess.run(
        [*command, "--output_dir", str(tmp_path), "--max_steps", "2", "--use_cpu"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "on 2 processes on CPU" in (tmp_path / "README.md").read_text()
