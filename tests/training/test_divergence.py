import pytest
import torch

from hf_multitask import TaskConfig
from hf_multitask.training.divergence import divergence

CLASSES = TaskConfig("single_label_classification", num_labels=5)
BINARY = TaskConfig("single_label_classification", texts=2)
SCORE = TaskConfig("regression")


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
