"""What a multi-task checkpoint is: one encoder and an ordered table of tasks, each with its head."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .messages import first_line, nearest
from .own_types import own_type_modules
from .positions import check_backbone, most_tokens
from .task_config import Pooling, task_type_names
from .task_types import TaskConfig

# A task's name becomes a module name, a metric's key and a file's name.
_TASK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

# Of what `config.json` holds. A checkpoint without one is of version 0, whose keys mean the same as those of 1; version
# 2 tells what is predicted (`type`) from how many texts it is predicted of (`texts`).
CONFIG_VERSION = 2

# The pipeline that travels with a checkpoint, as transformers looks it up there.
_CUSTOM_PIPELINES = {"multi-task": {"impl": "pipeline_mtbert.MultiTaskPipeline", "pt": ["AutoModel"], "type": "text"}}

# What of `from_pretrained` says where a checkpoint is, rather than how to load it.
HUB_KEYS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download", "trust_remote_code")


def _entries(tasks: Any) -> Iterator[tuple[Any, Any]]:
    """Names and values of a table given as a mapping or as a list of mappings with a name."""
    if isinstance(tasks, list):
        for entry in tasks:
            if not isinstance(entry, dict) or "name" not in entry:
                raise ValueError(f"an entry of the list of tasks must be a mapping with a name, not {entry!r}.")
            yield entry["name"], {key: value for key, value in entry.items() if key != "name"}
    else:
        yield from (tasks or {}).items()


def read_backbone_config(name_or_path: str, **kwargs: Any) -> PreTrainedConfig:
    """The configuration of a model to start from.

    Args:
        name_or_path: A model id on the Hub, or a folder.
        kwargs: Those that say where the model is are passed on: `revision`, `token`, `subfolder`, ...

    Raises:
        OSError: There is no such model.
        ValueError: It has a configuration that cannot be read, or code of its own, or is quantized or to be.
    """
    place = {key: kwargs[key] for key in HUB_KEYS if key in kwargs}
    try:
        # Without a word on it, transformers would ask at the terminal whether to run the code of a stranger.
        config = AutoConfig.from_pretrained(name_or_path, **{"trust_remote_code": False, **place})
    except OSError as error:
        reason = first_line(error).rstrip(".")
        what = f"backbone {str(name_or_path)!r} is neither a folder with a model nor a model on the Hub"
        raise OSError(f"{what}: {reason}.") from error
    except ValueError as error:
        if "`trust_remote_code=True` to" in str(error):
            raise ValueError(_own_code(name_or_path)) from error
        raise ValueError(f"backbone {str(name_or_path)!r}: {error}") from error
    is_foreign = type(config).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)
    if is_foreign and config.model_type != MultiTaskBertConfig.model_type:
        raise ValueError(_own_code(name_or_path))
    parts = (config, getattr(config, "encoder_config", None))
    quantization = [kwargs.get("quantization_config"), *(getattr(part, "quantization_config", None) for part in parts)]
    if any(value is not None for value in quantization):
        raise ValueError(
            f"backbone {str(name_or_path)!r} must not be quantized: such weights are neither trained nor saved with "
            "heads; train a whole one, and quantize what was saved, by AutoModel.from_pretrained(..., "
            "quantization_config=...)."
        )
    return config


def _own_code(name_or_path: str) -> str:
    return (
        f"backbone {str(name_or_path)!r} comes with code of its own, which would not travel with a trained model, so "
        "that nobody could load it: choose an encoder whose code transformers has."
    )


@strict
class MultiTaskBertConfig(PreTrainedConfig):
    """Configuration of [`MultiTaskBertModel`].

    Args:
        encoder_config: The shared encoder's own configuration, of any type that `AutoModel` builds an encoder of.
        pooling: How token states become one embedding: `mean` over real tokens (section 4.1.2 finds it better),
            `cls` (the first token) or `max`.
        tasks: The ordered table of tasks, by name; each a [`TaskConfig`] or a mapping of its fields. `config.json`
            sorts its keys, so there the table is a list whose entries have a `name`; that form is read too.
        config_version: Of the format of `config.json`; older ones are read, newer ones are refused.
        own_task_types: The modules of the kinds of task that are not this package's, by the kinds' names; set when the
            config is saved.

    Raises:
        ValueError: A task that is not valid, named in the message, a pooling that is not known, or a newer version.

    Example:
        >>> config = MultiTaskBertConfig(
        ...     encoder_config={"model_type": "bert", "hidden_size": 128, "num_attention_heads": 2},
        ...     tasks={"sst": {"type": "single_label_classification", "num_labels": 5}},
        ... )
        >>> config.tasks["sst"].labels
        ['0', '1', '2', '3', '4']
    """

    model_type = "mtbert"
    # Not `backbone_config`: that name takes the path of transformers' vision models.
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}
    # The evaluation loop gathers what is left: the logits of each task.
    keys_to_ignore_at_inference = ["losses", "embeddings", "hidden_states", "attentions"]

    encoder_config: Any = None
    pooling: str = "mean"
    tasks: Any = None
    config_version: int = CONFIG_VERSION
    own_task_types: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.config_version > CONFIG_VERSION:
            raise ValueError(
                f"the model's config_version is {self.config_version}, and this hf_multitask reads versions up to "
                f"{CONFIG_VERSION}: upgrade it, or load the model with its own code by trust_remote_code=True."
            )
        version, self.config_version = self.config_version, CONFIG_VERSION
        if not type(self).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            # An installed package's pipeline is registered; transformers would ask to trust the checkpoint's copy.
            kwargs.pop("custom_pipelines", None)
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling {self.pooling!r} is unknown; {nearest(self.pooling, list(get_args(Pooling)))}")
        entries, self.tasks = _entries(self.tasks), {}
        for name, task in entries:
            kind = task.get("type") if isinstance(task, dict) else None
            module = (self.own_task_types or {}).get(kind) if isinstance(kind, str) else None
            if module and kind not in task_type_names():
                raise ValueError(
                    f"task {name!r}: type {kind!r} is of the module {module}: import that before the model is loaded, "
                    "or load the model with the code beside it by trust_remote_code=True, where that has the module."
                )
            self.add_task(name, task, version)
        super().__post_init__(**kwargs)
        if (self.encoder_config.architectures or [""])[0].endswith("EncoderModel"):
            # The encoder of T5's family, saved alone; of UMT5 its configuration does not say so.
            self.encoder_config.is_encoder_decoder = False
        check_backbone(self.encoder_config)

    @classmethod
    def from_backbone(
        cls, name_or_path: str, *, tasks: Mapping[str, Any] | None = None, pooling: str | None = None, **kwargs: Any
    ) -> "MultiTaskBertConfig":
        """The configuration of a model on a pretrained encoder's configuration.

        Args:
            name_or_path: A model id on the Hub, or a folder, of an encoder or of a model of ours.
            tasks: The table of tasks, by name; None: those of a model of ours.
            pooling: `mean`, `cls` or `max`; None: that of a model of ours, or `mean`.
            kwargs: Those that say where the model is are passed on: `revision`, `token`, `subfolder`, ...

        Raises:
            OSError: There is no such model.
            ValueError: As for the class.
        """
        return cls.on_backbone(read_backbone_config(name_or_path, **kwargs), tasks=tasks, pooling=pooling)

    @classmethod
    def on_backbone(
        cls, start: PreTrainedConfig, *, tasks: Mapping[str, Any] | None = None, pooling: str | None = None
    ) -> "MultiTaskBertConfig":
        """As `from_backbone`, of a configuration that was read."""
        if isinstance(start, cls):
            tasks = start.tasks if tasks is None else tasks
            return cls(encoder_config=start.encoder_config, tasks=dict(tasks), pooling=pooling or start.pooling)
        if tasks is None:
            raise ValueError(f"tasks is missing: {start.name_or_path or start.model_type} is an encoder without any.")
        return cls(encoder_config=start, tasks=dict(tasks), pooling=pooling or "mean")

    @classmethod
    def own_keys(cls) -> list[str]:
        """The keys of `config.json` that transformers' other configurations do not have."""
        common = {field.name for field in fields(PreTrainedConfig)}
        return [field.name for field in fields(cls) if field.name not in common]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but what overrides a value is checked as the value itself is.

        The parent sets overrides on a configuration that was checked before. Here they are part of what is checked; a
        mapping for `encoder_config` changes the keys that it has.

        Raises:
            ValueError: As for the class, or the values are those of an encoder.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(f"a {kind!r} configuration has no tasks: from_backbone(name, tasks=...) adds them to it.")
        changes = {key: kwargs.pop(key) for key in cls.own_keys() if key in kwargs}
        encoder = config_dict.get("encoder_config")
        if isinstance(changes.get("encoder_config"), dict) and isinstance(encoder, dict):
            changes["encoder_config"] = {**encoder, **changes["encoder_config"]}
        return super().from_dict({"config_version": 0, **config_dict, **changes}, **kwargs)

    def add_task(self, name: str, task: TaskConfig | dict[str, Any], version: int = CONFIG_VERSION) -> None:
        """Adds a task to the end of the table.

        Args:
            name, task: The task, or a mapping of its keys.
            version: The config's that the task stands in.

        Raises:
            ValueError: The name or the task is not valid, or the name is there already.
        """
        if not isinstance(name, str) or not _TASK_NAME.fullmatch(name):
            raise ValueError(f"task name {name!r} must be a letter and then letters, digits, '_' or '-', 64 at most.")
        if hasattr(nn.ModuleDict, name):
            raise ValueError(f"task name {name!r} is a word that torch needs for itself; choose another.")
        if name in self.tasks:
            raise ValueError(f"task {name!r} is there twice.")
        try:
            self.tasks[name] = TaskConfig.from_dict(task, version)
        except ValueError as error:
            raise ValueError(f"task {name!r}: {error}") from error

    def task(self, name: str) -> TaskConfig:
        """The task of a name.

        Raises:
            ValueError: There is none.
        """
        if name not in self.tasks:
            raise ValueError(f"task {name!r} is unknown; {nearest(name, list(self.tasks))}")
        return self.tasks[name]

    def longest_input(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The greatest number of tokens that both the tokenizer and the encoder's positions allow."""
        return min(tokenizer.model_max_length, self.most_tokens)

    @property
    def most_tokens(self) -> int:
        """The greatest number of tokens that the encoder's positions allow."""
        return most_tokens(self.encoder_config)

    @property
    def hidden_size(self) -> int:
        """Size of a token state and of an embedding.

        Raises:
            ValueError: The encoder has none.
        """
        size = getattr(self.encoder_config, "hidden_size", None)
        if size is None:
            raise ValueError(
                f"a {self.encoder_config.model_type!r} backbone has no hidden_size of its own: it reads more than "
                "text, or gives no states of tokens; choose an encoder of text."
            )
        return size

    def pooling_of(self, task: str | None) -> str:
        """The pooling of a task, or of the bare encoder for None."""
        own = self.tasks[task].pooling if task is not None else None
        return own or self.pooling

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The encoder's configuration: transformers keeps the size of the vocabulary there."""
        return self.encoder_config

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, as `config.json` holds them; unset fields of tasks are left out."""
        output = super().to_dict()
        output["tasks"] = [{"name": name, **task.to_dict()} for name, task in self.tasks.items()]
        own = {**(self.own_task_types or {}), **own_type_modules(self.tasks)}
        own = {kind: module for kind, module in own.items() if kind in [task.type for task in self.tasks.values()]}
        output["own_task_types"] = own
        if not own:
            del output["own_task_types"]
        encoder = output["encoder_config"]
        # A Hub id tells what the model was made of; the folders of the machine that made it are nobody's business.
        if isinstance(encoder, dict) and os.path.isdir(encoder.get("_name_or_path", "")):
            encoder["_name_or_path"] = os.path.basename(os.path.normpath(encoder["_name_or_path"]))
        output["custom_pipelines"] = _CUSTOM_PIPELINES
        return output


MultiTaskBertConfig.register_for_auto_class()
