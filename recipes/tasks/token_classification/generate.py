"""Generate the sentences of `token_classification.yaml`: facts of the quickstart's grammar, with a tag for every word.

`python recipes/tasks/token_classification/generate.py` recreates both files byte for byte, from a seed and the standard
library alone. Tagged are who (`agent`), what (`object`), where (`place`) and when (`time`); a fact is held out by its
content, as the quickstart's are.
"""

import argparse
import importlib.util
import re
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "quickstart" / "generate.py"
TAGGED = ("agent", "object", "place", "time")
ROWS = {"train": 400, "validation": 100}


def grammar() -> Any:
    """The quickstart's generator."""
    spec: Any = importlib.util.spec_from_file_location("quickstart_generate", QUICKSTART)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_sentence(quickstart: Any, rng: Random, validation: bool) -> list[tuple[str, str]]:
    """Draw the words of a statement or a question, each with its tag."""
    while True:
        fact = [rng.randrange(8) for _ in quickstart.SLOTS]
        if quickstart.held_out(fact) == validation:
            break
    values = {slot: rng.choice(quickstart.SLOTS[slot][fact[i]]) for i, slot in enumerate(quickstart.SLOTS)}
    values["base"], values["past"], values["participle"] = values["action"].split()
    words: list[tuple[str, str]] = []
    frame = rng.choice(quickstart.STATEMENTS + quickstart.QUESTIONS)
    for literal, slot, *_ in Formatter().parse(frame):
        words += [(word, "O") for word in re.findall(r"\w+|[^\w\s]", literal)]
        for place, word in enumerate(values[slot].split() if slot else ()):
            words.append((word, f"{'I' if place else 'B'}-{slot}" if slot in TAGGED else "O"))
    first, tag = words[0]
    return [(first[0].upper() + first[1:], tag), *words[1:]]


def write_all(output_dir: str | Path, seed: int = 13) -> None:
    """Write both files; the same seed always gives the same bytes."""
    quickstart = grammar()
    for split, size in ROWS.items():
        rng = Random(f"slots-{split}-{seed}")
        rows: dict[str, list[tuple[str, str]]] = {}
        while len(rows) < size:
            words = draw_sentence(quickstart, rng, split == "validation")
            rows.setdefault(" ".join(word for word, _ in words), words)
        with open(Path(output_dir) / f"slots-{split}.conll", "w", encoding="ascii", newline="\n") as file:
            file.writelines("".join(f"{word}\t{tag}\n" for word, tag in words) + "\n" for words in rows.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the data of token_classification.yaml.")
    parser.add_argument("--output_dir", default=Path(__file__).parent, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed)
