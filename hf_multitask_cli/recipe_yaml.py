"""Reading a recipe's YAML file, without importing what takes seconds.

Words mean what YAML 1.2 says, in which `true` and `false` are the only booleans and a number is what looks like one:
`no` is a word (Norwegian, or the strategy `no`), `1e-5` a number, `010` and `12:30` and `2024-01-01` are texts. Where a
boolean is wanted, `yes`, `no`, `on` and `off` serve as well.
"""

import re
from pathlib import Path
from typing import Any

import yaml

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def as_boolean(value: Any) -> Any:
    """A boolean from a word for one; anything else stays as it is."""
    return _TRUTH.get(value.lower(), value) if isinstance(value, str) else value


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a recipe's YAML with what it `extends`.

    A task that is null in a recipe is not taken over from the one that it extends.

    Raises:
        ValueError: The file is not there, is not YAML, is no mapping, has a key twice, or extends itself.
    """
    return _load(Path(path).expanduser(), ())


def parse_value(text: str) -> Any:
    """A single value, as a recipe's file would have it.

    Raises:
        ValueError: It is not YAML.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not valid YAML: {' '.join(str(error).split())}") from error


def _load(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"recipe {path} is {'a folder, not a file' if path.is_dir() else 'not there'}.")
    if path.resolve() in extending:
        raise ValueError(f"recipe {path} extends itself.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must be a mapping of keys to values.")
    bases = values.pop("extends", None) or []
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        merged = _merged(merged, _load(path.parent / Path(str(base)).expanduser(), (*extending, path.resolve())))
    inherited = merged.get("tasks")
    merged = _merged(merged, values)
    if isinstance(inherited, dict) and isinstance(merged.get("tasks"), dict):
        own = values.get("tasks") or {}
        merged["tasks"] = {
            name: task
            for name, task in merged["tasks"].items()
            if not (name in inherited and name in own and own[name] is None)
        }
    return merged


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if nested else value
    return merged


class _RecipeLoader(yaml.SafeLoader):
    """YAML's safe loader with YAML 1.2's words; it would let the second of two equal keys win silently."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is one word", problem_mark=key_node.start_mark)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is there twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.2's core schema, and 1.1's merging of mappings.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _RecipeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
