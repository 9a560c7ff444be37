"""What the model gives for one task, and for a batch of several."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ModelOutput


@dataclass
class TaskOutput(ModelOutput):
    """Output for one task.

    Args:
        loss: The task's loss times its weight, a scalar, if labels were given.
        logits: [B, C] class logits, or [B]: one binary logit, or one score within the range, per row.
        embeddings: Of the sequences, [S, H], as the task pools them.
        hidden_states, attentions: The encoder's, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MultiTaskOutput(ModelOutput):
    """Output for a batch of several tasks.

    Args:
        loss: Sum over the tasks of weight times loss, a scalar, if labels were given (section 4.2).
        losses: Each task's own mean loss, unweighted, by name, of those that labels were given for.
        logits: Each task's logits or scores, by name, shaped as in [`TaskOutput`].
        embeddings: Of the sequences, [S, H], as the config pools them, or the only task.
        hidden_states, attentions: The encoder's, if asked for.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
