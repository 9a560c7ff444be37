import pytest
import torch
from torch import nn

from hf_multitask.model.dropout import BitDropout, MaskTape, bit_dropout, use_bit_dropout, use_tape

COUNT = 1_000_003  # not a multiple of the four masks that one draw makes


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p_and_the_mean_is_kept(p: float) -> None:
    values = bit_dropout(torch.ones(COUNT), p)
    # Six standard deviations of a binomial share.
    assert (values == 0).float().mean().item() == pytest.approx(p, abs=6 * (p * (1 - p) / COUNT) ** 0.5)
    kept = values[values != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4, atol=0)


def test_neighbouring_masks_are_independent() -> None:
    dropped = (bit_dropout(torch.ones(COUNT), 0.5) == 0).float()
    for shift in (1, 2, 3, 4):
        assert torch.corrcoef(torch.stack([dropped[shift:], dropped[:-shift]]))[0, 1].abs() < 6 / COUNT**0.5


def test_a_seed_gives_the_same_mask_and_another_another() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(bit_dropout(torch.ones(3, 50), 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_p_of_0_keeps_and_of_1_drops_everything() -> None:
    values = torch.randn(4, 5)
    assert torch.equal(bit_dropout(values, 0.0), values)
    assert torch.equal(bit_dropout(values, 1.0), torch.zeros(4, 5))


def test_gradients_pass_where_values_do() -> None:
    values = torch.rand(100, requires_grad=True)
    output = bit_dropout(values, 0.25)
    output.sum().backward()
    torch.testing.assert_close(values.grad, output.detach() / values.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype_and_shape_stay(dtype: torch.dtype) -> None:
    output = bit_dropout(torch.ones(2, 3, 5, dtype=dtype), 0.5)
    assert output.dtype == dtype
    assert output.shape == (2, 3, 5)


def test_the_module_acts_in_training_only() -> None:
    values = torch.ones(10, 10)
    assert (BitDropout(0.5)(values) == 0).any()
    assert torch.equal(BitDropout(0.5).eval()(values), values)
    assert torch.equal(BitDropout(0.0)(values), values)


def test_a_models_dropouts_are_replaced_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3), nn.Dropout1d(0.3))).eval()
    names = list(model.state_dict())
    use_bit_dropout(model)
    assert isinstance(model[1][0], BitDropout)
    assert model[1][0].p == 0.3
    assert not model[1][0].training
    assert type(model[1][1]) is nn.Dropout1d
    assert list(model.state_dict()) == names


def test_a_tape_gives_the_masks_of_another_pass_and_keeps_the_generator_in_step() -> None:
    values = torch.randn(3, 5)

    def run() -> list[torch.Tensor]:
        # Between masks from random bits, one of torch's own.
        return [bit_dropout(values, 0.5), torch.dropout(values, 0.5, True), bit_dropout(values, 0.3), torch.randn(2)]

    tape = MaskTape()
    try:
        use_tape(tape)
        torch.manual_seed(0)
        first = run()
        use_tape(MaskTape(0, tape.masks))
        torch.manual_seed(0)
        again = run()
        use_tape(MaskTape(1, tape.masks))
        assert torch.equal(bit_dropout(values, 0.3), first[2])
    finally:
        use_tape(None)
    torch.manual_seed(0)
    drawn = run()
    for one, other, third in zip(first, again, drawn, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
