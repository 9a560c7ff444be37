"""What the pipeline can be given: a text, two, the words of one, or many of these."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset
from transformers.configuration_utils import PreTrainedConfig

from .messages import check_characters
from .positions import embedding_sizes
from .task_config import TaskConfig
from .words import Words

# One text, or two.
Texts = tuple[str, ...]


_READS_TEXTS = "one text, not a pair; many texts are a list, [text, text], where a tuple, (text, text), is one pair."
_READS_PAIRS = "a pair of texts: (text, text); a list, [text, text], is two inputs of one text each."
_READS_CANDIDATES = "a text with candidates, (text, [text, text]), also as {'text': ..., 'candidates': [...]}."
_READS_PAIRS_WITH_CANDIDATES = "a pair of texts with candidates, ((text, text), [text, text])."


def wanted(task: TaskConfig) -> str:
    """What a task reads, in words."""
    if "texts" in task.text_columns.values():
        return _READS_CANDIDATES if task.texts_before_candidates == 1 else _READS_PAIRS_WITH_CANDIDATES
    return _READS_PAIRS if len(task.text_columns) == 2 else _READS_TEXTS


@dataclass(frozen=True)
class Row:
    """One input.

    Args:
        texts: Its text, or its two.
        words: Of a single text, if it came as words.
        candidates: Beside the text or the two, those that are to be ranked or chosen from; empty: it has none.
    """

    texts: Texts
    words: Words | None = None
    candidates: Texts = ()

    def readings(self, task: TaskConfig) -> list[dict[str, Any]]:
        """The input as rows of a task, each with its texts by column: one, or one for each of two texts.

        Words are [`Words`], which know their places in the text. It is empty where the task reads something else.
        """
        columns = list(task.text_columns)
        if "texts" in task.text_columns.values():
            first, last = columns[:-1], columns[-1]
            values = [*self.texts, *self.candidates]
            # The last column has what the others, with a text each, leave.
            fits = self.candidates and len(self.texts) == task.texts_before_candidates and len(first) <= len(values)
            return [{**dict(zip(first, values, strict=False)), last: values[len(first) :]}] if fits else []
        if self.candidates or (len(columns) == 2 and len(self.texts) == 1):
            return []
        if len(columns) == 2:
            return [dict(zip(columns, self.texts, strict=True))]
        if task.text_columns[columns[0]] == "text":
            return [{columns[0]: text} for text in self.texts]
        return [{columns[0]: self.words or Words.of_text(text)} for text in self.texts]


def unreadable(task: TaskConfig, readings: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with one of the texts that a task is to read; empty if it reads them all."""
    for columns in readings:
        for column, value in columns.items():
            try:
                task.check_text(column, value)
            except ValueError as error:
                return f"{column!r} {error}"
    return ""


def as_list(inputs: Any) -> Any:
    """Many inputs as a list, generator or `torch` dataset, which transformers knows, and one input as it is.

    What has no length is read as it goes. Of a table, iterating would give the columns: it is left as it is, and
    refused.
    """
    if isinstance(inputs, (str, bytes, tuple, list, Mapping, GeneratorType, Dataset)):
        return inputs
    for as_list in ("to_pylist", "tolist"):
        # pyarrow's name for it, and numpy's and pandas', which give plain strings.
        if hasattr(inputs, as_list):
            return getattr(inputs, as_list)()
    if not isinstance(inputs, Iterable) or hasattr(inputs, "columns"):
        return inputs
    return list(inputs) if isinstance(inputs, Sized) else (value for value in inputs)


def read_row(value: Any, number: int) -> Row:
    """The text, the two, or the words of an input.

    Raises:
        ValueError: It is none of these; the message gives the input's number.
    """
    if isinstance(value, Mapping) and value.keys() == {"tokens"}:
        return _words(value["tokens"], number)
    if isinstance(value, Mapping):
        value = _of_mapping(value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[1], (tuple, list)):
        return _with_candidates(value[0], value[1], number)
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if all(isinstance(text, str) for text in texts) and len(texts) in (1, 2):
        return Row(checked(texts, number))
    forms = "a text, a pair (text, text), a text with candidates (text, [text, text]), or a mapping with text and "
    forms += "text_pair or candidates, with question and context, or with tokens"
    if texts and all(isinstance(text, str) for text in texts):
        raise ValueError(f"input {number}: give {forms}, not {len(texts)} texts; many texts are a list, [text, text].")
    raise ValueError(f"input {number}: give {forms}, not {value!r:.100}.")


def _of_mapping(value: Mapping[str, Any]) -> Any:
    """The text, the pair, or the one with candidates, that a mapping has under the names for it; any other as it is."""
    keys = set(value)
    if value.get("text_pair", "") is None:
        keys.remove("text_pair")
    texts = tuple(value[key] for key in ("text", "text_pair", "question", "context") if key in keys)
    if not all(isinstance(text, str) for text in texts):
        return value
    if keys in ({"text"}, {"text", "text_pair"}, {"question", "context"}):
        return texts
    if keys in ({"text", "candidates"}, {"text", "text_pair", "candidates"}):
        candidates = value["candidates"]
        return (texts if len(texts) == 2 else texts[0], candidates) if isinstance(candidates, (list, tuple)) else value
    return value


def _with_candidates(text: Any, candidates: Sequence[Any], number: int) -> Row:
    texts = tuple(text) if isinstance(text, (tuple, list)) and len(text) == 2 else (text,)
    if not candidates or not all(isinstance(one, str) for one in (*texts, *candidates)):
        given = f"{(text, candidates)!r:.100}"
        raise ValueError(f"input {number}: give a text, or two, and its candidates, at least one, not {given}.")
    checked((*texts, *candidates), number)
    return Row(texts, candidates=tuple(candidates))


def _words(words: Any, number: int) -> Row:
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"input {number}: tokens must be a list of words, none of them blank, not {words!r:.100}.")
    checked(tuple(words), number)
    read = Words.of_list(words)
    return Row((read.text,), read)


def checked(texts: Texts, number: int) -> Texts:
    """The texts of an input, none of them with half a character.

    Raises:
        ValueError: One has; the message gives the input's number.
    """
    for text in texts:
        try:
            check_characters(text)
        except ValueError as error:
            raise ValueError(f"input {number}: a text {error}") from error
    return texts


def check_sizes(tokenizer: Any, **sizes: Any) -> None:
    """Refuses numbers that are none, or that leave nothing of a text.

    Args:
        tokenizer: The model's.
        sizes: By the name of the argument; None: by default.

    Raises:
        ValueError: One is such; the message names it.
    """
    for name, size in sizes.items():
        least = 1 if name != "max_length" else tokenizer.num_special_tokens_to_add(pair=True) + 1
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < least):
            raise ValueError(f"{name} must be a whole number from {least} on, not {size!r}.")


def check_vocabulary(encoder_config: PreTrainedConfig, batches: Iterable[Mapping[str, Any]]) -> None:
    """Refuses tokens that the encoder has no embeddings of.

    Raises:
        ValueError: There are such.
    """
    words = embedding_sizes(encoder_config).get("input_ids")
    if words is not None and any(int(batch["input_ids"].max()) >= words for batch in batches):
        raise ValueError(
            f"the tokenizer gives tokens beyond the model's vocabulary of {words}: give the one that the model was "
            "trained with, or train after model.resize_token_embeddings(len(tokenizer))."
        )
