"""Kinds of task that are a user's own: their module goes with a checkpoint, if others can run it.

A module can be run wherever a checkpoint is, if it imports nothing but torch, transformers, Python's own library and,
by `from hf_multitask.model.<module> import ...`, what travels with every checkpoint.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers.utils import logging

from .task_config import TaskConfig

logger = logging.get_logger(__name__)

_OURS = re.compile(r"^(\s*)from hf_multitask\.model\.(\w+) import ", re.MULTILINE)
_RUNS_ANYWHERE = {*sys.stdlib_module_names, "torch", "transformers", "huggingface_hub"}
# The module that imports all kinds.
_REGISTER = "task_types.py"


def own_type_modules(tasks: Mapping[str, TaskConfig]) -> dict[str, str]:
    """The modules of the kinds that are not this package's, by the kinds' names."""
    return {task.type: type(task).__module__ for task in tasks.values() if not _is_sibling(type(task))}


def save_own_types(tasks: Mapping[str, TaskConfig], folder: str | Path) -> None:
    """Writes the modules of own kinds beside a checkpoint's code, which then imports them.

    One that others could not run is left out, with a warning.

    Raises:
        ValueError: A module has the name of one of a checkpoint's own.
    """
    folder = Path(folder)
    for kind in dict.fromkeys(type(task) for task in tasks.values()):
        if _is_sibling(kind):
            continue
        name = kind.__module__.rpartition(".")[2]
        source, problem = _source(kind)
        if problem:
            logger.warning(
                "%s, of the module %s, does not go with the checkpoint, since %s: whoever loads it has to import that "
                "module first.",
                *(kind.__name__, kind.__module__, problem),
            )
            continue
        if Path(__file__).with_name(f"{name}.py").is_file():
            raise ValueError(f"the module {kind.__module__} of {kind.__name__} needs another name: {name}.py is ours.")
        (folder / f"{name}.py").write_text(_OURS.sub(r"\1from .\2 import ", source), encoding="utf-8")
        with (folder / _REGISTER).open("a", encoding="utf-8") as register:
            register.write(f"from .{name} import {kind.__name__} as {kind.__name__}\n")


def _is_sibling(kind: type) -> bool:
    """Whether a class lies beside the `TaskConfig` that it derives from, and so travels with it.

    Not beside this module: of code that travelled, transformers has the configuration's and the model's apart.
    """
    bases = [base for base in kind.__mro__ if base.__name__ == TaskConfig.__name__]
    return kind.__module__.rpartition(".")[0] in [base.__module__.rpartition(".")[0] for base in bases]


def _source(kind: type) -> tuple[str, str]:
    """The text of a class's module, and why others could not run it; empty if they could."""
    try:
        source = inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError, KeyError):
        return "", "it has no file"
    if kind.__module__ == "__main__":
        return "", "it is a script of its own, not a module"
    foreign = sorted(set(_imported(ast.parse(source))) - _RUNS_ANYWHERE)
    return source, f"it imports {', '.join(foreign)}" if foreign else ""


def _imported(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # What travels with every checkpoint; any other part of the package does not.
            if node.level or not re.fullmatch(r"hf_multitask\.model\.\w+", module):
                yield "." if node.level else module.partition(".")[0]
