import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from hf_multitask import MultiTaskBertModel
from tests.conftest import HUB, tiny_model
from tests.hub.server import OWNER_TOKEN, LoopbackHub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The loopback Hub, empty; this process is online and its owner's."""
    HUB.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    return HUB


@pytest.fixture
def model(tokenizer: Any) -> MultiTaskBertModel:
    model = tiny_model()
    model.name_or_path = ""
    return model


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new process with empty caches, online; it ends with `result`, which is printed."""

    def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": OWNER_TOKEN,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path)

    return run
