"""What loading a model and importing the package cost: ours against transformers alone.

    python -m benchmarks.startup --backbone MINILM [--rounds 9]

Each measurement is a process of its own, and sides take turns; medians are shown. Loading is `AutoModel` on a folder of
ours with the CS224N tasks against `BertModel` on the backbone's own folder, after all imports: its time, and by how
much it raises the process's peak memory. Importing is `import hf_multitask` against what it registers with, and what
the scripts import before they answer `--help`.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile

from transformers import AutoTokenizer

from benchmarks.workload import TASKS, add_arguments
from hf_multitask import MultiTaskBertModel

_LOADING = """
import sys, time
import hf_multitask
from transformers import AutoModel, BertModel
from benchmarks.workload import peak_memory
loader = AutoModel if sys.argv[1] == "ours" else BertModel
before = peak_memory()
start = time.perf_counter()
model = loader.from_pretrained(sys.argv[2])
seconds = time.perf_counter() - start
# Weights are mapped into memory; reading them makes them count.
total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
print(seconds, peak_memory() - before)
"""
_IMPORTING = """
import time
start = time.perf_counter()
{imports}
print(time.perf_counter() - start, 0)
"""


def measure(code: str, *arguments: str) -> tuple[float, float]:
    """Seconds and MB that a new process prints."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    seconds, megabytes = run.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def in_turns(sides: dict[str, tuple[str, ...]], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of seconds and MB of each side."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            results[name].append(measure(*command))
    return {
        name: (statistics.median(seconds), statistics.median(megabytes))
        for name, values in results.items()
        for seconds, megabytes in [tuple(zip(*values, strict=True))]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "backbone")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        MultiTaskBertModel.from_backbone(args.backbone, tasks=TASKS).save_pretrained(folder)
        AutoTokenizer.from_pretrained(args.backbone).save_pretrained(folder)
        sides = {"BertModel": (_LOADING, "theirs", args.backbone), "hf-multitask": (_LOADING, "ours", folder)}
        loading = in_turns(sides, args.rounds)
    print("| loading | s | ratio | MB | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    seconds, megabytes = loading["BertModel"]
    for name, (time, memory) in loading.items():
        print(f"| {name} | {time:.3f} | {time / seconds:.2f} | {memory:.0f} | {memory / megabytes:.2f} |")
    imports = (
        "from transformers import AutoModel, pipeline",
        "import hf_multitask",
        "import hf_multitask_cli.command_line",
    )
    importing = in_turns({line: (_IMPORTING.format(imports=line),) for line in imports}, args.rounds)
    print("\n| importing | s |\n| --- | ---: |")
    for name, (time, _) in importing.items():
        print(f"| `{name}` | {time:.3f} |")


if __name__ == "__main__":
    main()
