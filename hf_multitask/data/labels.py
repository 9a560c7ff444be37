"""What a raw label means: the one rule by which every reader of labels goes, from files, the Hub, streams and Python.

A value of a classification is

1. what `label_map` says, where there is one;
2. the label of exactly that name, blanks around it aside;
3. the label whose name is an equal number: 1.0, which pandas writes for 1 where a value is missing, is the label "1";
4. a class id, but only where no label's name mentions a number that could be one: "1 star" is not the label of id 1.

A boolean is a label by its name alone, `true` or `false` in any case. A dataset's own class names are matched by name,
in any case; where one of them is no label, the dataset is refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from datasets import ClassLabel

from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import nearest

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


class LabelReader:
    """Reads the raw labels of one task's rows.

    Args:
        task: Says what labels there are, or the range of scores.
        label_map: From raw values to labels; its keys are compared as names are.
        feature: Of the dataset's label column, if it has one; a `ClassLabel` has names of its own.

    Raises:
        ValueError: The dataset's classes or the values of `label_map` are not the task's labels.

    Example:
        >>> read = LabelReader(TaskConfig("single_label_classification", labels=["1", "2"]))
        >>> read(1.0), read("2")
        ((0, False), (1, False))
    """

    def __init__(self, task: TaskConfig, label_map: Mapping[Any, Any] | None = None, feature: Any = None) -> None:
        self._task = task
        self._map = dict(label_map or {})
        self._ids_are_plain = not any(map(self._mentions_id, task.labels))
        self._classes = None if task.is_regression else _own_classes(feature)
        self._known: dict[tuple[type, Any], tuple[int | float, bool]] = {}
        for key, value in self._map.items():
            if value is not None:
                self._check_mapped(key, value)
        if self._classes is not None and not self._map:
            self._class_ids = self._matching_labels(self._classes)

    def __call__(self, value: Any) -> tuple[int | float, bool]:
        """A class id or score, and whether the value was read as an id.

        Raises:
            ValueError: It is none; the message continues a sentence that begins with the column's name.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError("is empty." if value is not None else "is missing.")
        key = (type(value), value)
        if key not in self._known:
            label = self._read(value)
            if self._task.is_regression:
                return label
            # There are no more of these than ways to write the labels.
            self._known[key] = label
        return self._known[key]

    def _read(self, value: Any) -> tuple[int | float, bool]:
        if self._classes is not None:
            if not 0 <= value < len(self._classes):
                raise ValueError(f"is {value!r}, not the number of one of the dataset's classes {self._classes}.")
            if not self._map:
                return self._class_ids[value], False
            named = self._classes[value]
            value = named if _position(named, list(self._map)) is not None else value
        if self._map:
            keys = list(self._map)
            place = _position(value, keys)
            if place is None:
                raise ValueError(f"is {value!r}, which label_map does not have; {nearest(value, list(map(str, keys)))}")
            return self._interpret(self._map[keys[place]])[0], False
        return self._interpret(value)

    def _interpret(self, value: Any) -> tuple[int | float, bool]:
        return (self._score(value), False) if self._task.is_regression else self._class_id(value)

    def _score(self, value: Any) -> float:
        low, high = self._task.score_range
        number = _as_number(value)
        if number is None or not low <= float(number) <= high:
            raise ValueError(f"is {value!r}, not a score from {low:g} to {high:g}.")
        return float(number)

    def _class_id(self, value: Any) -> tuple[int, bool]:
        labels = self._task.labels
        if (place := _position(value, labels)) is not None:
            return place, False
        if isinstance(value, bool):
            raise ValueError(
                f"is {value!r}, a boolean, not one of the labels {labels}; say by label_map: "
                "{true: ..., false: ...} which it is, with names in quotes."
            )
        number = _as_number(value)
        if number is None or number != int(number) or not 0 <= number < len(labels):
            ids = f" or their ids 0 to {len(labels) - 1}" if self._ids_are_plain else ""
            raise ValueError(f"is {value!r}, not one of the labels {labels}{ids}.")
        if not self._ids_are_plain:
            raise ValueError(
                f"is {value!r}, not one of the labels {labels}; an id could be mistaken, since their names have "
                "numbers: say by label_map which label it is."
            )
        return int(number), True

    def _mentions_id(self, name: str) -> bool:
        """Whether a name has a number that could be an id, counted from 0 or from 1."""
        return any(int(digits) <= len(self._task.labels) for digits in re.findall(r"\d{1,9}", name, re.ASCII))

    def _check_mapped(self, key: Any, value: Any) -> None:
        try:
            self._interpret(value)
        except ValueError as error:
            raise ValueError(f"label_map: what {key!r} stands for {error}") from error

    def _matching_labels(self, classes: Sequence[str]) -> list[int]:
        """The label of each of the dataset's classes."""
        labels = self._task.labels
        found = [_position(name, labels, any_case=True) for name in classes]
        ids = [place for place in found if place is not None]
        if len(ids) < len(classes) or len(set(ids)) < len(ids):
            raise ValueError(
                f"the dataset's classes {list(classes)} are not the task's labels {labels}: name the labels so, or say "
                "by label_map which class is which label."
            )
        return ids


def _own_classes(feature: Any) -> list[str] | None:
    """The dataset's own names of its classes; numbers in their order say no more than the ids."""
    if not isinstance(feature, ClassLabel) or feature.names == [str(number) for number in range(len(feature.names))]:
        return None
    return list(feature.names)


def _position(value: Any, names: Sequence[Any], any_case: bool = False) -> int | None:
    """The place among names of the one that a value is; None where there is none, or more than one."""
    for same in _ways_to_be_same(value, any_case):
        places = [place for place, name in enumerate(names) if same(name)]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _ways_to_be_same(value: Any, any_case: bool) -> Iterator[Any]:
    text, number = str(value), _as_number(value)
    if not isinstance(value, bool):
        yield lambda name: not isinstance(name, bool) and str(name) == text
        yield lambda name: not isinstance(name, bool) and str(name).strip() == text.strip()
        if number is not None:
            yield lambda name: _as_number(name) == number
    yield (
        lambda name: (
            (any_case or isinstance(value, bool) or isinstance(name, bool))
            and str(name).strip().casefold() == text.strip().casefold()
        )
    )


def _as_number(value: Any) -> Decimal | None:
    """A finite number, also one written as text; None for anything else, such as a boolean."""
    text = str(value).strip()
    return Decimal(text) if not isinstance(value, bool) and _NUMBER.fullmatch(text) else None
