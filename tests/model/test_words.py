"""Words of a text, and which tokens are theirs."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from hf_multitask.model.words import Words, tokenize_words
from tests.conftest import WORDS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dr. Who's here!", ["Dr", ".", "Who", "'", "s", "here", "!"]),
        ("  two\u00a0 blanks\n", ["two", "blanks"]),
        ("3.5 € (net)", ["3", ".", "5", "€", "(", "net", ")"]),
        ("東京 is ニ", ["東", "京", "is", "ニ"]),
        # A mark belongs to the letter that it stands on, whether Python takes it for a letter or not.
        ("cafe\u0301 हिन्दी", ["cafe\u0301", "हिन्दी"]),
        (" \t", []),
    ],
)
def test_words_stand_between_blanks_and_signs_stand_alone(text: str, words: list[str]) -> None:
    read = Words.of_text(text)
    assert read.words == words
    assert [text[begin:end] for begin, end in read.spans] == words


def test_words_that_come_apart_are_a_text_with_blanks() -> None:
    read = Words.of_list(["New York", "'s", "harbour"])
    assert read.text == "New York 's harbour"
    assert read.words == ["New York", "'s", "harbour"]


def test_a_word_begins_at_its_first_token(tokenizer: Any) -> None:
    tokens = tokenize_words(tokenizer, [["The", "cat-dog", "sat"], ["a"]], 64)
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in tokens["input_ids"]] == [
        ["[CLS]", "the", "cat", "[UNK]", "dog", "sat", "[SEP]"],
        ["[CLS]", "a", "[SEP]"],
    ]
    assert tokens["word_starts"] == [[1, 2, 5], [1]]
    assert tokens["truncated"] == [False, False]


def test_words_that_are_cut_off_begin_nowhere(tokenizer: Any) -> None:
    tokens = tokenize_words(tokenizer, [["the", "cat", "sat", "on"], ["the", "cat"]], 4)
    assert [len(ids) for ids in tokens["input_ids"]] == [4, 4]
    assert tokens["word_starts"] == [[1, 2, -1, -1], [1, 2]]
    assert tokens["truncated"] == [True, False]
    whole = tokenize_words(tokenizer, [["the", "cat", "sat", "on"]], 4, truncation=False)
    assert whole["word_starts"] == [[1, 2, 3, 4]]


def test_a_word_without_tokens_is_read_as_an_unknown_one_and_keeps_its_place(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    tokens = tokenize_words(tokenizer, [["cat", "\u200b", "dog", "\x00"], ["cat", "dog", "\u200b"]], 4)
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in tokens["input_ids"]] == [
        ["[CLS]", "cat", "[UNK]", "[SEP]"],
        ["[CLS]", "cat", "dog", "[SEP]"],
    ]
    assert tokens["word_starts"] == [[1, 2, -1, -1], [1, 2, -1]]


def bytes_tokenizer(**options: Any) -> RobertaTokenizer:
    """RoBERTa's tokenizer with a vocabulary of bytes, and `Ġ` with each letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = special + letters + [f"Ġ{letter}" for letter in "abcdefgh"]
    merges = [("Ġ", letter) for letter in "abcdefgh"]
    return RobertaTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, merges=merges, **options)


@pytest.mark.parametrize("options", [{}, {"add_prefix_space": True}])
def test_words_have_the_tokens_that_they_have_in_a_text(options: dict[str, Any]) -> None:
    """Byte-level tokenizers have other tokens for a word after a blank, with `add_prefix_space` or without."""
    tokenizer = bytes_tokenizer(**options)
    tokens = tokenize_words(tokenizer, [["ab", "c"]], 64)
    assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][0]) == ["<s>", "Ġa", "b", "Ġc", "</s>"]
    assert tokens["word_starts"] == [[1, 3]]


def test_bert_reads_a_text_and_its_words_alike() -> None:
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(["[UNK]", *WORDS, "##s", ",", "é"])}))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    text = "The cats, (dogs) sat—on\ta hill 猫"
    (ids,) = tokenize_words(tokenizer, [Words.of_text(text).words], 64)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]


def test_a_tokenizer_that_knows_no_words_is_refused(tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow cannot tell which token belongs to which word: take a fast tokenizer"):
        tokenize_words(Slow(), [["a"]], 64)
