import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from hf_multitask import TaskConfig
from hf_multitask.training.divergence import divergence

CLASSES = TaskConfig("single_label_classification", num_labels=5)
BINARY = TaskConfig("pair_classification")
SCORE = TaskConfig("pair_regression")


def test_classes_diverge_by_symmetric_kl() -> None:
    z, w = torch.randn(6, 5), torch.randn(6, 5)
    p, q = Categorical(logits=z.double()), Categorical(logits=w.double())
    expected = kl_divergence(p, q) + kl_divergence(q, p)
    torch.testing.assert_close(divergence(CLASSES, z, w).double(), expected, rtol=1e-4, atol=1e-6)


def test_one_logit_diverges_as_a_bernoulli_variable_and_not_as_a_softmax_of_one() -> None:
    z, w = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])
    p, q = Bernoulli(logits=z.double()), Bernoulli(logits=w.double())
    expected = kl_divergence(p, q) + kl_divergence(q, p)
    torch.testing.assert_close(divergence(BINARY, z, w).double(), expected)
    assert divergence(BINARY, z, w).tolist() == [pytest.approx(0.2310586), 0.0]  # (1/2 - σ(1)) (0 - 1)


def test_scores_diverge_by_their_squared_difference() -> None:
    assert divergence(SCORE, torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.5])).tolist() == [4.0, 0.25]


@pytest.mark.parametrize(("task", "shape"), [(CLASSES, (3, 5)), (BINARY, (3,)), (SCORE, (3,))])
def test_equal_outputs_diverge_by_exactly_nothing(task: TaskConfig, shape: tuple) -> None:
    outputs = (30 * torch.randn(shape)).requires_grad_()
    values = divergence(task, outputs, outputs.detach().clone())
    assert values.tolist() == [0.0] * 3
    values.sum().backward()
    assert not outputs.grad.any()


def test_half_precision_is_read_as_fp32() -> None:
    assert divergence(CLASSES, torch.randn(2, 5).half(), torch.randn(2, 5).half()).dtype == torch.float32


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4,\) and \(4, 1\)"):
        divergence(SCORE, torch.zeros(4), torch.zeros(4, 1))
