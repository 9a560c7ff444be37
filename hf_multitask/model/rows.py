"""Tokenized rows: what the encoder reads of a row, and how texts become it.

A row has `input_ids`, and where an input has two segments `token_type_ids`; of two sequences, the second one's ids are
`input_ids_2`. A row of more, or of any number, has them end to end, and `lengths` says how many tokens each has.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

# A sequence's tensors, or a row's.
Tokens = dict[str, Any]

# The label of what is none, and what fills up the outputs of rows that have fewer than others.
PADDING = -100

# The logit of what cannot be said, such as by a token that a row does not have. It is a number in half precision too,
# and no head comes to it.
UNREAD = -8192.0

# What of a row the encoder reads.
ENCODER_COLUMNS = ("input_ids", "input_ids_2", "token_type_ids", "lengths")


def encode(
    tokenizer: PreTrainedTokenizerBase, max_length: int, *texts: Sequence[str], truncation: bool = True
) -> dict[str, list[Any]]:
    """The tokens of texts, or of texts and their second ones, each two as one input.

    Args:
        tokenizer: The encoder's.
        max_length: In tokens, special ones included; longer inputs are cut if there is `truncation`.

    Returns:
        By input `input_ids`; of two texts, where the tokenizer has them, `token_type_ids`; and `truncated`, whether
        anything was cut.
    """
    columns = list(map(list, texts))
    options: dict[str, Any] = {"max_length": max_length} if truncation else {}
    encoded = tokenizer(*columns, truncation=truncation, return_attention_mask=False, **options) if columns[0] else {}
    ids = encoded.get("input_ids", [])
    output = {"input_ids": ids}
    if len(columns) == 2 and "token_type_ids" in encoded:
        output["token_type_ids"] = encoded["token_type_ids"]
    if (encodings := getattr(encoded, "encodings", None)) is None:
        # A tokenizer written in Python does not keep what it cut.
        output["truncated"] = [truncation and len(one) == max_length for one in ids]
    else:
        output["truncated"] = [bool(encoding.overflowing) for encoding in encodings]
    return output


def padded(rows: Sequence[Any], value: int) -> Tensor:
    """Rows of whole numbers, of any lengths, as one tensor, int64 [B, longest], with a value beyond each."""
    return pad_sequence([torch.as_tensor(row, dtype=torch.int64) for row in rows], True, value)


def sequences_of(row: Mapping[str, Any]) -> list[Tokens]:
    """The encoder's inputs of a row, in their order."""
    kept = [key for key in ("input_ids", "token_type_ids") if key in row]
    if "lengths" not in row:
        second = [{"input_ids": row["input_ids_2"]}] if "input_ids_2" in row else []
        return [{key: row[key] for key in kept}, *second]
    sequences, begin = [], 0
    for length in row["lengths"]:
        sequences.append({key: row[key][begin : begin + length] for key in kept})
        begin += length
    return sequences


def end_to_end(rows: Sequence[Sequence[Tokens]]) -> dict[str, list[Any]]:
    """Rows of any numbers of sequences, as columns of tokenized rows; `truncated` where any of a row's is."""
    keys = [key for key in ("input_ids", "token_type_ids") if rows and rows[0] and key in rows[0][0]]
    columns: dict[str, list[Any]] = {
        key: [[token for one in row for token in one[key]] for row in rows] for key in keys
    }
    columns["lengths"] = [[len(one["input_ids"]) for one in row] for row in rows]
    columns["truncated"] = [any(one["truncated"] for one in row) for row in rows]
    return columns


def dealt(encoded: Mapping[str, Sequence[Any]], counts: Sequence[int]) -> list[list[Tokens]]:
    """What [`encode`] gave for the inputs of all rows, one after the other, as the sequences of each row.

    Args:
        encoded: By key, of all inputs.
        counts: How many inputs each row has.
    """
    inputs = iter([dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)])
    return [[next(inputs) for _ in range(count)] for count in counts]
