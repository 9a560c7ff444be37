"""What an encoder's configuration says of it: whether it reads texts, which positions it gives to tokens, and how many,
and how many tokens it knows."""

import torch
from transformers import PreTrainedConfig

# Why encoders of some types cannot read what a task has. transformers would say it after weights are fetched, by a
# traceback in the first step, or not at all.
_REFUSED = {
    "bros": "needs the box of every word on its page",
    "dpr": "gives no states of tokens",
    "embedding_gemma2_text": "gives states of another size than its hidden_size",
    "higgs_audio_v2": "gives no states of tokens",
    "layoutlmv2": "needs the image of a page",
    "layoutlmv3": "has a tokenizer that needs the box of every word on its page",
    "lxmert": "needs the features of an image",
    "reformer": "can be trained on inputs of one length alone, the product of its axial_pos_shape",
    "tapas": "reads the cells of tables",
    "vilt": "needs an image",
    "vits": "gives no states of tokens",
}

# Encoders whose first token has the position after the padding token's id, as fairseq had it: so many positions are
# never used. ESM's do where its positions are embedded, not rotated.
_POSITIONS_AFTER_PADDING = frozenset(
    "camembert data2vec-text esm ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta roberta-prelayernorm "
    "xlm-roberta xlm-roberta-xl xmod".split()
)
# It stands for no limit, where neither encoder nor tokenizer names one: tokenizers count in machine words.
_NO_LIMIT = 2**31 - 1


def first_position(encoder_config: PreTrainedConfig) -> int:
    """The position id that an encoder gives to a sequence's first token."""
    counts_from_padding = encoder_config.model_type in _POSITIONS_AFTER_PADDING
    if getattr(encoder_config, "position_embedding_type", "absolute") == "rotary" or not counts_from_padding:
        return 0
    # MPNet's code has the number, whatever its configuration says.
    return 2 if encoder_config.model_type == "mpnet" else encoder_config.pad_token_id + 1


def most_tokens(encoder_config: PreTrainedConfig) -> int:
    """The greatest number of tokens that an encoder's positions allow."""
    positions = getattr(encoder_config, "max_position_embeddings", None)
    # XLNet, whose positions are relative, says -1.
    if positions is None or positions <= 0:
        return _NO_LIMIT
    return positions - first_position(encoder_config)


def embedding_sizes(encoder_config: PreTrainedConfig) -> dict[str, int]:
    """How many numbers an encoder knows, by the input that has them; those that it does not count are not there."""
    counted = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}
    sizes = {name: getattr(encoder_config, key, None) for name, key in counted.items()}
    return {name: size for name, size in sizes.items() if isinstance(size, int) and size > 0}


def check_backbone(encoder_config: PreTrainedConfig) -> None:
    """Refuses an encoder that cannot be the backbone of tasks whose rows are texts.

    Raises:
        ValueError: It is of such a type.
    """
    kind = encoder_config.model_type
    why = _REFUSED.get(kind)
    if kind == "mra" and not torch.cuda.is_available():
        # Without the kernel its attention is 0 everywhere, and nothing says so.
        why = "has an attention of CUDA kernels alone, and there is no CUDA device"
    landmarks, length = (getattr(encoder_config, key, None) for key in ("num_landmarks", "segment_means_seq_len"))
    if kind == "nystromformer" and landmarks != length:
        # With as many landmarks, as its published models have, it attends to all tokens of any text.
        why = f"with num_landmarks {landmarks} reads inputs of exactly {length} tokens, its segment_means_seq_len"
    if why is not None:
        raise ValueError(f"a {kind} backbone {why}: choose another encoder of text.")
    if encoder_config.is_encoder_decoder:
        raise ValueError(f"the backbone must be an encoder; {kind!r} is an encoder-decoder.")
