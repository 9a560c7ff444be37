"""The benchmarks run; what they measure is not a test's business."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import BertModel

from tests.conftest import encoder_config

ROOT = Path(__file__).parents[2]


def test_the_steps_benchmark_prints_its_table(tmp_path: Path, tokenizer: Any) -> None:
    BertModel(encoder_config(max_position_embeddings=260)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-m", "benchmarks.step", "--backbone", str(tmp_path), "--steps", "2", "--warmup", "1"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| plain loop |" in run.stdout
    assert "| hf-multitask |" in run.stdout
