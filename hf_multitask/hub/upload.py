"""Uploads that are tried again where that can help, and otherwise end in a sentence."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
)

logger = logging.getLogger(__name__)

# What the Hub's client raises where the Hub, the network or the token is at fault; offline mode is a ConnectionError.
HUB_ERRORS = (HTTPError, HFValidationError, LocalEntryNotFoundError, LocalTokenNotFoundError, ConnectionError)

_TRIES = 5
_LONGEST_WAIT = 30.0


def upload_folder(repo_id: str, folder: str, first_wait: float = 1.0, **kwargs: Any) -> Any:
    """`HfApi.upload_folder`, tried up to five times where the Hub or the network fails.

    Args:
        repo_id: The repository.
        folder: What to upload.
        first_wait: Before the second try, in seconds; the next ones are twice as long each, up to 30 s.
        kwargs: For `HfApi.upload_folder`.

    Raises:
        OSError: The Hub refuses, or has failed five times; the message says why.
    """
    with refused_by_hub(repo_id):
        for attempt in range(_TRIES):
            try:
                return HfApi().upload_folder(repo_id=repo_id, folder_path=folder, **kwargs)
            except HUB_ERRORS as error:
                if not may_pass(error) or attempt == _TRIES - 1:
                    raise
                wait = min(first_wait * 2**attempt, _LONGEST_WAIT)
                logger.warning("%s: %s Trying again in %.0f s.", repo_id, _reason(error), wait)
                time.sleep(wait)


class KeptBack:
    """A file that pushes of its folder leave out, for those of transformers: they leave out names with an underscore.

    It has such a name from the first push that begins until the last one that is under way is done, in the background
    or not.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path.with_name(f"_{path.name}")
        self._pushes, self._lock = 0, threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._pushes += 1
            if self._path.exists():
                self._path.replace(self._aside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._pushes -= 1
            if not self._pushes and self._aside.exists():
                self._aside.replace(self._path)


@contextmanager
def refused_by_hub(repo_id: str) -> Iterator[None]:
    """Turns what the Hub's client raises into an `OSError` of one sentence that says what would help."""
    try:
        yield
    except HUB_ERRORS as error:
        raise OSError(f"{repo_id}: {_reason(error)}") from error


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the Hub is busy or broken, or the network is."""
    if (status := _status(error)) is not None:
        return status == 429 or status >= 500
    return isinstance(error, (HTTPError, ConnectionError)) and not is_offline_mode()


def _reason(error: BaseException) -> str:
    status = _status(error)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "the Hub wants a token that it knows; run `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return "the Hub does not let this token do that; use one that may write there."
    if status == 404:
        return "the Hub has no such repository or revision, or this token may not see it."
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set, and this needs the Hub."
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"{first_line.rstrip('.')}."
