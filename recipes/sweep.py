"""Trains a list of recipes with several seeds each, and tabulates their scores.

    python recipes/sweep.py recipes/sweeps/effects.yaml --output_dir outputs/effects --data_dir DIR --backbone MINILM

The file names a recipe and the runs, each a mapping of keys that it changes:

    recipe: full_finetuning.yaml
    seeds: 3
    runs:
      plain: {}
      SMART: {smart: {weight: 0.02}}

Flags that are not the sweep's own go to every run. A sweep that was interrupted goes on where it stopped: runs that are
done are not repeated. A run that fails is reported, and the others go on.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import pandas as pd

from hf_multitask.recipe import load_yaml, refusals, writable_folder

# A run's folder has its flags from its beginning, and a mark once it has ended well.
FLAGS, DONE = "flags.txt", "done"
SCORE = re.compile(r"eval_(.*)_(accuracy|pearson)|eval_(final)_score")


def read_sweep(path: Path) -> tuple[Path, int, dict[str, dict[str, Any]]]:
    """The recipe, the number of seeds and the runs of a sweep's file.

    Raises:
        ValueError: A key that is unknown or missing, or a value of the wrong kind.
    """
    values = load_yaml(path)
    if unknown := set(values) - {"recipe", "seeds", "runs"}:
        raise ValueError(f"{path}: unknown key {min(unknown)!r}; known: recipe, seeds, runs.")
    runs, seeds = values.get("runs"), values.get("seeds", 3)
    if not isinstance(runs, dict) or not all(isinstance(changes, dict) for changes in runs.values()) or not runs:
        raise ValueError(f"{path}: runs must be a mapping of names to the keys that each changes.")
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"{path}: seeds must be a number from 1 on, not {seeds!r}.")
    recipe = path.parent / str(values.get("recipe"))
    load_yaml(recipe)
    return recipe.resolve(), seeds, runs


def as_flags(changes: dict[str, Any], prefix: str = "--") -> list[str]:
    """A run's changes as flags, those within a mapping as `--smart.weight=0.02`."""
    flags: list[str] = []
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            flags += as_flags(value, f"{prefix}{key}.")
        elif prefix == "--":
            words = value if isinstance(value, list) else [value]
            words = [json.dumps(word) if word is None or isinstance(word, dict) else word for word in words]
            flags += [f"--{key}", *map(str, words)]
        else:
            flags.append(f"{prefix}{key}={json.dumps(value)}")
    return flags


def plan(
    recipe: Path, seeds: int, runs: dict[str, dict[str, Any]], output_dir: Path, flags: list[str]
) -> dict[tuple[str, int], tuple[Path, list[str]]]:
    """The folder and the flags of each run, by its name and seed.

    Raises:
        ValueError: Two names make one folder, or a folder holds a run that is done and was another.
    """
    plans: dict[tuple[str, int], tuple[Path, list[str]]] = {}
    # All runs of one seed before the next, so that a table is whole as soon as may be.
    for seed in range(seeds):
        for name, changes in runs.items():
            folder = output_dir / re.sub(r"[^\w.=-]+", "_", name) / f"seed-{seed}"
            words = ["--config", str(recipe), *as_flags(changes), *flags]
            words += ["--seed", str(seed), "--output_dir", str(folder)]
            if any(folder == other for other, _ in plans.values()):
                raise ValueError(f"run {name!r} would share the folder {folder} with another; rename one.")
            if (folder / DONE).exists() and (folder / FLAGS).read_text() != shlex.join(words):
                raise ValueError(f"{folder} holds a run with other flags, see its {FLAGS}; choose another output_dir.")
            plans[name, seed] = (folder, words)
    return plans


def train(folder: Path, flags: list[str]) -> bool:
    """Trains one run in a process of its own, unless it is done; says whether it is."""
    if (folder / DONE).exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FLAGS).write_text(shlex.join(flags))
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, str(Path(__file__).with_name("train.py")), *flags]
        failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if failed:
        print(f"failed: {folder}; see its log.txt.", file=sys.stderr)
    else:
        (folder / DONE).touch()
    return not failed


def collect(folders: dict[tuple[str, int], Path]) -> pd.DataFrame:
    """A row for each score of each run that is done: run, seed, score, value."""
    rows = []
    for (name, seed), folder in folders.items():
        results = json.loads((folder / "all_results.json").read_text())
        for key, value in results.items():
            if match := SCORE.fullmatch(key):
                rows.append((name, seed, match[1] or match[3], value))
    return pd.DataFrame(rows, columns=["run", "seed", "score", "value"])


def tabulate(results: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds, a line for each run, as Markdown."""
    scores = list(dict.fromkeys(results["score"]))
    lines = ["| run | seeds | " + " | ".join(scores) + " |", "| --- | ---: |" + " ---: |" * len(scores)]
    for name, run in results.groupby("run", sort=False):
        cells = []
        for score in scores:
            values = run.loc[run["score"] == score, "value"]
            cells.append(f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else ""))
        lines.append(f"| {name} | {run['seed'].nunique()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sweep", type=Path, help="The sweep's YAML file.")
    parser.add_argument("--output_dir", required=True, help="Each run gets a folder in it.")
    parser.add_argument("--seeds", type=int, help="How many; by default what the file says.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time.")
    args, flags = parser.parse_known_args()
    with refusals():
        recipe, seeds, runs = read_sweep(args.sweep)
        output_dir = writable_folder(args.output_dir)
        plans = plan(recipe, args.seeds or seeds, runs, output_dir, flags)
    with ThreadPoolExecutor(args.jobs) as pool:
        done = pool.map(lambda planned: train(*planned), plans.values())
    finished = {run: folder for (run, (folder, _)), is_done in zip(plans.items(), done, strict=True) if is_done}
    results = collect(finished)
    results.to_csv(output_dir / "results.csv", index=False)
    table = tabulate(results)
    (output_dir / "table.md").write_text(table + "\n")
    print(table)
    sys.exit(len(finished) < len(plans))


if __name__ == "__main__":
    main()
