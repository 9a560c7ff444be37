"""What a run can be told, beyond what transformers' own arguments say."""

from dataclasses import asdict, dataclass, field
from typing import Any, get_args, get_type_hints

import torch
from transformers import TrainingArguments

from hf_multitask.model.messages import nearest
from hf_multitask.training.groups import ArgumentGroup
from hf_multitask.training.proximal import ProximalArguments
from hf_multitask.training.smart import SmartArguments
from hf_multitask_cli.arguments import MultiTaskArguments
from hf_multitask_cli.recipe_yaml import as_boolean


@dataclass
class MultiTaskTrainingArguments(MultiTaskArguments, TrainingArguments):
    """[`transformers.TrainingArguments`] with what several tasks need, [`MultiTaskArguments`].

    `per_device_train_batch_size` counts the rows of each task in a batch. `learning_rate` and `weight_decay` are
    the backbone's, and the heads' too unless they have their own.

    Args:
        metric_for_best_model: `eval_final_score` unless told otherwise: the mean over tasks of what counts of each,
            accuracy or (r + 1) / 2 by default, which is computed once, after all tasks. Any `<task>_<metric>` serves.
            Whether the greatest value is the best or the least, the task's metric says, unless `greater_is_better`
            does, as it should of a metric that a `compute_metrics` of your own gives: of a name there that ends in
            `rmse` or `loss` the least is taken to be the best.

    Raises:
        ValueError: A value out of range, or an argument of transformers' that has no meaning for several tasks.
    """

    metric_for_best_model: str | None = field(
        default="eval_final_score", metadata={"help": "The metric that picks the best checkpoint."}
    )
    # The collator takes the columns it knows and leaves the rest.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not used: the collator picks its columns."})

    def __post_init__(self) -> None:
        # On a command line and in a recipe, it is a text.
        if isinstance(resume := as_boolean(self.resume_from_checkpoint), bool):
            self.resume_from_checkpoint = "true" if resume else None
        # Read by the trainer, which knows whether the metric is ours.
        self.is_direction_guessed = self.greater_is_better is None
        super().__post_init__()
        if self.is_direction_guessed and self.metric_for_best_model:
            # Trainer knows of losses alone that less is better.
            self.greater_is_better = not self.metric_for_best_model.endswith(("loss", "rmse"))
        # Without a device to copy to, torch warns at every loader that pinning does nothing.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        self.smart = SmartArguments.read("smart", self.smart)  # type: ignore[assignment]
        self.proximal = ProximalArguments.read("proximal", self.proximal)  # type: ignore[assignment]
        if self.torch_compile and (self.smart or self.proximal):
            raise ValueError("torch_compile must be off with smart or proximal: their hooks would break its graph.")
        for key in ("schedule", "mixing", "packing"):
            choices = get_args(get_type_hints(MultiTaskTrainingArguments)[key])
            if (value := getattr(self, key)) not in choices:
                raise ValueError(f"{key} {value!r} is unknown; {nearest(str(value), list(choices))}")
        if self.largest_task_epochs < 1:
            raise ValueError(f"largest_task_epochs must be at least 1, not {self.largest_task_epochs}.")
        if self.nonfinite_patience < 0:
            raise ValueError(f"nonfinite_patience must be at least 0, not {self.nonfinite_patience}.")
        if not 0 <= self.sampling_alpha < float("inf"):
            raise ValueError(f"sampling_alpha must be a number from 0 on, not {self.sampling_alpha}.")
        if any(not 0 <= factor < float("inf") for factor in self.phase_learning_rates or []):
            raise ValueError(f"phase_learning_rates must be numbers from 0 on, not {self.phase_learning_rates}.")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor must be 0: the tasks' losses are their heads' own.")
        if self.train_sampling_strategy != "random":
            raise ValueError(f"train_sampling_strategy {self.train_sampling_strategy!r} has no effect; use schedule.")

    def to_dict(self) -> dict[str, Any]:
        """As the parent's, with groups as mappings."""
        return {
            key: asdict(value) if isinstance(value, ArgumentGroup) else value
            for key, value in super().to_dict().items()
        }
