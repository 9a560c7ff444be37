"""What the scripts answer and refuse before they import what takes seconds."""

import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hf_multitask_cli.arguments import (
    CardArguments,
    DataArguments,
    ModelArguments,
    MultiTaskArguments,
    ReportArguments,
)
from hf_multitask_cli.command_line import check_installed, model_place, refusals, writable_folder
from tests.conftest import ROOT

# Runs a script as Python would, and says at its end whether torch was imported.
_RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("torch" in sys.modules or "datasets" in sys.modules, file=sys.stderr)
"""
OWN = (ModelArguments, DataArguments, CardArguments, ReportArguments, MultiTaskArguments)


def at_once(script: str, *words: str) -> tuple[int, str, str]:
    """Runs a script that must not import torch; gives its status and what it printed."""
    command = [sys.executable, "-c", _RUN, str(ROOT / "recipes" / script), *words]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    *errors, has_torch = run.stderr.splitlines()
    assert has_torch == "False", run.stderr
    return run.returncode, run.stdout, "\n".join(errors)


@pytest.mark.parametrize(
    "script", ["train.py", "evaluate.py", "compare.py", "predict.py", "sweep.py", "tune.py", "demo.py"]
)
def test_help_needs_no_torch(script: str) -> None:
    status, printed, errors = at_once(script, "--help")
    assert (status, errors) == (0, "")
    assert printed.startswith(f"usage: {script}")


@pytest.mark.parametrize(("script", "own"), [("train.py", None), ("evaluate.py", "--report"), ("compare.py", "MODEL")])
def test_help_has_the_flags_of_this_package_and_says_how_to_see_the_others(script: str, own: str | None) -> None:
    _, printed, _ = at_once(script, "-h")
    for key in (key for owner in OWN for key in fields(owner)):
        assert f"--{key.name} " in printed
    assert own is None or own in printed
    assert "--gradient_accumulation_steps" not in printed
    assert "`--help all`" in printed


def test_help_all_has_every_flag() -> None:
    script = str(ROOT / "recipes" / "train.py")
    run = subprocess.run([sys.executable, script, "--help", "all"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0
    assert "--head_learning_rate" in run.stdout
    assert "--gradient_accumulation_steps" in run.stdout


@pytest.mark.parametrize(
    ("script", "words", "error"),
    [
        ("train.py", ["--config", "nothere.yaml"], "recipe nothere.yaml is not there."),
        ("train.py", ["--learning_rate", "1", "--config=nothere.yaml"], "recipe nothere.yaml is not there."),
        ("evaluate.py", ["--model", "x", "--config", "recipes"], "recipe recipes is a folder, not a file."),
        ("compare.py", ["a", "b", "--config", "README.md"], "recipe README.md is not valid YAML"),
        ("sweep.py", ["nothere.yaml"], "recipe nothere.yaml is not there."),
        ("tune.py", ["nothere.yaml", "--max_steps", "3"], "recipe nothere.yaml is not there."),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_at_once(script: str, words: list[str], error: str) -> None:
    status, printed, errors = at_once(script, *words)
    assert (status, printed) == (2, "")
    assert errors.startswith(f"error: {error}")
    assert "\n" not in errors


def test_a_recipe_that_another_extends_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\n")
    status, _, errors = at_once("train.py", "--config", str(tmp_path / "mine.yaml"))
    assert (status, errors) == (2, f"error: recipe {tmp_path / 'base.yaml'} is not there.")


@pytest.mark.parametrize(
    "words", [["predict.py", "--model", "x"], ["sweep.py"], ["demo.py"]], ids=lambda words: words[0]
)
def test_a_flag_that_is_missing_is_named_at_once(words: list[str]) -> None:
    status, _, errors = at_once(*words)
    assert status == 2
    assert "the following arguments are required" in errors


@pytest.mark.parametrize("seconds", [0.5, 2.5])
@pytest.mark.parametrize(
    "words",
    [
        ("predict.py", "--model", "x", "--task", "y"),
        ("sweep.py", "recipes/sweeps/effects.yaml"),
        ("tune.py", "recipes/tuning/smart.yaml"),
    ],
    ids=lambda words: words[0],
)
def test_interrupted_before_there_is_anything_to_save_a_script_ends_without_a_traceback(
    seconds: float, words: tuple[str, ...], tmp_path: Path
) -> None:
    script, *flags = words
    # With what they wait for or refuse before they begin to work.
    command = [sys.executable, str(ROOT / "recipes" / script), *flags]
    command += [] if script == "predict.py" else ["--output_dir", str(tmp_path / "file" / "out")]
    (tmp_path / "file").touch()
    run = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # Of a shell's background jobs, which ignore Ctrl-C, the tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(seconds)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    # A slow machine is still at its imports, a quick one has refused the folder.
    assert run.returncode == -signal.SIGINT or (script != "predict.py" and "cannot be written" in errors)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "words", [("sweep.py", "--jobs", "0"), ("sweep.py", "--seeds", "-1"), ("tune.py", "--trials", "0")]
)
def test_of_what_there_must_be_some_there_is_not_none(words: tuple[str, ...]) -> None:
    status, _, errors = at_once(words[0], "x.yaml", f"{words[1]}={words[2]}")
    assert status == 2
    assert f"argument {words[1]}: must be a whole number from 1 on, not '{words[2]}'" in errors


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    check_installed("yaml", "none")
    with pytest.raises(ImportError, match=r"this needs nothere, which is not installed: pip install -e '.\[tune\]'"):
        check_installed("nothere", "tune")


def test_a_models_folder_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert model_place("~/mine") == str(tmp_path / "mine")
    assert model_place("user/model") == "user/model"
    assert model_place("model") == "model"
    assert writable_folder("~/out") == tmp_path / "out"


@pytest.mark.parametrize("name", ["/nothere", "./nothere", "~/nothere", "nothere/", "outputs/a/checkpoint-1", "../x"])
def test_a_folder_that_is_not_there_is_no_id_on_the_hub(name: str) -> None:
    with pytest.raises(ValueError, match=f"model {name} is not there: there is no such folder"):
        model_place(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is a file: give the folder that it lies in"):
        model_place(str(tmp_path / "model.safetensors"))


def test_a_refusal_is_one_line_and_status_two(capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_, refusals():
        raise ValueError("this\nis wrong.")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: this is wrong.\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"output_dir .*file/out cannot be written"):
        writable_folder(str(tmp_path / "file" / "out"))
    assert writable_folder(str(tmp_path / "new" / "out")).is_dir()
    assert not list((tmp_path / "new" / "out").iterdir())


def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    code = "from hf_multitask_cli.command_line import refusals\n"
    code += "with refusals():\n  for _ in range(100000): print('line')"
    command = f'{sys.executable} -c "{code}" | head -n 1; exit ${{PIPESTATUS[0]}}'
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stdout, run.stderr) == (128 + signal.SIGPIPE, "line\n", "")
