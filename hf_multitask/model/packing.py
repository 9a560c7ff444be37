"""Sequences of any lengths as one row without padding.

Everything in an encoder but attention works on tokens one by one, so all sequences of a step can stand in one row,
one after the other. Attention must stay within each sequence: an attention function, registered with transformers'
`AttentionInterface`, regroups queries, keys and values into groups of sequences of like length and calls
`scaled_dot_product_attention` on each, so that its cost is that of the sequences and not of the square of the row.

Shape legend:
    - T: tokens of all sequences together, and the filling of their row
    - S: number of sequences
    - L: length of the longest sequence
    - G, N: sequences of a group, and the length of its longest
    - P: tokens of all groups, G x N each, padding included
"""

import inspect
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from .dropout import bit_dropout, draws_bits
from .positions import first_position

logger = logging.get_logger(__name__)

# Lengths of groups are multiples of it: torch's softmax takes up to ten times as long for other lengths on a CPU.
_MULTIPLE = 16
_ROW_MULTIPLE = 32
# Scores of attention that a CPU computes at a time, 8 MB in fp32. All those of many long sequences would fit no cache,
# and stand in memory that the system hands out anew for each pass, page by page: that took three times as long.
_MOST_SCORES = 1 << 21
_PACKED = "packed_sdpa"
# Kernels that take the boundaries of sequences themselves. They need a GPU; see the README for what was run.
_VARIABLE_LENGTH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
_KNOWN = (_PACKED, "sdpa", *_VARIABLE_LENGTH)
# Encoders of transformers whose packed states equal their padded ones, which tests/model/test_encoders.py computes
# for every type. What else joins neighbours, or asks something of attention, cannot be read off an encoder.
PACKABLE = frozenset(
    "albert bert camembert data2vec-text distilbert electra ernie eurobert gte jina_embeddings_v3 mobilebert "
    "modernbert nomic_bert roc_bert roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod".split()
)
# What an attention function may be asked for that packed attention does not do.
_UNKNOWN_REQUESTS = ("is_causal", "position_bias", "softcap", "s_aux")


def pack(lengths: Sequence[int]) -> dict[str, Any]:
    """Where the tokens of sequences of these lengths are, once they stand in one row.

    The row is filled up to a multiple of 32 tokens, by a sequence that nothing reads: a CPU's bf16 kernels are made
    anew, and kept, for every length of row, which took an eighth of a step and, in 100 steps, 660 MB.

    Args:
        lengths: In tokens, each at least 1, in the order of the sequences.

    Returns:
        Tensors, to be moved to the encoder's device with the batch:
        `position_ids` [1, T], each token's place within its sequence, filling included;
        `padded` [S, L] and `mask` [S, L], where in the row the tokens of each sequence are, and which are real;
        `places` [P], where in the row the tokens of all groups of sequences are, laid end to end with their padding;
        `groups`, for each group which of its tokens are real [G, N];
        `restore` [T], where among the groups' tokens each token of the row is;
        `boundaries` int32, where sequences and the filling begin and end, for kernels of variable length.
    """
    count, filling = len(lengths), -sum(lengths) % _ROW_MULTIPLE
    sizes = torch.as_tensor([*lengths, *([filling] if filling else [])])
    boundaries = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    starts = boundaries[:-1]
    positions = torch.arange(int(boundaries[-1])) - starts.repeat_interleave(sizes)
    padded, mask = _places(starts[:count], sizes[:count])
    # Groups of up to 16, 32, 64, ... tokens: few groups, and little padding where it would cost most.
    kinds = torch.log2((sizes / _MULTIPLE).ceil()).ceil()
    groups = [
        _places(starts[members], sizes[members], _MULTIPLE) for members in (kinds == kind for kind in kinds.unique())
    ]
    places = torch.cat([places.flatten() for places, _ in groups])
    real = torch.cat([real.flatten() for _, real in groups])
    restore = torch.empty_like(positions)
    restore[places[real]] = real.nonzero().squeeze(1)
    return {
        "position_ids": positions.unsqueeze(0),
        "padded": padded,
        "mask": mask,
        "places": places,
        "groups": [real for _, real in groups],
        "restore": restore,
        "boundaries": boundaries.int(),
    }


def _places(starts: Tensor, sizes: Tensor, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """The places of sequences' tokens in the row, padded with the sequence's first; and which are real."""
    steps = torch.arange(math.ceil(int(sizes.max()) / multiple) * multiple)
    real = steps < sizes.unsqueeze(1)
    return torch.where(real, starts.unsqueeze(1) + steps, starts.unsqueeze(1)), real


def lay_out(sequences: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, packed: bool) -> dict[str, Any]:
    """The encoder's inputs for sequences.

    Args:
        sequences: With `input_ids` and, where an input has two segments, `token_type_ids`; others then get zeros.
        tokenizer: Says what fills rows up.
        packed: Whether they stand in one row, [1, T], with `packing` from [`pack`], or padded to the longest, [S, L],
            with an `attention_mask`.
    """
    if any("token_type_ids" in sequence for sequence in sequences):
        sequences = [{"token_type_ids": [0] * len(sequence["input_ids"]), **sequence} for sequence in sequences]
    if not packed:
        return dict(DataCollatorWithPadding(tokenizer)(sequences))
    packing = pack([len(sequence["input_ids"]) for sequence in sequences])
    length = packing["position_ids"].shape[1]
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    batch: dict[str, Any] = {}
    for key in sequences[0]:
        flat = list(chain.from_iterable(sequence[key] for sequence in sequences))
        batch[key] = torch.tensor([flat + [fill[key]] * (length - len(flat))])
    return {**batch, "packing": packing}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: dict[str, Any] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention within each sequence of a packed row; without `packing`, transformers' own for padded batches.

    Args:
        query, key, value: [1, heads, T, head size].
        attention_mask: For padded batches only.
        packing: From [`pack`].
        dropout, scaling: As everywhere.
        sliding_window: Of encoders with local attention: tokens this far apart or farther do not see each other.

    Returns:
        The output, [1, T, heads, head size], and no weights.

    Raises:
        ValueError: The encoder asks for attention that looks at more than both sides of each sequence.
    """
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **kwargs
        )
    if asked := [name for name in _UNKNOWN_REQUESTS if not (kwargs.get(name) is None or kwargs[name] is False)]:
        raise ValueError(f"packed attention has no {asked[0]}, which {type(module).__name__} asks for: use padding.")
    if query.shape[1] != key.shape[1]:
        # Grouped queries share keys and values.
        key, value = (repeat_kv(states, query.shape[1] // key.shape[1]) for states in (key, value))
    # By index_select and not by brackets, whose gradient is many times slower: it provides for repeated places.
    tokens = [states[0].transpose(0, 1).index_select(0, packing["places"]) for states in (query, key, value)]
    sizes = [real.numel() for real in packing["groups"]]
    outputs = []
    for real, *states in zip(packing["groups"], *(state.split(sizes) for state in tokens), strict=True):
        q, k, v = (state.unflatten(0, real.shape).transpose(1, 2) for state in states)
        output = _attend(q, k, v, _group_mask(real, sliding_window), dropout, scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, packing["restore"]).unsqueeze(0), None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, scaling: float | None) -> Tensor:
    """Attention of [G, heads, N, head size], by torch's kernels; a CPU has none with dropout."""
    if not dropout or not draws_bits(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    sequences = max(1, _MOST_SCORES // (q.shape[1] * q.shape[2] ** 2))
    parts = zip(*(states.split(sequences) for states in (q * scale, k, v, mask)), strict=True)
    return torch.cat([_attend_to_part(q, k, v, mask, dropout) for q, k, v, mask in parts])


def _attend_to_part(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    scores = q @ k.transpose(2, 3)
    # In place: each pass over the scores counts.
    scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32)
    return bit_dropout(weights, dropout).to(v.dtype) @ v


def _group_mask(real: Tensor, sliding_window: int | None) -> Tensor:
    """Which keys each query sees: [G, 1, 1, N], or [G, 1, N, N] where attention is local."""
    mask = real[:, None, None, :]
    if sliding_window is None or real.shape[1] <= sliding_window:
        return mask
    steps = torch.arange(real.shape[1], device=real.device)
    # A padded query would see nothing where its window holds only padding, and give NaN: it sees itself.
    distance = (steps[:, None] - steps).abs()
    return (mask & (distance < sliding_window)) | (distance == 0)


AttentionInterface.register(_PACKED, packed_attention)
AttentionMaskInterface.register(_PACKED, sdpa_mask)


def can_pack(encoder: PreTrainedModel) -> bool:
    """Whether an encoder's states are the same for sequences that stand in one row.

    Its type must be one that was tried, with transformers' own code; its attention one that keeps sequences apart,
    looking both ways; and nothing of it may join neighbouring tokens.
    """
    config: Any = encoder.config
    return (
        config.model_type in PACKABLE
        and encoder._supports_attention_backend
        and type(encoder).forward.__module__.startswith("transformers.models.")
        and config._attn_implementation in _KNOWN
        and "position_ids" in inspect.signature(encoder.forward).parameters
        and not any(getattr(module, "is_causal", False) for module in encoder.modules())
        and not getattr(config, "trigram_input", False)
    )


def use_packing(model: Any, setting: str) -> bool:
    """Whether to pack, from the setting `auto`, `on` or `off` and what the model's backbone can read.

    Raises:
        ValueError: `on`, and the backbone cannot.
    """
    if setting == "off" or model.can_pack:
        return setting != "off"
    config = model.backbone.config
    why = f"a {config.model_type} backbone with {config._attn_implementation} attention"
    if setting == "on":
        raise ValueError(f"packing is on, but {why} cannot read packed sequences; use auto or off.")
    logger.warning_once(f"Sequences are padded: {why} cannot read packed ones.")
    return False


def encode_packed(encoder: PreTrainedModel, packing: dict[str, Any], **inputs: Any) -> Any:
    """Runs an encoder over a packed row.

    Args:
        encoder: One that [`can_pack`].
        packing: From [`pack`].
        inputs: Of the encoder's forward, [1, T] or [1, T, H], without mask and positions.

    Returns:
        The encoder's output for the row.

    Raises:
        ValueError: Its attention is not one that keeps the sequences of a row apart.
    """
    implementation = encoder.config._attn_implementation
    if implementation not in _KNOWN:
        raise ValueError(
            f"a packed batch cannot be read with {implementation} attention, which would mix its sequences: pad it "
            f'(packing off), or call set_attn_implementation("sdpa").'
        )
    position_ids = packing["position_ids"] + first_position(encoder.config)
    if implementation in _VARIABLE_LENGTH:
        longest = packing["padded"].shape[1]
        boundaries = {"cu_seq_lens_q": packing["boundaries"], "cu_seq_lens_k": packing["boundaries"]}
        return encoder(**inputs, **boundaries, max_length_q=longest, max_length_k=longest, position_ids=position_ids)
    if implementation == "sdpa":
        encoder.config._attn_implementation = _PACKED
    # A mask of four dimensions is handed on as it is; none would be made into one of T x T by local attention.
    no_mask = position_ids.new_zeros(1, 1, 1, 1)
    return encoder(**inputs, attention_mask=no_mask, position_ids=position_ids, packing=packing)


def unpack(states: Tensor, packing: dict[str, Any]) -> Tensor:
    """The states of a packed row, [1, T, H], by sequence, [S, L, H]; padding holds copies of a first token's."""
    places = packing["padded"]
    return states[0].index_select(0, places.flatten()).unflatten(0, places.shape)


def pad(states: Tensor, packing: dict[str, Any], fill: int | None) -> Tensor:
    """What belongs to a packed row's tokens, [1, T, ...], by sequence, [S, L, ...], with `fill` in the padding."""
    places, mask = packing["padded"], packing["mask"]
    by_sequence = states[0][places]
    return by_sequence.masked_fill(~mask.reshape(*mask.shape, *[1] * (by_sequence.dim() - 2)), fill or 0)
