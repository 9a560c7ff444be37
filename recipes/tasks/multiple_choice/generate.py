"""Generate the rows of `multiple_choice.yaml`: which of two to four sentences is the answer to a question.

`python recipes/tasks/multiple_choice/generate.py` recreates both files byte for byte, from a seed and the standard
library alone. A question asks for praise of a topic of the quickstart's reviews or for blame, which one choice alone
gives. What a row's choices say together is held out, as the quickstart's reviews are; none says a thing by denying
another.
"""

import argparse
import csv
import importlib.util
from pathlib import Path
from random import Random
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "quickstart" / "generate.py"
# By verdict, the question that only a sentence with this verdict answers.
QUESTIONS = {"positive": "what is good?", "negative": "what is bad?"}
# Were both asked as often, a small model with new weights would long get by without reading the question.
ODDS = (3, 1)
COLUMNS = ("question", "a", "b", "c", "d", "answer")
ROWS = {"train": 800, "validation": 200}


def grammar() -> Any:
    """The quickstart's generator."""
    spec: Any = importlib.util.spec_from_file_location("quickstart_generate", QUICKSTART)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_row(quickstart: Any, rng: Random, validation: bool) -> tuple[str, ...]:
    """Draw a question, four choices, of which the last may be empty, and the right one's letter."""
    while True:
        asked, topic = rng.choices(list(QUESTIONS), ODDS)[0], rng.choice(list(quickstart.ASPECTS))
        aspects = rng.sample(quickstart.ASPECTS[topic].split(", "), rng.randrange(2, 5))
        right = rng.randrange(len(aspects))
        verdicts = [rng.choice([verdict for verdict in quickstart.PLAIN if verdict != asked]) for _ in aspects]
        verdicts[right] = asked
        drawn = [quickstart.draw_judgement(rng, *each) for each in zip(aspects, verdicts, strict=True)]
        contents = sorted(content for _, content in drawn)
        is_plain = not any(": not " in content for content in contents)
        if is_plain and quickstart.held_out(asked, *contents) == validation:
            break
    choices = [f"{sentence}." for sentence, _ in drawn]
    return (QUESTIONS[asked], *choices, *[""] * (4 - len(choices)), "ABCD"[right])


def write_all(output_dir: str | Path, seed: int = 13) -> None:
    """Write both files; the same seed always gives the same bytes."""
    quickstart = grammar()
    for split, size in ROWS.items():
        rng = Random(f"reviews-{split}-{seed}")
        rows: dict[tuple[str, ...], None] = {}
        while len(rows) < size:
            rows.setdefault(draw_row(quickstart, rng, split == "validation"))
        with open(Path(output_dir) / f"reviews-{split}.csv", "w", encoding="ascii", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the data of multiple_choice.yaml.")
    parser.add_argument("--output_dir", default=Path(__file__).parent, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed)
