"""What the package's errors have in common."""

import difflib
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


def nearest(word: str, known: list[str]) -> str:
    """The end of an error about an unknown `word`: what it misspells, or else what is known, of much the most alike."""
    lowered = {name.lower(): name for name in known}
    alike = [lowered[name] for name in difflib.get_close_matches(str(word).lower(), lowered, n=len(known) + 1)]
    if close := [name for name in alike if _misspells(str(word), name)]:
        return f"did you mean {close[0]!r}?"
    shown = known if len(known) <= 20 else [*alike, *(name for name in known if name not in alike)][:20]
    return f"known: {', '.join(shown) or 'none'}{', ...' if len(known) > 20 else '.'}"


def _misspells(word: str, name: str) -> bool:
    """Whether each word of one is like that of the other: `class_weights` means something else than `weight`."""
    pairs = list(zip_longest(re.split(r"[\W_]+", word.lower()), re.split(r"[\W_]+", name.lower()), fillvalue=""))
    return all(
        # A word that is cut short is meant, and `class` is no `loss`.
        difflib.SequenceMatcher(None, mine, theirs).ratio() >= 0.7 or (len(mine) > 2 and theirs.startswith(mine))
        for mine, theirs in pairs
    )


def refuse_unknown_keys(values: Mapping[str, Any], known: list[str]) -> None:
    """Raises a `ValueError` that names the first key which is not among the known."""
    for key in values:
        if key not in known:
            raise ValueError(f"unknown key {key!r}; {nearest(key, known)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_characters(text: str) -> None:
    """Refuses a text with half a character, which JSON can have and no tokenizer reads.

    Raises:
        ValueError: It has one; the message continues a sentence that begins with what the text is.
    """
    if half := _HALF.search(text):
        raise ValueError(f"has {half[0]!r}, one half of a character, as its character {half.start() + 1}.")
