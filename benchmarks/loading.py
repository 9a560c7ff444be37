"""Time and memory of loading, checking and tokenizing a large file, and of starting on it again.

    python -m benchmarks.loading --backbone MINILM [--rows 400000]

Writes a file of synthetic question pairs and prepares it twice, each time in a process of its own: the second start
finds what the first left in the cache of `datasets`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.workload import MAX_LENGTH, TASKS, add_arguments, peak_memory, synthetic_rows
from hf_multitask.data.preparation import prepare
from hf_multitask.data.sources import FileSource


def measure(args: argparse.Namespace) -> None:
    """Prepares the file and prints the seconds that it took and the peak of resident memory, in MB."""
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    source = FileSource(label="label", train=args.file)
    start = time.perf_counter()
    prepare({"quora": TASKS["quora"]}, {"quora": source}, ["train"], tokenizer, MAX_LENGTH)
    seconds = time.perf_counter() - start
    print(seconds, peak_memory())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "backbone", "seed")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--file", help="Measure this file only, in this process.")
    args = parser.parse_args()
    if args.file:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pairs.csv")
        synthetic_rows(TASKS["quora"], args.rows, args.seed).to_csv(file)
        print(f"| {args.rows:,} pairs, {file.stat().st_size / 1e6:.0f} MB | s | peak, MB |\n| --- | ---: | ---: |")
        command = [sys.executable, "-m", "benchmarks.loading", "--backbone", args.backbone, "--file", str(file)]
        environment = {**os.environ, "HF_DATASETS_CACHE": str(Path(folder, "cache"))}
        for start in ("first", "second"):
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            seconds, peak = map(float, run.stdout.split()[-2:])
            print(f"| {start} start | {seconds:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
