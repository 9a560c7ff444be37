"""What SMART costs: a step of ours with it, against the plain loop of `benchmarks.step` without it.

    python -m benchmarks.smart --backbone MINILM --data-dir DIR [--precision bf16] [--only "every: 2"]

Each line is a run of its own, in which both sides take turns step by step. With `every`, a line's time is the mean of
the steps that have SMART and those that do not.
"""

import argparse

from benchmarks.step import add_step_arguments, compare

VARIANTS = {
    "without SMART": None,
    "T = 1": {},
    "T = 2": {"steps": 2},
    "T = 0 (random noise)": {"steps": 0},
    "every: 2": {"every": 2},
    "layer: 3": {"layer": 3},
    "fraction: 0.5": {"fraction": 0.5},
    "fraction: 0.5, dropout: independent": {"fraction": 0.5, "dropout": "independent"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_step_arguments(parser)
    parser.add_argument("--only", choices=VARIANTS, help="Measure one variant.")
    args = parser.parse_args()
    print(f"| step, {args.precision}, batch {args.batch_size} | ms | plain loop, ms | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for name in [args.only] if args.only else VARIANTS:
        variant = VARIANTS[name]
        # Radii that bf16 resolves; the time does not depend on them.
        smart = None if variant is None else {"weight": 0.02, "epsilon": 1e-2, "sigma": 1e-2, "eta": 1e-2, **variant}
        measured = compare(args, period=2 if name == "every: 2" else 1, smart=smart)
        ours, theirs = 1e3 * measured.ours, 1e3 * measured.theirs
        print(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
