"""The benchmarks run; what they measure is not a test's business."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertModel

from benchmarks import kinds, plain
from hf_multitask.model.configuration_mtbert import TaskConfig
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


@pytest.mark.parametrize("names", [["wnut17"], pytest.param(list(kinds.RUNS), marks=pytest.mark.slow)])
def test_kinds_compares_and_goes_on_where_it_stopped(
    names: list[str], tmp_path: Path, tokenizer: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    BertModel(encoder_config()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for split in ("train", "dev"):
        _write_datasets(tmp_path, split)
    output = tmp_path / "all.jsonl"
    command = ["kinds", "--backbone", str(tmp_path), "--data-dir", str(tmp_path), "--output", str(output)]
    command += "--batch-size 2 --max-length 20 --steps 2 --time-steps 1 --warmup 1".split()
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", [*command, "--only", *names, "--seeds", *seeds])
        kinds.main()
    models = sum(name in kinds.TASKS for name in names)
    assert len(output.read_text().splitlines()) == len(names) + 2 * (len(names) + models)
    lines = [(run, task) for run in names for task in kinds.RUNS[run]]
    table = capsys.readouterr().out.splitlines()[-len(lines) :]
    for (run, task), line in zip(lines, table, strict=True):
        title, metric, *measured = line.strip("| ").split(" | ")
        assert title in (task, f"{task}, of {run}")
        assert metric == kinds.TASKS[task].metric
        assert all(measured)
        assert len(measured) == 4


def test_the_plain_side_learns_and_predicts_the_tags_of_words(tokenizer: Any) -> None:
    task = TaskConfig("token_classification", labels=["O", "B-a", "I-a"])
    row = {"input_ids": [2, 7, 8, 9, 3], "word_starts": [1, 3, -1], "label": [1, 0, 2]}
    rows = Dataset.from_list([row])
    assert plain._rows(rows, task)[0]["labels"] == [-100, 1, -100, 0, -100]
    logits = np.eye(3)[[[0, 1, 2, 2, 0]]]
    assert plain._predicted(task, logits, rows).tolist() == [[1, 2, 0]]


def test_both_sides_train_on_the_same_rows_in_the_same_order(tmp_path: Path, tokenizer: Any) -> None:
    BertModel(encoder_config()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _write_datasets(tmp_path, "train")
    _write_datasets(tmp_path, "dev")
    settings = {"batch_size": 2, "max_length": 20, "learning_rate": 1e-3, "head_learning_rate": 1e-3}
    bench = kinds.Bench(Namespace(backbone=str(tmp_path), data_dir=str(tmp_path), **settings))
    ours, theirs = (list(make("mrpc", 3, 4).get_train_dataloader()) for make in (bench.ours, bench.theirs))
    assert [batch["labels"]["mrpc"].tolist() for batch in ours] == [batch["labels"].tolist() for batch in theirs][:3]
    for packed, padded in zip(ours, theirs, strict=False):
        real = padded["attention_mask"].bool()
        assert padded["input_ids"][real].tolist() == packed["input_ids"][0, : real.sum()].tolist()


def _write_datasets(folder: Path, split: str) -> None:
    """A few rows of every dataset, written as its files are."""
    words = "the film was good a cat sat".split()
    texts = [" ".join(words[: 2 + i]) for i in range(6)]
    lines = {f"wnut17-{split}.conll": ["the\tO\nfilm\tB-person\nsat\tI-person\n\n"] * 6}
    lines[f"goemotions-{split}.tsv"] = [f"{text}\t{i},27\tid{i}\n" for i, text in enumerate(texts)]
    judged = ["NEUTRAL", "ENTAILMENT", "CONTRADICTION"] * 2
    lines[f"sick-{split}.tsv"] = ["pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"]
    lines[f"sick-{split}.tsv"] += [f"{i}\t{text}\ta dog\t{1 + i / 2}\t{judged[i]}\n" for i, text in enumerate(texts)]
    lines[f"ids-cfimdb-{split}.csv"] = ["\tid\tsentence\tsentiment\n"]
    lines[f"ids-cfimdb-{split}.csv"] += [f"{i}\tid{i}\t{text}\t{i % 2}\n" for i, text in enumerate(texts)]
    lines[f"mrpc-{split}.tsv"] = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"]
    lines[f"mrpc-{split}.tsv"] += [f"{i % 2}\t{i}\t{i}\t{text}\ta dog\n" for i, text in enumerate(texts)]
    for name, rows in lines.items():
        (folder / name).write_text("".join(rows))
