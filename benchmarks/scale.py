"""How a training step's time grows with its tokens, with the rows of the datasets and with the number of tasks.

    python -m benchmarks.scale --backbone MINILM --data-dir DIR [--plot scale.png]

Tokens: batches of 2 to 32 rows per task, with a straight line fitted. Rows: the same batches from datasets of up to
64 times the rows. Tasks: 150 pairs in a step, as one task of 150 rows and as up to 50 tasks of 3.
"""

import argparse
import statistics
import time
from typing import Any

from datasets import Dataset, concatenate_datasets
from scipy.stats import linregress
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback

from benchmarks.step import make_trainer
from benchmarks.workload import TASKS, add_arguments, training_rows
from hf_multitask import MultiTaskBertModel
from hf_multitask.model.configuration_mtbert import TaskConfig

_BATCH_SIZES = (2, 4, 8, 16, 32)
_COPIES = (1, 4, 16, 64)
_TASKS = (1, 3, 10, 25, 50)
_PAIRS = 150


class StepTimer(TrainerCallback):
    """Keeps the time of each step, in seconds, and its tokens."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.tokens: list[int] = []

    def count(self, model: Any, args: Any, inputs: dict[str, Any]) -> None:
        self.tokens.append(inputs["input_ids"].numel())

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now


class Bench:
    """Trains on what it is given for a few steps."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(args.backbone)
        self.rows = training_rows(args.data_dir, self.tokenizer)

    def step(self, tasks: dict[str, TaskConfig], rows: dict[str, Dataset], batch_size: int) -> tuple[float, float]:
        """The median time of a step, in ms, and its mean number of tokens."""
        model = MultiTaskBertModel.from_backbone(self.args.backbone, tasks=tasks)
        timer = StepTimer()
        model.register_forward_pre_hook(timer.count, with_kwargs=True)
        settings = argparse.Namespace(**{**vars(self.args), "batch_size": batch_size, "packing": "auto"})
        steps = self.args.steps + self.args.warmup
        make_trainer(model, self.tokenizer, rows, settings, steps, [timer]).train()
        return 1e3 * statistics.median(timer.times[self.args.warmup :]), statistics.mean(timer.tokens)


def by_tokens(bench: Bench) -> list[tuple[float, float]]:
    points = []
    for size in _BATCH_SIZES:
        milliseconds, tokens = bench.step(TASKS, bench.rows, size)
        points.append((tokens, milliseconds))
    fit = linregress(*zip(*points, strict=True))
    print("| tokens of a step | ms | ms by the line |\n| ---: | ---: | ---: |")
    for tokens, milliseconds in points:
        print(f"| {tokens:.0f} | {milliseconds:.0f} | {fit.intercept + fit.slope * tokens:.0f} |")
    print(f"\n{fit.intercept:.0f} ms + {1e3 * fit.slope:.0f} ms per 1,000 tokens; r² = {fit.rvalue**2:.4f}\n")
    return points


def by_rows(bench: Bench) -> list[tuple[float, float]]:
    points = []
    print("| rows of the datasets | ms | ratio |\n| ---: | ---: | ---: |")
    for copies in _COPIES:
        larger = {name: concatenate_datasets([dataset] * copies) for name, dataset in bench.rows.items()}
        count = sum(map(len, larger.values()))
        points.append((count, bench.step(TASKS, larger, 8)[0]))
        print(f"| {count:,} | {points[-1][1]:.0f} | {points[-1][1] / points[0][1]:.2f} |")
    return points


def by_tasks(bench: Bench) -> list[tuple[float, float]]:
    pair = TASKS["quora"]
    rows = bench.rows["quora"]
    points = []
    for count in _TASKS:
        names = [f"task{i}" for i in range(count)]
        milliseconds, _ = bench.step(dict.fromkeys(names, pair), dict.fromkeys(names, rows), _PAIRS // count)
        points.append((count, milliseconds))
    reference = dict(points)[3]
    print("\n| tasks of a step | ms | ratio to 3 tasks |\n| ---: | ---: | ---: |")
    for count, milliseconds in points:
        print(f"| {count} | {milliseconds:.0f} | {milliseconds / reference:.2f} |")
    return points


def plot(path: str, panels: dict[str, list[tuple[float, float]]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2), layout="constrained")
    for axis, (label, points) in zip(axes, panels.items(), strict=True):
        axis.plot(*zip(*points, strict=True), "ko-", markersize=4, linewidth=1)
        axis.set(xlabel=label, ylabel="step, ms", xscale="log" if "rows" in label else "linear")
        axis.set_ylim(0, 1.1 * max(milliseconds for _, milliseconds in points))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "backbone", "data_dir", "precision", "seed")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=4, help="Steps that are run but not counted.")
    parser.add_argument("--plot", help="Where to save the picture, .png or .svg; needs matplotlib.")
    args = parser.parse_args()
    bench = Bench(args)
    panels = {
        "tokens of a step": by_tokens(bench),
        "rows of the datasets": by_rows(bench),
        "tasks of a step": by_tasks(bench),
    }
    if args.plot:
        plot(args.plot, panels)


if __name__ == "__main__":
    main()
