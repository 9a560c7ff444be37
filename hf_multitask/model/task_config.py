"""What a task is: what it reads, its head and its loss."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from .messages import nearest, refuse_unknown_keys

TaskType = Literal["single_label_classification", "pair_classification", "pair_regression"]
Pooling = Literal["cls", "mean", "max"]
PairEncoding = Literal["bi", "cross"]
PairFeatures = Literal["u,v", "u,v,|u-v|", "u,v,u*v", "u,v,|u-v|,u*v"]
Projection = Literal["shared", "separate"]
ScoreActivation = Literal["relu", "leaky_relu"]


@dataclass
class TaskConfig:
    """One task: what it reads, its head and its loss (paper section 4.1).

    Args:
        type: `single_label_classification` reads one text and picks one of `labels`; `pair_classification` reads
            two and does the same (two labels: one logit and binary cross-entropy, more: one logit each and
            cross-entropy); `pair_regression` reads two and gives a score within `score_range`.
        labels: The names of the classes, in the order of their ids; for classification. Without names, give
            `num_labels`.
        num_labels: The number of classes, at least 2. A pair classification has 2 unless told otherwise.
        score_range: `[lowest, highest]` score, for regression; [0, 5] unless told otherwise.
        pooling: Overrides the config's pooling for this task.
        pair_encoding: `bi` encodes the two texts apart, as the paper does; `cross` encodes them as one input, so
            that each attends to the other (slower where many pairs share texts, and more accurate).
        pair_features: What a `bi` pair classification reads of the two embeddings u and v.
        projection: Whether the two sides of a `bi` regression share one hidden layer.
        score_activation: How a `bi` regression maps the cosine to [0, 1]: `relu` is the paper's, with no gradient
            where the cosine is negative; `leaky_relu` has one tenth of it there in training, and predicts alike.
        dropout: Probability, before the first layer of a head. The paper's cosine head has none and ignores it.
        weight: λ of the task in the sum of the losses (section 4.2).

    Raises:
        ValueError: A value that is not allowed; the message says which and what would be.
    """

    type: TaskType
    labels: list[str] = field(default_factory=list)
    num_labels: int = 0
    score_range: list[float] = field(default_factory=list)
    pooling: Pooling | None = None
    pair_encoding: PairEncoding = "bi"
    pair_features: PairFeatures = "u,v"
    projection: Projection = "shared"
    score_activation: ScoreActivation = "relu"
    dropout: float = 0.1
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "pooling" and value is None):
                raise ValueError(f"{name} {value!r} is unknown; {nearest(value, list(choices))}")
        for name in ("labels", "score_range"):
            value = [] if getattr(self, name) is None else getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} must be a list, not {value!r}.")
            setattr(self, name, list(value))
        if not isinstance(self.num_labels or 0, int) or isinstance(self.num_labels, bool):
            raise ValueError(f"num_labels must be a whole number, not {self.num_labels!r}.")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout!r} must be a number from 0 to below 1.")
        if not _is_number(self.weight) or self.weight < 0:
            raise ValueError(f"weight {self.weight!r} must be a finite number of at least 0.")
        if self.is_regression:
            self._check_score_range()
        else:
            self._check_labels()

    def _check_labels(self) -> None:
        if self.score_range:
            raise ValueError(f"score_range is for pair_regression, not for {self.type}.")
        names = self.labels or range(self.num_labels or (2 if self.is_pair else 0))
        if not names:
            raise ValueError(f"{self.type} needs labels (a list of names) or num_labels.")
        if any(isinstance(name, bool) for name in names):
            raise ValueError(f"labels {self.labels!r} are not names; YAML reads yes, no, on and off so: quote them.")
        if not all(isinstance(name, (str, int, float)) for name in names):
            raise ValueError(f"labels {self.labels!r} must be names.")
        self.labels = [str(name) for name in names]
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {self.labels!r} must be at least two different names.")
        if self.num_labels not in (0, None, len(self.labels)):
            raise ValueError(f"num_labels is {self.num_labels}, but labels has {len(self.labels)} names.")
        self.num_labels = len(self.labels)

    def _check_score_range(self) -> None:
        if self.labels or self.num_labels:
            raise ValueError("labels and num_labels are for classification; pair_regression has a score_range.")
        bounds = self.score_range or [0.0, 5.0]
        if len(bounds) != 2 or not all(map(_is_number, bounds)) or not bounds[0] < bounds[1]:
            raise ValueError(f"score_range {self.score_range!r} must be two numbers, the lower first.")
        self.score_range = [float(bound) for bound in bounds]

    @property
    def is_pair(self) -> bool:
        """Whether a row holds two texts."""
        return self.type != "single_label_classification"

    @property
    def is_regression(self) -> bool:
        """Whether the label is a score rather than a class."""
        return self.type == "pair_regression"

    @property
    def sequences_per_row(self) -> int:
        """How many sequences the encoder reads for one row: 2 for a pair encoded apart, else 1."""
        return 2 if self.is_pair and self.pair_encoding == "bi" else 1

    @property
    def num_logits(self) -> int:
        """Outputs of the head per row: one score, one binary logit, or one logit per class."""
        if self.is_regression or (self.is_pair and self.num_labels == 2):
            return 1
        return self.num_labels

    def differences(self, other: "TaskConfig") -> list[str]:
        """The keys by which a head of the other task would mean something else: inputs, outputs or labels."""
        free = ("pooling", "dropout", "weight", "score_activation")
        keys = [field.name for field in fields(self) if field.name not in free]
        return [key for key in keys if getattr(self, key) != getattr(other, key)]

    @classmethod
    def from_dict(cls, values: "TaskConfig | dict[str, Any]") -> "TaskConfig":
        """Reads a task's entry of the table; unknown keys are refused."""
        if isinstance(values, cls):
            return values
        if not isinstance(values, dict):
            raise ValueError(f"must be a mapping with a type, not {values!r}.")
        known = [field.name for field in fields(cls)]
        refuse_unknown_keys(values, known)
        if "type" not in values:
            raise ValueError(f"type is missing; known: {', '.join(CHOICES['type'])}.")
        return cls(**values)


CHOICES: dict[str, tuple[str, ...]] = {
    "type": get_args(TaskType),
    "pooling": get_args(Pooling),
    "pair_encoding": get_args(PairEncoding),
    "pair_features": get_args(PairFeatures),
    "projection": get_args(Projection),
    "score_activation": get_args(ScoreActivation),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
