"""The keys of a recipe that this package adds to transformers' TrainingArguments.

They are read by `--help`, and so this module imports nothing that takes long.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

SPLITS = ("train", "validation", "test")

OnBadRows = Literal["error", "drop"]
ScheduleName = Literal[
    "round_robin", "adaptive_round_robin", "proportional", "temperature", "annealed", "adaptive_sampling"
]


@dataclass
class ModelArguments:
    """What the model starts from."""

    backbone: str = field(default="", metadata={"help": "Model id on the Hub, or folder, of the pretrained encoder."})
    from_scratch: bool = field(
        default=False, metadata={"help": "Take only the backbone's configuration and tokenizer, and new weights."}
    )
    pooling: Literal["cls", "mean", "max"] | None = field(
        default=None,
        metadata={"help": "How token states become an embedding: by default, as a model of ours has it, or mean."},
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Train only the heads (the paper's last-layer setting)."}
    )


@dataclass
class DataArguments:
    """How the tasks' data are read."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the tasks' files; tasks that have both a Hub dataset and files then take the files."
        },
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest input in tokens; by default the longest that the backbone takes."}
    )
    on_bad_rows: OnBadRows = field(
        default="error", metadata={"help": "Whether rows that cannot be used stop the run or are dropped and reported."}
    )
    max_eval_rows: int | None = field(
        default=None,
        metadata={"help": "Most rows of each task that are evaluated, drawn evenly over the data; by default, all."},
    )

    def __post_init__(self) -> None:
        for key in ("max_length", "max_eval_rows"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}.")


@dataclass
class CardArguments:
    """What the model card cannot find out by itself."""

    language: list[str] = field(default_factory=list, metadata={"help": "Codes of the texts' languages, such as en."})
    license: str | None = field(
        default=None, metadata={"help": "The model's licence, such as apache-2.0; mind the encoder's and the data's."}
    )


@dataclass
class ReportArguments:
    """What is made of a trained model, and reported of it beside its scores."""

    tune_thresholds: bool = field(
        default=False,
        metadata={
            "help": "After training, pick the thresholds from which on labels are predicted, where a row has several, "
            "by their F1 on the validation rows, and save them with the model."
        },
    )

    write_report: bool = field(
        default=True,
        metadata={"help": "After training, write report/ with figures of errors, calibration, training and biases."},
    )
    report_examples: int | None = field(
        default=None,
        metadata={
            "help": "How many of each task's worst errors to quote: by default 10, and none in a run that is pushed to "
            "the Hub, since the data's terms may not allow that."
        },
    )
    modules_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the Python modules whose functions tasks name as metrics: by default, the recipe's."
        },
    )

    def __post_init__(self) -> None:
        if self.report_examples is not None and self.report_examples < 0:
            raise ValueError(f"report_examples must be at least 0, not {self.report_examples}.")

    def examples(self, is_pushed: bool) -> int:
        """How many worst errors to quote in the report of a run."""
        return self.report_examples if self.report_examples is not None else 0 if is_pushed else 10


@dataclass
class MultiTaskArguments:
    """What a run over several tasks can be told, beyond what transformers' own arguments say.

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


def defaults_of(owner: Any) -> dict[str, Any]:
    """What the fields of a dataclass, or of an object of one, are if they are not given; `MISSING` if they must be."""
    return {
        entry.name: entry.default_factory() if entry.default_factory is not MISSING else entry.default
        for entry in fields(owner)
    }
