"""Adapters of PEFT around a model of ours: which are trained and saved, and what whoever loads one must know."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig, TaskConfig
from hf_multitask_cli.arguments import defaults_of

logger = logging.getLogger(__name__)

# The table of tasks beside an adapter. `config.json` would tell transformers that a whole model lies there.
CONFIG_NAME = "multitask_config.json"
_ADAPTER_CONFIG_NAME = "adapter_config.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass
class Adapter:
    """What a model card says of an adapter.

    Args:
        kind: Its type, as PEFT names it.
        base: What the model that it was trained in started from, as `from_backbone` takes it; None if nobody knows.
        is_local: Whether that was a folder.
        tasks: The table of tasks, as Python writes it.
        subfolder: Where the adapter lies, if not at the top.
    """

    kind: str
    base: str | None
    is_local: bool
    tasks: str
    subfolder: str | None

    @property
    def base_model(self) -> str | None:
        """The id of the base on the Hub."""
        return self.base if self.base is not None and not self.is_local and _HUB_ID.fullmatch(self.base) else None


def is_adapted(model: Any) -> bool:
    """Whether a model is PEFT's, around one of ours."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def check_adapter(model: Any) -> None:
    """Refuses a model around ours that could not be trained, or not loaded when it is saved; others pass.

    Raises:
        ValueError: It is of another class than get_peft_model gives, adds tokens to the texts, or leaves out heads
            that lie nowhere else.
    """
    if not hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        return
    if not is_adapted(model):
        raise ValueError(f"a {type(model).__name__} cannot be saved: give a model from get_peft_model(model, config).")
    kinds = [config.peft_type.value for config in model.peft_config.values() if config.is_prompt_learning]
    if kinds:
        raise ValueError(
            f"an adapter of type {kinds[0]} adds tokens to every text, of which heads and packing know nothing: take "
            "one that changes layers, such as LoRA."
        )
    base = model.get_base_model()
    # PEFT wraps what modules_to_save names. A head without weights has none to save.
    heads = {name: base.heads[name] for name in base.config.tasks if any(True for _ in base.heads[name].parameters())}
    unsaved = [name for name, head in heads.items() if not hasattr(head, "modules_to_save")]
    if unsaved and not base.name_or_path:
        raise ValueError(
            f"task {unsaved[0]!r}: its head is new, and the adapter neither trains nor saves it: give "
            f"modules_to_save={list(base.config.tasks)} to the adapter's config, or adapt a model that was saved."
        )
    for name in unsaved:
        logger.warning("task %r: its head stays as it is, since the adapter's modules_to_save does not name it.", name)


def check_trainable(model: Any) -> None:
    """Refuses to train an adapter that transformers itself added: such a run could not be resumed.

    Raises:
        ValueError: The model has one.
    """
    if getattr(model, "_hf_peft_config_loaded", False) and not is_adapted(model):
        raise ValueError(
            "an adapter from add_adapter or AutoModel.from_pretrained is not resumed from checkpoints: train "
            "get_peft_model(model, config), or PeftModel.from_pretrained(model, folder, is_trainable=True)."
        )


def check_same_kind(folder: str | Path, model: Any) -> None:
    """Refuses a checkpoint of an adapter for a whole model, and the other way round: no weights would be read.

    Raises:
        ValueError: It is of the other kind.
    """
    has_adapter = any(Path(folder).glob(_ADAPTER_CONFIG_NAME)) or any(Path(folder).glob(f"*/{_ADAPTER_CONFIG_NAME}"))
    if has_adapter != is_adapted(model):
        kinds = ("a whole model", "an adapter of PEFT")
        raise ValueError(
            f"checkpoint {folder} cannot be resumed: it is of {kinds[has_adapter]}, and the run trains "
            f"{kinds[not has_adapter]}."
        )


def describe_adapter(model: Any) -> Adapter | None:
    """What the card says of a model's adapter; None for a whole model."""
    if not is_adapted(model):
        return None
    base, name = model.get_base_model(), model.active_adapters[0]
    start = base.name_or_path or base.started_from
    is_local = bool(start) and (os.path.isabs(start) or os.path.isdir(start))
    return Adapter(
        kind=model.peft_config[name].peft_type.value,
        # The folders of the machine that trained are nobody's business.
        base=os.path.basename(os.path.normpath(start)) if start and os.path.isabs(start) else start or None,
        is_local=is_local,
        tasks=pformat(_table(base.config), width=100, sort_dicts=False),
        subfolder=None if name == "default" else name,
    )


def _table(config: MultiTaskBertConfig) -> dict[str, dict[str, Any]]:
    """The table of tasks, without what is as by default."""
    return {name: _changed(task) for name, task in config.tasks.items()}


def _changed(task: TaskConfig) -> dict[str, Any]:
    usual = defaults_of(task)
    # The number of labels is that of their names.
    return {key: getattr(task, key) for key in usual if getattr(task, key) != usual[key] and key != "num_labels"}
