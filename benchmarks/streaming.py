"""Memory and time of training on a task that is streamed, and the time to find a row far into it.

    python -m benchmarks.streaming --backbone MINILM [--rows 10000000]

Writes a file of question pairs, trains on it for 200 steps of 8 rows in a process of its own, and then reads on to a
distant row, as a run that is resumed there would.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TrainerCallback

from benchmarks.workload import MAX_LENGTH, TASKS, add_arguments, peak_memory, synthetic_rows
from hf_multitask import MultiTaskBertModel, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.data.sources import FileSource
from hf_multitask.data.streaming import load_stream

STEPS, WARM_UP = 200, 20
_DISTINCT = 1000


class Clock(TrainerCallback):
    """The time of every step's end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


def write(file: Path, rows: int, seed: int) -> None:
    """Writes the pairs, of which a thousand are distinct."""
    table = synthetic_rows(TASKS["quora"], _DISTINCT, seed).to_csv(file, header=True)
    assert table
    header, _, block = file.read_text().partition("\n")
    with file.open("w") as out:
        out.write(f"{header}\n")
        for _ in range(rows // _DISTINCT):
            out.write(block)


def measure(args: argparse.Namespace) -> None:
    """Trains on the file and prints the peak of memory, in MB, the ms of a step, and the seconds to a distant row."""
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    source = FileSource(label="label", train=args.file, streaming=True, rows=args.rows)
    rows = load_stream("quora", TASKS["quora"], source, "train", tokenizer, MAX_LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        trainer = MultiTaskTrainer(
            MultiTaskBertModel.from_backbone(args.backbone, tasks={"quora": TASKS["quora"]}),
            MultiTaskTrainingArguments(
                folder,
                max_steps=STEPS,
                per_device_train_batch_size=8,
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
            ),
            {"quora": rows},
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    peak = peak_memory()
    step = (clock.times[-1] - clock.times[WARM_UP]) / (len(clock.times) - 1 - WARM_UP)
    start = time.perf_counter()
    rows[[args.rows // 10]]
    print(peak, 1000 * step, time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "backbone", "seed")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--file", help="Measure this file only, in this process.")
    args = parser.parse_args()
    if args.file:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pairs.csv")
        write(file, args.rows, args.seed)
        size = file.stat().st_size / 1e9
        command = [sys.executable, "-m", "benchmarks.streaming", "--backbone", args.backbone, "--file", str(file)]
        run = subprocess.run([*command, "--rows", str(args.rows)], check=True, stdout=subprocess.PIPE, text=True)
        peak, step, skip = map(float, run.stdout.split()[-3:])
        print(f"{args.rows:,} pairs, {size:.1f} GB: {STEPS} steps of {step:.0f} ms within {peak:,.0f} MB")
        print(f"to row {args.rows // 10:,}: {skip:.1f} s")


if __name__ == "__main__":
    main()
