"""Generate the rows of `ranking.yaml`: facts of the quickstart's grammar, each asked for and said.

`python recipes/tasks/ranking/generate.py` recreates both files byte for byte, from a seed and the standard library
alone. A row has a question, `anchor`, a sentence that answers it, in words of its own, `positive`, and up to two that
differ from that in one thing, `negatives`. No two rows of a file are of the same fact, so that no other row's text is
right; a fact is held out by its content, as the quickstart's are.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from random import Random
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "quickstart" / "generate.py"
ROWS = {"train": 400, "validation": 150}


def grammar() -> Any:
    """The quickstart's generator."""
    spec: Any = importlib.util.spec_from_file_location("quickstart_generate", QUICKSTART)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def say(quickstart: Any, rng: Random, fact: tuple[int, ...], frames: tuple[str, ...]) -> str:
    """Put a fact in words."""
    words = {slot: rng.choice(quickstart.SLOTS[slot][fact[i]]) for i, slot in enumerate(quickstart.SLOTS)}
    words["base"], words["past"], words["participle"] = words["action"].split()
    sentence = rng.choice(frames).format(**words)
    return sentence[0].upper() + sentence[1:]


def draw_row(quickstart: Any, rng: Random, fact: tuple[int, ...]) -> dict[str, Any]:
    """Draw a question for a fact, and what is said of it and of facts that differ from it in one slot."""
    anchor = say(quickstart, rng, fact, quickstart.QUESTIONS)
    positive = say(quickstart, rng, fact, quickstart.STATEMENTS)
    negatives = []
    for slot in rng.sample(range(len(fact)), rng.choice((0, 1, 1, 2))):
        other = (*fact[:slot], (fact[slot] + rng.randrange(1, 8)) % 8, *fact[slot + 1 :])
        negatives.append(say(quickstart, rng, other, quickstart.STATEMENTS))
    return {"anchor": anchor, "positive": positive, "negatives": negatives}


def write_all(output_dir: str | Path, seed: int = 13) -> None:
    """Write both files; the same seed always gives the same bytes."""
    quickstart = grammar()
    for split, size in ROWS.items():
        rng = Random(f"ranking-{split}-{seed}")
        facts: dict[tuple[int, ...], None] = {}
        while len(facts) < size:
            fact = tuple(rng.randrange(8) for _ in quickstart.SLOTS)
            if quickstart.held_out(list(fact)) == (split == "validation"):
                facts.setdefault(fact)
        with open(Path(output_dir) / f"facts-{split}.jsonl", "w", encoding="ascii", newline="\n") as file:
            file.writelines(json.dumps(draw_row(quickstart, rng, fact)) + "\n" for fact in facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the data of ranking.yaml.")
    parser.add_argument("--output_dir", default=Path(__file__).parent, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed)
