"""Generate the data of multi_label_classification.yaml, out of the quickstart's grammar.

A row is a review of some things, or of none, and its labels say what is reviewed and how it comes off: `film`, `book`,
`hotel` and `dinner`, `praise` and `complaint`. A row without labels tells a bare fact. As in the quickstart, validation
is held out by content: no training row has a validation row's judgements or fact, however worded.

    python recipes/tasks/multi_label_classification/generate.py
"""

import argparse
import csv
import importlib.util
from pathlib import Path
from random import Random
from types import ModuleType

HERE = Path(__file__).parent
VERDICTS = {"positive": "praise", "negative": "complaint"}
ROWS = {"train": 600, "validation": 200}


def quickstart() -> ModuleType:
    """The generator of the quickstart's data."""
    spec = importlib.util.spec_from_file_location("quickstart", HERE.parents[1] / "quickstart" / "generate.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_review(grammar: ModuleType, rng: Random, validation: bool) -> tuple[str, str]:
    """Draw a text of up to three judgements, each of another thing, and its labels."""
    count = rng.choice((0, 1, 1, 2, 2, 3))
    if count == 0:
        text, _, _ = grammar.draw_pair(rng, grammar.STATEMENTS, 1, validation)
        return text, ""
    while True:
        things = rng.sample(list(grammar.ASPECTS), count)
        clauses, content, labels = [], [], set(things)
        for thing in things:
            verdict = rng.choice(list(VERDICTS))
            aspect = rng.choice(grammar.ASPECTS[thing].split(", "))
            clause, judgement = grammar.draw_judgement(rng, aspect, verdict)
            clauses.append(clause)
            content.append(judgement)
            labels.add(VERDICTS[verdict])
        if grammar.held_out(*sorted(content)) == validation:
            order = [*grammar.ASPECTS, *VERDICTS.values()]
            return f"{' and '.join(clauses)}.", ",".join(sorted(labels, key=order.index))


def write_all(output_dir: str | Path, seed: int = 13) -> None:
    """Write the two CSV files; the same seed always gives the same bytes."""
    grammar = quickstart()
    for split, size in ROWS.items():
        rng = Random(f"topics-{split}-{seed}")
        rows: dict[str, str] = {}
        while len(rows) < size:
            text, labels = draw_review(grammar, rng, validation=split == "validation")
            rows.setdefault(text[0].upper() + text[1:], labels)
        with open(Path(output_dir) / f"topics-{split}.csv", "w", encoding="ascii", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("sentence", "labels"), *rows.items()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the data of multi_label_classification.yaml.")
    parser.add_argument("--output_dir", default=HERE, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed)
