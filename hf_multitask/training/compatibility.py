"""What of transformers' Trainer has no meaning for several tasks, said before training and not ignored."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_multitask.hub.adapters import check_adapter
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.proximal import ProximalPoint
from hf_multitask.training.surgery import GradientSurgery
from hf_multitask.training.weighting import LossWeighting

# Why no trainer makes its model anew.
_KEPT_MODEL = "methods such as SMART hold the model that they began with"
# By argument of the trainer: why it is refused, and what serves in its place.
_REFUSED_PARAMETERS = {
    "compute_loss_func": "the loss is the model's, task by task: weigh the losses by loss_weighting, or override "
    "compute_loss in a subclass",
    "model_init": f"{_KEPT_MODEL}: give the model itself, and search for hyperparameters with recipes/tune.py",
}
NO_SEARCH = (
    f"hyperparameter_search is not offered, since {_KEPT_MODEL}: search with recipes/tune.py, or build a trainer with "
    "a model of its own for each trial."
)


def _is_rate(value: float | None) -> bool:
    return value is None or 0 <= value < float("inf")


# By field of the arguments: what it may be, and why nothing else.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "per_device_train_batch_size": (lambda size: size >= 1, "must be at least 1, the rows of each task in a batch"),
    "per_device_eval_batch_size": (lambda size: size >= 1, "must be at least 1"),
    "gradient_accumulation_steps": (lambda steps: steps >= 1, "must be at least 1"),
    "max_steps": (lambda steps: steps == -1 or steps >= 1, "must be at least 1, or -1 for num_train_epochs"),
    "dataloader_num_workers": (lambda workers: workers >= 0, "must be at least 0"),
    **{
        f"{owner}{kind}": (_is_rate, "must be a number from 0 on")
        for owner in ("", "head_")
        for kind in ("learning_rate", "weight_decay")
    },
    "batch_eval_metrics": (lambda batches: not batches, "must be false: metrics are those of all rows of a task"),
    "dataloader_drop_last": (
        lambda drops: not drops,
        "must be false: training's batches are whole, and evaluation would leave rows out",
    ),
    "dataloader_in_order": (
        lambda is_in_order: is_in_order,
        "must be true: a resumed run follows the same order, and predictions come in the order of the rows",
    ),
    "eval_do_concat_batches": (lambda joins: joins, "must be true: metrics are those of all rows of a task"),
    "accelerator_config": (
        lambda config: not (config.split_batches or config.dispatch_batches),
        "must leave split_batches and dispatch_batches off: a batch is what one process reads in one step",
    ),
    "average_tokens_across_devices": (
        lambda averages: averages,
        "must be true: a loss is a mean over rows, not over tokens, and the same in any number of processes",
    ),
    "include_for_metrics": (
        lambda names: not set(names) - {"loss"},
        "may hold 'loss' alone: texts that are laid end to end in one row are no array of inputs",
    ),
    "label_names": (lambda names: names in (None, ["labels"]), "must be unset: a batch has its labels by task"),
    "length_column_name": (
        lambda name: name == "length",
        "must be unset: evaluation sorts rows by their tokens, and training takes them as schedule says",
    ),
    "remove_unused_columns": (lambda removes: not removes, "must be false: the tasks say which columns are read"),
    "use_cache": (lambda caches: not caches, "must be false: nothing is generated that could be cached"),
    "use_liger_kernel": (lambda uses: not uses, "must be false: Liger has no kernels for this model"),
}
# Optimizers that take each of `optim_args` by its own name, and others not, without a word.
_READ_BY_NAME = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
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
    _check_metrics(kwargs)
    if args is None:
        return MultiTaskTrainingArguments("tmp_trainer")
    if not isinstance(args, MultiTaskTrainingArguments):
        plain = ", which take all that TrainingArguments take" if isinstance(args, TrainingArguments) else ""
        raise ValueError(f"args must be MultiTaskTrainingArguments{plain}, not {type(args).__name__}.")
    for name, (is_allowed, reason) in _ALLOWED.items():
        # Older versions of transformers do not have all of them.
        if hasattr(args, name) and not is_allowed(getattr(args, name)):
            raise ValueError(f"{name} {reason}, not {getattr(args, name)!r}.")
    for reporter in _REPORTERS.intersection(args.report_to or []):
        if reporter not in get_available_reporting_integrations():
            raise ValueError(f"report_to {reporter} needs its package, which is not installed: pip install {reporter}.")
    return args


def _check_metrics(kwargs: Mapping[str, Any]) -> None:
    """Refuses metrics that could not be called, and ours of anything but the heads' logits."""
    own = kwargs.get("compute_metrics")
    functions = list(own.values()) if isinstance(own, Mapping) else [own] * (own is not None)
    if not all(map(callable, functions)):
        raise ValueError(f"compute_metrics must be a function, or a function by task, not {own!r}.")
    are_ours = "compute_metrics" not in kwargs or isinstance(own, Mapping)
    if are_ours and kwargs.get("preprocess_logits_for_metrics") is not None:
        raise ValueError(
            "preprocess_logits_for_metrics is taken with a function as compute_metrics alone: our metrics are "
            "computed from the heads' logits."
        )


def check_optimizer(args: MultiTaskTrainingArguments, kwargs: Mapping[str, Any]) -> None:
    """Makes the optimizer of one weight and its scheduler: what they refuse is refused before training.

    Args:
        args: The run's arguments.
        kwargs: The caller's further arguments for transformers' Trainer, which may have an optimizer of its own.

    Raises:
        ValueError: They do not take what the arguments say.
    """
    own = kwargs.get("optimizer_cls_and_kwargs") or any(kwargs.get("optimizers", ()))
    if own or args.deepspeed or args.optim_target_modules:
        return
    optim = getattr(args.optim, "value", args.optim)
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([nn.Parameter(torch.zeros(1))], **options)
    except (TypeError, ValueError) as error:
        given = f"optim_args {args.optim_args!r}: write name=value, name=value" if args.optim_args else "its arguments"
        raise ValueError(f"optim {optim} does not take {given} ({error}).") from error
    names = [part.partition("=")[0].strip() for part in (args.optim_args or "").split(",") if part]
    if optim in _READ_BY_NAME and (unread := [name for name in names if name not in options]):
        raise ValueError(
            f"optim_args: optim {optim} does not read {unread[0]!r}. Those of Adam are adam_beta1, adam_beta2 "
            "and adam_epsilon."
        )
    specific: Any = args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=dict(specific))
    except (TypeError, ValueError) as error:
        schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise ValueError(
            f"lr_scheduler_type {schedule} does not take lr_scheduler_kwargs {specific} ({error})."
        ) from error


def check_model(model: Any, args: MultiTaskTrainingArguments | None = None) -> None:
    """Refuses what is no model of several tasks, an adapter of one that could not be trained or loaded again, or tasks
    that could not be trained as the arguments of a run say.

    Raises:
        ValueError: It is such a thing.
    """
    if getattr(getattr(model, "config", None), "tasks", None) is None:
        raise ValueError(f"model must be a MultiTaskBertModel, as from_backbone gives it, not {type(model).__name__}.")
    if not getattr(model.config, "return_dict", True):
        raise ValueError("model.config.return_dict must be true in training, which reads outputs by name.")
    if getattr(getattr(args, "deepspeed_plugin", None), "zero_stage", 0) == 3:
        for name, task in model.config.tasks.items():
            if task.READS_VOCABULARY:
                raise ValueError(
                    f"task {name!r}: a {task.type} reads the word embeddings beside the encoder, where DeepSpeed's "
                    "ZeRO stage 3 has not gathered them: use stage 2, or FSDP."
                )
    for name, task in model.config.tasks.items():
        # Code that came with a checkpoint is there beside ours, and would not hear that rows are together.
        if task.COUPLES_ROWS and getattr(args, "world_size", 1) > 1 and not isinstance(task, TaskConfig):
            raise ValueError(
                f"task {name!r}: in several processes the rows of a {task.type} need this package's own code, and the "
                "model came with a copy: load it without trust_remote_code, after import hf_multitask."
            )
    check_adapter(model)


def check_methods(
    args: MultiTaskTrainingArguments,
    proximal: ProximalPoint | None,
    weighting: LossWeighting | None,
    surgery: GradientSurgery | None,
    is_divided: bool,
) -> None:
    """Refuses methods that do not go together, with each other or with what else the run does.

    Args:
        args: The run's arguments.
        proximal, weighting, surgery: The run's methods.
        is_divided: Whether FSDP or DeepSpeed divide the weights.

    Raises:
        ValueError: Two that do not.
    """
    if args.mixed_precision == "fp16" and args.device.type == "cpu":
        raise ValueError("fp16 needs a GPU; on a CPU it would be fp32 without a word. Use bf16.")
    if (proximal or surgery) and is_divided:
        raise ValueError("proximal and surgery need whole weights and gradients, which FSDP and DeepSpeed divide.")
    averages = proximal is not None and proximal.args.use_average
    if averages and args.load_best_model_at_end and args.save_only_model:
        raise ValueError("use_average needs the average of the best checkpoint: save_only_model must be off.")
    if args.neftune_noise_alpha and (args.packing != "off" or args.smart or args.proximal):
        raise ValueError("neftune_noise_alpha sizes its noise by padded sequences: use it with packing off alone.")
    # Transformers before 5.21 computes a layer again with its hooks, which then are gone.
    names = ("activation_checkpointing", "gradient_checkpointing")
    checkpoints = any(getattr(args, name, False) for name in names)
    replays_hooks = checkpoints and "__call__" in vars(GradientCheckpointingLayer)
    smart: Any = args.smart
    if smart and smart.layer is not None and replays_hooks:
        raise ValueError("smart.layer with checkpointing of activations needs transformers 5.21 or newer.")
    if weighting and surgery:
        raise ValueError("loss_weighting and surgery both weigh the tasks: choose one.")
    if weighting and args.schedule != "round_robin":
        raise ValueError(f"loss_weighting needs every task in every step: schedule round_robin, not {args.schedule}.")
    if weighting and weighting.needs_update and args.gradient_accumulation_steps > 1:
        raise ValueError("this loss_weighting compares losses before and after an update: it takes no accumulation.")
    if surgery and args.world_size > 1 and not args.schedule.endswith("round_robin"):
        # A process would wait for gradients of a task that another has no rows of.
        raise ValueError(f"surgery in several processes needs a round_robin schedule, not {args.schedule}.")
    if surgery and not surgery.has_parameters:
        raise ValueError("surgery is for the gradients of the backbone, which is frozen.")
