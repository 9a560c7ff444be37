"""Metrics that are a user's own: functions named by `module:function`, imported when a task is evaluated.

A model's configuration holds the text alone: who loads a model and does not evaluate it needs no such module.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate
import numpy as np

from hf_multitask.evaluation.metrics import Metric
from hf_multitask.model.messages import first_line, nearest, refuse_unknown_keys
from hf_multitask.model.task_config import is_number

_KEYS = ["name", "function", "greater_is_better", "range"]
# What an evaluation gives of a task beside its metrics, and the word for a task that does not count.
_TAKEN = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "none")


def is_own(entry: str | Mapping[str, Any]) -> bool:
    """Whether an entry of a task's `metrics` names a function, and not a metric of the task's kind."""
    return not isinstance(entry, str) or ":" in entry


def look_in(folder: str | Path) -> None:
    """Makes the modules of a folder known; those that Python has already go first."""
    folder = str(Path(folder).resolve())
    if folder not in sys.path:
        # Not to the front, where a folder's evaluate.py would hide the library of that name.
        sys.path.append(folder)


def read_own_metric(entry: str | Mapping[str, Any]) -> tuple[str, Metric]:
    """The name and the metric of an entry of a task's `metrics` that names a function.

    Args:
        entry: `module:function`, or a mapping with the keys `function`; `name`, by default the function's;
            `greater_is_better`, by default true; and `range`, the least and the greatest value, without which it cannot
            enter the final score. An attribute of the function of one of the last two names is its default. The
            function takes `predictions` and `references`, arrays of B rows, and gives a number, or a mapping with one
            of the metric's name; or it is an `evaluate.Metric`, the class or an object.

    Raises:
        ValueError: The entry is not as it should be, or the function is not there.
    """
    given = {"function": entry} if isinstance(entry, str) else dict(entry)
    refuse_unknown_keys(given, _KEYS)
    place = given.get("function")
    if not isinstance(place, str) or not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", place):
        raise ValueError(f"function {place!r} must be module:function, such as mine:cost.")
    name = given.get("name", place.partition(":")[2])
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name) or name in _TAKEN:
        raise ValueError(f"name {name!r} of {place} must be letters, digits and '_', and none of {', '.join(_TAKEN)}.")
    function = _imported(place)
    is_better = given.get("greater_is_better", getattr(function, "greater_is_better", True))
    if not isinstance(is_better, bool):
        raise ValueError(f"greater_is_better {is_better!r} of {place} must be true or false.")
    share = _share(place, given.get("range", getattr(function, "range", None)), is_better)
    title = name.replace("_", " ").capitalize()
    return name, Metric(
        title, _OwnFunction(name, place, function), greater_is_better=is_better, share=share, is_own=True
    )


def _share(place: str, bounds: Any, is_better: bool) -> Callable[[Any], Any] | None:
    """The way to [0, 1] of what lies between two bounds."""
    if bounds is None:
        return None
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2 or not all(map(is_number, bounds)):
        raise ValueError(f"range {bounds!r} of {place} must be two numbers, the lower first.")
    low, high = bounds
    if not low < high:
        raise ValueError(f"range {bounds!r} of {place} must be two numbers, the lower first.")
    if not is_better:
        raise ValueError(f"range of {place} is for a metric that may count, of which the greatest value is the best.")
    return lambda value: (value - low) / (high - low)


def _imported(place: str) -> Callable[..., Any]:
    """The function of a place, which takes `predictions` and `references`."""
    module_name, _, name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"{place}: the module cannot be imported ({first_line(error)}).") from error
        raise ValueError(
            f"{place}: there is no module {error.name!r} beside the recipe, in its modules_dir, or on Python's path."
        ) from error
    except ImportError as error:
        raise ValueError(f"{place}: the module cannot be imported ({first_line(error)}).") from error
    if not hasattr(module, name):
        known = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise ValueError(f"{place}: the module has no {name!r}; {nearest(name, known)}")
    function = getattr(module, name)
    if isinstance(function, type) and issubclass(function, evaluate.EvaluationModule):
        function = function()
    if isinstance(function, evaluate.EvaluationModule):
        return function
    try:
        # By name, since many functions take what is right first.
        inspect.signature(function).bind(predictions=None, references=None)
    except TypeError as error:
        raise ValueError(f"{place} must be a function of predictions and references, in these words.") from error
    return function


@dataclass(frozen=True)
class _OwnFunction:
    """A metric's number, from what its function gives.

    Args:
        name: The metric's.
        place: The function's.
        function: It, or an `evaluate.Metric`.
    """

    name: str
    place: str
    function: Any

    def __call__(self, predicted: np.ndarray, labels: np.ndarray) -> float:
        # Not its `compute`, which writes a file at each call: an interval calls it thousands of times.
        compute = getattr(self.function, "_compute", self.function)
        value = compute(predictions=predicted, references=labels)
        if isinstance(value, Mapping):
            if self.name not in value and len(value) != 1:
                raise ValueError(f"metric {self.name!r}: {self.place} gave {', '.join(value)}, and none of that name.")
            value = value[self.name] if self.name in value else next(iter(value.values()))
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metric {self.name!r}: {self.place} gave {value!r}, which is no number.") from error
