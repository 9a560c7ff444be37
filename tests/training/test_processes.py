"""Two processes with the gloo backend, against one with the whole batch."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_multitask import MultiTaskTrainer
from tests.conftest import CHECKPOINTING, ROOT, tiny_model, without_dropout
from tests.training.conftest import Gradients, even_noise

_WORKER = """
import json, sys
import torch
from transformers import PreTrainedTokenizerFast
from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model, without_dropout
from tests.training.conftest import TRAINING, Gradients, even_noise

folder, runs, resume = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:] or [None]
torch.randn = even_noise
results = []
for settings in runs:
    rows = settings.pop("rows", 20)
    recorder = Gradients()
    trainer = MultiTaskTrainer(
        without_dropout(tiny_model()),
        MultiTaskTrainingArguments(output_dir=folder, **{**TRAINING, **settings}, per_device_eval_batch_size=4),
        train_dataset=task_rows(rows, seed=1), eval_dataset=task_rows(9, seed=2), callbacks=[recorder],
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder + "/tokenizer"),
    )
    trainer.train(resume_from_checkpoint=resume[0])
    metrics = trainer.evaluate()
    rows = {name: len(array) for name, array in trainer.predict(task_rows(9, seed=2)).predictions.items()}
    logs = [log for log in trainer.state.log_history if "loss" in log]
    results.append({"gradients": recorder.seen, "weights": trainer.model.state_dict(), "metrics": metrics, "rows": rows,
                    "losses": [log["loss"] for log in logs], "sst": [log.get("loss_sst") for log in logs]})
if trainer.is_world_process_zero():
    torch.save(results, folder + "/result.pt")
trainer.end()
"""


def launch(folder: Path, worker: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts two gloo processes on a script; `accelerate launch --cpu --num_processes 2` would start one."""
    folder.mkdir(exist_ok=True)
    (folder / "worker.py").write_text(worker)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    return subprocess.Popen(
        [*command, str(folder / "worker.py"), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )


def run_two_processes(folder: Path, tokenizer: Any, runs: list[dict[str, Any]], *resume: str) -> list[dict[str, Any]]:
    """Trains on two processes, with each of several settings in turn."""
    tokenizer.save_pretrained(folder / "tokenizer")
    process = launch(folder, _WORKER, json.dumps(runs), *resume)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return torch.load(folder / "result.pt")


def run_one_process(make_trainer: Any, settings: dict[str, Any]) -> tuple[MultiTaskTrainer, Gradients]:
    recorder = Gradients()
    settings = {"per_device_train_batch_size": 4, **settings}
    settings["per_device_train_batch_size"] *= 2
    one = make_trainer(without_dropout(tiny_model()), callbacks=[recorder], **settings)
    one.train()
    return one, recorder


def logged(trainer: MultiTaskTrainer, key: str) -> list[float]:
    return [log[key] for log in trainer.state.log_history if key in log]


SETTINGS = {"max_steps": 6, "epoch_length": "4", "save_steps": 5, "max_grad_norm": 0.0, "logging_steps": 1}


def test_two_processes_train_as_one_does_with_the_whole_batch(make_trainer, tmp_path: Path, tokenizer: Any) -> None:
    (two,) = run_two_processes(tmp_path / "two", tokenizer, [SETTINGS])
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


@pytest.mark.slow
def test_two_processes_go_on_where_they_stopped(tmp_path: Path, tokenizer: Any) -> None:
    (two,) = run_two_processes(tmp_path / "two", tokenizer, [SETTINGS])
    # Step 5 is in the middle of the second epoch of four steps.
    (resumed,) = run_two_processes(tmp_path / "two", tokenizer, [SETTINGS], str(tmp_path / "two" / "checkpoint-5"))
    assert resumed["losses"] == two["losses"]
    for name, value in two["weights"].items():
        assert torch.equal(resumed["weights"][name], value), name


REGULARISERS = {"smart": {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}, "proximal": {"weight": 0.3}}


@pytest.mark.slow
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
    (two,) = run_two_processes(tmp_path / "two", tokenizer, [settings])
    monkeypatch.setattr(torch, "randn", even_noise)
    one, recorder = run_one_process(make_trainer, settings)
    for step, (mine, theirs) in enumerate(zip(recorder.seen, two["gradients"], strict=True)):
        for name, gradient in mine.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=5e-3, atol=1e-3, msg=f"step {step}: {name}")
    assert two["losses"] == pytest.approx(logged(one, "loss"), rel=1e-3)
    assert two["sst"] == pytest.approx(logged(one, "loss_sst"), rel=1e-3)


SCHEDULES = [
    {"schedule": "round_robin"},
    {"schedule": "adaptive_round_robin"},
    {"schedule": "proportional"},
    {"schedule": "proportional", "mixing": "tasks"},
    {"schedule": "temperature"},
    {"schedule": "annealed"},
    {"schedule": "adaptive_sampling", "sampling_alpha": 4.0},
]


@pytest.mark.slow
def test_two_processes_agree_with_one_under_every_schedule(
    make_trainer, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three rows in a batch: the last ones of an epoch of 20, 40 and 23 rows are of other sizes in both runs.
    # Keys have biases without a gradient; Adam would make steps of its rounding errors with a smaller epsilon.
    settings = {**SETTINGS, **REGULARISERS, "per_device_train_batch_size": 3, "epoch_length": "largest"}
    settings |= {"adam_epsilon": 1e-3, "learning_rate": 3e-4}
    runs = [{**settings, **schedule, "max_steps": 20} for schedule in SCHEDULES]
    both = run_two_processes(tmp_path / "two", tokenizer, runs)
    monkeypatch.setattr(torch, "randn", even_noise)
    for run, two in zip(runs, both, strict=True):
        one, recorder = run_one_process(make_trainer, run)
        assert len(two["gradients"]) == 20
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(two["weights"][name], value, rtol=0, atol=1e-6, msg=f"{run}: {name}")
        for mine, theirs in zip(recorder.seen, two["gradients"], strict=True):
            for name, gradient in mine.items():
                torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-5, msg=f"{run}: {name}")


_LONG = _WORKER.replace(
    "recorder = Gradients()",
    """
    class Recorder(Gradients):
        def on_step_end(self, args, state, control, **kwargs):
            self.seen.clear()
            (Path(folder) / f"pid-{args.process_index}").write_text(str(os.getpid()))
    recorder = Recorder()""",
)


@pytest.mark.slow
def test_when_one_process_dies_the_others_end_within_a_minute_and_say_why(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "two"
    tokenizer.save_pretrained(folder / "tokenizer")
    settings = {**SETTINGS, "max_steps": 1_000_000, "epoch_length": "1000000", "logging_steps": 1000}
    process = launch(folder, "import os\nfrom pathlib import Path\n" + _LONG, json.dumps([settings]))
    pids = [folder / f"pid-{rank}" for rank in (0, 1)]
    while not all(path.exists() for path in pids):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.2)
    time.sleep(2)
    os.kill(int(pids[1].read_text()), signal.SIGKILL)
    killed = time.time()
    _, errors = process.communicate(timeout=120)
    assert time.time() - killed < 60
    assert process.returncode != 0
    assert re.search(r"Signal 9 \(SIGKILL\) received by PID " + pids[1].read_text(), errors), errors[-3000:]
    assert not Path(f"/proc/{pids[0].read_text()}").exists()


@pytest.mark.slow
def test_a_loss_that_one_process_alone_cannot_compute_is_left_out_by_both(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "two"
    tokenizer.save_pretrained(folder / "tokenizer")
    worker = _WORKER.replace(
        "    trainer.train(",
        """
    passes = iter(range(1000))
    def poison(module, inputs, output):
        is_bad = module.training and next(passes) in (1, 3) and trainer.args.process_index == 1
        return output * float("nan") if is_bad else output
    trainer.model.heads["quora"].register_forward_hook(poison)
    trainer.train(""",
    )
    process = launch(folder, worker, json.dumps([SETTINGS]))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    lines = (folder / "_nonfinite_losses.jsonl").read_text().splitlines()
    assert [(row["step"], row["process"], row["task"]) for row in map(json.loads, lines)] == [
        (2, 1, "quora"),
        (4, 1, "quora"),
    ]
    (result,) = torch.load(folder / "result.pt")
    assert all(value.isfinite().all() for value in result["weights"].values())


# Accelerate gives FSDP to accelerators alone, though torch has it for processors: its state is told there are some.
_ON_CPU = """
import accelerate.state
from accelerate.utils import DistributedType

begin = accelerate.state.PartialState.__init__

def pretend(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

accelerate.state.PartialState.__init__ = pretend
"""
_FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


@pytest.mark.slow
def test_divided_weights_train_with_smart_and_resume_as_whole_ones_do(
    make_trainer, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "smart": REGULARISERS["smart"], "adam_epsilon": 1e-3, "learning_rate": 3e-4}
    worker = _ON_CPU + _WORKER.replace(
        "recorder.seen,", "[{name: g.full_tensor() for name, g in step.items()} for step in recorder.seen],"
    ).replace("trainer.model.state_dict()", "trainer.accelerator.get_state_dict(trainer.model_wrapped)")
    folder = tmp_path / "two"
    tokenizer.save_pretrained(folder / "tokenizer")
    for resume in ([], [str(folder / "checkpoint-5")]):
        process = launch(folder, worker, json.dumps([settings]), *resume, **_FSDP)
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        (two,) = torch.load(folder / "result.pt")
        # The model's own code is saved, and not that of the class which FSDP gives it.
        saved = json.loads((folder / "checkpoint-5" / "config.json").read_text())
        assert saved["auto_map"]["AutoModel"] == "modeling_mtbert.MultiTaskBertModel"
        assert not list((folder / "checkpoint-5").glob("_fsdp*"))
        monkeypatch.setattr(torch, "randn", even_noise)
        one, recorder = run_one_process(make_trainer, settings)
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(two["weights"][name], value, rtol=0, atol=1e-6, msg=name)
        for name, gradient in recorder.seen[-1].items():
            torch.testing.assert_close(two["gradients"][-1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
