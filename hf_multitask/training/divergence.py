"""How far a task's outputs for the same rows lie apart, for SMART and the proximal point (paper section 4.4)."""

from torch import Tensor

from hf_multitask.model.configuration_mtbert import TaskConfig


def divergence(task: TaskConfig, outputs: Tensor, others: Tensor) -> Tensor:
    """ℓ_s of each row, [B] in fp32, as the kind of task defines it (`TaskConfig.divergences`).

    Args:
        outputs, others: The task's outputs for the same rows, [B, ...].

    Raises:
        ValueError: Shapes that differ. Of [B] and [B, 1], a broadcast would make B x B differences.
    """
    if outputs.shape != others.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)} and {tuple(others.shape)} must have the same shape.")
    return task.divergences(outputs, others)
