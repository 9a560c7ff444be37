"""Every kind of task on real data: ours, one task at a time, against transformers' own model class and plain `Trainer`.

    python -m benchmarks.kinds --backbone MINILM --data-dir DIR --output kinds.jsonl [--only wnut17 --seeds 0 1 2]

Both sides have the same backbone, rows, order of rows, batches, steps, seeds, clipping, AdamW, warm-up, linear schedule
and dropout, and the same two learning rates, of encoder and head; dev rows are scored by the same functions. What
differs is what either side does by default:

- Heads. Ours is a hidden layer, ReLU and an output layer, over the mean of the token states, or over each word's first
  token. Theirs is the encoder's pooler (a layer with tanh over [CLS], which all-MiniLM-L6-v2 never trained) and an
  output layer; for words an output layer alone. For the two labels of MRPC ours has one logit and theirs two.
- Scores. Ours come from a sigmoid within [1, 5], theirs are free.
- Padding. Ours packs; theirs pads each batch to its longest row.

`sick` is one model of ours for both tasks, as many rows of each in a step, against a model and a step for each.

Times are of whole steps, taken in turn, one of each side, in one process, so that what else the machine does hits both
alike. Whatever was measured is appended to --output, and a benchmark that was stopped goes on from there.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, set_seed

from benchmarks import plain
from benchmarks.workload import add_arguments
from hf_multitask import MultiTaskBertModel, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.data.preparation import prepare
from hf_multitask.data.sources import FileSource
from hf_multitask.model.configuration_mtbert import TaskConfig


@dataclass(frozen=True)
class Compared:
    """A task, where its rows are, and the metric that is compared.

    Args:
        files: The stem and the ending of its files' names.
        source: The other keys of a recipe's `files`.
    """

    task: TaskConfig
    files: tuple[str, str]
    source: dict[str, Any]
    metric: str

    def rows(self, name: str, args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
        """Tokenized rows, by split."""
        stem, ending = self.files
        places: dict[str, Any] = {"train": f"{stem}-train{ending}", "validation": f"{stem}-dev{ending}"}
        source = FileSource(**places, **self.source, data_dir=args.data_dir)
        prepared = prepare({name: self.task}, {name: source}, list(places), tokenizer, args.max_length, "drop")
        return {split: rows[name] for split, rows in prepared.rows.items()}


_NAMES = [
    f"{part}-{kind}"
    for kind in ("corporation", "creative-work", "group", "location", "person", "product")
    for part in "BI"
]
_CROSS: dict[str, Any] = {"texts": 2, "pair_encoding": "cross"}
_SICK = ("sick", ".tsv"), {"text": ["sentence_A", "sentence_B"]}
TASKS = {
    "wnut17": Compared(TaskConfig("token_classification", labels=["O", *_NAMES]), ("wnut17", ".conll"), {}, "f1"),
    "goemotions": Compared(
        TaskConfig("multi_label_classification", num_labels=28),
        ("goemotions", ".tsv"),
        {"columns": ["text", "labels", "id"], "quoting": "none", "text": "text", "label": "labels"},
        "f1_macro",
    ),
    "sick_relatedness": Compared(
        TaskConfig("regression", score_range=[1, 5], **_CROSS),
        _SICK[0],
        {**_SICK[1], "label": "relatedness_score"},
        "pearson",
    ),
    "sick_entailment": Compared(
        TaskConfig("single_label_classification", labels=["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], **_CROSS),
        _SICK[0],
        {**_SICK[1], "label": "entailment_judgment"},
        "accuracy",
    ),
    "cfimdb": Compared(
        TaskConfig("single_label_classification", num_labels=2),
        ("ids-cfimdb", ".csv"),
        {"delimiter": "\t", "text": "sentence", "label": "sentiment"},
        "accuracy",
    ),
    "mrpc": Compared(
        TaskConfig("single_label_classification", metrics=["f1"], **_CROSS),
        ("mrpc", ".tsv"),
        {"quoting": "none", "text": ["#1 String", "#2 String"], "label": "Quality"},
        "f1",
    ),
}
# Which tasks a model of ours has.
RUNS = {name: [name] for name in TASKS} | {"sick": ["sick_relatedness", "sick_entailment"]}


class Turns:
    """Lets trainers, each in a thread of its own, make a step in turn.

    Args:
        count: Of the trainers, which are numbered from 0.
    """

    def __init__(self, count: int) -> None:
        self._order = deque(range(count))
        self._changed = Condition()

    def wait(self, number: int) -> None:
        """Comes back when it is this trainer's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._order[0] == number)

    def pass_on(self) -> None:
        """Ends the turn of the trainer that has it."""
        with self._changed:
            self._order.rotate(-1)
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """Ends the turns of a trainer for good."""
        with self._changed:
            self._order.remove(number)
            self._changed.notify_all()


class StepTimer(TrainerCallback):
    """Keeps the time of each step of a trainer, in seconds, and lets others make theirs after it."""

    def __init__(self, turns: Turns, number: int) -> None:
        self.turns, self.number = turns, number
        self.times: list[float] = []

    def train(self, trainer: Trainer) -> None:
        self.turns.wait(self.number)
        try:
            trainer.train()
        finally:
            self.turns.leave(self.number)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter() - self.start)
        self.turns.pass_on()
        self.turns.wait(self.number)
        self.start = time.perf_counter()


class Bench:
    """Makes the trainers of both sides."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(args.backbone)
        self._rows: dict[str, dict[str, Dataset]] = {}

    def rows(self, name: str) -> dict[str, Dataset]:
        """Tokenized rows of a task, by split, read when they are first asked for."""
        if name not in self._rows:
            self._rows[name] = TASKS[name].rows(name, self.args, self.tokenizer)
        return self._rows[name]

    def steps(self, name: str) -> int:
        """Of training on a task."""
        epoch = len(self.rows(name)["train"]) / self.args.batch_size
        return min(self.args.steps, math.ceil(self.args.epochs * epoch))

    def _settings(self, seed: int, steps: int) -> dict[str, Any]:
        set_seed(seed)
        return {
            "output_dir": tempfile.mkdtemp(),
            "per_device_train_batch_size": self.args.batch_size,
            "per_device_eval_batch_size": 64,
            "max_steps": steps,
            "learning_rate": self.args.learning_rate,
            "warmup_steps": 0.1,
            "seed": seed,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
        }

    def ours(self, run: str, seed: int, steps: int, callbacks: list[TrainerCallback] | None = None) -> MultiTaskTrainer:
        rates = {"head_learning_rate": self.args.head_learning_rate}
        training = MultiTaskTrainingArguments(**self._settings(seed, steps), **rates)
        tasks = {name: TASKS[name].task for name in RUNS[run]}
        model = MultiTaskBertModel.from_backbone(self.args.backbone, tasks=tasks)
        train, dev = ({name: self.rows(name)[split] for name in tasks} for split in ("train", "validation"))
        trainer = MultiTaskTrainer(model, training, train, dev, self.tokenizer, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def theirs(self, name: str, seed: int, steps: int, callbacks: list[TrainerCallback] | None = None) -> Trainer:
        rows, task = self.rows(name)["train"], TASKS[name].task
        settings, rate = self._settings(seed, steps), self.args.head_learning_rate
        return plain.make_trainer(self.args.backbone, name, task, rows, self.tokenizer, settings, rate, callbacks)

    def our_scores(self, run: str, seed: int) -> dict[str, float]:
        """By task."""
        trainer = self.ours(run, seed, self.steps(RUNS[run][0]))
        trainer.train()
        metrics = trainer.evaluate()
        return {name: metrics[f"eval_{name}_{TASKS[name].metric}"] for name in RUNS[run]}

    def their_score(self, name: str, seed: int) -> dict[str, float]:
        trainer = self.theirs(name, seed, self.steps(name))
        trainer.train()
        scores = plain.score(trainer, TASKS[name].task, self.rows(name)["validation"])
        return {name: scores[TASKS[name].metric]}

    def times(self, run: str) -> dict[str, float]:
        """The median time of a step, in ms; theirs are those of all tasks together."""
        names, steps, seed = RUNS[run], self.args.warmup + self.args.time_steps, self.args.seeds[0]
        turns = Turns(1 + len(names))
        timers = [StepTimer(turns, number) for number in range(1 + len(names))]
        trainers: list[Trainer] = [self.ours(run, seed, steps, [timers[0]])]
        trainers += [self.theirs(name, seed, steps, [timer]) for name, timer in zip(names, timers[1:], strict=True)]
        with ThreadPoolExecutor(len(timers)) as threads:
            ends = [threads.submit(timer.train, of) for timer, of in zip(timers, trainers, strict=True)]
        for end in ends:
            end.result()
        ours, *theirs = (1e3 * statistics.median(timer.times[self.args.warmup :]) for timer in timers)
        return {"ours": ours, "theirs": sum(theirs)}


class Ledger:
    """What was measured, a line of JSON each.

    Args:
        path: The file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def find(self, what: Mapping[str, Any]) -> dict[str, float] | None:
        """What was measured under these settings, if anything was."""
        return next((line["measured"] for line in self._lines if line["what"] == what), None)

    def measure(self, what: dict[str, Any], how: Callable[[], dict[str, float]]) -> None:
        """Measures what was not, and writes it down."""
        if self.find(what) is None:
            line = {"what": what, "measured": how()}
            self._lines.append(line)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


class Comparison:
    """Measures what a table needs, and prints it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bench, self.ledger = args, Bench(args), Ledger(args.output)
        shared = ("backbone", "batch_size", "max_length")
        self._settings = {key: getattr(args, key) for key in shared}

    def _score(self, side: str, name: str, seed: int) -> dict[str, Any]:
        keys = ("steps", "epochs", "learning_rate", "head_learning_rate")
        settings = {**self._settings, **{key: getattr(self.args, key) for key in keys}}
        return {"side": side, "name": name, "seed": seed, **settings}

    def _time(self, run: str) -> dict[str, Any]:
        return {"time of": run, "threads": torch.get_num_threads(), **self._settings}

    def measure_times(self, run: str) -> None:
        self.ledger.measure(self._time(run), partial(self.bench.times, run))

    def measure_scores(self, run: str, seed: int) -> None:
        self.ledger.measure(self._score("ours", run, seed), partial(self.bench.our_scores, run, seed))
        for name in RUNS[run]:
            self.ledger.measure(self._score("theirs", name, seed), partial(self.bench.their_score, name, seed))

    def line(self, run: str, name: str) -> str:
        """A line of the table; what was not measured is empty."""
        both = []
        for seed in self.args.seeds:
            ours, theirs = (self.ledger.find(self._score(*side, seed)) for side in (("ours", run), ("theirs", name)))
            if ours and theirs:
                both.append((ours[name], theirs[name]))
        cells = ["", "", ""]
        if both:
            sides = list(zip(*both, strict=True))
            cells = [*map(_mean_and_deviation, sides), _difference(*sides)]
        times = self.ledger.find(self._time(run)) or {}
        ratio = f"{times['ours'] / times['theirs']:.2f}" if times else ""
        title = name if run == name else f"{name}, of {run}"
        return "| " + " | ".join([title, TASKS[name].metric, *cells, ratio]) + " |"


def _mean_and_deviation(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The difference of the means, and how many standard deviations of theirs it is."""
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    deviation = statistics.stdev(theirs) if len(theirs) > 1 else 0.0
    return f"{difference:+.3f}" + (f" ({difference / deviation:+.1f} sd)" if deviation else "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "backbone")
    parser.add_argument("--data-dir", required=True, help="Folder with the files of all datasets.")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines of what was measured; it is continued.")
    parser.add_argument("--only", choices=RUNS, nargs="+", default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="Of training, for scores.")
    parser.add_argument("--epochs", type=float, default=1.0, help="No more steps than these take.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--head-learning-rate", type=float, default=2e-3)
    parser.add_argument("--time-steps", type=int, default=40, help="Of each side, for times.")
    parser.add_argument("--warmup", type=int, default=5, help="Steps before them that are not counted.")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--time-only", action="store_true")
    either.add_argument("--scores-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    comparison = Comparison(args)
    for run in [] if args.scores_only else args.only:
        comparison.measure_times(run)
    # Seed by seed, so that one that is stopped has something of every dataset.
    for seed in [] if args.time_only else args.seeds:
        for run in args.only:
            comparison.measure_scores(run, seed)
    print("\n| dataset | metric | ours | transformers | difference | step, ours / theirs |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for run in args.only:
        for name in RUNS[run]:
            print(comparison.line(run, name))


if __name__ == "__main__":
    main()
