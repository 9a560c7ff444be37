"""The shared encoder as transformers has it: which Auto class builds it, what heads are built for it, and which
arguments its forward takes.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel
from transformers.utils import TransformersKwargs

from .messages import nearest
from .task_config import TaskConfig

# Encoder-decoders whose encoder is a model of its own; their configuration says that it is no encoder-decoder.
_WITH_DECODER = ("t5", "mt5", "umt5")
# What every encoder of transformers' is asked for in one of its own ways.
_EVERYWHERE = ("output_attentions", "output_hidden_states")
# A tokenizer gives both to any model. Encoders that do not name them read without them, as FNet without a mask.
_LEFT_OUT = ("attention_mask", "token_type_ids")
# What is read by none: Trainer's count, which scales a loss, and our collator's numbers of rows.
_NOT_READ = ("num_items_in_batch", "rows")


def encoder_class(encoder_config: PreTrainedConfig) -> tuple[Any, dict[str, bool]]:
    """The Auto class that builds an encoder, and the argument that leaves out its pooler, where it takes one."""
    auto: Any = AutoModelForTextEncoding if encoder_config.model_type in _WITH_DECODER else AutoModel
    classes: Any = auto._model_mapping.get(type(encoder_config), None)
    if isinstance(classes, tuple):
        # Funnel's two: the first gives a state per token. Without a name to choose by, transformers iterates None.
        encoder_config.architectures = encoder_config.architectures or [classes[0].__name__]
        classes = classes[0]
    takes_it = classes is not None and "add_pooling_layer" in inspect.signature(classes).parameters
    return auto, {"add_pooling_layer": False} if takes_it else {}


def words_of(model: PreTrainedModel) -> nn.Embedding | None:
    """A model's table of words; None where it has none, as CANINE, which hashes characters, or no plain one."""
    words = None
    with suppress(NotImplementedError):
        words = model.get_input_embeddings()
    return words if isinstance(words, nn.Embedding) else None


def new_head(name: str, task: TaskConfig, hidden_size: int, encoder: PreTrainedModel) -> nn.Module:
    """A new head for a task of a name.

    Raises:
        ValueError: The kind reads the encoder's word embeddings, and it has none.
    """
    build: Any = task.build_head
    if not task.READS_VOCABULARY:
        return build(hidden_size)
    if (words := words_of(encoder)) is None:
        raise ValueError(
            f"task {name!r}: a {task.type} reads the encoder's word embeddings, and a {encoder.config.model_type} "
            "backbone has none: choose another encoder."
        )
    return build(hidden_size, embedding_size=words.embedding_dim)


def word_table(words: Any) -> Tensor:
    """The embedding of each word, [V, E], as an adapter around them makes it, which need not be their weight."""
    if not hasattr(words, "base_layer"):
        return words.weight
    # Not by a call: its hooks are for the words of texts.
    return words.forward(torch.arange(len(words.weight), device=words.weight.device))


class EncoderArguments:
    """What an encoder's forward takes beside the input ids: nothing given to the model is lost in its `**kwargs`.

    Args:
        encoder: Of any type; its signature is read once, since a compiler cannot trace the reading.
        own: The names of the model's own arguments, to be suggested where a keyword is misspelt.
    """

    def __init__(self, encoder: PreTrainedModel, own: list[str]) -> None:
        parameters = inspect.signature(encoder.forward).parameters.values()
        self._config = encoder.config
        self._inputs = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
        takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters)
        self._keywords = {*self._inputs, *_EVERYWHERE, *(TransformersKwargs.__annotations__ if takes_more else ())}
        self._own = own

    def inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the given tensors that the encoder reads.

        Raises:
            ValueError: Positions or embeddings are given, and the encoder takes none.
        """
        for name in given:
            if name not in self._inputs and name not in _LEFT_OUT:
                raise ValueError(f"a {self._config.model_type} backbone takes no {name}.")
        return {name: value for name, value in given.items() if name in self._inputs}

    def keywords(self, given: Mapping[str, Any], defaults: PreTrainedConfig) -> dict[str, Any]:
        """The further keywords of a call as the encoder is to have them.

        Args:
            given: By the caller; None leaves a keyword to the configurations, as PEFT does.
            defaults: The model's own configuration, which can ask for states and attentions of every call.

        Raises:
            TypeError: The encoder takes no such keyword.
        """
        for name in given:
            if name not in self._keywords and name not in _NOT_READ:
                known = [*dict.fromkeys([*self._own, *sorted(self._keywords)])]
                raise TypeError(f"forward takes no {name!r}; {nearest(name, known)}")
        kept = {name: value for name, value in given.items() if value is not None and name not in _NOT_READ}
        configs = (defaults, self._config)
        asked = {name: value for name in _EVERYWHERE for config in configs if (value := getattr(config, name, None))}
        # The model reads the encoder's output by name, and makes a tuple of its own.
        return {**asked, **kept, "return_dict": True}
