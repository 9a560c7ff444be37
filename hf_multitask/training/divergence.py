"""How far a task's outputs for the same rows lie apart, for SMART and the proximal point (paper section 4.4)."""

import logging
from collections.abc import Mapping

from torch import Tensor

from hf_multitask.model.configuration_mtbert import TaskConfig

logger = logging.getLogger(__name__)


def with_divergence(method: str, tasks: Mapping[str, TaskConfig]) -> list[str]:
    """The tasks whose outputs can lie apart; the others, which a method leaves out, are named in the log."""
    without = [name for name, task in tasks.items() if not task.HAS_DIVERGENCE]
    if without:
        logger.warning("%s leaves out %s: their kind has no divergence.", method, ", ".join(without))
    return [name for name in tasks if name not in without]


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
