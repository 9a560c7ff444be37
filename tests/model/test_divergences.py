import math

import pytest
import torch

from hf_multitask.model.divergences import symmetric_kl, symmetric_kl_of_two


def kl(p: list[float], q: list[float]) -> float:
    return sum(one * math.log(one / other) for one, other in zip(p, q, strict=True))


def test_it_is_the_sum_of_both_divergences() -> None:
    p, q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]
    # Logits may be moved by any number.
    logits, others = torch.tensor(p).log() + 3, torch.tensor(q).log() - 5
    assert float(symmetric_kl(logits, others)) == pytest.approx(kl(p, q) + kl(q, p), rel=1e-5)


def test_it_is_taken_over_the_dimension_that_is_named() -> None:
    logits, others = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(symmetric_kl(logits, others, 1), symmetric_kl(logits.mT, others.mT))


def test_one_logit_stands_for_two_values() -> None:
    logits, others = torch.tensor([0.3, -2.0]), torch.tensor([1.1, 0.5])
    both = [torch.stack([torch.zeros(2), side], dim=-1) for side in (logits, others)]
    torch.testing.assert_close(symmetric_kl_of_two(logits, others), symmetric_kl(*both))


@pytest.mark.parametrize("divergence", [symmetric_kl, symmetric_kl_of_two])
def test_equal_logits_have_none_and_no_gradient(divergence) -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    value = divergence(logits, logits.detach().clone()).sum()
    value.backward()
    assert float(value) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
