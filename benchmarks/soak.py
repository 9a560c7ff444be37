"""Memory and step time over a long run of the quickstart, with checkpoints, evaluations and a resumption in its middle.

    python -m benchmarks.soak [--steps 5000] [--plot soak.png]

Each half runs in a process of its own; the second goes on from the newest checkpoint of the first. Of each, after a
quarter of it as warm-up: the slope of a least-squares line through resident memory, and the median time of a step in
the last quarter over that in the first. The allocator is told to give freed memory back at once: by itself, glibc keeps
15 MB more at some time or other, which a line through a few thousand steps takes for a leak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from hf_multitask.building import build_trainer
from hf_multitask.recipe import RecipeParser

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "131072"}
# Checkpoints and evaluations in a run, and steps between two samples of memory.
_EVENTS, _EVERY = 20, 10


def resident() -> float:
    """This process's resident memory, in MB (Linux only)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


class Samples(TrainerCallback):
    """Step, memory and the time of the step, of every tenth step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float]] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % _EVERY == 0:
            self.rows.append((state.global_step, resident(), time.perf_counter() - self._begun))


def train(args: argparse.Namespace) -> None:
    """Trains up to `--until` steps in `--folder`, and writes the samples."""
    every = str(args.steps // _EVENTS)
    flags = [
        "--config",
        str(RECIPE),
        "--output_dir",
        args.folder,
        "--max_steps",
        str(args.steps),
        "--disable_tqdm",
        "true",
    ]
    flags += ["--save_strategy", "steps", "--save_steps", every, "--eval_strategy", "steps", "--eval_steps", every]
    flags += ["--write_report", "false", "--save_total_limit", "2", "--use_cpu"]
    recipe = RecipeParser(RECIPE).parse_recipe(flags)
    samples = Samples()

    class Stop(TrainerCallback):
        def on_step_end(self, args_: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= args.until

    trainer, _ = build_trainer(recipe, callbacks=[samples, Stop()])
    trainer.train(resume_from_checkpoint=True if args.resume else None)
    Path(args.samples).write_text(json.dumps(samples.rows))


def measure(rows: list[tuple[int, float, float]]) -> tuple[float, float, float]:
    """MB per 1,000 steps, the median step in ms, and its change from the first to the last quarter."""
    steps, memory, times = np.array(rows[len(rows) // 4 :]).T
    quarter = len(times) // 4
    slope = float(np.polyfit(steps / 1000, memory, 1)[0])
    return slope, 1000 * float(np.median(times)), float(np.median(times[-quarter:]) / np.median(times[:quarter]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--plot", help="Draw memory over steps here.")
    parser.add_argument("--folder", help="Train here only, in this process.")
    parser.add_argument("--until", type=int)
    parser.add_argument("--samples")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.folder:
        train(args)
        return
    print("| steps | memory, MB per 1,000 steps | at its end, MB | step, ms | last quarter / first |")
    print("| --- | ---: | ---: | ---: | ---: |")
    everything = []
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "samples.json")
        for until, flags in ((args.steps // 2, []), (args.steps, ["--resume"])):
            command = [sys.executable, "-m", "benchmarks.soak", "--folder", str(Path(folder, "out")), "--steps"]
            command += [str(args.steps), "--until", str(until), "--samples", str(samples), *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **_ALLOCATOR})
            rows = json.loads(samples.read_text())
            slope, step, change = measure(rows)
            print(f"| {rows[0][0]} to {rows[-1][0]} | {slope:.2f} | {rows[-1][1]:.0f} | {step:.1f} | {change:.2f} |")
            everything.append(rows)
    if args.plot:
        import matplotlib.pyplot as plt

        for rows in everything:
            plt.plot([row[0] for row in rows], [row[1] for row in rows])
        plt.xlabel("step")
        plt.ylabel("resident memory, MB")
        plt.savefig(args.plot)


if __name__ == "__main__":
    main()
