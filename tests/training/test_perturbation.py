"""The site of a perturbation in encoders that embed words, stack layers or lay states out in ways of their own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_multitask import MultiTaskBertModel
from hf_multitask.model.dropout import use_bit_dropout
from hf_multitask.training.perturbation import CleanPass, PerturbationSite
from tests.model.encoders import here, still, tiny, tiny_config

LENGTHS = [5, 3]
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
# Each has a reason to be here: the words' module, an output that is a tuple, axes of their own, padding of their own.
WORDS = here("bert", "t5", "mt5", "umt5", "ibert", "xlnet", "longformer", "squeezebert")
LAYERS = here("bert", "t5", "ibert", "xlnet", "longformer", "squeezebert", "albert")


def passes(model: MultiTaskBertModel, delta: Tensor, layer: int | None) -> tuple[Tensor, Tensor, Any]:
    """The states of a clean pass and of one with a perturbation, and what the clean one left."""
    site = PerturbationSite(model.backbone, layer)
    with site.recording(True) as clean:
        before = model(IDS, attention_mask=MASK).last_hidden_state
    with site.perturbed(clean, delta, True):
        after = model(IDS, attention_mask=MASK).last_hidden_state
    return before, after, clean


def random_delta(seed: int = 1) -> Tensor:
    return 0.3 * torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(seed)) * MASK.unsqueeze(-1)


@pytest.mark.parametrize("kind", WORDS)
def test_perturbed_words_are_those_of_a_model_with_other_words(kind: str) -> None:
    """Every token of the batch is another, so that its perturbation can be added to its row of the weights."""
    model, delta = still(kind), random_delta()
    before, after, _ = passes(model, delta, None)
    with torch.no_grad():
        model.get_input_embeddings().weight.index_add_(0, IDS[MASK.bool()], delta[MASK.bool()])
        expected = model(IDS, attention_mask=MASK).last_hidden_state
    real = MASK.bool()
    assert not torch.allclose(before[real], after[real], atol=1e-3)
    torch.testing.assert_close(after[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["word_embeddings"]}, {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}],
    ids=["adapted", "saved"],
)
def test_words_that_an_adapter_wraps_are_perturbed_once(options: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    model, delta = still("bert"), random_delta()
    _, expected, _ = passes(model, delta, None)
    peft.get_peft_model(model, peft.LoraConfig(**options))
    _, after, _ = passes(model.eval(), delta, None)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_perturbed_layer_differs_from_there_on(kind: str, layer: int) -> None:
    model, delta = still(kind), random_delta()
    before, after, clean = passes(model, 0 * delta, layer)
    assert clean.states.shape[0] == 2
    assert clean.states.shape[2] == 16
    assert len(clean.lower_outputs) == layer
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    delta.requires_grad_()
    _, after, _ = passes(model, delta, layer)
    assert not torch.allclose(after, before, atol=1e-3)
    # Row by row: what is added to one sequence's tokens does not reach the other's.
    (gradient,) = torch.autograd.grad(after[0, :, 0].sum(), delta)
    assert gradient[0].any()
    assert not gradient[1].any()


@pytest.mark.parametrize(("layers", "groups"), [(4, 1), (4, 2), (5, 2)])
def test_layers_of_albert_that_share_weights_are_counted_as_they_run(layers: int, groups: int) -> None:
    model = still("albert", num_hidden_layers=layers, num_hidden_groups=groups)
    before = model(IDS, attention_mask=MASK, output_hidden_states=True)
    for layer in range(layers):
        delta = random_delta(layer)
        _, after, clean = passes(model, delta, layer)
        torch.testing.assert_close(clean.states, before.hidden_states[layer])
        # From a naive loop over the groups, above the layer.
        stack, states = model.backbone.encoder, before.hidden_states[layer] + delta
        mask = MASK.bool()[:, None, None, :]
        for number in range(layer, layers):
            states = stack.albert_layer_groups[int(number / (layers / groups))](states, mask)
        torch.testing.assert_close(after[MASK.bool()], states[MASK.bool()], rtol=1e-4, atol=1e-5)
    assert all("forward" not in vars(module) for module in model.modules())


def test_the_layers_below_run_once_where_they_share_weights() -> None:
    model, calls = still("albert", num_hidden_layers=4), []
    model.backbone.encoder.albert_layer_groups[0].albert_layers[0].register_forward_hook(lambda *_: calls.append(1))
    passes(model, random_delta(), 3)
    assert len(calls) == 4 + 1


@pytest.mark.parametrize("layer", [None, 0, 1])
@pytest.mark.parametrize("by_bits", [False, True])
@pytest.mark.parametrize(
    "kind", here("albert", "deberta-v2", "ibert", "lilt", "longformer", "squeezebert", "t5", "xlnet")
)
def test_a_pass_without_a_perturbation_repeats_the_masks_of_the_clean_one(
    kind: str, by_bits: bool, layer: int | None
) -> None:
    """Those too that come before the site and go past it: of XLNet's positions and LiLT's boxes."""
    # ALBERT's default is no dropout; DeBERTa's convolution has dropout between layers, and reads what layer 0 read.
    sizes = {"albert": {"hidden_dropout_prob": 0.1}, "deberta-v2": {"conv_kernel_size": 3}}
    model = tiny(tiny_config(kind, **sizes.get(kind, {}))).train()
    if by_bits:
        use_bit_dropout(model)
    before, after, _ = passes(model, torch.zeros(2, 5, model.config.hidden_size), layer)
    assert torch.equal(before, after)
    assert not torch.equal(before, model(IDS, attention_mask=MASK).last_hidden_state)


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("canine", None, "a canine backbone embeds characters by hashes.*choose another encoder, or leave smart out"),
        ("canine", 1, "a canine backbone embeds characters by hashes"),
        ("funnel", 0, "a funnel backbone has layers over fewer and fewer states: leave layer out"),
        ("xlm", 0, "a xlm backbone has no modules that are its layers: leave layer out"),
        ("flaubert", 1, "a flaubert backbone has no modules that are its layers: leave layer out"),
        ("albert", 2, "layer must be from 0 to 1, not 2"),
    ],
)
def test_what_has_no_such_site_is_refused(kind: str, layer: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerturbationSite(still(kind).backbone, layer)


def test_an_encoder_that_rounds_its_states_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a ibert backbone with quant_mode rounds its states.*quant_mode false"):
        PerturbationSite(still("ibert", quant_mode=True).backbone)


def test_an_encoder_that_never_runs_the_site_is_named() -> None:
    model = still("bert")
    words = torch.nn.Embedding(40, 16)
    model.backbone.get_input_embeddings = lambda: words
    site = PerturbationSite(model.backbone)
    with site.recording(True) as clean:
        model(IDS, attention_mask=MASK)
    with pytest.raises(ValueError, match=r"bert backbone does not run its word embeddings.*: leave smart out"):
        site.states(clean, IDS.shape)


def test_states_of_another_shape_are_named() -> None:
    site, clean = PerturbationSite(still("bert").backbone, 0), CleanPass()
    for shape in ([5, 2, 16], [2, 16, 5], [10, 16], [2, 4, 16], [2, 8, 16]):
        clean.states = torch.zeros(shape)
        with pytest.raises(ValueError, match=r"bert backbone.s states at its layers have the shape .*: leave"):
            site.states(clean, (2, 5))


def test_what_an_encoder_pads_is_not_among_the_states() -> None:
    site, clean = PerturbationSite(still("longformer").backbone, 0), CleanPass()
    clean.states = torch.arange(2 * 8 * 16.0).view(2, 8, 16)
    assert torch.equal(site.states(clean, (2, 5)), clean.states[:, :5])
