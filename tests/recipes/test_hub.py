"""From `accelerate launch recipes/train.py --push_to_hub` to a model in somebody else's process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel, AutoTokenizer, pipeline

from tests.conftest import ROOT
from tests.hub.server import OWNER_TOKEN, READER_TOKEN, LoopbackHub, card_problems
from tests.recipes.conftest import QUICK

PAIR = ("The soup was not bad.", "The soup was good.")

LOADING = """
import json
import sys
from transformers import AutoModel, AutoTokenizer, pipeline
options = {"trust_remote_code": True} if "hf_multitask" in sys.modules and sys.modules["hf_multitask"] is None else {}
model = AutoModel.from_pretrained("user/mtbert-smart", **options)
tokenizer = AutoTokenizer.from_pretrained("user/mtbert-smart", **options)
pipe = pipeline("multi-task", model="user/mtbert-smart", **options)
pair = json.loads(sys.argv[1])
inputs = tokenizer(pair, padding=True, return_tensors="pt")
logits = {task: model(**inputs, task=task).logits.tolist() for task in model.config.tasks}
print(json.dumps({"logits": logits, "predicted": pipe(tuple(pair)), "code": type(model).__module__}))
"""


ONE_PROCESS = ("-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1", "--cpu")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")


def launch(command: tuple[str, ...], tmp_path: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": OWNER_TOKEN, "PYTHONPATH": str(ROOT)}
    script = [ROOT / "recipes/train.py", "--output_dir", tmp_path / "out", *QUICK, "--max_steps", "2", *flags]
    return subprocess.run(
        [sys.executable, *command, *map(str, script)],
        capture_output=True,
        text=True,
        env={**variables, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )


def test_a_pushed_run_is_the_same_model_wherever_it_is_loaded(
    hub: LoopbackHub,
    run_python: Any,
    tmp_path: Path,
) -> None:
    push = ("--push_to_hub", "--hub_model_id", "user/mtbert-smart", "--language", "en", "--license", "apache-2.0")
    run = launch(ONE_PROCESS, tmp_path, *push, "--write_report", "true")
    assert run.returncode == 0, run.stderr[-3000:]
    sent, out = hub.files("user/mtbert-smart"), tmp_path / "out"
    for path, blob in sent.items():
        assert blob.read_bytes() == (out / path).read_bytes(), path
    assert "recipe.yaml" not in sent
    assert (out / "recipe.yaml").is_file()
    reports = {"README.md", "data_report.json", "all_results.json", "tokenizer.json", "pipeline_mtbert.py"}
    assert reports | {"model.safetensors", "config.json", "modeling_mtbert.py"} <= set(sent)
    for path, blob in sent.items():
        # transformers' own record of the run names the folder of its best checkpoint.
        assert path == "trainer_state.json" or str(ROOT).encode() not in blob.read_bytes(), path
    card = sent["README.md"].read_text()
    assert card_problems(card) == []
    assert 'pipeline("multi-task", model="user/mtbert-smart")' in card
    # The report goes with it, figures and all, but for what it would quote of the data.
    assert set(re.findall(r"\((report/.*?)\)", card)) <= set(sent)
    assert "Bias probes" in sent["report/index.html"].read_text()
    assert "Worst errors" not in sent["report/index.html"].read_text()

    model, tokenizer = AutoModel.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    inputs = tokenizer(list(PAIR), padding=True, return_tensors="pt")
    logits = {task: model(**inputs, task=task).logits.tolist() for task in model.config.tasks}
    predicted = pipeline("multi-task", model=str(out))(PAIR)
    for start, code in (
        ("import hf_multitask", "hf_multitask"),
        ("import sys; sys.modules['hf_multitask'] = None", "transformers_modules"),
    ):
        process = run_python(f"{start}\n{LOADING}", json.dumps(PAIR))
        assert process.returncode == 0, process.stderr[-3000:]
        theirs = json.loads(process.stdout)
        assert theirs["code"].startswith(code)
        assert theirs["logits"] == logits
        assert theirs["predicted"] == predicted


@pytest.mark.slow
def test_two_processes_push_as_one_does(hub: LoopbackHub, tmp_path: Path) -> None:
    push = ("--push_to_hub", "--hub_model_id", "user/two", "--hub_strategy", "checkpoint", "--hub_always_push")
    save = ("--save_strategy", "steps", "--save_steps", 1, "--use_cpu")
    run = launch(TWO_PROCESSES, tmp_path, *push, *save)
    assert run.returncode == 0, run.stderr[-3000:]
    steps = [f"Training in progress, step {step}{what}" for step in (1, 2) for what in (", checkpoint", "")]
    assert hub.messages("user/two") == [*steps, "Model save"]
    sent = hub.files("user/two")
    assert {"last-checkpoint/rng_state_0.pth", "last-checkpoint/rng_state_1.pth", "pipeline_mtbert.py"} <= set(sent)
    for path in ("model.safetensors", "README.md", "all_results.json"):
        assert sent[path].read_bytes() == (tmp_path / "out" / path).read_bytes()
    assert "on 2 processes on CPU" in sent["README.md"].read_text()


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({"HF_TOKEN": "hf_unknown"}, ("--push_to_hub",), "the Hub wants a token that it knows; run `hf auth login`"),
        ({"HF_TOKEN": READER_TOKEN}, ("--push_to_hub",), "the Hub does not let this token do that"),
        ({}, ("--resume_from_checkpoint", "user/absent"), "the checkpoint 'user/absent' is no folder: the Hub has no"),
    ],
)
def test_what_the_hub_refuses_ends_before_training_with_one_sentence(
    hub: LoopbackHub,
    run_in_process: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    flags: tuple[str, ...],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = run_in_process("train.py", "--output_dir", tmp_path / "out", "--hub_model_id", "user/run", *flags)
    assert run.returncode == 2
    assert message in run.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_final_push_that_fails_ends_with_one_sentence_and_the_model_on_disk(
    hub: LoopbackHub,
    run_in_process: Any,
    tmp_path: Path,
) -> None:
    hub.fail("POST", "/api/models/user/run/commit/main", 403, times=100)
    flags = ("--push_to_hub", "--hub_model_id", "user/run", "--max_steps", 2, "--use_cpu")
    run = run_in_process("train.py", "--output_dir", tmp_path / "out", *QUICK, *flags)
    assert run.returncode == 2
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: the push failed: user/run: the Hub does not let this token do that")
    assert f"The model is whole in {tmp_path / 'out'}" in last
    AutoModel.from_pretrained(tmp_path / "out")
