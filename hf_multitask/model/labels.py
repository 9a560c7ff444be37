"""What a raw label means: the one rule by which every reader of labels goes, from files, the Hub, streams and Python.

A value of a classification is

1. what `label_map` says, where there is one;
2. the label of exactly that name, blanks around it aside;
3. the label whose name is an equal number: 1.0, which pandas writes for 1 where a value is missing, is the label "1";
4. a class id, but only where no label's name is a number, mentions one that could be an id ("1 star" is not the label
   of id 1), or is a word for another truth than its id ("yes" is not the label of id 0).

A boolean is a label by its name alone, `true` or `false` in any case, as a text too. A dataset's own class names are
matched by name, in any case; where one of them is no label, the dataset is refused.

Several labels of a row are a list of such values, a string with a separator between them, or a column for each label
that has 0 or 1; an empty list or string is a row without labels.
"""

import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .messages import nearest

_BOOLEANS = ("true", "false")
# What 0 and 1 would mean of labels of these names.
_TRUTH = {"true": 1, "yes": 1, "on": 1, "y": 1, "false": 0, "no": 0, "off": 0, "n": 0}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def read_label_names(kind: str, labels: Any, num_labels: Any, default: int = 0, least: int = 2) -> list[str]:
    """The names of a task's labels.

    Args:
        kind: The kind of task, for errors.
        labels, num_labels: As they are configured: the names, or else their number.
        default: The number where neither is given; 0: one of them must be.
        least: The fewest that there may be.

    Raises:
        ValueError: They are no names, or not as many as `num_labels` says.
    """
    labels = [] if labels is None else labels
    if not isinstance(labels, (list, tuple)):
        raise ValueError(f"labels must be a list, not {labels!r}.")
    if not isinstance(num_labels or 0, int) or isinstance(num_labels, bool):
        raise ValueError(f"num_labels must be a whole number, not {num_labels!r}.")
    names = list(labels) or range(num_labels or default)
    if not names:
        raise ValueError(f"{kind} needs labels (a list of names) or num_labels.")
    if any(isinstance(name, bool) for name in names):
        raise ValueError(f"labels {labels!r} are not names: put true and false in quotes.")
    if not all(isinstance(name, (str, int, float)) for name in names):
        raise ValueError(f"labels {labels!r} must be names.")
    read = [str(name) for name in names]
    if len(read) < least or len(set(read)) < len(read):
        fewest = "at least two different names" if least == 2 else "different names"
        raise ValueError(f"labels {read!r} must be {fewest}.")
    if num_labels not in (0, None, len(read)):
        raise ValueError(f"num_labels is {num_labels}, but labels has {len(read)} names.")
    return read


class ClassReader:
    """Reads the raw labels of one classification's rows.

    Args:
        labels: The names of the labels.
        label_map: From raw values to labels; its keys are compared as names are.
        own_names: The dataset's own names of its classes, whose values are then their numbers; None: it has none.

    Raises:
        ValueError: The dataset's classes or the values of `label_map` are not labels.

    Example:
        >>> read = ClassReader(["1", "2"])
        >>> read(1.0), read("2")
        ((0, False), (1, False))
    """

    def __init__(
        self,
        labels: Sequence[str],
        label_map: Mapping[Any, Any] | None = None,
        own_names: Sequence[str] | None = None,
    ) -> None:
        self._labels = list(labels)
        self._map = dict(label_map or {})
        self._ids_are_plain = not any(self._misleads(place, name) for place, name in enumerate(self._labels))
        # Numbers in their order say no more than the ids.
        is_numbered = own_names is not None and list(own_names) == [str(number) for number in range(len(own_names))]
        self._classes = None if own_names is None or is_numbered else list(own_names)
        self._known: dict[tuple[type, Any], tuple[int, bool]] = {}
        check_map(self._map, self._class_id)
        # By names or by numbers, and not by both.
        self._maps_names = has_names(self._map, self._classes)
        if self._classes is not None and not self._map:
            self._class_ids = self._matching_labels(self._classes)

    def __call__(self, value: Any) -> tuple[int, bool]:
        """A class id, and whether the value was read as an id.

        Raises:
            ValueError: It is none; the message continues a sentence that begins with the column's name.
        """
        refuse_empty(value, self._map)
        if not isinstance(value, Hashable):
            raise ValueError(f"is {value!r}, not one of the labels {self._labels}.")
        key = (type(value), value)
        if key not in self._known:
            # There are no more of these than ways to write the labels.
            self._known[key] = self._read(value)
        return self._known[key]

    def _read(self, value: Any) -> tuple[int, bool]:
        if self._classes is not None:
            if not 0 <= value < len(self._classes):
                raise ValueError(f"is {value!r}, not the number of one of the dataset's classes {self._classes}.")
            if not self._map:
                return self._class_ids[value], False
            value = self._classes[value] if self._maps_names else value
        if self._map:
            return self._class_id(mapped(value, self._map))[0], False
        return self._class_id(value)

    def _class_id(self, value: Any) -> tuple[int, bool]:
        labels = self._labels
        if (place := _position(value, labels)) is not None:
            return place, False
        if isinstance(value, bool):
            raise ValueError(
                f"is {value!r}, a boolean, not one of the labels {labels}; say by label_map: "
                "{true: ..., false: ...} which it is, with names in quotes."
            )
        number = as_number(value)
        if number is None or number != int(number) or not 0 <= number < len(labels):
            ids = f" or their ids 0 to {len(labels) - 1}" if self._ids_are_plain else ""
            unlabelled = "; rows to be predicted, which -1 marks, need no such column" if number == -1 else ""
            raise ValueError(f"is {value!r}, not one of the labels {labels}{ids}{unlabelled}.")
        if not self._ids_are_plain:
            raise ValueError(
                f"is {value!r}, not one of the labels {labels}; an id could be mistaken, since their names have "
                "numbers or mean yes and no: say by label_map which label it is."
            )
        return int(number), True

    def _misleads(self, place: int, name: str) -> bool:
        """Whether an id could be taken for what a name says: it is a number, has one that could be an id, counted from
        0 or from 1, or is a word for yes or no that its id is not."""
        mentions_id = any(int(digits) <= len(self._labels) for digits in re.findall(r"\d{1,9}", name, re.ASCII))
        return mentions_id or as_number(name) is not None or _TRUTH.get(name.strip().casefold(), place) != place

    def _matching_labels(self, classes: Sequence[str]) -> list[int]:
        """The label of each of the dataset's classes."""
        labels = self._labels
        found = [_position(name, labels, any_case=True) for name in classes]
        ids = [place for place in found if place is not None]
        if len(ids) < len(classes) or len(set(ids)) < len(ids):
            raise ValueError(
                f"the dataset's classes {list(classes)} are not the task's labels {labels}: name the labels so, or say "
                "by label_map which class is which label."
            )
        return ids


class ClassListReader:
    """Reads the raw labels of rows that have several, or none.

    Args:
        labels, label_map, own_names: As for [`ClassReader`], which reads each of a row's labels.
        separator: Between the labels of one string.

    Raises:
        ValueError: As for [`ClassReader`].

    Example:
        >>> read = ClassListReader(["joy", "grief", "fear"])
        >>> read(["fear", "joy"]), read("2, 0"), read("")
        (([0, 2], False), ([0, 2], True), ([], None))
    """

    def __init__(
        self,
        labels: Sequence[str],
        separator: str = ",",
        label_map: Mapping[Any, Any] | None = None,
        own_names: Sequence[str] | None = None,
    ) -> None:
        self._read = ClassReader(labels, label_map, own_names)
        self._separator = separator
        self._inseparable = [name for name in map(str, [*labels, *(label_map or {})]) if separator in name.strip()]

    def __call__(self, value: Any) -> tuple[list[int], bool | None]:
        """The class ids in their order, each once, and whether they were read as ids; None of none.

        Raises:
            ValueError: It is missing, or has what is no label; the message continues a sentence that begins with the
                column's name.
        """
        if value is None:
            raise ValueError("is missing; a row without labels has an empty list, or an empty text.")
        values = self._split(value) if isinstance(value, str) else value
        found = [self._one(value, each) for each in (values if isinstance(values, (list, tuple)) else [values])]
        if len({by_id for _, by_id in found}) > 1:
            raise ValueError(f"is {value!r}, with class ids among the labels' names.")
        return sorted({label_id for label_id, _ in found}), found[0][1] if found else None

    def _split(self, text: str) -> list[str]:
        if self._separator in text and self._inseparable:
            raise ValueError(
                f"is {text!r}, where {self._separator!r} could be between two labels or in {self._inseparable[0]!r}: "
                "set separator to characters that no label has, or give lists of labels."
            )
        return text.split(self._separator) if text.strip() else []

    def _one(self, whole: Any, value: Any) -> tuple[int, bool]:
        try:
            return self._read(value)
        except ValueError as error:
            raise (
                error if whole is value or whole == value else ValueError(f"is {whole!r}, in which a label {error}")
            ) from error


def read_flag(value: Any) -> bool:
    """Whether a row has the label of a column.

    Raises:
        ValueError: It is not 0 or 1, or false or true; the message continues a sentence that begins with the column's
            name.
    """
    refuse_empty(value, {})
    for flag, word in ((False, "false"), (True, "true")):
        if as_number(value) == int(flag) or str(value).strip().casefold() == word:
            return flag
    raise ValueError(f"is {value!r}, not 0 or 1, nor false or true.")


class ScoreReader:
    """Reads the raw scores of one regression's rows.

    Args:
        score_range: The lowest and the highest score, or nothing.
        label_map: From raw values to scores; its keys are compared as names of labels are.
        own_names: The dataset's own names of its classes, whose values are then their numbers: the names are the raw
            values. None: it has none.

    Raises:
        ValueError: The values of `label_map`, or the dataset's classes, are no scores.
    """

    def __init__(
        self,
        score_range: Sequence[float] = (),
        label_map: Mapping[Any, Any] | None = None,
        own_names: Sequence[str] | None = None,
    ) -> None:
        self._range = tuple(score_range) or (-math.inf, math.inf)
        self._map = dict(label_map or {})
        self._classes = None if own_names is None else list(own_names)
        check_map(self._map, self._score)
        if self._classes is not None and self._map and not has_names(self._map, self._classes):
            # By numbers.
            self._classes = None
        if self._classes is not None and not self._map:
            for name in self._classes:
                try:
                    self._score(name)
                except ValueError as error:
                    hint = "Say by label_map which class is which score."
                    raise ValueError(f"the dataset's class {name!r} {error} {hint}") from error

    def __call__(self, value: Any) -> tuple[float, bool]:
        """A score, and that it was not read as an id.

        Raises:
            ValueError: It is none; the message continues a sentence that begins with the column's name.
        """
        refuse_empty(value, self._map)
        if self._classes is not None:
            if not isinstance(value, int) or not 0 <= value < len(self._classes):
                raise ValueError(f"is {value!r}, not the number of one of the dataset's classes {self._classes}.")
            value = self._classes[value]
        return self._score(mapped(value, self._map) if self._map else value), False

    def _score(self, value: Any) -> float:
        number = as_number(value)
        low, high = self._range
        if number is None or not low <= float(number) <= high or math.isinf(float(number)):
            bounds = f" from {low:g} to {high:g}" if math.isfinite(high) else ""
            raise ValueError(f"is {value!r}, not a score{bounds}.")
        return float(number)


def refuse_empty(value: Any, label_map: Mapping[Any, Any]) -> None:
    """Refuses a raw label that is missing or blank, unless `label_map` says what that is."""
    if value is None and None not in label_map:
        raise ValueError("is missing.")
    if isinstance(value, str) and not value.strip() and "" not in label_map:
        raise ValueError("is empty.")


def has_names(label_map: Mapping[Any, Any], names: Sequence[str] | None) -> bool:
    """Whether some of a dataset's class names are keys of `label_map`."""
    return any(_position(name, list(label_map)) is not None for name in names or ())


def check_map(label_map: Mapping[Any, Any], read: Any) -> None:
    """Refuses a `label_map` with the same value twice, or with one that `read` refuses."""
    keys = list(label_map)
    for key, value in label_map.items():
        if _position(key, keys) is None:
            raise ValueError(f"label_map has {key!r} twice.")
        if value is not None:
            try:
                read(value)
            except ValueError as error:
                raise ValueError(f"label_map: what {key!r} stands for {error}") from error


def mapped(value: Any, label_map: Mapping[Any, Any]) -> Any:
    """What `label_map` has for a value."""
    keys = list(label_map)
    place = _position(value, keys)
    if place is None:
        raise ValueError(f"is {value!r}, which label_map does not have; {nearest(value, list(map(str, keys)))}")
    return label_map[keys[place]]


def _position(value: Any, names: Sequence[Any], any_case: bool = False) -> int | None:
    """The place among names of the one that a value is; None where there is none, or more than one."""
    for same in _ways_to_be_same(value, any_case):
        places = [place for place, name in enumerate(names) if same(name)]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _ways_to_be_same(value: Any, any_case: bool) -> Iterator[Any]:
    text, number = str(value), as_number(value)
    if not isinstance(value, bool):
        yield lambda name: not isinstance(name, bool) and str(name) == text
        yield lambda name: not isinstance(name, bool) and str(name).strip() == text.strip()
        if number is not None:
            yield lambda name: as_number(name) == number
    yield (
        lambda name: (
            (any_case or isinstance(value, bool) or isinstance(name, bool) or text.strip().casefold() in _BOOLEANS)
            and str(name).strip().casefold() == text.strip().casefold()
        )
    )


def as_number(value: Any) -> Decimal | None:
    """A finite number, also one written as text; None for anything else, such as a boolean."""
    text = str(value).strip()
    return Decimal(text) if not isinstance(value, bool) and _NUMBER.fullmatch(text) else None
