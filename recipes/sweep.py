"""Trains a list of recipes with several seeds each, and tabulates their scores.

    python recipes/sweep.py recipes/paper/table5.yaml --data_dir DIR --backbone MINILM --seeds 3

The file names the runs, each a mapping of keys that it changes in a recipe, the sweep's or its own:

    recipe: full_finetuning.yaml
    seeds: 3
    every_run: {max_steps: 600}
    runs:
      plain: {}
      SMART: {recipe: smart_01.yaml, smart.weight: 0.02}
    grid:
      learning_rate: [1.0e-5, 2.0e-5]
      smart.weight: [0.02, 0.1]
    paper:
      plain: {final: 0.763}

`grid` adds a run for each combination of its values; `paper` has published scores to show beside ours. Flags that are
not the sweep's own go to every run. A sweep that was interrupted goes on where it stopped: runs that are done are not
repeated. A run that fails is reported, and the others go on.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_multitask_cli.command_line import (
    as_flags,
    end_quietly_when_interrupted,
    from_one_on,
    raise_when_interrupted,
    refusals,
    writable_folder,
)
from hf_multitask_cli.recipe_yaml import load_yaml

COMMAND_LINE = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
)
COMMAND_LINE.add_argument("sweep", type=Path, help="The sweep's YAML file.")
COMMAND_LINE.add_argument("--output_dir", help="Each run gets a folder in it; by default, outputs/<the file's name>.")
COMMAND_LINE.add_argument("--seeds", type=from_one_on, help="How many; by default what the file says.")
COMMAND_LINE.add_argument("--jobs", type=from_one_on, default=1, help="Runs at a time.")

if __name__ == "__main__":
    # Before the imports that take seconds.
    end_quietly_when_interrupted()
    with refusals():
        load_yaml(COMMAND_LINE.parse_known_args()[0].sweep)

from hf_multitask.evaluation.seeds import latex_table, seeds_table, tidy_scores
from hf_multitask.model.messages import refuse_unknown_keys

# A run's folder has its flags from its beginning, and a mark once it has ended well.
FLAGS, DONE = "flags.txt", "done"
# Exit statuses of a run that Ctrl-C ended, before its training and in it.
_INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)
KEYS = ["recipe", "seeds", "every_run", "runs", "grid", "paper"]


@dataclass
class Sweep:
    """What a sweep's file says.

    Args:
        runs: Each run's recipe and the keys that it changes, by the run's name.
        seeds: How many.
        paper: Published scores of runs, by the names of run and score.
    """

    runs: dict[str, tuple[Path, dict[str, Any]]]
    seeds: int
    paper: dict[str, dict[str, float]]


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep's file.

    Raises:
        ValueError: A key that is unknown or missing, or a value of the wrong kind.
    """
    values = load_yaml(path)
    try:
        refuse_unknown_keys(values, KEYS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    runs, every_run, paper = values.get("runs") or {}, values.get("every_run") or {}, values.get("paper") or {}
    if not isinstance(runs, dict) or not all(isinstance(changes, dict) for changes in runs.values()):
        raise ValueError(f"{path}: runs must be a mapping of names to the keys that each changes.")
    runs = {str(name): changes for name, changes in runs.items()} | _grid(path, values.get("grid") or {})
    if not runs:
        raise ValueError(f"{path}: names no runs; give runs, by name the keys that each changes, or grid.")
    if not isinstance(every_run, dict):
        raise ValueError(f"{path}: every_run must be a mapping of the keys that all runs change, not {every_run!r}.")
    seeds = values.get("seeds", 3)
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"{path}: seeds must be a number from 1 on, not {seeds!r}.")
    if not isinstance(paper, dict) or not all(isinstance(scores, dict) for scores in paper.values()):
        raise ValueError(f"{path}: paper must be a mapping of runs to their scores by name.")
    if unknown := set(paper) - set(runs):
        raise ValueError(f"{path}: paper names the run {min(unknown)!r}; there are {', '.join(runs)}.")
    read = {}
    for name, changes in runs.items():
        recipe = changes.get("recipe", values.get("recipe"))
        if recipe is None:
            raise ValueError(f"{path}: run {name!r} has no recipe; give one to it or to the sweep.")
        load_yaml(_beside(path, recipe))
        own = {key: value for key, value in changes.items() if key != "recipe"}
        read[name] = (_beside(path, recipe).resolve(), {**every_run, **own})
    return Sweep(read, seeds, paper)


def _beside(path: Path, recipe: Any) -> Path:
    """A recipe's file, which is looked for from the sweep's on."""
    return path.parent / Path(str(recipe)).expanduser()


def _grid(path: Path, grid: Any) -> dict[str, dict[str, Any]]:
    """A run for each combination of a grid's values, named after them."""
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"{path}: grid must be a mapping of keys to lists of values.")
    combinations = (dict(zip(grid, values, strict=True)) for values in product(*grid.values())) if grid else ()
    return {", ".join(f"{key} = {value}" for key, value in changes.items()): changes for changes in combinations}


def plan(sweep: Sweep, seeds: int, output_dir: Path, flags: list[str]) -> dict[tuple[str, int], tuple[Path, list[str]]]:
    """The folder and the flags of each run, by its name and seed.

    Raises:
        ValueError: Two names make one folder, or a folder holds a run that is done and was another.
    """
    plans: dict[tuple[str, int], tuple[Path, list[str]]] = {}
    # All runs of one seed before the next, so that a table is whole as soon as may be.
    for seed in range(seeds):
        for name, (recipe, changes) in sweep.runs.items():
            # No name leads out of the output folder.
            folder = output_dir / re.sub(r"[^\w.=-]+|^\.*$", "_", name) / f"seed-{seed}"
            words = ["--config", str(recipe), *as_flags(changes), *flags]
            words += ["--seed", str(seed), "--output_dir", str(folder)]
            if any(folder == other for other, _ in plans.values()):
                raise ValueError(f"run {name!r} would share the folder {folder} with another; rename one.")
            if (folder / DONE).exists() and (folder / FLAGS).read_text() != shlex.join(words):
                raise ValueError(f"{folder} holds a run with other flags, see its {FLAGS}; choose another output_dir.")
            plans[name, seed] = (folder, words)
    return plans


class Progress:
    """Says when each run starts and ends, how many are done, and about how long the others will take.

    Args:
        total: Runs that there are to make.
        jobs: How many at a time.
    """

    def __init__(self, total: int, jobs: int = 1) -> None:
        self.total, self.jobs, self.begun = total, jobs, 0
        self.seconds: list[float] = []
        # Runs side by side tell of themselves from threads of their own.
        self.lock = Lock()

    def start(self, name: str, folder: Path) -> None:
        with self.lock:
            self.begun += 1
            self._say(f"[{self.begun}/{self.total}] {name} starts; its log is {folder / 'log.txt'}")

    def end(self, name: str, seconds: float, failed: bool) -> None:
        with self.lock:
            self.seconds.append(seconds)
            left = self.total - len(self.seconds)
            mean = sum(self.seconds) / len(self.seconds)
            # A run's share of the machine is in its time already.
            rest = f"; about {_duration(mean * -(-left // self.jobs))} to go" if left else ""
            ended = "failed" if failed else "is done"
            self._say(f"{name} {ended} after {_duration(seconds)}: {len(self.seconds)} of {self.total} ended{rest}")

    @staticmethod
    def _say(line: str) -> None:
        # Standard output is the table's.
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Such as `45 s`, `3 min` or `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def train(name: str, folder: Path, flags: list[str], progress: Progress) -> bool:
    """Trains one run in a process of its own, unless it is done; says whether it is."""
    if (folder / DONE).exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FLAGS).write_text(shlex.join(flags))
    progress.start(name, folder)
    start = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, str(Path(__file__).with_name("train.py")), *flags]
        failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if failed in _INTERRUPTED:
        # It is what was asked for, and said once of all runs.
        return False
    progress.end(name, time.monotonic() - start, bool(failed))
    if failed:
        print(f"failed: {folder}; see its log.txt.", file=sys.stderr)
    else:
        (folder / DONE).touch()
    return not failed


def main() -> None:
    args, flags = COMMAND_LINE.parse_known_args()
    with refusals():
        sweep = read_sweep(args.sweep)
        output_dir = writable_folder(args.output_dir or f"outputs/{args.sweep.stem}")
        plans = plan(sweep, args.seeds or sweep.seeds, output_dir, flags)
    if args.jobs > 1:
        # Runs side by side that each take all cores would wait for one another.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    are_done = sum((folder / DONE).exists() for folder, _ in plans.values())
    if are_done:
        print(f"{are_done} of {len(plans)} runs are done already.", file=sys.stderr)
    progress = Progress(len(plans) - are_done, args.jobs)
    raise_when_interrupted()

    def make(run: tuple[str, int]) -> bool:
        return train(f"{run[0]}, seed {run[1]}", *plans[run], progress)

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            done = list(pool.map(make, plans))
        except KeyboardInterrupt:
            # Ctrl-C reaches the runs too, and ends them.
            pool.shutdown(cancel_futures=True)
            print(f"\nInterrupted; go on by the same command. The runs are in {output_dir}.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
    end_quietly_when_interrupted()
    finished = {run: folder for (run, (folder, _)), is_done in zip(plans.items(), done, strict=True) if is_done}
    results = tidy_scores(finished)
    results.to_csv(output_dir / "results.csv", index=False)
    results.to_parquet(output_dir / "results.parquet", index=False)
    table = seeds_table(results, sweep.paper)
    (output_dir / "table.md").write_text(table + "\n")
    (output_dir / "table.tex").write_text(latex_table(results, sweep.paper) + "\n")
    print(table)
    print(f"Saved to {output_dir}: table.md, table.tex, results.csv and results.parquet.", file=sys.stderr)
    sys.exit(len(finished) < len(plans))


if __name__ == "__main__":
    main()
