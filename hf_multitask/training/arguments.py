"""What a run can be told, beyond what transformers' own arguments say."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

import torch
from transformers import TrainingArguments

from hf_multitask.model.messages import nearest
from hf_multitask.recipe_yaml import as_boolean
from hf_multitask.training.groups import ArgumentGroup
from hf_multitask.training.proximal import ProximalArguments
from hf_multitask.training.smart import SmartArguments

ScheduleName = Literal[
    "round_robin", "adaptive_round_robin", "proportional", "temperature", "annealed", "adaptive_sampling"
]


@dataclass
class MultiTaskTrainingArguments(TrainingArguments):
    """[`transformers.TrainingArguments`] with what several tasks need.

    `per_device_train_batch_size` counts the rows of each task in a batch. `learning_rate` and `weight_decay` are
    the backbone's, and the heads' too unless they have their own.

    Args:
        schedule: What a step holds. `round_robin`: as many rows of every task (paper section 4.3);
            `adaptive_round_robin`: rows of the largest task alone for some epochs, then Round Robin (section 4.3);
            `proportional`: rows drawn by the datasets' sizes, `temperature`: by their power of `sampling_alpha`,
            `annealed`: from the first to nearly even draws at the run's end (Stickland and Murray 2019),
            `adaptive_sampling`: by how far a task's training loss has risen above its best. Each row has the same
            weight in the loss: a task with half of Round Robin's rows has half of its weight.
        largest_task_epochs: r of `adaptive_round_robin`; they are among the run's epochs.
        sampling_alpha: Exponent of `temperature` and `adaptive_sampling`, at least 0: 0.5 of the former is square-root
            sampling.
        mixing: Of a drawn schedule: `rows` of several tasks in a step, or one task's in each step, `tasks`.
        phase_learning_rates: Of a schedule in phases, such as `adaptive_round_robin` with its two: what all learning
            rates are multiplied by in each of them (paper section 7). None: 1.
        phase_restart: Whether `lr_scheduler_type` begins anew, with its warm-up, in each phase: a warm restart.
        epoch_length: `largest` or `smallest`, the dataset that an epoch is one pass over, or a number of steps.
        packing: Whether a batch's sequences are laid end to end in one row, without padding: `auto`, where the
            backbone can read that; `on`, or else an error; `off`. The results are the same.
        head_learning_rate: Of the heads (paper section 7, "Dynamic Learning Rates"); None: as the backbone's.
        head_weight_decay: Of the heads; None: as the backbone's.
        smart: SMART's arguments, [`SmartArguments`] or a mapping of them; None: no SMART.
        proximal: The proximal point's, [`ProximalArguments`] or a mapping; None: no proximal point.
        surgery: How the tasks' gradients on the backbone are combined: `none`, `pcgrad` (Yu et al. 2020), `upgrad`
            (Quinton and Rey 2024), `mgda` or another of TorchJD's weightings; `sum` changes nothing but logs the
            gradients' cosines, as all of them do.
        loss_weighting: How the losses are weighed: `fixed`, by each task's `weight`; `uncertainty` (Kendall et al.
            2018), `dynamic_weight_average`, `famo` and others, see [`build_scalarizer`].
        nonfinite_patience: How many updates in a row may be left out because a loss or the gradient was NaN or
            infinite, before training ends with an error; see [`NonFiniteGuard`].
        metric_for_best_model: `eval_final_score` unless told otherwise: the mean over tasks of accuracy or
            (r + 1) / 2, which is computed once, after all tasks. Any `<task>_<metric>` serves; of `rmse` and losses the
            least is the best, unless `greater_is_better` says otherwise.

    Raises:
        ValueError: A value out of range, or an argument of transformers' that has no meaning for several tasks.
    """

    schedule: ScheduleName = field(
        default="round_robin",
        metadata={"help": "Whether a step holds rows of every task, of the largest at first, or rows that are drawn."},
    )
    largest_task_epochs: int = field(
        default=1, metadata={"help": "Epochs of adaptive_round_robin that have the largest task alone."}
    )
    sampling_alpha: float = field(
        default=0.5, metadata={"help": "Exponent of the datasets' sizes in temperature sampling."}
    )
    mixing: Literal["rows", "tasks"] = field(
        default="rows", metadata={"help": "Whether drawn steps mix rows of several tasks or hold one task's."}
    )
    phase_learning_rates: list[float] | None = field(
        default=None, metadata={"help": "What the learning rates are multiplied by in each phase of the schedule."}
    )
    phase_restart: bool = field(
        default=False, metadata={"help": "Whether the learning rate's course begins anew in each phase."}
    )
    epoch_length: str = field(
        default="largest",
        metadata={"help": "An epoch is one pass over the largest or smallest dataset, or a number of steps."},
    )
    packing: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={"help": "Whether a step's sequences stand in one row without padding: auto, if the backbone can."},
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the heads; by default, that of the backbone."}
    )
    head_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of the heads; by default, that of the backbone."}
    )
    smart: dict | str | None = field(
        default=None, metadata={"help": "SMART regularisation; a mapping, or --smart.weight 0.02 and so on."}
    )
    proximal: dict | str | None = field(
        default=None, metadata={"help": "The proximal point; a mapping, or --proximal.weight 1 and so on."}
    )
    surgery: str = field(
        default="none", metadata={"help": "How the tasks' gradients are combined: none, sum, pcgrad, upgrad, ..."}
    )
    loss_weighting: str = field(
        default="fixed", metadata={"help": "How the losses are weighed: fixed, uncertainty, famo, ..."}
    )
    nonfinite_patience: int = field(
        default=3, metadata={"help": "Updates in a row that may be left out for NaN or infinity before training ends."}
    )
    metric_for_best_model: str | None = field(
        default="eval_final_score", metadata={"help": "The metric that picks the best checkpoint."}
    )
    # The collator takes the columns it knows and leaves the rest.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not used: the collator picks its columns."})

    def __post_init__(self) -> None:
        if as_boolean(self.resume_from_checkpoint) is False:
            # On a command line and in a recipe, it is a text.
            self.resume_from_checkpoint = None
        is_direction_given = self.greater_is_better is not None
        super().__post_init__()
        if not is_direction_given and self.metric_for_best_model:
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
