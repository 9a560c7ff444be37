import io
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import ROOT

QUICK = (
    "--eval_strategy",
    "no",
    "--save_strategy",
    "no",
    "--load_best_model_at_end",
    "false",
    "--write_report",
    "false",
)


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of recipes/ in a process of its own, without a network, with its own caches."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("datasets")),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }

    def run(script: str, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "recipes" / script), *map(str, args)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, cwd=ROOT)

    return run


@pytest.fixture
def run_in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of recipes/ here, without the seconds that a new process takes to import everything."""
    handlers = logging.getLogger().handlers[:]

    def run(script: str, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        monkeypatch.setattr(sys, "path", sys.path[:])
        capsys.readouterr()
        status = 0
        try:
            runpy.run_path(str(ROOT / "recipes" / script), run_name="__main__")
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            logging.getLogger().handlers[:] = handlers
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, captured.out, captured.err)

    return run
