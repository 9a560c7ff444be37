"""From checked rows to token ids: once, in batches, cached by `datasets`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.model.configuration_mtbert import TaskConfig


def tokenize(rows: Dataset, task: TaskConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Replaces the texts by token ids.

    Args:
        rows: With the standard text columns, and any others, which are kept.
        task: Says which texts a row has, and how they are read.
        tokenizer: The encoder's.
        max_length: In tokens, special ones included; longer inputs are cut.

    Returns:
        Rows with what `TaskConfig.tokenize` gives: `input_ids` and so on, and `truncated`, whether anything was cut.

    Raises:
        ValueError: The task reads words, and the tokenizer cannot tell which tokens are theirs.
    """
    return rows.map(
        batch_tokenizer(task, tokenizer, max_length),
        batched=True,
        remove_columns=[column for column in task.text_columns if column in rows.column_names],
        desc="Tokenizing",
    )


def batch_tokenizer(
    task: TaskConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    """What [`tokenize`] maps a dataset by: from texts under the standard columns to what it returns.

    Raises:
        ValueError: Nothing of a text would be left: tokenizers then cut all of it, or do not cut at all.
    """
    special = tokenizer.num_special_tokens_to_add(pair=task.reads_pairs)
    if max_length <= special:
        raise ValueError(f"max_length must be above the {special} special tokens of an input, not {max_length}.")
    return partial(_tokenize_batch, task=task, tokenizer=tokenizer, max_length=max_length)


def _tokenize_batch(
    batch: dict[str, list[Any]], *, task: TaskConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[Any]]:
    columns = {column: batch[column] for column in task.text_columns if column in batch}
    return task.tokenize(tokenizer, columns, max_length)
