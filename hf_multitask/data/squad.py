"""SQuAD's own files: articles of paragraphs, each a context with its questions, as rows of one question each."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

_HEAD = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{[^\[]*"data"\s*:\s*\[\s*\{.*?"paragraphs"\s*:', re.DOTALL)
# So many bytes of a file tell whether it is one.
_LOOKED_AT = 65_536


def is_squad(file: Path) -> bool:
    """Whether a file of JSON begins as SQuAD's do."""
    with file.open("rb") as content:
        return _HEAD.match(content.read(_LOOKED_AT)) is not None


def read_squad(file: Path, streaming: bool = False) -> Any:
    """Reads questions, each a row with the columns that SQuAD has on the Hub.

    Args:
        file: The file, in UTF-8.
        streaming: Whether to give an [`IterableDataset`] in place of a [`Dataset`]; the file is one object even so, and
            is held while it is read.

    Raises:
        ValueError: It is no JSON, none of SQuAD's, or has no question; the message continues a sentence about the file.
    """
    if streaming:
        # A list would be dealt out to a loader's workers.
        return IterableDataset.from_generator(_questions, gen_kwargs={"file": file})
    return Dataset.from_list(list(_questions(file)))


def _questions(file: Path) -> Iterator[dict[str, Any]]:
    document = json.loads(file.read_text(encoding="utf-8-sig"))
    rows: list[dict[str, Any]] = []
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                rows += (_row(question, paragraph["context"], article.get("title")) for question in paragraph["qas"])
    except (AttributeError, KeyError, TypeError) as error:
        # sources.py says no more of an error's cause than its first line.
        raise ValueError(f"it begins as SQuAD's files do, and after {len(rows)} question(s) lacks {error}.") from None
    if not rows:
        raise ValueError("it has no questions.")
    yield from rows


def _row(question: dict[str, Any], context: Any, title: Any) -> dict[str, Any]:
    answers = question.get("answers")
    if answers is not None:
        answers = {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
    return {
        "id": question.get("id"),
        "title": title,
        "context": context,
        "question": question["question"],
        "answers": answers,
    }
