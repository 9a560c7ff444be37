"""What the benchmarks share: the three tasks on a folder of CS224N files, or on synthetic rows of their shape."""

import argparse
import random
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.loading import load_split
from hf_multitask.data.preparation import prepare
from hf_multitask.data.sources import FileSource
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.configuration_mtbert import TaskConfig

TASKS = {
    "sst": TaskConfig("single_label_classification", num_labels=5),
    "quora": TaskConfig("single_label_classification", texts=2),
    "sts": TaskConfig("regression", texts=2, score_range=[0, 5]),
}
_FILES = {
    "sst": ("ids-sst", ["sentence"], "sentiment"),
    "quora": ("quora", ["sentence1", "sentence2"], "is_duplicate"),
    "sts": ("sts", ["sentence1", "sentence2"], "similarity"),
}
MAX_LENGTH = 256


_FLAGS: dict[str, dict[str, Any]] = {
    "backbone": {"required": True, "help": "Folder or Hub id of the encoder."},
    "data_dir": {"help": "Folder with the CS224N project's files; synthetic rows without one."},
    "precision": {"choices": ["fp32", "bf16"], "default": "fp32"},
    "batch_size": {"type": int, "default": 8, "help": "Rows of each task in a step."},
    "seed": {"type": int, "default": 0},
}


def add_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds the flags of these names, or all of those that benchmarks share."""
    for name in names or _FLAGS:
        parser.add_argument("--" + name.replace("_", "-"), **_FLAGS[name])


def peak_memory() -> float:
    """The peak of this process's resident memory so far, in MB (Linux only).

    Not `getrusage`, whose peak a process inherits from the one that starts it.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def training_rows(data_dir: str | None, tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    """Tokenized training rows of the three tasks."""
    if data_dir is None:
        return {name: tokenize(synthetic_rows(task, 2000), task, tokenizer, MAX_LENGTH) for name, task in TASKS.items()}
    sources = {name: _source(name, data_dir) for name in TASKS}
    return prepare(TASKS, sources, ["train"], tokenizer, MAX_LENGTH, "drop").rows["train"]


def sentences(data_dir: str | None, count: int, seed: int) -> list[str]:
    """Distinct sentences of the questions' and the reviews' files, shuffled; or synthetic ones."""
    if data_dir is None:
        return synthetic_rows(TASKS["sst"], count, seed)["sentence"][:]
    tables = [load_split(name, TASKS[name], _source(name, data_dir), "train", "drop")[0] for name in ("quora", "sst")]
    distinct = sorted(
        {
            text
            for rows in tables
            for column in rows.column_names
            if column.startswith("sentence")
            for text in rows[column]
        }
    )
    return random.Random(seed).sample(distinct, min(count, len(distinct)))


def _source(name: str, data_dir: str) -> FileSource:
    stem, text, label = _FILES[name]
    return FileSource(text=text, label=label, train=f"{stem}-train.csv", delimiter="\t", data_dir=data_dir)


def synthetic_rows(task: TaskConfig, count: int, seed: int = 0) -> Dataset:
    """Random English-like rows: 3 to 40 words, most of them short, as in the real files."""
    draw = random.Random(seed)
    # This file's own words are as good as any.
    words = Path(__file__).read_text().split()
    columns = ["sentence1", "sentence2"] if task.texts == 2 else ["sentence"]

    def text() -> str:
        return " ".join(draw.choices(words, k=min(40, 3 + int(draw.expovariate(1 / 10)))))

    labels = [draw.randrange(len(task.label_names)) if task.label_names else draw.uniform(0, 5) for _ in range(count)]
    return Dataset.from_dict({**{column: [text() for _ in range(count)] for column in columns}, "label": labels})
