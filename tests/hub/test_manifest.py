"""No checkpoint is taken for whole that is not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_multitask.hub import publisher
from hf_multitask.hub.manifest import MANIFEST_NAME, check_whole, newest_whole, problem_of, seal
from tests.conftest import ROOT
from tests.training.conftest import make_trainer  # noqa: F401

SAVING = {"max_steps": 6, "save_steps": 2, "save_strategy": "steps", "eval_strategy": "no", "logging_steps": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-3"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0123456789")
    (folder / "deep" / "state.json").write_text("{}")
    seal(folder)
    return folder


def test_a_sealed_folder_is_whole_and_its_manifest_lists_sizes_and_hashes(folder: Path) -> None:
    assert problem_of(folder) is None
    files = json.loads((folder / MANIFEST_NAME).read_text())["files"]
    assert set(files) == {"model.safetensors", "deep/state.json"}
    # sha256 of "{}", as sha256sum prints it.
    assert files["deep/state.json"] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }


def test_every_way_of_being_damaged_is_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"01234")
    assert problem_of(folder) == "model.safetensors has 5 bytes, not 10."
    weights.write_bytes(b"0123456788")
    assert problem_of(folder) == "model.safetensors has other bytes than were written."
    with pytest.raises(ValueError, match=r"checkpoint-3 is not whole: model.safetensors has other bytes"):
        check_whole(folder)
    weights.unlink()
    assert problem_of(folder) == "model.safetensors is not there."
    (folder / MANIFEST_NAME).write_text('{"files"')
    assert problem_of(folder) == "its manifest.json cannot be read."


def test_a_folder_without_a_manifest_is_no_newest_one_but_can_be_named(folder: Path, caplog: Any) -> None:
    (folder / MANIFEST_NAME).unlink()
    assert problem_of(folder).startswith("it has no manifest.json")
    check_whole(folder)
    assert "It is taken as it is." in caplog.text
    with pytest.raises(ValueError, match="no whole checkpoint to resume from; there are: checkpoint-3"):
        newest_whole(folder.parent)
    with pytest.raises(ValueError, match="there are: none at all"):
        newest_whole(folder)


def test_the_newest_is_the_one_of_the_most_steps_that_is_whole(folder: Path, caplog: Any) -> None:
    for step in (12, 100):
        other = folder.parent / f"checkpoint-{step}"
        other.mkdir()
        (other / "model.safetensors").write_bytes(b"x")
        seal(other)
    assert newest_whole(folder.parent).name == "checkpoint-100"
    (folder.parent / "checkpoint-100" / "model.safetensors").write_bytes(b"")
    assert newest_whole(folder.parent).name == "checkpoint-12"
    assert "checkpoint-100 is not whole and is passed over: model.safetensors has 0 bytes, not 1." in caplog.text


def test_a_run_passes_over_a_damaged_checkpoint_and_equals_an_uninterrupted_one(
    make_trainer: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    whole = make_trainer(**SAVING)
    whole.train()
    newest, out = tmp_path / "out" / "checkpoint-6", tmp_path / "out"
    assert [problem_of(out / f"checkpoint-{step}") for step in (2, 4, 6)] == [None] * 3
    damaged = bytearray((newest / "optimizer.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / "optimizer.pt").write_bytes(damaged)
    resumed = make_trainer(**SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    # Its steps were done again, and the checkpoint was written over.
    assert problem_of(newest) is None


def test_older_checkpoints_are_there_until_the_new_one_is_whole(
    make_trainer: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(folder: Any) -> None:
        if Path(folder).name == "checkpoint-4":
            raise OSError(28, "No space left on device")
        seal(folder)

    monkeypatch.setattr(publisher, "seal", fail)
    with pytest.raises(OSError, match="No space left"):
        make_trainer(**SAVING, save_total_limit=1).train()
    assert newest_whole(tmp_path / "out").name == "checkpoint-2"
    monkeypatch.undo()
    trainer = make_trainer(**SAVING, save_total_limit=1)
    trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-6"]


def test_what_is_no_failed_write_is_not_taken_for_one(
    make_trainer: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(folder: Any) -> None:
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(publisher, "seal", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory\.$"):
        make_trainer(**SAVING).train()


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_ends_as_one_that_was_not(tmp_path: Path) -> None:
    draw = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    steps = ["--max_steps", "120", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "2"]
    steps += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--write_report", "false", "--use_cpu"]

    def start(folder: Path, *flags: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "recipes" / "train.py"), "--output_dir", str(folder), *steps, *flags]
        log = (folder.parent / f"{folder.name}.log").open("a")
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)

    assert start(tmp_path / "whole").wait() == 0
    kills, out = 0, tmp_path / "killed"
    while kills < 20:
        resume = ("--resume_from_checkpoint", "true") if list(out.glob(f"checkpoint-*/{MANIFEST_NAME}")) else ()
        process = start(out, *resume)
        # From the first checkpoint of this process on, at any moment, saving included.
        begun, newest = time.time(), max(out.glob("checkpoint-*"), default=None, key=lambda path: path.stat().st_mtime)
        while process.poll() is None and time.time() < begun + 120:
            latest = max(out.glob("checkpoint-*"), default=None, key=lambda path: path.stat().st_mtime)
            if latest is not None and latest != newest:
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.6))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert newest_whole(out)
    assert start(out, "--resume_from_checkpoint", "true").wait() == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert kills == 20
    whole, killed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    for name, value in whole.items():
        assert torch.equal(killed[name], value), name


@pytest.mark.slow
def test_a_full_disk_is_said_with_the_checkpoint_that_is_left(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    # A limit on the size of files is what any user can set; the write fails half-way, as on a full disk.
    code = f"""
import resource, signal, sys
from transformers import PreTrainedTokenizerFast, TrainerCallback
from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model
from tests.training.conftest import TRAINING

class Full(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

trainer = MultiTaskTrainer(
    tiny_model(), MultiTaskTrainingArguments("out", **{{**TRAINING, **{SAVING!r}, "save_total_limit": 1}}),
    task_rows(20), callbacks=[Full()], processing_class=PreTrainedTokenizerFast.from_pretrained("tokenizer"),
)
try:
    trainer.train()
except OSError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert "checkpoint-4 could not be written: " in run.stdout, run.stderr[-2000:]
    assert "The last whole checkpoint is out/checkpoint-2; resume from there" in run.stdout
    assert problem_of(tmp_path / "out" / "checkpoint-2") is None
    assert newest_whole(tmp_path / "out").name == "checkpoint-2"
