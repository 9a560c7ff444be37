"""Words of a text, and tokens of words: the one rule by which training and the pipeline read them.

A word is a run of characters without blanks; each sign of punctuation, each symbol, and each ideograph and kana is a
word of its own, much as BERT's tokenizer splits a text first of all.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

# Ranges of kana and ideographs, which stand without blanks between words.
_UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Args:
        text: The text.
        spans: Where each word begins and ends in it, in characters.

    Example:
        >>> Words.of_text("Dr. Who's here").words
        ['Dr', '.', 'Who', "'", 's', 'here']
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of_text(cls, text: str) -> "Words":
        """The words of a text as it is written."""

        def key(place: int) -> int | None:
            kind = _kind(text[place])
            # Letters that follow each other are one word, and what stands alone is told apart by its place.
            return place if kind == "alone" else -1 if kind == "letter" else None

        runs = [list(run) for found, run in groupby(range(len(text)), key) if found is not None]
        return cls(text, tuple((run[0], run[-1] + 1) for run in runs))

    @classmethod
    def of_list(cls, words: Sequence[str]) -> "Words":
        """Words that come apart; their text has a blank between them."""
        spans, begin = [], 0
        for word in words:
            spans.append((begin, begin + len(word)))
            begin += len(word) + 1
        return cls(" ".join(words), tuple(spans))

    @cached_property
    def words(self) -> list[str]:
        """The words themselves."""
        return [self.text[begin:end] for begin, end in self.spans]


@cache
def _kind(char: str) -> str:
    if char.isspace():
        return "blank"
    is_sign = unicodedata.category(char)[0] in "PS"
    return "alone" if is_sign or any(low <= ord(char) <= high for low, high in _UNSPACED) else "letter"


def tokenize_words(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[str]], max_length: int, truncation: bool = True
) -> dict[str, list[Any]]:
    """The tokens of rows of words.

    A word that the tokenizer has no token for, such as one of characters that it leaves out, is read as unknown.

    Args:
        tokenizer: A fast one.
        rows: The words of each row.
        max_length: In tokens, special ones included; longer rows are cut if there is `truncation`.

    Returns:
        By row `input_ids`; `word_starts`, the place of each word's first token, -1 for words that were cut off; and
        `truncated`, whether anything was cut.

    Raises:
        ValueError: The tokenizer cannot say which token is whose word.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot tell which token belongs to which word: take a fast tokenizer, with a "
            "tokenizer.json."
        )
    prefix, unknown = _prefix(tokenizer), str(tokenizer.unk_token)
    options = {"is_split_into_words": True, "truncation": truncation, "return_attention_mask": False}

    def encode(words: list[list[str]]) -> Any:
        prefixed = [[prefix + word for word in row] for row in words]
        return tokenizer(prefixed, max_length=max_length if truncation else None, **options) if words else None

    output: dict[str, list[Any]] = {"input_ids": [], "word_starts": [], "truncated": []}
    first = encode([list(row) for row in rows])
    for number, row in enumerate(rows):
        encoding = first.encodings[number]
        if tokenizer.unk_token is not None and (without := _without_tokens(encoding, len(row))):
            words = [unknown if place in without else word for place, word in enumerate(row)]
            encoding = encode([words]).encodings[0]
        starts = [-1] * len(row)
        for place, word in reversed(list(enumerate(encoding.word_ids))):
            if word is not None:
                starts[word] = place
        output["input_ids"].append(encoding.ids)
        output["word_starts"].append(starts)
        output["truncated"].append(bool(encoding.overflowing))
    return output


def _without_tokens(encoding: Any, count: int) -> set[int]:
    """The words that no token stands for, neither in the input nor in what was cut off."""
    return set(range(count)).difference(*(part.word_ids for part in (encoding, *encoding.overflowing)))


def _prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """What goes before each word: a blank, where words in a text have tokens that a word alone has not.

    So have tokenizers of bytes, such as RoBERTa's, unless they were made with `add_prefix_space`.
    """
    alone, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "a a"))
    return "" if two == [*alone, *alone] else " "
