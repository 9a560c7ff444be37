"""Where in the encoder a perturbation is added, and with which dropout masks the encoder then runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_multitask.model.dropout import MaskTape, use_tape


@dataclass
class CleanPass:
    """What a pass without a perturbation left at its site.

    Args:
        states: What is perturbed, [1, T, H] or [S, L, H], with its graph.
        random: The generators' states there.
        tape, place: The masks that the pass drew on a CPU, and the place of the first of them after the site.
        lower_outputs: Of the layers below the site, lowest first.
    """

    states: Tensor | None = None
    random: list[Tensor] = field(default_factory=list)
    tape: MaskTape = field(default_factory=MaskTape)
    place: int = 0
    lower_outputs: list[Any] = field(default_factory=list)


class PerturbationSite:
    """The word embeddings, or the input of a layer.

    A hook adds the perturbation where the encoder computes: whatever comes after the site (positions, normalisation,
    dropout) is done once, as in a pass without it. Feeding whole embedding outputs back as `inputs_embeds` would do
    it twice.

    Args:
        encoder: The backbone.
        layer: None: the output of the word embeddings. k: the input of layer k, which counts from 0; that of layer 0
            is the sum of words, positions and token types. The layers below k then need not run again.

    Raises:
        ValueError: There is no such layer.
    """

    def __init__(self, encoder: PreTrainedModel, layer: int | None = None) -> None:
        self._layers = _layers(encoder)
        if layer is not None and not 0 <= layer < len(self._layers):
            raise ValueError(f"layer must be from 0 to {len(self._layers) - 1}, not {layer}.")
        self._lower = [] if layer is None else self._layers[:layer]
        self._module = encoder.get_input_embeddings() if layer is None else self._layers[layer]
        self._is_words = layer is None

    @property
    def is_words(self) -> bool:
        """Whether the site is the word embeddings, so that a pass needs nothing of an earlier one."""
        return self._is_words

    @contextmanager
    def recording(self, share_dropout: bool) -> Iterator[CleanPass]:
        """Around a clean pass: records what a perturbed one needs, its masks only where they are shared."""
        clean = CleanPass()

        def keep(states: Tensor) -> None:
            clean.states, clean.random, clean.place = states, random_state(states.device), len(clean.tape.masks)

        with ExitStack() as hooks:
            for layer in self._lower:
                hooks.enter_context(
                    layer.register_forward_hook(lambda _, args, output: clean.lower_outputs.append(output))
                )
            if self._is_words:
                hooks.enter_context(self._module.register_forward_hook(lambda _, args, output: keep(output)))
            else:
                hooks.enter_context(self._module.register_forward_pre_hook(lambda _, args: keep(args[0])))
            use_tape(clean.tape if share_dropout else None)
            hooks.callback(use_tape, None)
            yield clean

    @contextmanager
    def perturbed(self, clean: CleanPass, delta: Tensor, share_dropout: bool, ascent: bool = False) -> Iterator[None]:
        """Around a perturbed pass over the same batch.

        Args:
            clean: Of the clean pass.
            delta: The perturbation, of the shape of `clean.states`.
            share_dropout: Whether dropout after the site draws the masks of the clean pass.
            ascent: Whether the gradient is wanted for `delta` alone: what lies below the site is then constant.
        """

        def add(states: Tensor) -> Tensor:
            if share_dropout:
                set_random_state(clean.random, states.device)
                use_tape(MaskTape(clean.place, clean.tape.masks))
            states = states.detach() if ascent else states
            return states + delta.to(states.dtype)

        with ExitStack() as hooks:
            hooks.callback(use_tape, None)
            for layer, output in zip(self._lower, clean.lower_outputs, strict=True):
                hooks.enter_context(_returning(layer, output))
            if self._is_words:
                hooks.enter_context(self._module.register_forward_hook(lambda _, args, output: add(output)))
            else:
                assert clean.states is not None
                states = clean.states
                # In place of its own input: dropout before the site is that of the clean pass in any case.
                hooks.enter_context(self._module.register_forward_pre_hook(lambda _, args: (add(states), *args[1:])))
            yield


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the generators that a model on a device draws from."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Sets the generators back to what [`random_state`] found."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


def _layers(encoder: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers, lowest first: the one list of as many modules as the configuration says."""
    count = encoder.config.num_hidden_layers
    lists = (module for module in encoder.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(lists, []))


@contextmanager
def _returning(layer: nn.Module, output: Any) -> Iterator[None]:
    """A layer that returns a known output without computing it."""
    layer.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del layer.forward
