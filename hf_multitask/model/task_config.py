"""What every kind of task says of itself.

A kind is a subclass of [`TaskConfig`]: its keys, its head, its loss, its divergence, how its labels are read and what
its outputs say. `TaskConfig(type, ...)` makes an instance of the kind that is registered under that name.

Shape legend:
    - B: rows of one task
    - C: outputs per row
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .kinds import FORMER_TYPES, KINDS, kind_of, task_keys, task_type_names
from .kinds import register_task_type as register_task_type
from .messages import nearest, refuse_unknown_keys
from .rows import encode

Pooling = Literal["cls", "mean", "max"]
PairEncoding = Literal["bi", "cross"]
PairFeatures = Literal["u,v", "u,v,|u-v|", "u,v,u*v", "u,v,|u-v|,u*v"]
# What a column of texts holds in each row: one, its words, or several.
TextForm = Literal["text", "words", "texts"]

# Reads one raw label: what is stored for it, and whether the value was taken for a class id; None for the latter where
# a row has no label.
LabelReader = Callable[..., tuple[Any, bool | None]]


@dataclass
class TaskConfig:
    """One task: what it reads, its head and its loss (paper section 4.1).

    Args:
        type: The kind, by its registered name.
        texts: How many texts a row has: 1, or 2 for a pair.
        pooling: Overrides the config's pooling for this task.
        pair_encoding: `bi` encodes the two texts of a pair apart, as the paper does; `cross` encodes them as one input,
            so that each attends to the other (slower where many pairs share texts, and more accurate).
        dropout: Probability, before the first layer of a head.
        weight: λ of the task in the sum of the losses (section 4.2).
        metrics: What the task is scored by: names of its kind's metrics, and functions of one's own as
            `module:function` or as a mapping with `function`. Empty: those that the kind has by default. The model does
            nothing with them; an evaluation looks them up.
        counts: The metric that enters the final score, which is scored in any case; `none`: the task does not. By
            default the kind says it.

    The names that config version 1 had, `pair_classification` and `pair_regression`, mean the kind without `pair_` and
    `texts: 2`.

    Raises:
        ValueError: A value that is not allowed; the message says which and what would be.

    Example:
        >>> TaskConfig("single_label_classification", labels=["bad", "good"]).num_labels
        2
    """

    type: str
    texts: int = 1
    pooling: Pooling | None = None
    pair_encoding: PairEncoding = "bi"
    dropout: float = 0.1
    weight: float = 1.0
    metrics: list[Any] = field(default_factory=list)
    counts: str | None = None

    # Of a kind: how many texts its rows may have.
    TEXTS: ClassVar[tuple[int, ...]] = (1, 2)
    # Keys by which a head means the same whatever they are.
    FREE_KEYS: ClassVar[tuple[str, ...]] = ("pooling", "dropout", "weight", "metrics", "counts")
    # Keys that say how a task is trained, decided or scored, not what it is: a run that goes on may change them.
    CHANGEABLE_KEYS: ClassVar[tuple[str, ...]] = ("dropout", "weight", "metrics", "counts")
    # Keys that say what a row and its label are: where they differ, the same rows mean something else to two models.
    LABEL_KEYS: ClassVar[tuple[str, ...]] = ("type", "texts")
    # What `tokenize` reads of a task: those that agree in it, and tokenize by the same function, read a text alike.
    TOKENIZING_KEYS: ClassVar[tuple[str, ...]] = ("texts", "reads_pairs")
    # What a prediction has, in plain values.
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ()
    # Whether a head reads the states of all tokens, and not one embedding of each sequence.
    READS_TOKENS: ClassVar[bool] = False
    # Whether a head reads the encoder's word embeddings too, [vocabulary, E]: what it says is words. By keyword,
    # `build_head` then gets E, as `embedding_size`, and `predictions_for` the `tokenizer`.
    READS_VOCABULARY: ClassVar[bool] = False
    # Whether rows have any number of sequences, and not `sequences_per_row`.
    SEQUENCES_VARY: ClassVar[bool] = False
    # What `batch_rows` and `head_inputs` read of tokenized rows, beside what the encoder reads.
    ROW_COLUMNS: ClassVar[tuple[str, ...]] = ()
    # What only evaluations read of tokenized rows.
    EVALUATED_COLUMNS: ClassVar[tuple[str, ...]] = ()
    # Whether rows have labels; without, what is learnt is in their texts, and `batch_rows` makes it.
    HAS_LABELS: ClassVar[bool] = True
    # Whether a row's label is a list of class ids or scores, and not one.
    LABEL_IS_LIST: ClassVar[bool] = False
    # Whether a label is read beside its row's texts.
    LABEL_SEES_TEXTS: ClassVar[bool] = False
    # Whether a row's labels may stand in several columns, one for each, that say whether the row has it.
    TAKES_COLUMNS: ClassVar[bool] = False
    # Whether outputs for the same rows lie apart in a way that SMART and the proximal point could keep small.
    HAS_DIVERGENCE: ClassVar[bool] = True
    # Whether a row's loss and divergence depend on the other rows of its batch: see `processes.py`.
    COUPLES_ROWS: ClassVar[bool] = False
    # Of transformers' pipelines, the one that `MultiTaskPipeline.for_task` passes for; None: none.
    PIPELINE_TASK: ClassVar[str | None] = None
    # Of a row's label, as it is collated.
    label_dtype: ClassVar[torch.dtype] = torch.int64

    def __new__(cls, type: str = "", *args: Any, **kwargs: Any) -> "TaskConfig":
        # As `pathlib.Path` does, the class gives an object of one of its subclasses.
        return object.__new__(kind_of(type) if cls is TaskConfig else cls)

    def __post_init__(self) -> None:
        if self.type in FORMER_TYPES:
            self._read_former_type()
        self._check_choice("pooling", (None, *get_args(Pooling)))
        self._check_choice("pair_encoding", get_args(PairEncoding))
        if isinstance(self.texts, bool) or self.texts not in self.TEXTS:
            allowed = " or ".join(map(str, self.TEXTS))
            raise ValueError(
                f"texts must be {allowed}, the number of texts in a row of {self.type}, not {self.texts!r}."
            )
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout!r} must be a number from 0 to below 1.")
        if not is_number(self.weight) or self.weight < 0:
            raise ValueError(f"weight {self.weight!r} must be a finite number of at least 0.")
        self.metrics = [] if self.metrics is None else self.metrics
        if not isinstance(self.metrics, list) or not all(isinstance(entry, (str, dict)) for entry in self.metrics):
            raise ValueError(f"metrics {self.metrics!r} must be a list of names, such as [accuracy, mcc].")
        if not isinstance(self.counts, str | None):
            raise ValueError(f"counts {self.counts!r} must be the name of a metric, or none.")

    def _read_former_type(self) -> None:
        """Turns a name of config version 1 into what it means now."""
        self.type, self.texts = FORMER_TYPES[self.type]

    def _check_choice(self, name: str, choices: Sequence[Any]) -> None:
        if (value := getattr(self, name)) not in choices:
            known = [choice for choice in choices if choice is not None]
            raise ValueError(f"{name} {value!r} is unknown; {nearest(value, known)}")

    # ---- What a row is ----

    @property
    def sequences_per_row(self) -> int:
        """How many sequences the encoder reads for one row: 2 for a pair encoded apart, else 1."""
        return 2 if self.texts == 2 and self.pair_encoding == "bi" else 1

    @property
    def reads_pairs(self) -> bool:
        """Whether two texts are one input of the encoder."""
        return self.texts == 2 and self.sequences_per_row == 1

    @property
    def text_columns(self) -> dict[str, TextForm]:
        """A row's texts by the standard names of their columns, as GLUE has them, and what each column holds."""
        return dict.fromkeys(["sentence1", "sentence2"] if self.texts == 2 else ["sentence"], "text")

    @property
    def texts_before_candidates(self) -> int:
        """Of a kind whose last column has several texts: how many a row has that are none of its candidates."""
        return len(self.text_columns) - 1

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Those of the columns of texts that rows need not have."""
        return ()

    def check_text(self, column: str, value: Any) -> None:
        """Refuses what a row has in one of `text_columns`, where it is of the right form and still cannot be read.

        Raises:
            ValueError: It cannot; the message continues a sentence that begins with the column's name.
        """

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        columns: Mapping[str, Sequence[Any]],
        max_length: int,
        truncation: bool = True,
    ) -> dict[str, list[Any]]:
        """Tokenized rows, as `rows.py` has them, from the texts of rows.

        Args:
            tokenizer: The encoder's.
            columns: The rows' texts, by `text_columns`; a column of optional texts may be absent.
            max_length: Of each sequence, in tokens; longer ones are cut if there is `truncation`.

        Returns:
            By row what the encoder reads, `ROW_COLUMNS` and `EVALUATED_COLUMNS`, and `truncated`, whether anything was
            cut. Of the same texts, kinds that inherit this give the same.
        """
        texts = [columns[name] for name in self.text_columns]
        if self.reads_pairs or len(texts) == 1:
            return encode(tokenizer, max_length, *texts, truncation=truncation)
        first, second = (encode(tokenizer, max_length, side, truncation=truncation) for side in texts)
        truncated = [a or b for a, b in zip(first["truncated"], second["truncated"], strict=True)]
        return {"input_ids": first["input_ids"], "input_ids_2": second["input_ids"], "truncated": truncated}

    def batch_rows(
        self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
    ) -> Sequence[dict[str, Any]]:
        """Tokenized rows as a batch is made of them: where a kind changes its rows, or makes their `label`, it is here.

        What is drawn at random must follow from the rows, so that a resumed run draws the same; of rows that say
        `is_evaluated`, from each row alone, so that scores are the same in batches of any size.
        """
        return rows

    @property
    def label_names(self) -> list[str]:
        """The names of what can be predicted, in the order of their ids; none where that is a number."""
        return []

    @property
    def answers(self) -> str:
        """What can be predicted, in words."""
        return ", ".join(self.label_names)

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> LabelReader:
        """What reads the raw labels of a column; of a kind whose `LABEL_SEES_TEXTS`, with the row's texts after each.

        Args:
            label_map: From raw values to labels; may be empty.
            own_names: The dataset's own names of classes, whose values are then their numbers; None: it has none.

        Raises:
            ValueError: The names, or the values of `label_map`, are not the task's labels.
        """
        raise NotImplementedError

    def is_label(self, stored: Any) -> bool:
        """Whether a stored label is one of this task's."""
        raise NotImplementedError

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuses a row that comes tokenized, where its lists are of the right form and still are no row of this kind.

        Args:
            row: With its stored `label`, if it has one.

        Raises:
            ValueError: They are none; the message continues a sentence that begins with the row.
        """

    def collate(self, labels: Sequence[Any]) -> Tensor:
        """The stored labels of B rows as one tensor, [B, ...]."""
        return torch.tensor(labels, dtype=self.label_dtype)

    # ---- What is learnt ----

    def head_inputs(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What the head takes beside the encoder's states, by keyword: tensors [B, ...] from tokenized rows."""
        return {}

    def build_head(self, hidden_size: int) -> nn.Module:
        """A new head, to outputs [B, ...], in which padding has no say.

        It is called with a pooled embedding, [B, hidden size], for each of `sequences_per_row`; or, if the kind
        `READS_TOKENS`, with the states of a sequence's tokens, [B, L, hidden size], and their mask, [B, L]. Where
        `SEQUENCES_VARY`, that is the embeddings of N sequences, [B, N, hidden size], and which of them the row has,
        [B, N]; or the states of their tokens, [B, N, L, hidden size], and their mask, [B, N, L], 0 for a sequence that
        a row does not have. What `head_inputs` gives is passed by keyword, where a batch has it, and `vocabulary`,
        where the kind `READS_VOCABULARY`.
        """
        raise NotImplementedError

    def label_counts(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """How many labels each row has that are learnt, [B]: rows count by it in the mean; None: one each."""
        return None

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row, [B], in fp32 (section 4.1.1); of several labels, their mean, and of none 0.

        Args:
            outputs: The head's, [B, ...].
            labels: From [`collate`], [B, ...].
        """
        raise NotImplementedError

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        """How far two outputs for the same rows lie apart, for SMART and the proximal point (section 4.4).

        Args:
            outputs, others: The head's, [B, ...], of equal shapes.

        Returns:
            [B], in fp32, at least 0; exactly 0, with an exactly zero gradient, where outputs are equal.
        """
        raise NotImplementedError

    # ---- What is said ----

    def each_output(self, outputs: Tensor) -> Tensor:
        """The outputs of all that is predicted apart, [N, ...]: the rows, or the parts that rows have."""
        return outputs

    def evaluated(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What an evaluation keeps of a batch's outputs, [B, ...], where all of it would be too much."""
        return outputs

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """What outputs [B, ...] say, row by row, in plain values.

        Args:
            outputs: The head's.
            top_k: Of ranked answers, how many; None: all. 1 gives the best one itself, and not a list of it.
        """
        raise NotImplementedError

    def predictions_for(self, rows: Sequence[Mapping[str, Any]], outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """As [`predictions`], where they can be said of the texts.

        Args:
            rows: Each row's texts, by `text_columns`, and what [`tokenize`] made of them.
        """
        return self.predictions(outputs, top_k)

    # ---- As an entry of the table ----

    def differences(self, other: "TaskConfig", free: Sequence[str] | None = None) -> list[str]:
        """The keys in which another task is not this one.

        Args:
            other: The other task.
            free: Keys that may differ; None: those that do not change what a head's inputs, outputs and labels mean.
        """
        mine, others = asdict(self), asdict(other)
        keys = [key for key in mine | others if key not in (self.FREE_KEYS if free is None else free)]
        return [key for key in keys if mine.get(key) != others.get(key)]

    @classmethod
    def from_dict(cls, values: "TaskConfig | dict[str, Any]", version: int = 2) -> "TaskConfig":
        """Reads a task's entry of the table; unknown keys are refused.

        Args:
            values: The entry.
            version: Of the config that it stands in. Up to version 1, every entry had the keys of all kinds.
        """
        if isinstance(values, cls):
            return values
        if not isinstance(values, dict):
            raise ValueError(f"must be a mapping with a type, not {values!r}.")
        if "type" not in values:
            raise ValueError(f"type is missing; known: {', '.join(task_type_names())}.")
        kind = kind_of(values["type"])
        known = [field.name for field in fields(kind)]
        elsewhere = set(task_keys()).difference(known)
        if version < 2:
            values = {key: value for key, value in values.items() if key not in elsewhere}
        for key in elsewhere.intersection(values):
            kinds = [name for name, other in KINDS.items() if key in [field.name for field in fields(other)]]
            raise ValueError(f"{key} is a key of {', '.join(kinds)}, not of {values['type']}.")
        refuse_unknown_keys(values, known)
        return kind(**values)

    def to_dict(self) -> dict[str, Any]:
        """The task as an entry of the table; what is not set is left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, [])}


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def asked_for(answers: Sequence[list[Any]], top_k: int | None) -> list[Any]:
    """Ranked answers, row by row, as `predictions` gives them: the first `top_k`, or all for None; 1 gives the best one
    itself, and not a list of it."""
    return [row[0] for row in answers] if top_k == 1 else [row[:top_k] for row in answers]
