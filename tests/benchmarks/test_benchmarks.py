"""The benchmarks run; what they measure is not a test's business."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import BertModel

from tests.conftest import encoder_config

ROOT = Path(__file__).parents[2]


QUICK = {
    "step": ["--steps", "2", "--warmup", "1"],
    "smart": ["--steps", "2", "--warmup", "0", "--only", "every: 2", "surgery: upgrad"],
    "adversary": ["--batches", "1"],
    "memory": ["--steps", "2", "--surgery", "sum"],
    "predict": ["--sentences", "40", "--rounds", "1", "--max-length", "60"],
    "loading": ["--rows", "50"],
    "startup": ["--rounds", "1"],
    "streaming": ["--rows", "20000"],
    "scale": ["--steps", "1", "--warmup", "1"],
}
TABLES = {
    "step": ["| plain loop |", "| hf-multitask |", "Overhead:"],
    "smart": ["| without either |", "| every: 2 |", "| surgery: upgrad |"],
    "adversary": ["| ball, ε = 1e-6 | shared |", "| no perturbation | independent |"],
    "memory": ["| plain loop |", "| hf-multitask |", "| hf-multitask, surgery sum |"],
    "predict": ["| sentence-transformers |", "| pipeline (batches of "],
    "loading": ["| first start |", "| second start |"],
    "streaming": ["20,000 pairs, ", "to row 2,000: "],
    "startup": ["| BertModel |", "| hf-multitask |", "| `import hf_multitask` |"],
    "scale": ["r² =", "| rows of the datasets |", "| 50 |"],
}


@pytest.mark.parametrize(
    "name", ["step", *(pytest.param(name, marks=pytest.mark.slow) for name in QUICK if name != "step")]
)
def test_a_benchmark_prints_its_tables(name: str, tmp_path: Path, tokenizer: Any) -> None:
    if name == "predict":
        pytest.importorskip("sentence_transformers")
    BertModel(encoder_config(max_position_embeddings=260)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--backbone", str(tmp_path), *QUICK[name]]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
    for line in TABLES[name]:
        assert line in run.stdout
