"""What is said of weights that are read from a checkpoint: why they cannot be, and which do not fit."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Filter, LogRecord
from typing import Any

from safetensors import SafetensorError
from transformers.utils import SAFE_WEIGHTS_NAME, logging

# A weight of an encoder's layer; those of heads and poolers, which most checkpoints have, are no news.
LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.\d+\.")


@contextmanager
def refused_weights(name: str) -> Iterator[None]:
    """Says in a sentence why weights cannot be loaded."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{name}: its safetensors file is damaged or not whole: {error}.") from error
    except OSError as error:
        if SAFE_WEIGHTS_NAME not in str(error):
            raise
        raise OSError(
            f"{name} has no {SAFE_WEIGHTS_NAME}; weights in any other format are not read, since a pickle can run code."
        ) from error


@contextmanager
def without_report() -> Iterator[None]:
    """Without transformers' table of keys that were not used or not there: what of it matters is raised or logged."""
    reporter = logging.get_logger("transformers.modeling_utils")
    without = _NoReport()
    reporter.addFilter(without)
    try:
        yield
    finally:
        reporter.removeFilter(without)


class _NoReport(Filter):
    def filter(self, record: LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


def check_loaded(name: str, info: Mapping[str, Any], may_lack: tuple[str, ...]) -> None:
    """Raises an `OSError` if weights are absent or have a wrong shape; a pooler's, which nothing reads, may be."""
    if mismatched := sorted(info["mismatched_keys"]):
        key, there, wanted = mismatched[0]
        raise OSError(f"{name}: {key} has the shape {list(there)}, and the config asks for {list(wanted)}.")
    missing = sorted(
        key for key in info["missing_keys"] if not key.startswith(may_lack) and "pooler" not in key.split(".")
    )
    if missing:
        raise OSError(f"{name}: the weights lack {len(missing)} that the config asks for, the first {missing[0]}.")
