"""Generate the quickstart's data, and the configuration and tokenizer of its tiny BERT.

Everything comes from a small grammar of our own and a seed, with the standard library only, so
`python recipes/quickstart/generate.py` recreates every file byte for byte on any machine:

- sentiment: one sentence -> `negative`, `neutral` or `positive`;
- paraphrase: two sentences -> 1 when they state (or ask) the same thing in other words, else 0;
- similarity: two sentences -> how much of what they state is the same, from 0.0 (nothing) to 5.0 (all);
- backbone: a small `BertConfig` and a lower-casing WordPiece vocabulary, without any weights.

Both sentences of a pair describe a fact: who (agent) did what (action) to what (object), where (place)
and when (time). Every value of a slot has two wordings and every fact fits several frames, hence shared
words alone do not tell what a pair means. A fact, or a review's combination of judgements, is held out by
its content, not its wording: no training file has it, not even rephrased, and not even another task's.
"""

import argparse
import csv
import json
import re
import string
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

# --- Pairs: a fact's slots, and the frames that put it in words ---
# Eight values per slot, each in two wordings; an action's wording is its base, past and participle.
SLOT_VALUES = {
    "agent": "doctor/medic, teacher/tutor, boy/lad, lawyer/attorney, cook/chef, thief/robber,"
    " sailor/seaman, writer/author",
    "action": "repair repaired repaired/fix fixed fixed, buy bought bought/purchase purchased purchased,"
    " hide hid hidden/conceal concealed concealed, find found found/spot spotted spotted,"
    " draw drew drawn/sketch sketched sketched, break broke broken/smash smashed smashed,"
    " choose chose chosen/select selected selected, lift lifted lifted/raise raised raised",
    "object": "bicycle/bike, sofa/couch, rug/carpet, bucket/pail, cup/mug, bag/sack, stone/rock, coat/jacket",
    "place": "in the garden/in the yard, in the shop/in the store, in the cellar/in the basement,"
    " in the forest/in the woods, at the market/at the bazaar, at the harbour/at the port,"
    " at the hotel/at the inn, at the hospital/at the clinic",
    "time": "at noon/at midday, at dawn/at sunrise, at dusk/at sunset, last week/a week ago,"
    " last year/a year ago, in autumn/in the fall, in winter/in wintertime, in summer/in summertime",
}
SLOTS = {slot: [value.split("/") for value in text.split(", ")] for slot, text in SLOT_VALUES.items()}
STATEMENTS = (
    "the {agent} {past} the {object} {place} {time}.",
    "the {agent} {past} the {object} {time} {place}.",
    "{time} the {agent} {past} the {object} {place}.",
    "{place} the {agent} {past} the {object} {time}.",
    "the {object} was {participle} by the {agent} {place} {time}.",
    "{time} the {object} was {participle} {place} by the {agent}.",
)
QUESTIONS = (
    "did the {agent} {base} the {object} {place} {time}?",
    "{time}, did the {agent} {base} the {object} {place}?",
    "was the {object} {participle} by the {agent} {place} {time}?",
    "was it the {agent} who {past} the {object} {time} {place}?",
)
# What an equal slot adds to a pair's similarity, 5.0 in all: the action most, the circumstances least.
SIMILARITY_POINTS = {"agent": 1.2, "action": 1.4, "object": 1.2, "place": 0.7, "time": 0.5}

# --- Reviews: what is judged, facts that judge nothing, and the judging words ---
ASPECTS = {
    "film": "plot, acting, ending, music, camera work, opening scene",
    "book": "story, style, last chapter, main character, cover, dialogue",
    "hotel": "room, breakfast, view, service, pool, bed",
    "dinner": "soup, dessert, wine, sauce, salad, bread",
}
FACTS = {
    "film": "was shot in {country}, came out in {year}, lasts {number} minutes, has {number} actors",
    "book": "is set in {country}, was printed in {year}, has {number} chapters, weighs {number} grams",
    "hotel": "is in {country}, was built in {year}, has {number} rooms, is {number} miles from the sea",
    "dinner": "was held in {country}, took place in {year}, cost {number} pounds, was for {number} people",
}
FILLERS = {
    "country": ("France", "Japan", "Brazil", "Kenya", "Norway", "India", "Canada", "Greece"),
    "year": ("1987", "1995", "2003", "2008", "2012", "2019"),
    "number": ("twelve", "twenty", "thirty", "forty", "sixty", "eighty", "ninety"),
}
# Plain adjectives can be intensified and denied; strong ones are only asserted: "not superb" is no verdict.
PLAIN = {
    "negative": ("bad", "poor", "disappointing", "unpleasant", "dull"),
    "neutral": (),
    "positive": ("good", "pleasant", "enjoyable", "impressive", "delightful"),
}
STRONG = {
    "negative": ("terrible", "awful", "dreadful", "horrible", "appalling"),
    "neutral": ("average", "ordinary", "standard", "neither good nor bad", "neither impressive nor dull"),
    "positive": ("wonderful", "superb", "excellent", "brilliant", "splendid"),
}
OPPOSITE = {"negative": "positive", "positive": "negative"}
INTENSIFIERS = ("", "", "very ", "really ", "quite ", "extremely ")
ASSERTIONS = ("the {} was {}", "I found the {} {}", "we thought the {} was {}")
DENIALS = ("the {} was not {}", "I did not find the {} {}", "nobody called the {} {}")
CONTRASTS = ("{minor}, but {main}.", "although {minor}, {main}.", "{main}, though {minor}.")


def held_out(*content: object) -> bool:
    """Whether this content belongs to validation (one in eight does), however it is worded."""
    return zlib.crc32(repr(content).encode()) % 8 == 0


def draw_pair(rng: Random, frames: tuple[str, ...], changes: int, validation: bool) -> tuple[str, str, list]:
    """Draw two sentences whose facts differ in `changes` slots; return them and the equal slots' names.

    Half of the pairs, whatever their facts, keep the frame and all slots' wordings but one, so a pair
    that shares nearly all its words may mean the same or not, and so may a pair that shares few.
    """

    def express(fact: list[int], wording: list[int], frame: str) -> str:
        words = {slot: SLOTS[slot][fact[i]][wording[i]] for i, slot in enumerate(SLOTS)}
        base, past, participle = words["action"].split()
        return frame.format(**words, base=base, past=past, participle=participle)

    while True:
        changed = rng.sample(range(5), changes)
        fact = [rng.randrange(8) for _ in SLOTS]
        other_fact = [(fact[i] + rng.randrange(1, 8)) % 8 if i in changed else fact[i] for i in range(5)]
        wording, other_wording = ([rng.randrange(2) for _ in SLOTS] for _ in range(2))
        frame, other_frame = rng.choice(frames), rng.choice(frames)
        if rng.random() < 0.5:
            reworded = rng.choice(changed or range(5))
            other_wording = [1 - word if i == reworded else word for i, word in enumerate(wording)]
            other_frame = frame
        first, second = express(fact, wording, frame), express(other_fact, other_wording, other_frame)
        if held_out(fact) == held_out(other_fact) == validation and first != second:
            return first, second, [slot for i, slot in enumerate(SLOTS) if i not in changed]


def draw_paraphrase(rng: Random, validation: bool) -> tuple[str, str, int]:
    """Draw a pair of statements or of questions, and whether all slots are equal (two pairs in five)."""
    changes = rng.choices(range(6), weights=(40, 25, 15, 10, 5, 5))[0]
    first, second, common = draw_pair(rng, rng.choice((STATEMENTS, QUESTIONS)), changes, validation)
    return first, second, int(len(common) == len(SLOTS))


def draw_similarity(rng: Random, validation: bool) -> tuple[str, str, float]:
    """Draw a pair of statements, and 5 times the weighted share of equal slots, synonyms being equal."""
    changes = rng.choices(range(6), weights=(5, 6, 6, 4, 2, 1))[0]
    first, second, common = draw_pair(rng, STATEMENTS, changes, validation)
    return first, second, round(sum((SIMILARITY_POINTS[slot] for slot in common), 0.0), 1)


def draw_judgement(rng: Random, aspect: str, verdict: str) -> tuple[str, str]:
    """Draw a clause with this verdict on the aspect; return it and its content, free of phrasing."""
    if PLAIN[verdict] and rng.random() < 0.25:
        adjective = rng.choice(PLAIN[OPPOSITE[verdict]])
        return rng.choice(DENIALS).format(aspect, adjective), f"{aspect}: not {adjective}"
    adjective = rng.choice(PLAIN[verdict] + STRONG[verdict])
    intensifier = rng.choice(INTENSIFIERS) if adjective in PLAIN[verdict] else ""
    return rng.choice(ASSERTIONS).format(aspect, intensifier + adjective), f"{aspect}: {adjective}"


def draw_sentiment(rng: Random, validation: bool) -> tuple[str, str]:
    """Draw a review of one or two clauses, and its verdict.

    The main clause decides: the one after "but", or the one without "although" or "though". A bare fact
    decides nothing: it is neutral alone and leaves the verdict to the judgement it accompanies.
    """
    while True:
        verdict = rng.choices(("negative", "neutral", "positive"), weights=(35, 28, 37))[0]
        topic = rng.choice(list(ASPECTS))
        aspect, other_aspect = rng.sample(ASPECTS[topic].split(", "), 2)
        fillers = {name: rng.choice(values) for name, values in FILLERS.items()}
        fact, other_fact = rng.sample(FACTS[topic].format(**fillers).split(", "), 2)
        main, judgement = draw_judgement(rng, aspect, verdict)
        kind = rng.choice(("judgement", "fact and judgement", "two", "two"))
        if kind == "judgement":
            sentence, content = f"{main}.", [judgement]
        elif kind == "fact and judgement":
            sentence, content = f"the {topic} {fact}, and {main}.", [fact, judgement]
        elif verdict == "neutral":
            sentence, content = f"the {topic} {fact} and {other_fact}.", [fact, other_fact]
        else:
            contrast = rng.random() < 0.5
            minor, other = draw_judgement(rng, other_aspect, OPPOSITE[verdict] if contrast else verdict)
            frame = rng.choice(CONTRASTS) if contrast else "{main} and {minor}."
            sentence, content = frame.format(main=main, minor=minor), [judgement, other]
        if held_out(topic, verdict, *sorted(content)) == validation:
            return sentence, verdict


# --- Files ---
Draw = Callable[[Random, bool], tuple]
# For each task its columns (the texts, then the label), what draws a row, and its number of training rows.
TASKS: dict[str, tuple[tuple[str, ...], Draw, int]] = {
    "sentiment": (("sentence", "sentiment"), draw_sentiment, 1500),
    "paraphrase": (("sentence1", "sentence2", "is_duplicate"), draw_paraphrase, 3000),
    "similarity": (("sentence1", "sentence2", "similarity"), draw_similarity, 1500),
}
VALIDATION_ROWS = 300  # for each task
# Without dropout, which slows a model this small down, above all on the paraphrases.
BACKBONE = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TOKENIZER = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}


def draw_rows(draw: Draw, size: int, rng: Random, validation: bool) -> list[tuple]:
    """Draw the rows of a file, no two with the same text (in either order)."""
    rows: dict[frozenset[str], tuple] = {}
    while len(rows) < size:
        *texts, label = draw(rng, validation)
        rows.setdefault(frozenset(texts), (*(text[0].upper() + text[1:] for text in texts), label))
    return list(rows.values())


def write_backbone(directory: Path, texts: list[str]) -> None:
    """Write the files from which `AutoConfig` and `AutoTokenizer` load the tiny BERT.

    The vocabulary has every word of the texts; its single characters spell out any other English word.
    """
    letters = string.ascii_lowercase + string.digits
    words = set(re.findall(r"\w+", " ".join(texts).lower())) - set(letters)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *letters]
    vocabulary += [f"##{letter}" for letter in letters] + sorted(words)
    config = {**BACKBONE, "vocab_size": len(vocabulary)}
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", newline="\n")
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", newline="\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=2) + "\n", newline="\n")


def write_all(output_dir: str | Path, seed: int = 13) -> None:
    """Write the six CSV files and `backbone/` into a directory; the same seed always gives the same bytes."""
    backbone = Path(output_dir) / "backbone"
    backbone.mkdir(parents=True, exist_ok=True)
    train_texts: list[str] = []
    for task, (columns, draw, train_rows) in TASKS.items():
        for split, size in (("train", train_rows), ("validation", VALIDATION_ROWS)):
            rows = draw_rows(draw, size, Random(f"{task}-{split}-{seed}"), validation=split == "validation")
            with open(Path(output_dir) / f"{task}-{split}.csv", "w", encoding="ascii", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *rows])
            if split == "train":
                train_texts += [text for row in rows for text in row[:-1]]
    write_backbone(backbone, train_texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recreate the quickstart's data and backbone.")
    parser.add_argument("--output_dir", default=Path(__file__).parent, help="default: this script's folder")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s, as committed")
    arguments = parser.parse_args()
    write_all(arguments.output_dir, arguments.seed)
