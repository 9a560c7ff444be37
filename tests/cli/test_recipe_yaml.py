"""Expected values are those of YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3)."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_multitask_cli.recipe_yaml import as_boolean, load_yaml, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("yes", "No", "on", "OFF", "y", "N", "tRue")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        ("0", 0),
        ("-12", -12),
        ("010", "010"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x1F", "0x1F"),
        ("1e-5", 1e-5),
        ("1.0e-05", 1e-5),
        ("-.5E+3", -500.0),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("1e", "1e"),
        (".", "."),
        ("'1e-5'", "1e-5"),
        ("'no'", "no"),
        ("{Y: yes, no: 1}", {"Y": "yes", "no": 1}),
    ],
)
def test_a_word_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("yes", True),
        ("On", True),
        ("off", False),
        ("NO", False),
        ("maybe", "maybe"),
        (1, 1),
        (None, None),
        (True, True),
    ],
)
def test_words_for_booleans(word: Any, value: Any) -> None:
    assert as_boolean(word) is value


@pytest.mark.parametrize("text", ["{[1, 2]: a}", "{{a: b}: c}", "? [x]\n: y"])
def test_a_key_that_is_no_word_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="is not valid YAML: a key is one word"):
        load_yaml(tmp_path / "a.yaml")


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: [a.yaml]\n")
    with pytest.raises(ValueError, match=r"a.yaml extends itself"):
        load_yaml(tmp_path / "a.yaml")


def test_reading_a_recipe_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, hf_multitask_cli.recipe_yaml; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
