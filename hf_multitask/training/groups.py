"""Arguments that belong together, nested in the run's arguments: `smart: {weight: 0.02}`, `--smart.weight 0.02`."""

import json
import types
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hf_multitask.model.messages import nearest, refuse_unknown_keys
from hf_multitask_cli.recipe_yaml import as_boolean

Group = TypeVar("Group", bound="ArgumentGroup")


@dataclass
class ArgumentGroup:
    """Base of the groups. Their fields are numbers, choices, or mappings of names to numbers."""

    @classmethod
    def read(cls: type[Group], name: str, values: Any) -> Group | None:
        """Reads a group as it stands in a recipe (a mapping), on a command line (its JSON) or in Python.

        Args:
            name: The argument's, for errors.
            values: The group, a mapping of its keys, JSON of one, or None or a word for no.

        Raises:
            ValueError: An unknown key or a value that is not of its kind; the message names them.
        """
        if values is None or isinstance(values, cls):
            return values
        try:
            values = json.loads(values) if isinstance(values, str) else values
        except json.JSONDecodeError:
            values = str(values)
        if values is None or as_boolean(values) is False:
            return None
        if not isinstance(values, dict):
            raise ValueError(f"{name} must be a mapping of its keys to values, not {values!r}.")
        known = [field.name for field in fields(cls)]
        try:
            refuse_unknown_keys(values, known)
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def __post_init__(self) -> None:
        for key, kind in get_type_hints(type(self)).items():
            setattr(self, key, _converted(key, kind, getattr(self, key)))

    def _require(self, key: str, holds: bool, range_: str) -> None:
        if not holds:
            raise ValueError(f"{key} must be {range_}, not {getattr(self, key)!r}.")


def _converted(key: str, kind: Any, value: Any) -> Any:
    """A value as its kind; YAML reads `1e-5` as a text and `2` as a number."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not types.NoneType)
    if get_origin(kind) is Literal:
        if str(value) not in get_args(kind):
            raise ValueError(f"{key} {value!r} is unknown; {nearest(str(value), list(get_args(kind)))}")
        return str(value)
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be a mapping of names to numbers, not {value!r}.")
        return {str(name): _converted(f"{key}.{name}", get_args(kind)[1], number) for name, number in value.items()}
    if kind is bool:
        value = as_boolean(value)
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be true or false, not {value!r}.")
        return value
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if kind is int and number != int(number):
            raise ValueError
        return kind(number)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} must be {'a whole number' if kind is int else 'a number'}, not {value!r}.") from None
