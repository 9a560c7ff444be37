"""Generate the questions of `question_answering.yaml`: who, what, where and when, each about a fact within a passage.

`python recipes/tasks/question_answering/generate.py` recreates both files byte for byte, from a seed and the standard
library alone. A fact is of the quickstart's grammar and stands among sentences about films, books, hotels and dinners,
so that a passage is longer than the quickstart's backbone can read at once. One question in five is about what the
passage does not say. A fact is held out by its content, as the quickstart's are.

`--rows 8000 --facts 3` makes a harder set: of several facts in a passage, a question is about one.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from random import Random
from typing import Any

QUICKSTART = Path(__file__).parents[2] / "quickstart" / "generate.py"
# By what is asked: the question, in which what is answered is not named.
QUESTIONS = {
    "agent": "who {past} the {object}?",
    "object": "what did the {agent} {base}?",
    "place": "where did the {agent} {base} the {object}?",
    "time": "when did the {agent} {base} the {object}?",
}
ROWS = {"train": 600, "validation": 150}
UNANSWERED = 0.2
Values = dict[str, str]


def grammar() -> Any:
    """The quickstart's generator."""
    spec: Any = importlib.util.spec_from_file_location("quickstart_generate", QUICKSTART)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_facts(quickstart: Any, rng: Random, validation: bool, count: int) -> list[Values]:
    """Draw facts that have no agent, action or object in common."""
    facts: list[list[int]] = []
    while len(facts) < count:
        fact = [rng.randrange(8) for _ in quickstart.SLOTS]
        if quickstart.held_out(fact) == validation and all(fact[i] != other[i] for other in facts for i in range(3)):
            facts.append(fact)
    drawn = []
    for fact in facts:
        values = {slot: rng.choice(quickstart.SLOTS[slot][fact[i]]) for i, slot in enumerate(quickstart.SLOTS)}
        values["base"], values["past"], values["participle"] = values["action"].split()
        drawn.append(values)
    return drawn


def parts(rng: Random, values: Values, unsaid: str | None = None) -> list[tuple[str, str]]:
    """The parts of a statement, each with the slot that it fills; one slot may be left unsaid."""
    who, what = ("agent", f"the {values['agent']}"), ("object", f"the {values['object']}")
    if unsaid == "object":
        core = [who, ("action", "was at work")]
    elif unsaid == "agent" or rng.random() < 0.3:
        core = [what, ("action", f"was {values['participle']}"), ("", "by"), who]
        core = core[:2] if unsaid == "agent" else core
    else:
        core = [who, ("action", values["past"]), what]
    around = [(slot, values[slot]) for slot in ("place", "time") if slot != unsaid]
    rng.shuffle(around)
    first = rng.randrange(len(around) + 1) if rng.random() < 0.4 else 0
    return [*around[:first], *core, *around[first:]]


def filler(quickstart: Any, rng: Random) -> str:
    """A sentence that answers no question."""
    topic = rng.choice(list(quickstart.FACTS))
    values = {name: rng.choice(choices) for name, choices in quickstart.FILLERS.items()}
    first, second = rng.sample(quickstart.FACTS[topic].format(**values).split(", "), 2)
    return f"the {topic} {first} and {second}."


def draw_row(quickstart: Any, rng: Random, validation: bool, count: int = 1) -> dict[str, Any]:
    """Draw a passage with so many facts, and a question about one of them."""
    facts = draw_facts(quickstart, rng, validation, count)
    asked, unanswered = rng.choice(list(QUESTIONS)), rng.random() < UNANSWERED
    sentences: list[Any] = [filler(quickstart, rng) for _ in range(rng.randrange(4, 8))]
    for number, values in enumerate(facts):
        said = parts(rng, values, asked if unanswered and number == 0 else None)
        sentences.insert(rng.randrange(len(sentences) + 1), (number, said))
    context = ""
    answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
    for sentence in sentences:
        number, said = sentence if isinstance(sentence, tuple) else (None, [("", sentence.removesuffix("."))])
        begin = len(context)
        for slot, words in said:
            context += " " * (len(context) > begin)
            if slot == asked and number == 0:
                answers = {"text": [words], "answer_start": [len(context)]}
            context += words
        context += ". "
    return {"question": QUESTIONS[asked].format(**facts[0]), "context": context.strip(), "answers": answers}


def write_all(output_dir: str | Path, seed: int = 13, rows: int = ROWS["train"], facts: int = 1) -> None:
    """Write both files; the same arguments always give the same bytes."""
    quickstart = grammar()
    for split, size in {**ROWS, "train": rows}.items():
        rng = Random(f"questions-{split}-{seed}")
        drawn = (draw_row(quickstart, rng, split == "validation", facts) for _ in range(size))
        with open(Path(output_dir) / f"questions-{split}.jsonl", "w", encoding="ascii", newline="\n") as file:
            file.writelines(json.dumps(row) + "\n" for row in drawn)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the data of question_answering.yaml.")
    parser.add_argument("--output_dir", default=Path(__file__).parent, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    parser.add_argument("--rows", type=int, default=ROWS["train"], help="for training; default: %(default)s")
    parser.add_argument("--facts", type=int, default=1, help="in a passage; default: %(default)s")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed, arguments.rows, arguments.facts)
