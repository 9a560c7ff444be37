"""How far a task's outputs for the same rows lie apart, for SMART and the proximal point (paper section 4.4)."""

from torch import Tensor

from hf_multitask.model.configuration_mtbert import TaskConfig


def divergence(task: TaskConfig, outputs: Tensor, others: Tensor) -> Tensor:
    """ℓ_s of each row, in fp32: symmetric KL divergence of class probabilities, squared difference of scores.

    KL(p ‖ q) + KL(q ‖ p) = Σ_c (p_c − q_c)(z_c − z'_c) for logits z and z': their normalisers cancel, since p and q
    have the same sum. One logit stands for the two classes of a Bernoulli variable, for which the sum is
    (σ(z) − σ(z'))(z − z'); a softmax over it would be 1 and its divergence always 0.

    Args:
        outputs, others: Logits [B, C] or [B], or scores [B]; of equal shapes.

    Returns:
        [B], at least 0; exactly 0, with an exactly zero gradient, where outputs are equal.

    Raises:
        ValueError: Shapes that differ. Of [B] and [B, 1], a broadcast would make B x B differences.

    Source: Jiang et al. 2020, SMART, section 3.1.
    """
    if outputs.shape != others.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)} and {tuple(others.shape)} must have the same shape.")
    outputs, others = outputs.float(), others.float()
    if task.is_regression:
        return (outputs - others).square()
    if task.num_logits == 1:
        return (outputs.sigmoid() - others.sigmoid()) * (outputs - others)
    return ((outputs.softmax(-1) - others.softmax(-1)) * (outputs - others)).sum(-1)
