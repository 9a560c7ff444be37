"""Text encoders as tiny random models: what each type reads, and how. The table is in docs/encoders.md."""

from types import SimpleNamespace

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from hf_multitask import MultiTaskBertConfig
from hf_multitask.model.packing import PACKABLE
from tests.conftest import CHECKPOINTING, ROOT, TASKS
from tests.model.encoders import Verdict, here, judge, states, tiny, tiny_config, types_that_take_token_ids

# Beside those that are packed: what is most used, and every reason that there is for anything but a yes.
MOST_USED = here(
    *sorted(PACKABLE),
    *"canine cpmant deberta deberta-v2 esm esmc flaubert fnet funnel gpt2 ibert layoutlm lilt llama longformer".split(),
    *"luke megatron-bert mpnet roformer splinter squeezebert t5 umt5 xlm xlnet".split(),
)
REFUSED = here(*"bart bros clip dpr layoutlmv2 layoutlmv3 lxmert mra reformer tapas vilt".split())
# transformers lists it as an encoder of text, and it takes no token ids.
NO_TOKEN_IDS = {"perceiver"}
# Of what the docs have, those whose states of a padded batch are not those of each sequence alone.
PADDING_COUNTS = {"canine", "convbert", "cpmant", "fnet", "funnel", "nystromformer", "yoso"}


def documented() -> dict[str, Verdict]:
    """What the docs say of each type."""
    verdicts = {}
    for line in (ROOT / "docs" / "encoders.md").read_text().splitlines():
        *row, types = line.removeprefix("| ").removesuffix(" |").split(" | ")
        if types in ("Types", "---"):
            continue
        if len(row) == 4:
            verdicts |= dict.fromkeys(types.split(", "), Verdict(*row))
        elif len(row) == 1:
            verdicts |= dict.fromkeys(types.split(", "), Verdict(refusal=row[0]))
        elif line.startswith("Not tried: "):
            verdicts |= dict.fromkeys(line.removeprefix("Not tried: ").removesuffix(".").split(", "), Verdict())
    return verdicts


DOCUMENTED = documented()


@pytest.mark.parametrize("kind", MOST_USED + REFUSED)
def test_the_docs_say_what_becomes_of_an_encoder(kind: str) -> None:
    if kind == "mra" and torch.cuda.is_available():
        pytest.skip("the table is that of a machine without a GPU")
    assert judge(kind) == DOCUMENTED[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", here(*sorted({*DOCUMENTED} - {*MOST_USED, *REFUSED})))
def test_the_docs_say_what_becomes_of_any_other_type(kind: str) -> None:
    # What was not tried may need a package that is here.
    assert DOCUMENTED[kind] in (judge(kind), Verdict())


@pytest.mark.slow
def test_every_type_that_takes_token_ids_has_its_place_in_the_tables() -> None:
    assert set(types_that_take_token_ids()) <= set(DOCUMENTED)


def test_what_is_packed_is_what_the_code_packs() -> None:
    assert {kind for kind, verdict in DOCUMENTED.items() if verdict.sequences == "packed"} == PACKABLE
    assert not any("FAILS" in verdict for verdict in DOCUMENTED.values())


def test_every_encoder_of_text_has_its_place_in_the_tables() -> None:
    listed = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES} & set(MODEL_MAPPING_NAMES)
    assert listed - NO_TOKEN_IDS <= set(DOCUMENTED)


@pytest.mark.parametrize("kind", here("albert", "ibert", "mpnet", "squeezebert", "xlnet"))
def test_an_encoder_whose_layers_are_not_recomputed_is_named(kind: str) -> None:
    model = tiny(tiny_config(kind))
    with pytest.raises(ValueError, match=f"a {kind} backbone has no layers that can be recomputed: leave check"):
        getattr(model, f"{CHECKPOINTING}_enable")()


@pytest.mark.parametrize("kind", sorted({*MOST_USED} - PADDING_COUNTS))
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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("perceiver", "a 'perceiver' backbone has no hidden_size of its own.*choose an encoder of text"),
        ("clip", "a 'clip' backbone has no hidden_size of its own: it reads more than text"),
        ("dpr", "a dpr backbone gives no states of tokens: choose another encoder of text"),
        ("bros", "a bros backbone needs the box of every word"),
        ("reformer", "a reformer backbone can be trained on inputs of one length alone"),
        ("tapas", "a tapas backbone reads the cells of tables"),
    ],
)
def test_what_cannot_read_texts_is_refused_before_there_are_weights(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskBertConfig(encoder_config=CONFIG_MAPPING[kind](), tasks=TASKS).hidden_size  # noqa: B018


def test_so_is_nystromformer_with_fewer_landmarks_than_tokens() -> None:
    # It would fail in the first step.
    config = tiny_config("nystromformer", num_landmarks=8, segment_means_seq_len=64)
    with pytest.raises(ValueError, match="with num_landmarks 8 reads inputs of exactly 64 tokens"):
        tiny(config)
    assert tiny(tiny_config("nystromformer", num_landmarks=64, segment_means_seq_len=64))


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
