"""Rows that come tokenized: cut to their real tokens, and checked before training as texts are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.checking import BadRow, check_rows, label_feature
from hf_multitask.model.configuration_mtbert import TaskConfig

# A tokenizer gives these for each token.
_OF_TOKENS = ("input_ids", "token_type_ids", "attention_mask")


def check_tokenized(
    rows: Dataset,
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    most_tokens: int,
    label: str | list[str] = "label",
    label_map: Mapping[Any, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> tuple[Dataset, list[BadRow], int]:
    """Sorts out tokenized rows that cannot be used, and leaves out the padding that an `attention_mask` shows.

    Args:
        rows: With `input_ids`, for a pair that is encoded apart `input_ids_2` too, and perhaps `token_type_ids`,
            `attention_mask` (and `attention_mask_2`) and a label; for words also `word_starts`, the place of each
            word's first token, -1 of a word that was cut off.
        task: What the rows are for.
        tokenizer: Knows the padding; None: rows without a mask are taken to have none.
        most_tokens: Of the longest row that the model takes.
        label: The column with the label, or those with the labels; without one, rows are taken to have none.
        label_map: As for [`check_rows`].
        sizes: As [`embedding_sizes`] gives them.

    Returns:
        The good rows without masks, their `label` a class id or a score; the bad ones, which have lists of unequal
        lengths, no tokens, too many, some that the model does not know, padding that no mask shows, words that begin at
        no token, or a label that is none; and how many labels were read as class ids.

    Raises:
        ValueError: A column that is missing or not wanted, or as for [`check_rows`].
    """
    has_second = task.sequences_per_row == 2 and not task.SEQUENCES_VARY
    if ("input_ids_2" in rows.column_names) != has_second:
        wanted = "input_ids_2, the second text's" if has_second else "input_ids alone"
        raise ValueError(f"needs a column input_ids, and {wanted}; it has {rows.column_names}.")
    takes_types = "token_type_ids" in getattr(tokenizer, "model_input_names", ())
    if task.reads_pairs and takes_types and "token_type_ids" not in rows.column_names:
        raise ValueError("needs a column token_type_ids, which tells the two texts apart: the tokenizer gives it.")
    read = [*(["lengths"] if task.SEQUENCES_VARY else []), *task.ROW_COLUMNS, *task.EVALUATED_COLUMNS]
    if missing := [column for column in read if column not in rows.column_names]:
        raise ValueError(
            f"needs a column {missing[0]}, which the tokenizing of {task.type} gives; it has {rows.column_names}. Rows "
            f"with {' and '.join(task.text_columns)}, which are tokenized here, have no input_ids."
        )
    rows, numbers = rows.with_format(None), np.arange(1, len(rows) + 1)
    bad: list[BadRow] = []
    cut = rows
    while len(rows):
        try:
            cut = rows
            if task.SEQUENCES_VARY:
                cut = _check_sequences(cut, tokenizer, most_tokens, sizes or {})
            else:
                for suffix in ["", "_2"][: task.sequences_per_row]:
                    cut = _cut_to_mask(cut, suffix, tokenizer, most_tokens, sizes or {})
            if "word_starts" in task.ROW_COLUMNS:
                _check_words(cut.with_format("arrow")[:], str(label))
            break
        except _BadRowsError as found:
            # The other rows may have faults of other kinds.
            bad += [BadRow(int(number), found.problem) for number in numbers[found.are_bad]]
            rows, numbers = rows.select(np.flatnonzero(~found.are_bad)), numbers[~found.are_bad]
            cut = rows
    by_id = 0
    if task.HAS_LABELS and _names(label) <= {*cut.column_names} and len(cut):
        cut, with_bad_labels, by_id = _with_checked_labels(cut, task, label, label_map)
        bad += [BadRow(int(numbers[row.row - 1]), row.problem) for row in with_bad_labels]
        numbers = np.delete(numbers, [row.row - 1 for row in with_bad_labels])
    if type(task).check_row is not TaskConfig.check_row:
        problems = [_problem(task, row) for row in cut]
        bad += [BadRow(int(numbers[i]), problem) for i, problem in enumerate(problems) if problem]
        are_good = [i for i, problem in enumerate(problems) if not problem]
        cut, numbers = cut.select(are_good), numbers[are_good]
    # Without rows, `datasets` adds no column.
    if bad and len(cut) and "row" not in cut.column_names:
        cut = cut.add_column("row", numbers)
    return cut, sorted(bad, key=lambda row: row.row), by_id


def _problem(task: TaskConfig, row: Mapping[str, Any]) -> str:
    """What is wrong with a row by its kind; empty where nothing is."""
    try:
        task.check_row(row)
    except ValueError as error:
        return str(error)
    return ""


class _BadRowsError(Exception):
    """Some rows have a fault of one kind."""

    def __init__(self, are_bad: np.ndarray, problem: str) -> None:
        super().__init__(problem)
        self.are_bad, self.problem = are_bad, problem


class _Lists:
    """A column of lists: all values end to end, and where each row begins."""

    def __init__(self, table: pa.Table, column: str) -> None:
        lists = table[column]
        if not _holds_numbers(lists.type):
            raise ValueError(f"column {column!r} must hold lists of whole numbers, not {lists.type}.")
        self.lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        _refuse(self.lengths == 0, f"has no {column}")
        self.starts = np.cumsum(self.lengths) - self.lengths
        values = pc.list_flatten(lists)
        if values.null_count:
            _refuse(np.add.reduceat(pc.is_null(values).to_numpy(), self.starts), f"lacks a number in its {column}")
        self.values = values.to_numpy()


def _holds_numbers(kind: pa.DataType) -> bool:
    """Whether a type is that of lists of whole numbers, or of nothing but empty ones."""
    inside = getattr(kind, "value_type", None)
    is_kind = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return inside is not None and any(is_inside(inside) for is_inside in is_kind)


def _cut_to_mask(
    rows: Dataset,
    suffix: str,
    tokenizer: PreTrainedTokenizerBase | None,
    most_tokens: int,
    sizes: Mapping[str, int],
) -> Dataset:
    """The rows with one text's ids and token types where its mask is 1, and without the mask."""
    table = rows.with_format("arrow")[:]
    name, mask_name = f"input_ids{suffix}", f"attention_mask{suffix}"
    ids = _Lists(table, name)
    lengths = ids.lengths
    columns = {name: ids}
    if not suffix and "token_type_ids" in rows.column_names:
        columns["token_type_ids"] = _Lists(table, "token_type_ids")
    has_mask = mask_name in rows.column_names
    if has_mask:
        columns[mask_name] = _Lists(table, mask_name)
    for column, lists in columns.items():
        _refuse(lists.lengths != lengths, f"has another number of {column} than of {name}")
    is_real = columns[mask_name].values == 1 if has_mask else np.ones(len(ids.values), dtype=bool)
    for column in [name, "token_type_ids"]:
        if column in columns:
            _refuse_unknown(columns[column], is_real, column, sizes.get(column.removesuffix("_2")))
    if has_mask:
        mask = columns.pop(mask_name)
        lengths = _real_lengths(mask, mask_name)
        rows = rows.remove_columns(mask_name)
        if len(mask.values) > lengths.sum():
            if not suffix and "word_starts" in rows.column_names:
                rows = _shifted_words(rows, table, mask)
            rows = _replace(
                rows, {column: lists.values[mask.values == 1] for column, lists in columns.items()}, lengths
            )
    else:
        is_padded = _are_padded(ids.values, lengths, tokenizer)
        advice = "keep that column, or tokenize without padding"
        _refuse(is_padded, f"has padding, and no {mask_name} that shows it: {advice}")
    _refuse(lengths > most_tokens, f"is longer than the {most_tokens} tokens that the model takes: cut its {name}")
    return rows


def _check_sequences(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase | None, most_tokens: int, sizes: Mapping[str, int]
) -> Dataset:
    """The rows without a mask, if `lengths` say where each of their sequences ends, and all of these can be read."""
    table = rows.with_format("arrow")[:]
    ids, lengths = _Lists(table, "input_ids"), _Lists(table, "lengths")
    _refuse(np.minimum.reduceat(lengths.values, lengths.starts) < 1, "has lengths below 1")
    are_other = np.add.reduceat(lengths.values, lengths.starts) != ids.lengths
    _refuse(are_other, "has lengths whose sum is not the number of its input_ids")
    longest = np.maximum.reduceat(lengths.values, lengths.starts)
    _refuse(longest > most_tokens, f"has more than the {most_tokens} tokens that the model takes among its lengths")
    columns = {column: _Lists(table, column) for column in _OF_TOKENS if column in rows.column_names}
    for column, lists in columns.items():
        _refuse(lists.lengths != ids.lengths, f"has another number of {column} than of input_ids")
    for column in {"input_ids", "token_type_ids"}.intersection(columns):
        _refuse_unknown(columns[column], np.ones(len(ids.values), dtype=bool), column, sizes.get(column))
    is_padded = np.maximum.reduceat(_are_padded(ids.values, lengths.values, tokenizer), lengths.starts)
    if "attention_mask" in columns:
        is_padded = np.minimum.reduceat(columns["attention_mask"].values, ids.starts) != 1
        rows = rows.remove_columns("attention_mask")
    _refuse(is_padded, "has padding, and its sequences stand end to end, as lengths says: tokenize without padding")
    return rows


def _real_lengths(mask: _Lists, name: str) -> np.ndarray:
    """How many ones each row's mask has, which must stand together."""
    before = np.concatenate([[0], mask.values[:-1]])
    before[mask.starts] = 0
    runs = np.add.reduceat((mask.values == 1) & (before != 1), mask.starts, dtype=np.int64)
    _refuse(
        np.add.reduceat(~np.isin(mask.values, (0, 1)), mask.starts), f"has other numbers in its {name} than 0 and 1"
    )
    _refuse(runs == 0, f"has no real token: its {name} is 0 everywhere")
    _refuse(runs > 1, f"has zeros between the ones of its {name}: padding stands before or after the tokens")
    return np.add.reduceat(mask.values == 1, mask.starts, dtype=np.int64)


def _shifted_words(rows: Dataset, table: pa.Table, mask: _Lists) -> Dataset:
    """The rows with words that begin where their tokens are once padding is left out."""
    words = _Lists(table, "word_starts")
    places = np.arange(len(mask.values)) - np.repeat(mask.starts, mask.lengths)
    first = np.minimum.reduceat(np.where(mask.values == 1, places, len(places)), mask.starts)
    # In padding, a word begins at no token: below -1, so that it is refused.
    shifted = words.values - np.repeat(first, words.lengths)
    shifted = np.where(words.values < 0, words.values, np.where(shifted < 0, -2, shifted))
    return _replace(rows, {"word_starts": shifted}, words.lengths)


def _check_words(table: pa.Table, label: str) -> None:
    """Refuses rows with words that begin at no token, or with another number of them than of labels."""
    words, ids = _Lists(table, "word_starts"), _Lists(table, "input_ids")
    owners = np.repeat(np.arange(len(words.lengths)), words.lengths)
    are_bad = np.zeros(len(words.lengths), dtype=bool)
    are_bad[owners[(words.values < -1) | (words.values >= ids.lengths[owners])]] = True
    _refuse(are_bad, "has word_starts that are no places of its input_ids")
    has_token = words.values >= 0
    starts, of = words.values[has_token], owners[has_token]
    are_bad[of[1:][(of[1:] == of[:-1]) & (starts[1:] <= starts[:-1])]] = True
    _refuse(are_bad, "has word_starts that do not rise")
    if label in table.column_names and hasattr(table[label].type, "value_type"):
        counts = pc.fill_null(pc.list_value_length(table[label]), 0).to_numpy()
        _refuse(counts != words.lengths, f"has another number of {label} than of word_starts")


def _refuse_unknown(lists: _Lists, is_real: np.ndarray, name: str, size: int | None) -> None:
    """Refuses rows with a number that the encoder has no embedding for."""
    is_unknown = is_real & (lists.values < 0)
    if size is not None:
        is_unknown |= is_real & (lists.values >= size)
    if not is_unknown.any():
        return
    are_bad = np.add.reduceat(is_unknown, lists.starts, dtype=np.int64) > 0
    # Each number is said of its own rows.
    number = lists.values[is_unknown][0]
    are_bad &= np.add.reduceat(is_unknown & (lists.values == number), lists.starts, dtype=np.int64) > 0
    known = f"0 to {size - 1}" if size is not None else "none below 0"
    advice = "take its own tokenizer, or resize_token_embeddings" if name.startswith("input_ids") else "leave them out"
    _refuse(are_bad, f"has {number} among its {name}, and the model knows {known}: {advice}")


def _are_padded(ids: np.ndarray, lengths: np.ndarray, tokenizer: PreTrainedTokenizerBase | None) -> np.ndarray:
    """Which sequences, of these lengths and end to end, begin or end in padding. Where its token ends texts too, one of
    them is none, and two are."""
    pad = getattr(tokenizer, "pad_token_id", None)
    edges = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep")]
    ends_texts = pad in edges
    if pad is None or (not ends_texts and pad == getattr(tokenizer, "unk_token_id", None)):
        return np.zeros(len(lengths), dtype=bool)
    is_pad, starts = ids == pad, np.cumsum(lengths) - lengths
    ends = starts + lengths - 1
    if not ends_texts:
        return is_pad[starts] | is_pad[ends]
    begins = is_pad[starts] & is_pad[np.minimum(starts + 1, ends)]
    return (lengths > 1) & (begins | (is_pad[ends] & is_pad[np.maximum(ends - 1, starts)]))


def _replace(rows: Dataset, values: Mapping[str, np.ndarray], lengths: np.ndarray) -> Dataset:
    """The rows with other lists, of these lengths, in some columns."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    for column, flat in values.items():
        lists: Any = pa.LargeListArray.from_arrays(offsets, pa.array(flat))
        # Never without any column: such a dataset has no rows.
        rows = rows.add_column(f"{column} cut", lists).remove_columns(column).rename_column(f"{column} cut", column)
    return rows


def _with_checked_labels(
    rows: Dataset, task: TaskConfig, label: str | list[str], label_map: Mapping[Any, Any] | None
) -> tuple[Dataset, list[BadRow], int]:
    """As [`check_rows`], of rows whose tokens are good."""
    if label == "label" and not label_map and _are_read(rows, task):
        return rows, [], 0
    labels, bad, by_id = check_rows(rows.select_columns(label), task, {"label": label}, label_map)
    if bad:
        rows = rows.select([row - 1 for row in labels["row"]])
    if not len(rows):
        return rows, bad, by_id
    column: Any = labels.with_format("arrow")[:]["label"]
    rows = rows.remove_columns(list((_names(label) | {"label"}).intersection(rows.column_names)))
    return rows.add_column("label", column, feature=labels.features["label"]), bad, by_id


def _names(label: str | list[str]) -> set[str]:
    """The columns of a label."""
    return {label} if isinstance(label, str) else set(label)


def _are_read(rows: Dataset, task: TaskConfig) -> bool:
    """Whether the labels come from our own reader."""
    column = rows.with_format("arrow")[:]["label"]
    if rows.features["label"] != label_feature(task) or column.null_count:
        return False
    values = column.to_pylist() if task.LABEL_IS_LIST else pc.unique(column).to_pylist()
    return all(map(task.is_label, values))


def _refuse(are_bad: np.ndarray, problem: str) -> None:
    """Raises a [`_BadRowsError`] if there is a bad row."""
    are_bad = np.asarray(are_bad, dtype=bool)
    if are_bad.any():
        raise _BadRowsError(are_bad, f"{problem}.")
