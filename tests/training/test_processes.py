"""Two processes with the gloo backend, against one with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_multitask import MultiTaskTrainer
from tests.conftest import CHECKPOINTING, tiny_model, without_dropout
from tests.training.conftest import Gradients, even_noise

_WORKER = """
import json, sys
import torch
from transformers import PreTrainedTokenizerFast
from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model, without_dropout
from tests.training.conftest import TRAINING, Gradients, even_noise

folder, settings, resume = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:] or [None]
torch.randn = even_noise
recorder = Gradients()
trainer = MultiTaskTrainer(
    without_dropout(tiny_model()),
    MultiTaskTrainingArguments(output_dir=folder, **{**TRAINING, **settings}, per_device_eval_batch_size=4),
    train_dataset=task_rows(20, seed=1), eval_dataset=task_rows(9, seed=2), callbacks=[recorder],
    processing_class=PreTrainedTokenizerFast.from_pretrained(folder + "/tokenizer"),
)
trainer.train(resume_from_checkpoint=resume[0])
metrics = trainer.evaluate()
rows = {name: len(array) for name, array in trainer.predict(task_rows(9, seed=2)).predictions.items()}
if trainer.is_world_process_zero():
    torch.save({"gradients": recorder.seen, "weights": trainer.model.state_dict(), "metrics": metrics, "rows": rows,
                "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
                "sst": [log["loss_sst"] for log in trainer.state.log_history if "loss" in log]}, folder + "/result.pt")
trainer.end()
"""


def run_two_processes(folder: Path, tokenizer: Any, settings: dict[str, Any], *resume: str) -> dict[str, Any]:
    """Trains on two gloo processes; `accelerate launch --cpu --num_processes 2` would run one."""
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "worker.py").write_text(_WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [*launch, str(folder / "worker.py"), str(folder), json.dumps(settings), *resume],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(folder / "result.pt")


def run_one_process(make_trainer: Any, settings: dict[str, Any]) -> tuple[MultiTaskTrainer, Gradients]:
    recorder = Gradients()
    one = make_trainer(
        without_dropout(tiny_model()), callbacks=[recorder], **{**settings, "per_device_train_batch_size": 8}
    )
    one.train()
    return one, recorder


def logged(trainer: MultiTaskTrainer, key: str) -> list[float]:
    return [log[key] for log in trainer.state.log_history if key in log]


SETTINGS = {"max_steps": 6, "epoch_length": "4", "save_steps": 5, "max_grad_norm": 0.0, "logging_steps": 1}


def test_two_processes_train_as_one_does_with_the_whole_batch(make_trainer, tmp_path: Path, tokenizer: Any) -> None:
    two = run_two_processes(tmp_path / "two", tokenizer, SETTINGS)
    one, recorder = run_one_process(make_trainer, SETTINGS)
    for mine, theirs in zip(recorder.seen, two["gradients"], strict=True):
        for name, gradient in mine.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert two["losses"] == pytest.approx(logged(one, "loss"), rel=1e-4)
    assert two["sst"] == pytest.approx(logged(one, "loss_sst"), rel=1e-4)
    assert two["rows"] == {"sst": 9, "quora": 18, "sts": 12}
    metrics = one.evaluate()
    for name in ("eval_sst_accuracy", "eval_quora_accuracy", "eval_sts_pearson"):
        assert two["metrics"][name] == pytest.approx(metrics[name], abs=1e-4), name

    # Step 5 is in the middle of the second epoch of four steps.
    resumed = run_two_processes(tmp_path / "two", tokenizer, SETTINGS, str(tmp_path / "two" / "checkpoint-5"))
    assert resumed["losses"] == two["losses"]
    for name, value in two["weights"].items():
        assert torch.equal(resumed["weights"][name], value), name


REGULARISERS = {"smart": {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}, "proximal": {"weight": 0.3}}


@pytest.mark.parametrize(
    "method",
    [
        {
            **REGULARISERS,
            "surgery": "upgrad",
            "gradient_accumulation_steps": 2,
            "max_steps": 3,
            CHECKPOINTING: True,
        },
        {**REGULARISERS, "loss_weighting": "famo"},
    ],
    ids=["surgery", "weighting"],
)
def test_two_processes_agree_with_one_in_every_method(
    make_trainer, tmp_path: Path, tokenizer: Any, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, **method}
    two = run_two_processes(tmp_path / "two", tokenizer, settings)
    monkeypatch.setattr(torch, "randn", even_noise)
    one, recorder = run_one_process(make_trainer, settings)
    for step, (mine, theirs) in enumerate(zip(recorder.seen, two["gradients"], strict=True)):
        for name, gradient in mine.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=5e-3, atol=1e-3, msg=f"step {step}: {name}")
    assert two["losses"] == pytest.approx(logged(one, "loss"), rel=1e-3)
    assert two["sst"] == pytest.approx(logged(one, "loss_sst"), rel=1e-3)
