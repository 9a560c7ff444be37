import pytest

from hf_multitask.training.proximal import ProximalArguments
from hf_multitask.training.smart import SmartArguments


def test_a_group_is_read_from_what_yaml_and_command_lines_give() -> None:
    expected = SmartArguments(weight=1.0, epsilon=1e-5, norm="2", tasks={"sst": 1.0}, layer=3)
    assert SmartArguments.read("smart", expected) is expected
    # YAML 1.1 reads 1e-5 as a text and 2 as a number.
    assert SmartArguments.read(
        "smart", {"weight": 1, "epsilon": "1e-5", "norm": 2, "tasks": {"sst": 1}, "layer": 3}
    ) == (expected)
    assert SmartArguments.read("smart", '{"weight": 1, "norm": "2", "tasks": {"sst": 1}, "layer": 3}') == expected
    assert SmartArguments.read("smart", {"norm": float("inf"), "layer": None}) == SmartArguments()
    assert SmartArguments.read("smart", None) is None
    assert SmartArguments.read("smart", "null") is None


@pytest.mark.parametrize("word", ["no", "off", "false", "False", False])
def test_a_word_for_no_turns_a_group_off(word: object) -> None:
    """As a recipe does with one that it extends."""
    assert SmartArguments.read("smart", word) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wieght": 1}, "smart: unknown key 'wieght'; did you mean 'weight'"),
        ({"weight": "much"}, "smart: weight must be a number, not 'much'"),
        ({"weight": True}, "smart: weight must be a number, not True"),
        ({"weight": -1}, "smart: weight must be a number from 0 on, not -1.0"),
        ({"eta": float("nan")}, "smart: eta must be a number from 0 on"),
        ({"steps": 1.5}, "smart: steps must be a whole number, not 1.5"),
        ({"steps": -1}, "smart: steps must be at least 0"),
        ({"every": 0}, "smart: every must be at least 1"),
        ({"fraction": 0}, "smart: fraction must be above 0 and at most 1"),
        ({"norm": 3}, "smart: norm 3 is unknown; known: 1, 2, inf"),
        ({"projection": "bal"}, "smart: projection 'bal' is unknown; did you mean 'ball'"),
        ({"tasks": ["sst"]}, "smart: tasks must be a mapping of names to numbers"),
        ({"tasks": {"sst": "x"}}, "smart: tasks.sst must be a number"),
        ({"tasks": {"sst": -1}}, "smart: tasks must be weights from 0 on"),
        (3, "smart must be a mapping of its keys to values, not 3"),
        ("weight", "smart must be a mapping of its keys to values, not 'weight'"),
    ],
)
def test_what_a_group_cannot_hold_is_refused_by_name(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmartArguments.read("smart", values)


def test_mistakes_in_python_are_refused_too() -> None:
    with pytest.raises(ValueError, match="projection 'Ball' is unknown; did you mean 'ball'"):
        SmartArguments(projection="Ball")
    assert SmartArguments(norm=2).norm == "2"


def test_without_an_epsilon_each_projection_has_its_own() -> None:
    assert SmartArguments().epsilon == 1e-5
    assert SmartArguments(projection="normalized").epsilon == 0.0
    assert SmartArguments(projection="unit", epsilon=1e-6).epsilon == 1e-6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 1.1}, "proximal: momentum must be from 0 to 1, not 1.1"),
        ({"use_average": "perhaps"}, "proximal: use_average must be true or false"),
    ],
)
def test_other_kinds_of_values_are_checked_too(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProximalArguments.read("proximal", values)
