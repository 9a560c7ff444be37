"""Generate the rows of `multiple_choice.yaml`: which of two to four sentences is the answer to a question.

`python recipes/tasks/multiple_choice/generate.py` recreates both files byte for byte, from a seed and the standard
library alone. A question asks for praise of one of the quickstart's topics or for blame, which one choice alone gives.
What the right choice says is held out by its content, as the quickstart's reviews are.
"""

import argparse
import csv
import importlib.util
from pathlib import Path
from random import Random
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "quickstart" / "generate.py"
# By verdict, the questions that only a sentence with this verdict answers.
QUESTIONS = {
    "positive": ("who liked the {}?", "what was good about the {}?"),
    "negative": ("who disliked the {}?", "what was bad about the {}?"),
}
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
        asked, topic = rng.choice(list(QUESTIONS)), rng.choice(list(quickstart.ASPECTS))
        aspects = rng.sample(quickstart.ASPECTS[topic].split(", "), rng.randrange(2, 5))
        right = rng.randrange(len(aspects))
        verdicts = [rng.choice([verdict for verdict in quickstart.PLAIN if verdict != asked]) for _ in aspects]
        verdicts[right] = asked
        drawn = [quickstart.draw_judgement(rng, *each) for each in zip(aspects, verdicts, strict=True)]
        if quickstart.held_out(drawn[right][1]) == validation:
            break
    choices = [f"{sentence}." for sentence, _ in drawn]
    question = rng.choice(QUESTIONS[asked]).format(topic)
    return (question, *choices, *[""] * (4 - len(choices)), "ABCD"[right])


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
