"""Which positions an encoder gives to tokens, and how many it has."""

from transformers import PreTrainedConfig

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
