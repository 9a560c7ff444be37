"""Peak memory of training steps: ours against the plain loop of `benchmarks.step`.

    python -m benchmarks.memory --backbone MINILM --data-dir DIR [--precision bf16]

Each side trains the same rows in a process of its own; its peak is that of the process's resident memory, counted from
before the model is loaded.
"""

import argparse
import subprocess
import sys

from transformers import AutoTokenizer

from benchmarks.step import PlainLoop, make_trainer
from benchmarks.workload import TASKS, add_arguments, peak_memory, training_rows
from hf_multitask import MultiTaskBertModel
from hf_multitask.data.dataset import MultiTaskDataset


def measure(side: str, args: argparse.Namespace) -> None:
    """Trains one side and prints its peak above what was there before, in MB."""
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    rows = training_rows(args.data_dir, tokenizer)
    before = peak_memory()
    model = MultiTaskBertModel.from_backbone(args.backbone, tasks=TASKS)
    if side == "plain":
        loop = PlainLoop(model, MultiTaskDataset(rows), tokenizer, args.batch_size, args.seed, args.precision == "bf16")
        del model
        for _ in range(args.steps):
            loop.step()
    else:
        surgery = args.surgery if side == "surgery" else "none"
        make_trainer(model, tokenizer, rows, args, args.steps, surgery=surgery).train()
    print(peak_memory() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--packing", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--surgery", help="Measure gradient surgery of this kind too.")
    parser.add_argument("--side", choices=["plain", "ours", "surgery"], help="Measure one side only, in this process.")
    args = parser.parse_args()
    if args.side:
        measure(args.side, args)
        return
    peaks = {}
    for side in ["plain", "ours"] + (["surgery"] if args.surgery else []):
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--side", side]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks[side] = float(output.split()[-1])
    names = {"plain": "plain loop", "ours": "hf-multitask", "surgery": f"hf-multitask, surgery {args.surgery}"}
    print(f"| memory of a step, {args.precision}, batch {args.batch_size} | peak, MB | ratio | to our own |")
    print("| --- | ---: | ---: | ---: |")
    for side, peak in peaks.items():
        print(f"| {names[side]} | {peak:.0f} | {peak / peaks['plain']:.2f} | {peak / peaks['ours']:.2f} |")


if __name__ == "__main__":
    main()
