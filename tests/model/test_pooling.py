import pytest
import torch

from hf_multitask.model.pooling import POOLINGS, pool

HIDDEN = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [50.0, 50.0]], [[-7.0, 0.0], [-9.0, 2.0], [-2.0, 4.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [[1.0, -4.0], [-7.0, 0.0]]),
        ("mean", [[2.0, -3.0], [-6.0, 2.0]]),
        ("max", [[3.0, -2.0], [-2.0, 4.0]]),
    ],
)
def test_hand_worked_values(pooling: str, expected: list[list[float]]) -> None:
    assert torch.equal(pool(HIDDEN, MASK, pooling), torch.tensor(expected))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(pooling: str, side: str) -> None:
    noise, zeros = torch.full((2, 4, 2), 1e4), torch.zeros(2, 4, dtype=torch.long)
    parts = [(noise, zeros), (HIDDEN, MASK)] if side == "left" else [(HIDDEN, MASK), (noise, zeros)]
    padded = pool(torch.cat([hidden for hidden, _ in parts], 1), torch.cat([mask for _, mask in parts], 1), pooling)
    assert torch.equal(padded, pool(HIDDEN, MASK, pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_states_dtype_is_kept(pooling: str, dtype: torch.dtype) -> None:
    assert pool(HIDDEN.to(dtype), MASK, pooling).dtype == dtype
