"""Where in the encoder a perturbation is added, and with which dropout masks the encoder then runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_multitask.model.dropout import MaskTape, use_tape

# By type, why there is no place for a perturbation, and why none at a layer.
_NO_SITES = {
    "canine": "embeds characters by hashes and has no word embeddings",
    "cpmant": "puts a prompt before its words",
}
_NO_LAYERS = {
    "flaubert": "has no modules that are its layers",
    "funnel": "has layers over fewer and fewer states",
    "hy_v4": "has layers over several streams of states",
    "xlm": "has no modules that are its layers",
}
# By type, which two axes of its states are the other way round than in [S, L, H]; of SqueezeBERT those of layers only.
_SWAPPED = {"xlnet": (0, 1)}
_SWAPPED_IN_LAYERS = {**_SWAPPED, "squeezebert": (1, 2)}
# What pads by itself, to a multiple of its window, behind a batch's tokens.
_PADS = ("longformer",)


@dataclass
class CleanPass:
    """What a pass without a perturbation left at its site.

    Args:
        states: What is perturbed, [1, T, H] or [S, L, H], with its graph; of an encoder that pads by itself, as
            Longformer does to a multiple of its window, with that padding.
        start, random: The generators' states before the pass, where the site is a layer, and at the site.
        tape, place: The masks that the pass drew on a CPU, and the place of the first of them after the site.
        lower_outputs: Of the layers below the site, lowest first.
    """

    states: Tensor | None = None
    start: list[Tensor] = field(default_factory=list)
    random: list[Tensor] = field(default_factory=list)
    tape: MaskTape = field(default_factory=MaskTape)
    place: int = 0
    lower_outputs: list[Any] = field(default_factory=list)


class PerturbationSite:
    """The word embeddings, or the input of a layer.

    The perturbation is added where the encoder computes: whatever comes after the site (positions, normalisation,
    dropout) is done once, as in a pass without it. Feeding whole embedding outputs back as `inputs_embeds` would do
    it twice.

    Args:
        encoder: The backbone.
        layer: None: the output of the word embeddings. k: the input of layer k, which counts from 0; that of layer 0
            is the sum of words, positions and token types. The layers below k then need not run again.

    Raises:
        ValueError: There is no such layer, or the encoder has no such site.
    """

    def __init__(self, encoder: PreTrainedModel, layer: int | None = None) -> None:
        kind = self._kind = encoder.config.model_type
        if kind in _NO_SITES:
            raise ValueError(f"a {kind} backbone {_NO_SITES[kind]}: choose another encoder, or leave smart out.")
        if getattr(encoder.config, "quant_mode", False):
            raise ValueError(
                f"a {kind} backbone with quant_mode rounds its states, and a perturbation with them: train it with "
                "quant_mode false."
            )
        self._layer, self._is_words = layer, layer is None
        if layer is None:
            self._words, self._layers = _word_embeddings(encoder), []
            first = self._words[0]
            self._swapped, self._width = _SWAPPED.get(kind), getattr(first, "embedding_dim", first.weight.shape[-1])
        else:
            self._words, self._layers = [], _layers(encoder)
            self._swapped, self._width = _SWAPPED_IN_LAYERS.get(kind), encoder.config.hidden_size
            if not 0 <= layer < len(self._layers):
                raise ValueError(f"layer must be from 0 to {len(self._layers) - 1}, not {layer}.")

    @property
    def is_words(self) -> bool:
        """Whether the site is the word embeddings, so that a pass needs nothing of an earlier one."""
        return self._is_words

    @contextmanager
    def recording(self, share_dropout: bool) -> Iterator[CleanPass]:
        """Around a clean pass: records what a perturbed one needs, its masks only where they are shared."""
        clean = CleanPass()

        def keep(states: Tensor) -> Tensor:
            clean.states = self._swap(states)
            clean.random, clean.place = random_state(states.device), len(clean.tape.masks)
            return states

        def lower(run: Callable[[], Any]) -> Any:
            clean.lower_outputs.append(run())
            return clean.lower_outputs[-1]

        with self._around(keep, lower):
            if self._layers:
                clean.start = random_state(next(self._layers[0].parameters()).device)
            use_tape(clean.tape if share_dropout else None)
            yield clean

    @contextmanager
    def perturbed(self, clean: CleanPass, delta: Tensor, share_dropout: bool, ascent: bool = False) -> Iterator[None]:
        """Around a perturbed pass over the same batch.

        Args:
            clean: Of the clean pass.
            delta: The perturbation of the batch's tokens, [1, T, H] or [S, L, H].
            share_dropout: Whether dropout after the site draws the masks of the clean pass.
            ascent: Whether the gradient is wanted for `delta` alone: what lies below the site is then constant.
        """

        def add(states: Tensor) -> Tensor:
            if share_dropout:
                set_random_state(clean.random, states.device)
                use_tape(MaskTape(clean.place, clean.tape.masks))
            states = self._swap(states)
            if not self._is_words:
                # In place of its own input: dropout before the site is that of the clean pass in any case.
                assert clean.states is not None
                states = clean.states
            states = states.detach() if ascent else states
            # What an encoder pads by itself is not perturbed.
            padded = F.pad(delta, (0, 0, 0, states.shape[1] - delta.shape[1]))
            return self._swap(states + padded.to(states.dtype))

        outputs = iter(clean.lower_outputs)

        def lower(run: Callable[[], Any]) -> Any:
            use_tape(None)
            return next(outputs)

        with self._around(add, lower):
            if share_dropout and clean.states is not None and clean.start:
                # What passes the site by, as XLNet's positions and LiLT's boxes do, has its dropout before the site.
                set_random_state(clean.start, clean.states.device)
                use_tape(MaskTape(0, clean.tape.masks))
            yield

    def states(self, clean: CleanPass, shape: Sequence[int]) -> Tensor:
        """What is perturbed, without a graph: the states of the tokens of the clean pass's batch, [*shape, H].

        Raises:
            ValueError: The encoder did not run the site, or its states are not one per token.
        """
        what = "word embeddings" if self._is_words else "layers"
        if clean.states is None:
            raise ValueError(f"smart: a {self._kind} backbone does not run its {what} as modules: leave smart out.")
        found = tuple(clean.states.shape)
        tokens = found[:1] if self._kind in _PADS else found[:2]
        if len(found) != 3 or tokens != tuple(shape[: len(tokens)]) or found[2] != self._width:
            raise ValueError(
                f"smart: a {self._kind} backbone's states at its {what} have the shape {list(found)}, not one of "
                f"{self._width} numbers for each token of {list(shape)}: leave smart out."
            )
        return clean.states[:, : shape[1]].detach()

    def _swap(self, states: Tensor) -> Tensor:
        return states if self._swapped is None else states.transpose(*self._swapped)

    @contextmanager
    def _around(self, change: Callable[[Tensor], Tensor], lower: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
        """Around a pass whose states at the site are changed, and whose lower layers are run by `lower`."""
        with ExitStack() as stack:
            stack.callback(use_tape, None)
            for words in self._words:
                stack.enter_context(words.register_forward_hook(lambda _, args, output: _change_first(output, change)))
            calls = count()

            def call(plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                number = next(calls)
                if number == self._layer:
                    args = (change(args[0]), *args[1:])
                is_lower = self._layer is not None and number < self._layer
                return lower(lambda: plain(*args, **kwargs)) if is_lower else plain(*args, **kwargs)

            # Layers that share their weights, as ALBERT's do, are one module that is called again and again.
            for module in dict.fromkeys(self._layers[: (self._layer or 0) + 1]):
                stack.enter_context(_calling(module, call))
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


def _word_embeddings(encoder: PreTrainedModel) -> list[Any]:
    """The modules that may look words up: T5's encoder has one that shares the weight of its model's."""
    try:
        words: Any = encoder.get_input_embeddings()
    except NotImplementedError as error:
        raise ValueError(
            f"a {encoder.config.model_type} backbone does not say where its word embeddings are: set layer to 0, or "
            "leave smart out."
        ) from error
    # Within an adapter's words are those that it adapts, whose weight it passes on.
    within = set(words.modules())
    others = (module for module in encoder.modules() if module not in within)
    return [words, *(module for module in others if getattr(module, "weight", None) is words.weight)]


def _layers(encoder: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers in the order in which they run, lowest first.

    They are the first list of as many modules as the configuration says; of an encoder whose layers share weights in
    groups, each group as often as it runs.
    """
    config = encoder.config
    if config.model_type in _NO_LAYERS:
        why = _NO_LAYERS[config.model_type]
        raise ValueError(f"a {config.model_type} backbone {why}: leave layer out, or choose another encoder.")
    layers, groups = config.num_hidden_layers, getattr(config, "num_hidden_groups", None)
    lists = (module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    found = list(next((modules for modules in lists if len(modules) == (groups or layers)), []))
    if not found:
        raise ValueError(f"a {config.model_type} backbone has no list of its layers: leave layer out.")
    return [found[int(number / (layers / groups))] for number in range(layers)] if groups else found


def _change_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output whose states are changed; I-BERT's come with the scale of their quantisation."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


@contextmanager
def _calling(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """A module whose forward is called by `call`; not by hooks, past which SqueezeBERT runs its layers."""
    plain, own = module.forward, vars(module).get("forward")
    module.forward = partial(call, plain)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
