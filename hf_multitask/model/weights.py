"""What is said of weights that are read from a checkpoint: why they cannot be, and which do not fit."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Filter, LogRecord
from typing import Any

from safetensors import SafetensorError
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from .configuration_mtbert import HUB_KEYS, MultiTaskBertConfig
from .messages import nearest

# A weight of an encoder's layer; those of heads and poolers, which most checkpoints have, are no news.
LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.\d+\.")


# Of `from_pretrained`, those that users mean most often.
_OPTIONS = ["config", "dtype", "device_map", "attn_implementation", "quantization_config", *HUB_KEYS]


@contextmanager
def refused_keyword() -> Iterator[None]:
    """Says which keyword of `from_pretrained` nobody takes: what transformers does not know, it gives to the model."""
    try:
        yield
    except TypeError as error:
        unknown = re.search(r"__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if not unknown:
            raise
        known = nearest(unknown[1], [*MultiTaskBertConfig.own_keys(), *_OPTIONS])
        raise TypeError(f"from_pretrained takes no {unknown[1]!r}; {known}") from error


def check_tasks(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is one of ours, with heads for the tasks that are asked for.

    Args:
        name: A model id on the Hub, or a folder.
        options: Of `from_pretrained`.

    Raises:
        ValueError: The weights are of other tasks; the message says by what they differ.
    """
    if "config" not in options and "tasks" not in options:
        return True
    place = {key: options[key] for key in HUB_KEYS if key in options}
    try:
        values, _ = MultiTaskBertConfig.get_config_dict(name, **place)
    except OSError:
        # There may be weights alone, under a config that is given; without weights, the loading itself says so.
        return False
    if values.get("model_type") != MultiTaskBertConfig.model_type:
        return False
    there, config = MultiTaskBertConfig.from_dict(values).tasks, options.get("config")
    if isinstance(config, PreTrainedConfig):
        # Read by a folder's own code, it is of another class of that name.
        config = MultiTaskBertConfig.from_dict(config.to_dict())
    else:
        changes = {"tasks": options["tasks"]} if "tasks" in options else {}
        config = MultiTaskBertConfig.from_pretrained(config or name, **place, **changes)
    for task, wanted in config.tasks.items():
        if task not in there:
            heads = ", ".join(there) or "none"
            raise ValueError(f"{name} has no head for the task {task!r}, but for {heads}: from_backbone gives it one.")
        if keys := wanted.differences(there[task]):
            key = next((key for key in ("type", "num_labels") if key in keys), keys[0])
            raise ValueError(
                f"{name}: task {task!r} has {key} {getattr(wanted, key)!r}, and the checkpoint's has "
                f"{getattr(there[task], key)!r}: from_backbone gives it a new head."
            )
    return True


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
