"""The scripts as a user runs them."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from hf_multitask import MultiTaskBertModel, MultiTaskPipeline
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.hub.manifest import newest_whole
from tests.conftest import ROOT
from tests.hub.server import card_problems
from tests.recipes.conftest import QUICK

TASKS = {"sentiment": "accuracy", "paraphrase": "accuracy", "similarity": "pearson"}


@pytest.fixture(scope="session")
def trained(run_script: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The quickstart's first thirty steps: the folder and the finished process."""
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    return folder, run_script("train.py", "--output_dir", folder, "--max_steps", 30, *QUICK, "--write_report", "true")


def test_training_saves_all_that_a_model_needs_and_prints_a_table(trained: tuple[Path, Any]) -> None:
    folder, run = trained
    assert run.returncode == 0, run.stderr[-2000:]
    for task, metric in TASKS.items():
        assert f"| {task} | {metric} |" in run.stdout
    assert "majority class" in run.stdout
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "all_results.json"} <= files
    assert not {path.suffix for path in folder.iterdir()} & {".bin", ".pt", ".pth"}
    assert {"trainer_state.json", "data_report.json"} <= files
    assert {"index.html", "report.md", "similarity-scatter.png"} <= {
        path.name for path in (folder / "report").iterdir()
    }
    results = json.loads((folder / "all_results.json").read_text())
    assert {f"eval_{task}_{metric}" for task, metric in TASKS.items()} | {"eval_final_score", "train_loss"} <= set(
        results
    )
    report = json.loads((folder / "data_report.json").read_text())
    assert report["train"]["paraphrase"]["rows"] == 3000
    assert report["validation"]["paraphrase"]["also_in_train"] == 0


def test_the_card_says_what_was_measured_and_its_code_runs(trained: tuple[Path, Any], capsys: Any) -> None:
    folder, _ = trained
    card = (folder / "README.md").read_text()
    results = json.loads((folder / "all_results.json").read_text())
    assert f"{results['eval_final_score']:.3f}" in card
    assert "{{" not in card
    assert "{%" not in card
    assert str(folder.parent) not in card
    for image in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (folder / image).is_file()
    # The words of the probes are none of so small a vocabulary.
    assert "vocabulary" in card
    assert "Worst errors" not in card
    assert card_problems(card) == []
    installed, remote = (part.split("```")[0] for part in card.split("```python\n")[1:])
    exec(installed.replace(f'"{folder.name}"', repr(str(folder))), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith("{") for line in printed] == [True] * 3
    exec(remote.replace(f'"{folder.name}"', repr(str(folder))), {})
    everything, embedding, *_ = capsys.readouterr().out.splitlines()
    assert all(f"'{task}'" in everything for task in TASKS)
    assert embedding.startswith("tensor([[")


def test_trainer_evaluate_script_and_a_loop_over_predict_agree(
    trained: tuple[Path, Any], run_in_process: Callable
) -> None:
    folder, _ = trained
    in_training = json.loads((folder / "all_results.json").read_text())
    script = run_in_process("evaluate.py", "--output_dir", folder)
    assert script.returncode == 0, script.stderr[-2000:]
    pipe = pipeline("multi-task", model=str(folder))
    for task, metric in TASKS.items():
        file = ROOT / "recipes" / "quickstart" / f"{task}-validation.csv"
        lines = [line.rsplit(",", 1) for line in file.read_text().splitlines()[1:]]
        assert f"| {task} | {metric} | {in_training[f'eval_{task}_{metric}']:.3f} |" in script.stdout, lines[0]
        assert by_hand(pipe, task, file)[metric] == pytest.approx(in_training[f"eval_{task}_{metric}"], abs=1e-6)


def test_evaluate_writes_a_report_of_the_split_and_of_the_training(
    trained: tuple[Path, Any], run_in_process: Callable, tmp_path: Path
) -> None:
    folder, _ = trained
    run = run_in_process("evaluate.py", "--output_dir", folder, "--report", tmp_path / "there", "--report_examples", 2)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.endswith(f"\nThe report is in {tmp_path / 'there'}.\n")
    markdown = (tmp_path / "there" / "report.md").read_text()
    table = markdown.split("## Task")[0]
    assert run.stdout.split("\n\n")[0] in table
    assert markdown.count("### Worst errors") == 3
    assert "Bias probes" in markdown
    in_training = (folder / "report" / "report.md").read_text()
    assert re.match(r"# .+: .+ on sentiment, paraphrase, similarity, \d+ steps, seed \d+\n", in_training)
    assert re.findall(r"\| sentiment \| .* \|", markdown) == re.findall(r"\| sentiment \| .* \|", in_training)


def by_hand(pipe: MultiTaskPipeline, task: str, file: Path) -> dict[str, float]:
    """Predicts every row alone and scores the predictions."""
    import csv

    config = pipe.model.config.tasks[task]
    with open(file, newline="") as handle:
        rows = [list(row.values()) for row in csv.DictReader(handle)]
    values, labels = [], []
    for *texts, label in rows:
        prediction = pipe(tuple(texts) if config.texts == 2 else texts[0], task=task)
        values.append(prediction["score" if not config.label_names else "label_id"])
        labels.append(
            float(label)
            if not config.label_names
            else config.labels.index(label)
            if task == "sentiment"
            else int(label)
        )
    return evaluation_of(config).score(values, labels)


def test_compare_finds_no_difference_between_a_model_and_itself(
    trained: tuple[Path, Any], run_in_process: Callable, tmp_path: Path
) -> None:
    folder, _ = trained
    run = run_in_process("compare.py", folder, folder, "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((folder / "all_results.json").read_text())
    for task, metric in TASKS.items():
        value = f"{results[f'eval_{task}_{metric}']:.3f}"
        line = f"| {task} | {metric} | {value} | {value} | +0.000 | "
        assert line in run.stdout
    assert run.stdout.count("| 1.000 | 1.000 |\n") == 4


def test_models_that_cannot_be_compared_are_refused(
    trained: tuple[Path, Any], run_in_process: Callable, tmp_path: Path
) -> None:
    folder, other = trained[0], tmp_path / "other"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((other / "config.json").read_text())
    config["tasks"][0]["labels"].reverse()
    (other / "config.json").write_text(json.dumps(config))
    run = run_in_process("compare.py", folder, "--use_cpu")
    assert run.stderr.splitlines()[-1] == "error: name two models to compare, not 1."
    run = run_in_process("compare.py", folder, other, "--use_cpu")
    assert run.returncode == 2
    assert "error: task 'sentiment': labels is ['negative', 'neutral', 'positive'] in the recipe" in run.stderr
    assert f"['positive', 'neutral', 'negative'] in the model {other}, to which the same rows mean" in run.stderr


def test_predict_reads_a_file_and_writes_jsonl(
    trained: tuple[Path, Any], run_in_process: Callable, tmp_path: Path
) -> None:
    folder, _ = trained
    source, target = ROOT / "recipes/quickstart/paraphrase-validation.csv", tmp_path / "out.jsonl"
    run = run_in_process("predict.py", "--model", folder, "--task", "paraphrase", "--input", source, "--output", target)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(1, 301))
    assert {row["label"] for row in rows} <= {"different", "same"}
    assert all(0.5 <= row["score"] <= 1 for row in rows)


def test_predict_reads_standard_input(trained: tuple[Path, Any], run_in_process: Callable) -> None:
    folder, _ = trained
    lines = '{"id": "x", "sentence": "The soup was not bad."}\n{"id": "y", "sentence": "The plot was dull."}\n'
    run = run_in_process("predict.py", "--model", folder, "--task", "sentiment", stdin=lines)
    assert [json.loads(line)["id"] for line in run.stdout.splitlines()] == ["x", "y"], run.stderr[-2000:]


@pytest.mark.parametrize(
    ("task", "texts", "header", "value"),
    [
        ("sentiment", "a\tThe soup was bad.\n", "id \t Predicted_Sentiment ", int),
        ("paraphrase", "a\tThe boy ran.\tThe lad ran.\n", "id \t Predicted_Is_Paraphrase ", int),
        ("similarity", "a\tThe boy ran.\tThe lad ran.\n", "id \t Predicted_Similiary ", float),
    ],
)
def test_predict_writes_the_courses_layout(
    trained: tuple[Path, Any], run_in_process: Callable, tmp_path: Path, task: str, texts: str, header: str, value: type
) -> None:
    columns = "id\tsentence\n" if task == "sentiment" else "id\tsentence1\tsentence2\n"
    (tmp_path / "in.csv").write_text(columns + texts)
    run = run_in_process(
        *("predict.py", "--model", trained[0], "--task", task, "--format", "course"),
        *("--input", tmp_path / "in.csv", "--delimiter", "tab"),
    )
    lines = run.stdout.split("\n")
    assert lines[0] == header, run.stderr[-2000:]
    row_id, prediction = lines[1].split(" , ")
    assert row_id == "a"
    assert math.isfinite(value(prediction))


def test_an_interrupted_run_is_resumed(run_in_process: Callable, tmp_path: Path) -> None:
    save = ("--output_dir", tmp_path / "out", *QUICK, "--save_strategy", "steps", "--save_steps", 2)
    assert run_in_process("train.py", *save, "--max_steps", 2).returncode == 0
    run = run_in_process("train.py", *save, "--max_steps", 4, "--resume_from_checkpoint", "true")
    assert run.returncode == 0, run.stderr[-2000:]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 4

    run = run_in_process("train.py", *save, "--resume_from_checkpoint", "true", "--loss_weighting", "uncertainty")
    assert run.returncode == 1
    assert "error: checkpoint " in run.stderr
    assert "its run had fixed weights, or saved models only." in run.stderr

    weights = tmp_path / "out" / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = run_in_process("train.py", *save, "--max_steps", 6, "--resume_from_checkpoint", weights.parent)
    assert run.returncode == 2
    assert f"error: checkpoint {weights.parent} is not whole: model.safetensors has " in run.stderr
    run = run_in_process("train.py", *QUICK, "--output_dir", tmp_path / "new", "--resume_from_checkpoint", "true")
    assert run.returncode == 2
    assert "has no whole checkpoint to resume from; there are: none at all." in run.stderr


def test_a_finished_run_says_so_and_is_left_as_it_is(run_in_process: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Of the two checkpoints only the best is kept, which is not always the last.
    flags = ("--output_dir", out, "--max_steps", 2, "--eval_strategy", "steps", "--eval_steps", 1, "--use_cpu")
    flags += ("--save_strategy", "steps", "--save_steps", 1, "--write_report", "false")
    assert run_in_process("train.py", *flags).returncode == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for resume in ("true", *out.glob("checkpoint-2")):
        run = run_in_process("train.py", *flags, "--resume_from_checkpoint", resume)
        assert run.returncode == 0, run.stderr[-2000:]
        assert f"The run in {out} is finished: all 2 steps are made, and nothing is changed." in run.stdout
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    swapped = ("--resume_from_checkpoint", "true", "--tasks.sentiment.labels", "[positive, neutral, negative]")
    for steps in (2, 3):
        run = run_in_process("train.py", *flags, *swapped, "--max_steps", steps)
        assert run.returncode == 2
        assert "labels of task 'sentiment' is ['negative', 'neutral', 'positive'] there" in run.stderr
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_that_is_told_to_end_saves_its_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "recipes" / "train.py"), "--output_dir", str(tmp_path / "out"), *QUICK]
    command += ["--max_steps", "100000", "--logging_steps", "1", "--logging_first_step", "--use_cpu"]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while "'loss'" not in (tmp_path / "log").read_text():
        assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    written = (tmp_path / "log").read_text()
    step = re.search(r"Stopped by SIGTERM; step (\d+) is saved in .*--resume_from_checkpoint true", written)[1]
    assert newest_whole(tmp_path / "out").name == f"checkpoint-{step}"
    assert "Traceback" not in written


def test_training_goes_on_from_a_model_of_ours(
    trained: tuple[Path, Any], run_in_process: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = trained[0], tmp_path / "out"
    flags = ("--from_scratch", "false", "--max_steps", 1, "--learning_rate", 0, "--weight_decay", 0, "--use_cpu")
    run = run_in_process("train.py", "--backbone", folder, "--output_dir", out, *QUICK, *flags)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "head is new" not in caplog.text
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert f"started from: {folder.name}." in (out / "README.md").read_text()


BAD_ROW = "sentence,sentiment\na fine film,positive\n{}\n"


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({"t.csv": "text,sentiment\na,positive\n"}, (), "has no column 'sentence'; did you mean 'sentiment'?"),
        ({"t.csv": BAD_ROW.format("a film,7")}, (), "t.csv has 1 bad row(s): row 2: column 'sentiment' is '7'"),
        ({"t.csv": BAD_ROW.format(" ,positive")}, (), "row 2: column 'sentence' is blank"),
        ({"t.csv": BAD_ROW.format("a film,")}, (), "row 2: column 'sentiment' is empty"),
        ({"t.csv": ""}, (), "t.csv is empty"),
        ({}, (), "t.csv is not there"),
        ({}, ("--tasks.sentiment.files.train", "."), "is a folder, not a file"),
        ({}, ("--tasks.mood.pooling", "cls"), "task 'mood' is unknown"),
        ({}, ("--poolin", "cls"), "unknown argument '--poolin'; did you mean '--pooling'?"),
        ({}, ("--pooling", "meen"), "invalid choice: 'meen'"),
        ({}, ("--tasks.sentiment.pooling", "meen"), "pooling 'meen' is unknown; did you mean 'mean'?"),
        ({}, ("--backbone", "no/such"), "backbone 'no/such'"),
        ({}, ("--backbone", "no/such", "--from_scratch", "false"), "backbone 'no/such'"),
        ({}, ("--output_dir", "/dev/null/out"), "output_dir /dev/null/out cannot be written"),
        ({}, ("--config", "no.yaml"), "recipe no.yaml is not there"),
    ],
)
def test_bad_input_ends_before_training_with_one_sentence(
    run_in_process: Callable, tmp_path: Path, files: dict[str, str], flags: tuple, message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    train = ("--tasks.sentiment.files.train", tmp_path / "t.csv")
    run = run_in_process("train.py", "--output_dir", tmp_path / "out", *train, *flags)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_nan_score_is_named(run_in_process: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sentence1,sentence2,similarity\na,b,2.5\na,b,nan\n")
    run = run_in_process(
        "train.py", "--output_dir", tmp_path / "out", "--tasks.similarity.files.train", tmp_path / "t.csv"
    )
    assert run.returncode == 2
    assert "t.csv has 1 bad row(s): row 2: column 'similarity' is 'nan', not a score from 0 to 5" in run.stderr


def test_predicting_with_what_is_no_model_is_one_sentence(run_in_process: Callable, tmp_path: Path) -> None:
    run = run_in_process("predict.py", "--model", tmp_path, "--task", "sentiment", stdin='{"sentence": "a"}')
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run.stderr


def test_the_loaded_model_computes_what_the_trained_one_did(trained: tuple[Path, Any]) -> None:
    model = AutoModel.from_pretrained(trained[0])
    assert isinstance(model, MultiTaskBertModel)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
