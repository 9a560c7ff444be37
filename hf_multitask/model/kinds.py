"""The register of kinds of task, by name."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from .messages import nearest
from .rows import ENCODER_COLUMNS

# The classes, each a `TaskConfig`, which this module does not know: they register themselves.
KINDS: dict[str, type[Any]] = {}
# Names of config version 1, which said in one word what is predicted and of how many texts.
FORMER_TYPES = {"pair_classification": ("single_label_classification", 2), "pair_regression": ("regression", 2)}

Kind = TypeVar("Kind", bound=type[Any])


def register_task_type(name: str) -> Callable[[Kind], Kind]:
    """Makes a kind of task known by a name, as a decorator of its class.

    Raises:
        ValueError: Another class has that name.
    """

    def register(kind: Kind) -> Kind:
        known = KINDS.setdefault(name, kind)
        # Reloaded, a module defines its class again.
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f"task type {name!r} is taken, by {known.__module__}.{known.__qualname__}.")
        KINDS[name] = kind
        return kind

    return register


def kind_of(name: Any) -> type[Any]:
    """The class of a name, which may be one of config version 1.

    Raises:
        ValueError: There is none.
    """
    kind = KINDS.get(FORMER_TYPES.get(name, (name, 0))[0]) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"type {name!r} is unknown; {nearest(str(name), [*KINDS, *FORMER_TYPES])}")
    return kind


def task_type_names() -> list[str]:
    """The names of all kinds."""
    return list(KINDS)


def task_keys() -> list[str]:
    """The keys of all kinds."""
    return list(dict.fromkeys(field.name for kind in KINDS.values() for field in fields(kind)))


def row_columns() -> list[str]:
    """What batches are made of, of all columns that tokenized rows of any kind have."""
    return list(dict.fromkeys([*ENCODER_COLUMNS, *(column for kind in KINDS.values() for column in kind.ROW_COLUMNS)]))
