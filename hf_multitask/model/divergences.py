"""How far two predictions lie apart, for SMART and the proximal point (Jiang et al. 2020, SMART, section 3.1).

The symmetric KL divergence is KL(p ‖ q) + KL(q ‖ p) = Σ (p − q)(ln p − ln q). Where p and q have logits z and z', it is
Σ (p − q)(z − z'): their normalisers cancel, since p and q have the same sum.
"""

from torch import Tensor


def symmetric_kl(logits: Tensor, others: Tensor, dim: int = -1) -> Tensor:
    """Of the softmaxes of logits over a dimension, in fp32: at least 0, and exactly 0, with an exactly zero gradient,
    where logits are equal."""
    logits, others = logits.float(), others.float()
    return ((logits.softmax(dim) - others.softmax(dim)) * (logits - others)).sum(dim)


def symmetric_kl_of_two(logits: Tensor, others: Tensor) -> Tensor:
    """Of Bernoulli variables, each with one logit for its two values, in fp32: (σ(z) − σ(z'))(z − z')."""
    logits, others = logits.float(), others.float()
    return (logits.sigmoid() - others.sigmoid()) * (logits - others)
