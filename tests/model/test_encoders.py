"""Text encoders as tiny random models: what each type reads, and how. The table is in docs/encoders.md."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from hf_multitask.model.packing import PACKABLE, encode_packed, pack, unpack
from tests.conftest import ROOT, TASKS

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "dim", "d_model", "n_embd", "emb_dim", "embedding_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "d_inner"), 32),
    **dict.fromkeys(("head_dim", "d_head", "d_kv"), 4),
    **{"vocab_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 70},
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}
OWN: dict[str, dict[str, Any]] = {
    "canine": {"local_transformer_stride": 16, "max_position_embeddings": 96},
    "esm": {"mask_token_id": 4},
    "longformer": {"attention_window": 8},
    "mobilebert": {"intra_bottleneck_size": 16, "trigram_input": False},
    "modernbert": {"local_attention": 8},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    **{kind: {"is_encoder_decoder": False} for kind in ("mt5", "t5", "umt5")},
}
# Whose states of a padded batch are those of each sequence alone.
PADDED = (
    "bert-generation big_bird clip_text_model deberta deberta-v2 esm flaubert ibert longformer luke mpnet "
    "megatron-bert mra mt5 rembert roformer splinter squeezebert t5 umt5 xlm xlnet"
).split()
# Decoders, whose attention looks back only.
CAUSAL = "doge gpt2 gpt_neox llama qwen2".split()
# Whose padding changes the states of other tokens a little or more, in transformers' own code.
PADDING_COUNTS = "canine convbert fnet funnel nystromformer yoso".split()
# What transformers lists as encoders of text beside them: of images, boxes or tables too, for decoders, or newer.
OTHERS = (
    "bart emu3 esmc layoutlm llama4 mbart mllama modernvbert molmo2_text mvp neomme perceiver reformer t5gemma tapas "
    "tipsv2_text_model ultrabert ultravbert"
).split()
LENGTHS = [3, 20, 9, 1]


def tiny_config(kind: str) -> PreTrainedConfig:
    """A configuration of a type, made small by whatever names it has for its sizes."""
    known = CONFIG_MAPPING[kind]()
    names = {*known.to_dict(), *known.attribute_map, *inspect.signature(type(known).__init__).parameters}
    return CONFIG_MAPPING[kind](**{key: SIZES[key] for key in SIZES if key in names} | OWN.get(kind, {}))


def tiny(config: PreTrainedConfig) -> MultiTaskBertModel:
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=config, tasks=TASKS)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def states(model: MultiTaskBertModel, packed: bool) -> list[torch.Tensor]:
    """The states of random sequences."""
    draw = torch.Generator().manual_seed(1)
    sequences = [torch.randint(5, 40, (length,), generator=draw) for length in LENGTHS]
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    with torch.no_grad():
        if packed:
            packing = pack(LENGTHS)
            row = torch.cat([*sequences, torch.zeros(-sum(LENGTHS) % 32, dtype=torch.long)]).unsqueeze(0)
            hidden = unpack(encode_packed(model.backbone, packing, input_ids=row).last_hidden_state, packing)
        else:
            ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
            hidden = model(ids, attention_mask=mask.long()).last_hidden_state
    return [one[:length] for one, length in zip(hidden, LENGTHS, strict=True)]


def here(*kinds: str) -> list[str]:
    """Those of the types that this transformers has."""
    return [kind for kind in kinds if kind in CONFIG_MAPPING]


@pytest.mark.parametrize("kind", here(*sorted(PACKABLE)))
def test_packed_equals_padded(kind: str) -> None:
    model = tiny(tiny_config(kind))
    assert model.can_pack
    for packed, padded in zip(states(model, True), states(model, False), strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", here(*PADDED, *CAUSAL, *PADDING_COUNTS))
def test_what_is_not_packed_is_padded_and_its_states_say_nothing_of_the_padding(kind: str) -> None:
    model = tiny(tiny_config(kind))
    assert not model.can_pack
    if kind not in PADDING_COUNTS:
        longest = max(LENGTHS)
        draw = torch.Generator().manual_seed(2)
        ids = torch.randint(5, 40, (1, longest), generator=draw)
        beside = torch.cat([ids, torch.zeros(1, 8, dtype=torch.long)], dim=1)
        mask = (torch.arange(longest + 8) < longest).long().unsqueeze(0)
        with torch.no_grad():
            alone = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            padded = model(beside, attention_mask=mask).last_hidden_state[:, :longest]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", here(*sorted(PACKABLE), *PADDED, *CAUSAL))
def test_the_longest_input_is_read_and_uses_every_position(kind: str) -> None:
    model = tiny(tiny_config(kind))
    longest = model.config.longest_input(SimpleNamespace(model_max_length=10**30))  # a tokenizer that has no limit
    if longest < 100:
        model(torch.full((1, longest), 7), attention_mask=torch.ones(1, longest, dtype=torch.long))
        embedded = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
        if embedded and isinstance(embedded[0], torch.nn.Embedding) and kind != "deberta-v2":
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                model(torch.full((1, longest + 1), 7), attention_mask=torch.ones(1, longest + 1, dtype=torch.long))
    else:
        assert longest == 2**31 - 1


def test_mobilebert_that_joins_neighbours_is_padded() -> None:
    config = tiny_config("mobilebert")
    config.trigram_input = True
    assert not tiny(config).can_pack


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_an_encoder_that_is_made_a_decoder_is_padded(kind: str) -> None:
    config = tiny_config(kind)
    config.is_decoder = True
    assert not tiny(config).can_pack


@pytest.mark.parametrize(("kind", "message"), [("perceiver", "no hidden_size"), ("dpr", "no states of tokens")])
def test_what_gives_no_states_of_tokens_is_refused(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        states(tiny(tiny_config(kind)), packed=False)


def test_every_encoder_of_text_has_its_place_in_the_table() -> None:
    listed = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES} & set(MODEL_MAPPING_NAMES)
    assert listed <= {*PACKABLE, *PADDED, *CAUSAL, *PADDING_COUNTS, *OTHERS}


@pytest.mark.parametrize(
    ("heading", "kinds"),
    [
        ("packed", PACKABLE),
        ("padded", PADDED),
        ("padded, and looks back only", CAUSAL),
        ("padded, and the padding changes other tokens' states", PADDING_COUNTS),
    ],
)
def test_the_table_in_the_docs_says_what_was_tried(heading: str, kinds: Any) -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "encoders.md").read_text().splitlines() if " | " in line]
    table = {row[0].removeprefix("| "): row[1].removesuffix(" |").split(", ") for row in rows}
    assert table[heading] == sorted(kinds)


def test_an_encoder_of_a_type_that_nobody_tried_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(tiny_config("bert"))
    assert model.can_pack
    monkeypatch.setattr(type(model.backbone.config), "model_type", "bert-of-my-own")
    assert not model.can_pack


def test_an_encoder_with_code_of_its_own_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(tiny_config("nomic_bert"))
    monkeypatch.setattr(type(model.backbone).forward, "__module__", "transformers_modules.nomic.modeling")
    assert not model.can_pack


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_queries_share_keys_and_values_in_a_packed_row(groups: int) -> None:
    config = tiny_config("eurobert")
    config.num_key_value_heads = 4 // groups
    model = tiny(config)
    for packed, padded in zip(states(model, True), states(model, False), strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)
