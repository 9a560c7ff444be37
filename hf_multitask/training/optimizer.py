"""The optimizer's parameter groups, backbone and heads apart, and its learning rate over phases."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

from torch import nn

from hf_multitask.model.modeling_mtbert import MultiTaskBertModel


def check_learnable(model: MultiTaskBertModel, tasks: Iterable[str]) -> None:
    """Refuses tasks from which nothing learns: a step that holds no other could not be made.

    Args:
        model: The bare model.
        tasks: Those that it is trained on.

    Raises:
        ValueError: There is one.
    """
    if any(parameter.requires_grad for parameter in model.backbone.parameters()):
        return
    for name in tasks:
        if not any(parameter.requires_grad for parameter in model.heads[name].parameters()):
            raise ValueError(
                f"there is nothing to train of task {name!r}: the backbone is frozen, and its head has no weights that "
                "are not. Let the backbone learn, or leave the task out of train_dataset."
            )


def separate_heads(
    groups: Iterable[dict[str, Any]],
    model: nn.Module,
    learning_rate: float | None,
    weight_decay: float | None,
    decaying: Collection[str],
) -> list[dict[str, Any]]:
    """Splits each group into the backbone's parameters and the heads', which get their own settings.

    Args:
        groups: An optimizer's groups, before any scheduler has seen them.
        model: Bare or wrapped; heads are told by their names.
        learning_rate: Of the heads; None leaves the group's.
        weight_decay: Of the heads' parameters that decay; None leaves the group's.
        decaying: The names of all parameters that decay: biases and norms do not.

    Returns:
        New groups, the backbone's first; empty ones, such as those of a frozen backbone, are left out.
    """
    decaying_ids = {id(parameter) for name, parameter in model.named_parameters() if name in decaying}
    head_ids = {id(parameter) for name, parameter in model.named_parameters() if "heads." in name}
    backbone, heads = [], []
    for group in groups:
        settings = {}
        if learning_rate is not None:
            settings["lr"] = learning_rate
        if weight_decay is not None and any(id(parameter) in decaying_ids for parameter in group["params"]):
            settings["weight_decay"] = weight_decay
        backbone.append({**group, "params": [p for p in group["params"] if id(p) not in head_ids]})
        heads.append({**group, **settings, "params": [p for p in group["params"] if id(p) in head_ids]})
    return [group for group in backbone + heads if group["params"]]


def phased(
    courses: Sequence[Callable[[int], float]], lengths: Sequence[int], factors: Sequence[float]
) -> Callable[[int], float]:
    """A learning rate's course over phases, as a factor by step.

    Args:
        courses: One for each phase, which counts its steps from 0 (a warm restart), or one for the whole run.
        lengths: Steps of each phase; the last one lasts on.
        factors: Of each phase.
    """
    starts = list(accumulate(lengths[:-1], initial=0))

    def course(step: int) -> float:
        phase = bisect_right(starts, step) - 1
        if len(courses) == 1:
            return factors[phase] * courses[0](step)
        return factors[phase] * courses[phase](step - starts[phase])

    return course
