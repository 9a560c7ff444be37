"""Generate the texts of `masked_language_modeling.yaml`: reviews of the quickstart's grammar, without their verdicts.

`python recipes/tasks/masked_language_modeling/generate.py` recreates both files byte for byte, from a seed and the
standard library alone. A review's content is held out as the quickstart's is.
"""

import argparse
import csv
import importlib.util
from pathlib import Path
from random import Random
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "quickstart" / "generate.py"
ROWS = {"train": 1000, "validation": 200}


def grammar() -> Any:
    """The quickstart's generator."""
    spec: Any = importlib.util.spec_from_file_location("quickstart_generate", QUICKSTART)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_all(output_dir: str | Path, seed: int = 13) -> None:
    """Write both files; the same seed always gives the same bytes."""
    quickstart = grammar()
    for split, size in ROWS.items():
        rng = Random(f"reviews-{split}-{seed}")
        rows = quickstart.draw_rows(quickstart.draw_sentiment, size, rng, validation=split == "validation")
        with open(Path(output_dir) / f"reviews-{split}.csv", "w", encoding="ascii", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["sentence"], *([text] for text, _ in rows)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the data of masked_language_modeling.yaml.")
    parser.add_argument("--output_dir", default=Path(__file__).parent, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed)
