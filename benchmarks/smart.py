"""What SMART and gradient surgery cost: a step of ours with them, against the plain loop of `benchmarks.step` without.

    python -m benchmarks.smart --backbone MINILM --data-dir DIR [--precision bf16] [--only "every: 2"]

Each line is a run of its own, in which both sides take turns step by step. The last column compares with our own step
without either. Memory: `python -m benchmarks.memory --surgery upgrad`.
"""

import argparse
from typing import Any

from benchmarks.step import add_step_arguments, compare

# Radii that bf16 resolves; the time does not depend on them.
SMART = {"weight": 0.02, "epsilon": 1e-2, "sigma": 1e-2, "eta": 1e-2}
PLAIN = "without either"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "T = 1": {"smart": SMART},
    "T = 2": {"smart": {**SMART, "steps": 2}},
    "T = 0 (random noise)": {"smart": {**SMART, "steps": 0}},
    "every: 2": {"smart": {**SMART, "every": 2}},
    "layer: 3": {"smart": {**SMART, "layer": 3}},
    "fraction: 0.5": {"smart": {**SMART, "fraction": 0.5}},
    "fraction: 0.5, dropout: independent": {"smart": {**SMART, "fraction": 0.5, "dropout": "independent"}},
    "proximal point": {"proximal": {}},
    "surgery: pcgrad": {"surgery": "pcgrad"},
    "surgery: upgrad": {"surgery": "upgrad"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_step_arguments(parser)
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS), help="The variants to measure.")
    args = parser.parse_args()
    print(f"| step, {args.precision}, batch {args.batch_size} | ms | plain loop, ms | ratio | to our own |")
    print("| --- | ---: | ---: | ---: | ---: |")
    plain = None
    for name in dict.fromkeys([PLAIN, *args.only]):
        measured = compare(args, period=2 if name == "every: 2" else 1, **VARIANTS[name])
        ratio = measured.ours / measured.theirs
        plain = plain or ratio
        times = f"{1e3 * measured.ours:.0f} | {1e3 * measured.theirs:.0f}"
        print(f"| {name} | {times} | {ratio:.2f} | {ratio / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
