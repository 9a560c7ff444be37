"""From checked rows to token ids: once, in batches, cached by `datasets`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.loading import text_columns
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.words import tokenize_words


def tokenize(rows: Dataset, task: TaskConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Replaces the texts by token ids.

    Args:
        rows: With the standard text columns, and any others, which are kept.
        task: Says whether a row has one text or two, and whether two are read as one input.
        tokenizer: The encoder's.
        max_length: In tokens, special ones included; longer inputs are cut.

    Returns:
        Rows with `input_ids`; for a pair encoded apart also `input_ids_2`; for a pair read as one input also
        `token_type_ids`, where the tokenizer has them; for words `word_starts`, as [`tokenize_words`] gives them; and
        `truncated`, whether anything was cut.

    Raises:
        ValueError: The task reads words, and the tokenizer cannot tell which tokens are theirs.
    """
    return rows.map(
        batch_tokenizer(task, tokenizer, max_length),
        batched=True,
        remove_columns=text_columns(task),
        desc="Tokenizing",
    )


def batch_tokenizer(
    task: TaskConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[dict[str, list[str]]], dict[str, list[Any]]]:
    """What [`tokenize`] maps a dataset by: from texts under the standard columns to what it returns.

    Raises:
        ValueError: Nothing of a text would be left: tokenizers then cut all of it, or do not cut at all.
    """
    special = tokenizer.num_special_tokens_to_add(pair=task.texts == 2 and task.sequences_per_row == 1)
    if max_length <= special:
        raise ValueError(f"max_length must be above the {special} special tokens of an input, not {max_length}.")
    if task.READS_WORDS:
        return partial(_tokenize_words, column=text_columns(task)[0], tokenizer=tokenizer, max_length=max_length)
    return partial(
        _tokenize_batch,
        columns=text_columns(task),
        cross=task.sequences_per_row == 1,
        tokenizer=tokenizer,
        max_length=max_length,
    )


def _tokenize_batch(
    batch: dict[str, list[str]],
    *,
    columns: list[str],
    cross: bool,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> dict[str, list[Any]]:
    texts = [batch[column] for column in columns]
    if len(texts) == 1 or not cross:
        encoded = [_encode(tokenizer, max_length, column) for column in texts]
    else:
        encoded = [_encode(tokenizer, max_length, *texts)]
    output = {"input_ids": encoded[0]["input_ids"], "truncated": encoded[0]["truncated"]}
    if len(encoded) == 2:
        output["input_ids_2"] = encoded[1]["input_ids"]
        output["truncated"] = [a or b for a, b in zip(encoded[0]["truncated"], encoded[1]["truncated"], strict=True)]
    elif len(texts) == 2 and "token_type_ids" in encoded[0]:
        output["token_type_ids"] = encoded[0]["token_type_ids"]
    return output


def _tokenize_words(
    batch: dict[str, list[Any]], *, column: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[Any]]:
    return tokenize_words(tokenizer, batch[column], max_length)


def _encode(tokenizer: PreTrainedTokenizerBase, max_length: int, *texts: list[str]) -> dict[str, list[Any]]:
    encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
    if encoded.encodings is None:
        # A tokenizer written in Python does not keep what it cut.
        truncated = [len(ids) == max_length for ids in encoded["input_ids"]]
    else:
        truncated = [bool(encoding.overflowing) for encoding in encoded.encodings]
    return {**encoded, "truncated": truncated}
