from typing import Any

from hf_multitask.model.rows import dealt, encode, end_to_end, sequences_of


def test_a_text_has_ids_and_says_whether_it_was_cut(tokenizer: Any) -> None:
    encoded = encode(tokenizer, 4, ["a cat", "a good film"])
    assert encoded["input_ids"][0] == tokenizer("a cat")["input_ids"]
    assert len(encoded["input_ids"][1]) == 4
    assert encoded["truncated"] == [False, True]
    assert "token_type_ids" not in encoded


def test_two_texts_as_one_input_have_token_types(tokenizer: Any) -> None:
    encoded = encode(tokenizer, 64, ["a cat"], ["a dog"])
    both = tokenizer("a cat", "a dog")
    assert encoded["input_ids"] == [both["input_ids"]]
    assert encoded["token_type_ids"] == [both["token_type_ids"]]


def test_no_texts_have_no_tokens(tokenizer: Any) -> None:
    assert encode(tokenizer, 64, []) == {"input_ids": [], "truncated": []}


def test_a_row_has_one_sequence_or_two() -> None:
    assert sequences_of({"input_ids": [2, 5, 3], "label": 1}) == [{"input_ids": [2, 5, 3]}]
    two = sequences_of({"input_ids": [2, 3], "input_ids_2": [2, 6, 3]})
    assert two == [{"input_ids": [2, 3]}, {"input_ids": [2, 6, 3]}]


def test_sequences_laid_end_to_end_come_back_as_they_were(tokenizer: Any) -> None:
    encoded = encode(tokenizer, 5, ["a cat"] * 3, ["a dog", "film", "a good film"])
    rows = dealt(encoded, [1, 2])
    columns = end_to_end(rows)
    assert columns["lengths"] == [[5], [5, 5]]
    assert columns["truncated"] == [True, True]
    for number, row in enumerate(rows):
        stored = {key: values[number] for key, values in columns.items()}
        kept = [{key: one[key] for key in ("input_ids", "token_type_ids")} for one in row]
        assert sequences_of(stored) == kept
