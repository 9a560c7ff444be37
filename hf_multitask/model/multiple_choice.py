"""Picking the right one of a row's own choices: answers to a question, endings of a story.

Shape legend:
    - B: rows of one task
    - N: choices of the row that has most
    - H: hidden size
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from .divergences import symmetric_kl
from .heads import FeedForwardHead
from .labels import as_number, check_map, has_names, mapped, refuse_empty
from .rows import PADDING, UNREAD, dealt, encode, end_to_end
from .task_config import LabelReader, PairEncoding, PairFeatures, TaskConfig, TextForm, asked_for, register_task_type

# How a label names the right choice; `auto`: as can be told.
LabelForm = Literal["auto", "numbers", "letters", "texts"]


@register_task_type("multiple_choice")
@dataclass
class MultipleChoice(TaskConfig):
    """Picks one of a row's choices, of which rows may have different numbers: a logit for each, a softmax over those of
    a row, and cross-entropy, as transformers' `AutoModelForMultipleChoice` does it.

    Args:
        texts: 1, a question or what is to be ended; or 2, as a passage and a question. Of two, the second stands before
            each choice, as in transformers' SWAG example: so the longer first text is cut before a question is.
        pair_encoding: `cross`, which is the default here, encodes the text and a choice as one input, so that a row of
            n choices is n sequences: what is usual, and far more accurate. `bi` encodes both apart, 1 + n sequences,
            which is quicker where many rows share texts or choices.
        pair_features: What is read of the embeddings u of the text and v of a choice, where they are encoded apart.
        labels_are: How a label names the right choice: by its number from 0 (`numbers`), by a letter from A on
            (`letters`), or as its text (`texts`). `auto` tells row by row; a label that could be two choices is
            refused, and so is a column of both numbers and letters.

    A row's label is stored as the number of the right choice, from 0. Choices are scored each for itself, so that their
    order says nothing.

    The divergence of a row is the symmetric KL divergence over its choices, KL(p ‖ q) + KL(q ‖ p) =
    Σ_i (p_i − q_i)(z_i − z'_i) for logits z and z' (Jiang et al. 2020, SMART, section 3.1); choices that a row does not
    have are not in the sum.
    """

    pair_encoding: PairEncoding = "cross"
    pair_features: PairFeatures = "u,v,|u-v|,u*v"
    labels_are: LabelForm = "auto"

    FREE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.FREE_KEYS, "labels_are")
    CHANGEABLE_KEYS: ClassVar[tuple[str, ...]] = (*TaskConfig.CHANGEABLE_KEYS, "labels_are")
    PREDICTION_KEYS: ClassVar[tuple[str, ...]] = ("choice", "choice_id", "score")
    SEQUENCES_VARY: ClassVar[bool] = True
    LABEL_SEES_TEXTS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("pair_features", get_args(PairFeatures))
        self._check_choice("labels_are", get_args(LabelForm))

    # ---- What a row is ----

    @property
    def reads_pairs(self) -> bool:
        """Whether a text and a choice are one input of the encoder."""
        return self.pair_encoding == "cross"

    @property
    def text_columns(self) -> dict[str, TextForm]:
        return {**super().text_columns, "choices": "texts"}

    @property
    def answers(self) -> str:
        return "one of the row's choices"

    def check_text(self, column: str, value: Any) -> None:
        """Refuses choices of which not exactly one could be right."""
        if column != "choices":
            return
        choices = [choice.strip() for choice in value]
        if len(choices) < 2:
            raise ValueError(f"has {len(choices) or 'no'} choice{'s' * (not choices)}, and a row has at least two.")
        if "" in choices:
            raise ValueError("has a choice that is blank.")
        if len(set(choices)) < len(choices):
            twice = next(choice for choice in choices if choices.count(choice) > 1)
            raise ValueError(f"has the choice {twice!r:.100} twice, so that no single one could be right.")

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        columns: Mapping[str, Sequence[Any]],
        max_length: int,
        truncation: bool = True,
    ) -> dict[str, list[Any]]:
        """A row's sequences are its text and each choice together; or, encoded apart, the text and then its choices."""
        first, *second = (columns[name] for name in self.text_columns if name != "choices")
        choices = columns["choices"]
        if second:
            choices = [[f"{text} {one}" for one in row] for text, row in zip(*second, choices, strict=True)]
        if self.reads_pairs:
            texts = [text for text, row in zip(first, choices, strict=True) for _ in row]
            pairs = (texts, [one for row in choices for one in row])
            return end_to_end(dealt(encode(tokenizer, max_length, *pairs, truncation=truncation), [*map(len, choices)]))
        rows = [[text, *row] for text, row in zip(first, choices, strict=True)]
        each = [text for row in rows for text in row]
        return end_to_end(dealt(encode(tokenizer, max_length, each, truncation=truncation), [*map(len, rows)]))

    def label_reader(self, label_map: Mapping[Any, Any], own_names: Sequence[str] | None) -> LabelReader:
        return ChoiceReader(self.labels_are, label_map, own_names)

    def is_label(self, stored: Any) -> bool:
        return stored >= 0

    def check_row(self, row: Mapping[str, Any]) -> None:
        if (count := len(row["lengths"]) - (0 if self.reads_pairs else 1)) < 2:
            raise ValueError(f"has lengths of {count} choice(s), and a row has at least two.")
        if row.get("label", 0) >= count:
            raise ValueError(f"has the label {row['label']}, and {count} choices, from 0.")

    # ---- What is learnt ----

    def build_head(self, hidden_size: int) -> nn.Module:
        return ChoiceHead(hidden_size, "u" if self.reads_pairs else self.pair_features, self.dropout)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(_logits(outputs), labels.long(), reduction="none")

    def divergences(self, outputs: Tensor, others: Tensor) -> Tensor:
        # Of an absent choice, both factors are 0.
        return symmetric_kl(_logits(outputs), _logits(others))

    # ---- What is said ----

    def each_output(self, outputs: Tensor) -> Tensor:
        """The logits of all choices that are there, one after the other."""
        return outputs[are_there(outputs)]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each choice, [B, N], in fp64; 0 of those that a row does not have."""
        return _logits(outputs).double().softmax(-1)

    def predictions(self, outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """As [`predictions_for`], without the texts."""
        return self._said(outputs, [{}] * len(outputs), top_k)

    def predictions_for(self, rows: Sequence[Mapping[str, Any]], outputs: Tensor, top_k: int | None = 1) -> list[Any]:
        """The likeliest choice of each row, or its `top_k` likeliest.

        Args:
            rows: With the `choices` of each.
            outputs: [B, N].
            top_k: None: all of a row's choices.

        Returns:
            Of each the text, `choice`; its number, `choice_id`, from 0; and its probability, `score`.
        """
        return self._said(outputs, [dict(enumerate(row["choices"])) for row in rows], top_k)

    def _said(self, outputs: Tensor, texts: Sequence[Mapping[int, str]], top_k: int | None) -> list[Any]:
        ranked = self.probabilities(outputs).sort(descending=True, stable=True)
        counts = are_there(outputs).sum(-1).tolist()
        answers = [
            [
                {**({"choice": row[number]} if row else {}), "choice_id": number, "score": score}
                for number, score in list(zip(numbers, scores, strict=True))[: min(top_k or count, count)]
            ]
            for row, numbers, scores, count in zip(
                texts, ranked.indices.tolist(), ranked.values.tolist(), counts, strict=True
            )
        ]
        return asked_for(answers, top_k)


class ChoiceHead(FeedForwardHead):
    """Dropout, hidden layer, ReLU, output layer, to one logit for each choice.

    Args:
        hidden_size: H.
        features: `u`, where an embedding is that of a text and a choice together; or else what is read of the text's,
            u, and of each choice's, v.
        dropout: Probability.
    """

    def __init__(self, hidden_size: int, features: str, dropout: float) -> None:
        super().__init__(hidden_size, features, dropout, outputs=1)

    def forward(self, embeddings: Tensor, are_read: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings [B, N, H], or of texts apart [B, 1 + N, H], and which of them a row has, to logits [B, N].

        The logit of a choice that a row does not have is a constant.
        """
        if self.features == ["u"]:
            logits = super().forward(embeddings)
        else:
            choices, are_read = embeddings[:, 1:], are_read[:, 1:]
            logits = super().forward(embeddings[:, :1].expand_as(choices), choices)
        return logits.masked_fill(~are_read.bool(), UNREAD)


def are_there(outputs: Tensor) -> Tensor:
    """Which choices rows have, [B, N]; the others are absent, or what evaluations fill rows up with."""
    return (outputs != UNREAD) & (outputs != PADDING)


def _logits(outputs: Tensor) -> Tensor:
    """The logits in fp32; those of choices that are not there are so low that their probability is exactly 0."""
    return outputs.float().masked_fill(~are_there(outputs), UNREAD)


class ChoiceReader:
    """Reads which of its choices is a row's right one.

    Args:
        labels_are: As for [`MultipleChoice`].
        label_map: From raw values to numbers, letters or texts of choices; its keys are compared as names of labels
            are.
        own_names: The dataset's own names of its classes, whose values are then their numbers: the names are the raw
            values. None: it has none.

    Raises:
        ValueError: `label_map` has a value twice.

    Example:
        >>> read = ChoiceReader()
        >>> read("B", "Who?", ["he", "she"]), read("she", "Who?", ["he", "she"])
        ((1, True), (1, False))
    """

    def __init__(
        self,
        labels_are: LabelForm = "auto",
        label_map: Mapping[Any, Any] | None = None,
        own_names: Sequence[str] | None = None,
    ) -> None:
        self._form, self._map = labels_are, dict(label_map or {})
        check_map(self._map, lambda value: None)
        # A label map may have a dataset's classes by their numbers.
        by_number = bool(self._map) and not has_names(self._map, own_names)
        self._classes = None if own_names is None or by_number else list(own_names)
        # By number or by letter, as the first of them in the column says it.
        self._seen = ""

    def __call__(self, value: Any, *texts: Any) -> tuple[int, bool | None]:
        """The number of the right choice, and whether it was read as a number or a letter; None where it is the text of
        that choice too, or `label_map` says it.

        Args:
            value: The raw label.
            texts: The row's texts, of which the last are its choices; none: they are not known.

        Raises:
            ValueError: It is none of the row's choices, or could be two of them; the message continues a sentence that
                begins with the column's name.
        """
        refuse_empty(value, self._map)
        if self._classes is not None:
            if not isinstance(value, int) or not 0 <= value < len(self._classes):
                raise ValueError(f"is {value!r}, not the number of one of the dataset's classes {self._classes}.")
            value = self._classes[value]
        value = mapped(value, self._map) if self._map else value
        choices = _stripped(texts[-1]) if texts else None
        places = _places(value, choices)
        places = {form: place for form, place in places.items() if self._form in ("auto", form)}
        if not places:
            raise ValueError(f"is {value!r:.100}, {self._wanted(choices)}")
        if len(set(places.values())) > 1:
            raise ValueError(
                f"is {value!r}, which is the text of one choice and could be the place of another: say which by "
                f"labels_are: {' or '.join(places)}."
            )
        (place,) = set(places.values())
        if self._map or len(places) > 1:
            return place, None
        (form,) = places
        if form == "texts":
            return place, False
        if self._seen not in ("", form):
            raise ValueError(
                f"is {value!r}, where other rows have {self._seen}: say by label_map which number, from 0, each means."
            )
        self._seen = form
        return place, True

    def _wanted(self, choices: Sequence[str] | None) -> str:
        if choices is None:
            return "not the number of a choice, from 0."
        forms = {
            "texts": "the text of one of them",
            "numbers": f"a number from 0 to {len(choices) - 1}",
            "letters": f"a letter from A to {ascii_uppercase[min(len(choices), len(ascii_uppercase)) - 1]}",
        }
        right = [said for form, said in forms.items() if self._form in ("auto", form)]
        return (
            f"none of the row's {len(choices)} choices: give {' or '.join(right)}, or say by label_map what it means."
        )


def _stripped(choices: Any) -> list[str]:
    """Choices as they are compared; of what is no list of texts, which is refused elsewhere, none."""
    return [one.strip() for one in choices if isinstance(one, str)] if isinstance(choices, (list, tuple)) else []


def _places(value: Any, choices: Sequence[str] | None) -> dict[str, int]:
    """By what a value may be, the number of the choice that it then is."""
    places: dict[str, int] = {}
    if isinstance(value, bool):
        return places
    text, number = str(value).strip(), as_number(value)
    count = len(ascii_uppercase) if choices is None else len(choices)
    same = [place for place, choice in enumerate(choices or ()) if choice == text]
    if not same and number is not None:
        same = [place for place, choice in enumerate(choices or ()) if as_number(choice) == number]
    if len(same) == 1:
        places["texts"] = same[0]
    if number is not None and number == int(number) and number >= 0 and (choices is None or number < count):
        places["numbers"] = int(number)
    letter = ascii_uppercase.find(text.upper()) if len(text) == 1 else -1
    if 0 <= letter < count:
        places["letters"] = letter
    return places
