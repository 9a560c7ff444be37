"""What of transformers' Trainer has no meaning for several tasks, said before training and not ignored."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from hf_multitask.training.arguments import MultiTaskTrainingArguments

# By argument of the trainer: why it is refused, and what serves in its place.
_REFUSED_PARAMETERS = {
    "compute_loss_func": "the loss is the model's, task by task: weigh the losses by loss_weighting, or override "
    "compute_loss in a subclass",
    "model_init": "methods such as SMART hold the model that they began with: give the model itself, and search for "
    "hyperparameters with recipes/tune.py",
}
# By field of the arguments: what it may be, and why nothing else.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "per_device_train_batch_size": (lambda size: size >= 1, "must be at least 1, the rows of each task in a batch"),
    "per_device_eval_batch_size": (lambda size: size >= 1, "must be at least 1"),
    "gradient_accumulation_steps": (lambda steps: steps >= 1, "must be at least 1"),
    "batch_eval_metrics": (lambda batches: not batches, "must be false: metrics are those of all rows of a task"),
    "dataloader_drop_last": (
        lambda drops: not drops,
        "must be false: training's batches are whole, and evaluation would leave rows out",
    ),
    "eval_do_concat_batches": (lambda joins: joins, "must be true: metrics are those of all rows of a task"),
    "label_names": (lambda names: names in (None, ["labels"]), "must be unset: a batch has its labels by task"),
    "remove_unused_columns": (lambda removes: not removes, "must be false: the tasks say which columns are read"),
}
# Reporters that go by the name of the package that they need.
_REPORTERS = {"tensorboard", "wandb", "mlflow", "trackio"}


def settled_arguments(args: Any, kwargs: Mapping[str, Any]) -> MultiTaskTrainingArguments:
    """The run's arguments, checked; None is for all of them as they are by default, in `tmp_trainer` as in Trainer.

    Args:
        args: What the caller gave.
        kwargs: The caller's further arguments for transformers' Trainer.

    Raises:
        ValueError: An argument that has no meaning here, or not that value.
    """
    for name, reason in _REFUSED_PARAMETERS.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"{name} is not taken: {reason}.")
    if args is None:
        return MultiTaskTrainingArguments("tmp_trainer")
    if not isinstance(args, MultiTaskTrainingArguments):
        plain = ", which take all that TrainingArguments take" if isinstance(args, TrainingArguments) else ""
        raise ValueError(f"args must be MultiTaskTrainingArguments{plain}, not {type(args).__name__}.")
    for name, (is_allowed, reason) in _ALLOWED.items():
        if not is_allowed(getattr(args, name)):
            raise ValueError(f"{name} {reason}, not {getattr(args, name)!r}.")
    for reporter in _REPORTERS.intersection(args.report_to or []):
        if reporter not in get_available_reporting_integrations():
            raise ValueError(f"report_to {reporter} needs its package, which is not installed: pip install {reporter}.")
    return args
