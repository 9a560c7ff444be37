"""The right values here are those that a person would read."""

from typing import Any

import pytest

from hf_multitask import TaskConfig
from hf_multitask.model.labels import read_flag


def task(*labels: Any, **options: Any) -> TaskConfig:
    return TaskConfig("single_label_classification", labels=list(labels), **options)


STARS = task("1", "2", "3", "4", "5")
MOOD = task("negative", "positive")
STS = TaskConfig("pair_regression")


def reader(labels: TaskConfig, label_map: Any = None, own_names: Any = None) -> Any:
    return labels.label_reader(label_map or {}, own_names)


@pytest.mark.parametrize(
    ("labels", "value", "name"),
    [
        # What pandas writes where a value is missing in the column.
        (STARS, 1.0, "1"),
        (STARS, "2.0", "2"),
        (STARS, 4.0, "4"),
        (task("1", "0"), 1.0, "1"),
        (task("1", "0"), "0.0", "0"),
        (task("-1", "0", "1"), "-1.0", "-1"),
        (task("-1", "0", "1"), 1, "1"),
        (task("1.5", "0.5"), "5e-1", "0.5"),
        (task("10000000000000001", "10000000000000000"), "10000000000000000.0", "10000000000000000"),
        # Exact names go before equal numbers.
        (task("01", "1"), "1", "1"),
        (task("01", "1"), "01", "01"),
        (task("true", "false"), True, "true"),
        (task("true", "false"), False, "false"),
        (task("False", "True"), True, "True"),
        (task("good ", "bad"), "good", "good "),
        (task("good ", "bad"), "good ", "good "),
        (task("good", "bad"), " good", "good"),
        (task("a", "a "), "a ", "a "),
        # What pandas writes for booleans.
        (task("true", "false"), "True", "true"),
        (task("FALSE", "TRUE"), "true", "TRUE"),
    ],
)
def test_a_value_is_the_label_of_that_name_or_of_an_equal_number(labels: TaskConfig, value: Any, name: str) -> None:
    assert reader(labels)(value) == (labels.labels.index(name), False)


@pytest.mark.parametrize(("value", "label"), [(0, 0), ("1", 1), (1.0, 1), ("0.0", 0)])
def test_a_value_is_an_id_where_it_can_be_nothing_else(value: Any, label: int) -> None:
    assert reader(MOOD)(value) == (label, True)
    assert reader(task("covid-19", "flu"))(value) == (label, True)


@pytest.mark.parametrize(
    ("labels", "value", "problem"),
    [
        (STARS, 0, "is 0, not one of the labels"),
        (STARS, 5.5, "is 5.5, not one of the labels"),
        (STARS, True, "is True, a boolean, not one of the labels"),
        (MOOD, False, "label_map: {true: ..., false: ...}"),
        (TaskConfig("pair_classification", num_labels=2), True, "is True, a boolean"),
        (task("1 star", "2 stars"), 1, "an id could be mistaken"),
        (task("class 1", "class 2"), "0.0", "an id could be mistaken"),
        (task("01", "1"), 1.0, "an id could be mistaken"),
        (task("10", "20"), 1, "an id could be mistaken"),
        (task("yes", "no"), 1, "an id could be mistaken"),
        (task("true", "false"), "1", "an id could be mistaken"),
        (MOOD, ["positive"], "is ['positive'], not one of the labels"),
        (MOOD, {"positive": 1}, "not one of the labels"),
        (MOOD, -1, "rows to be predicted, which -1 marks, need no such column"),
        (MOOD, "1_0", "not one of the labels"),
        (MOOD, "nan", "not one of the labels"),
        (MOOD, "infinity", "not one of the labels"),
        (MOOD, "٠", "not one of the labels"),
        (MOOD, 10**400, "not one of the labels"),
        (MOOD, "Positive", "is 'Positive', not one of the labels"),
        (STS, True, "is True, not a score from 0 to 5"),
        (STS, "1_0", "is '1_0', not a score"),
        (STS, "1e999", "is '1e999', not a score"),
        (TaskConfig("regression"), "1e999", "is '1e999', not a score."),
        (TaskConfig("regression"), "many", "is 'many', not a score."),
    ],
)
def test_anything_else_is_refused(labels: TaskConfig, value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  (the message is looked at below)
        reader(labels)(value)
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("label_map", "value", "label"),
    [
        ({0: "positive", 1: "negative"}, "0.0", 1),
        ({"0.0": "positive", "1.0": "negative"}, 0, 1),
        ({1: "positive", 2: "negative"}, 2.0, 0),
        ({"+ ": "positive", "-": "negative"}, "+", 1),
        ({True: "positive", False: "negative"}, True, 1),
        ({True: "positive", False: "negative"}, "false", 0),
        ({"true": "positive", "false": "negative"}, True, 1),
        ({"Y": 1, "N": 0}, "Y", 1),
    ],
)
def test_keys_of_a_label_map_are_compared_as_names_are(label_map: dict[Any, Any], value: Any, label: int) -> None:
    assert reader(MOOD, label_map)(value) == (label, False)


@pytest.mark.parametrize("label_map", [{"Y": True, "N": False}, {"Y": "yes"}, {"a": 2}, {"a": ["positive"]}])
def test_a_label_map_to_what_is_no_label_is_refused_before_any_row(label_map: dict[str, Any]) -> None:
    key = next(iter(label_map))
    with pytest.raises(ValueError, match=f"label_map: what '{key}' stands for is .*, not one of the labels"):
        reader(MOOD, label_map)


def test_a_label_map_serves_scores_too() -> None:
    assert reader(STS, {"low": 0, "high": "5.0"})("high") == (5.0, False)
    with pytest.raises(ValueError, match="what 'high' stands for is 6, not a score from 0 to 5"):
        reader(STS, {"high": 6})


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["Positive", "Negative"], [1, 0]),
        (["POSITIVE ", "negative"], [1, 0]),
        (["positive"], [1]),
    ],
)
def test_a_datasets_own_classes_are_matched_by_name_in_any_case(names: list[str], ids: list[int]) -> None:
    read = reader(MOOD, own_names=names)
    assert [read(number) for number in range(len(names))] == [(label, False) for label in ids]
    with pytest.raises(ValueError, match="is -1, not the number of one of the dataset's classes"):
        read(-1)


@pytest.mark.parametrize("names", [["neg", "pos"], ["negative", "positive", "unsup"], ["positive", "Positive"]])
def test_and_refused_with_both_lists_where_they_differ(names: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        reader(MOOD, own_names=names)
    assert f"the dataset's classes {names} are not the task's labels ['negative', 'positive']" in str(refusal.value)


@pytest.mark.parametrize(
    "label_map", [{"pos": "positive", "neg": "negative"}, {0: "positive", 1: "negative"}, {"0": 1, "1": 0}]
)
def test_unless_a_label_map_says_by_name_or_number_which_is_which(label_map: dict[Any, Any]) -> None:
    read = reader(MOOD, label_map, ["pos", "neg"])
    assert (read(0), read(1)) == ((1, False), (0, False))


def test_classes_that_are_numbers_in_their_order_say_no_more_than_ids() -> None:
    read = reader(MOOD, own_names=["0", "1"])
    assert (read(0), read(1)) == ((0, True), (1, True))


def test_words_for_no_and_yes_in_their_order_have_the_ids_that_they_mean() -> None:
    assert reader(task("no", "yes"))(1) == (1, True)
    assert reader(task("False", "True"))("0") == (0, True)


def test_a_label_map_of_class_names_says_nothing_of_their_ids() -> None:
    read = reader(MOOD, {1: "negative", 2: "negative", 4: "positive", 5: "positive"}, list("12345"))
    assert [read(place)[0] for place in (0, 1, 3, 4)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="is '3', which label_map does not have"):
        read(2)


@pytest.mark.parametrize(("missing", "key"), [("", ""), (None, None), ("  ", "")])
def test_a_label_map_may_say_what_an_empty_label_is(missing: Any, key: Any) -> None:
    assert reader(MOOD, {key: "negative", "x": "positive"})(missing) == (0, False)
    with pytest.raises(ValueError, match=r"is (empty|missing)\."):
        reader(MOOD, {"x": "positive"})(missing)


@pytest.mark.parametrize("label_map", [{0: "negative", "0": "positive"}, {True: "negative", "true": "positive"}])
def test_a_label_map_has_a_key_once(label_map: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"label_map has .* twice"):
        reader(MOOD, label_map)


def test_class_names_that_are_numbers_are_scores() -> None:
    assert reader(STS, {}, list("12345"))(0) == (1.0, False)
    assert reader(STS, {"low": 1, "high": 5}, ["low", "high"])(1) == (5.0, False)
    assert reader(STS, {0: 1, 1: 5}, ["low", "high"])(1) == (5.0, False)
    with pytest.raises(ValueError, match="the dataset's class 'low' is 'low', not a score from 0 to 5"):
        reader(STS, {}, ["low", "high"])


# ---- Several labels of a row ----

MOODS = TaskConfig("multi_label_classification", labels=["joy", "grief", "fear"])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (["fear", "joy"], ([0, 2], False)),
        ([2, 0], ([0, 2], True)),
        (["2", 0.0], ([0, 2], True)),
        (["joy", " joy", "joy"], ([0], False)),
        ("fear, joy", ([0, 2], False)),
        ("2,0", ([0, 2], True)),
        ("grief", ([1], False)),
        (1, ([1], True)),
        # Neither names nor ids.
        ([], ([], None)),
        ("", ([], None)),
        ("  ", ([], None)),
    ],
)
def test_several_labels_are_read_each_by_the_one_rule(value: Any, read: Any) -> None:
    assert reader(MOODS)(value) == read


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is missing; a row without labels has an empty list, or an empty text."),
        (
            ["joy", "fine"],
            "is ['joy', 'fine'], in which a label is 'fine', not one of the labels ['joy', 'grief', 'fear']",
        ),
        ("joy,fine", "is 'joy,fine', in which a label is 'fine', not one of the labels"),
        ("fine", "is 'fine', not one of the labels"),
        ([3], "is [3], in which a label is 3, not one of the labels ['joy', 'grief', 'fear'] or their ids 0 to 2"),
        (3, "is 3, not one of the labels"),
        ("joy,,fear", "is 'joy,,fear', in which a label is empty"),
        ("joy,", "is 'joy,', in which a label is empty"),
        ([None], "is [None], in which a label is missing"),
        ([["joy"]], "is [['joy']], in which a label is ['joy'], not one of the labels"),
        ([True], "is [True], in which a label is True, a boolean"),
        ({"joy": 1}, "is {'joy': 1}, not one of the labels"),
        (float("nan"), "is nan, not one of the labels"),
        ("joy,1", "is 'joy,1', with class ids among the labels' names"),
    ],
)
def test_a_row_is_refused_by_the_label_that_is_none(value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        reader(MOODS)(value)
    assert str(refusal.value).startswith(problem)


def test_a_label_may_have_the_separator_where_it_does_not_separate() -> None:
    moods = TaskConfig("multi_label_classification", labels=["grief, sorrow", "joy"])
    assert reader(moods)(["grief, sorrow"]) == ([0], False)
    assert reader(moods)("joy") == ([1], False)
    with pytest.raises(ValueError, match="where ',' could be between two labels or in 'grief, sorrow': set separator"):
        reader(moods)("grief, sorrow")
    moods = TaskConfig("multi_label_classification", labels=["grief, sorrow", "joy"], separator="||")
    assert reader(moods)("joy||grief, sorrow") == ([0, 1], False)


def test_labels_of_several_are_mapped_and_a_datasets_classes_are_matched_by_name() -> None:
    assert reader(MOODS, {"sad": "grief", "mourning": "grief", "glad": 0})(["mourning", "sad", "glad"]) == (
        [0, 1],
        False,
    )
    assert reader(MOODS, own_names=["Fear", "Joy", "Grief"])([0, 2]) == ([1, 2], False)
    with pytest.raises(ValueError, match=r"the dataset's classes .* are not the task's labels"):
        reader(MOODS, own_names=["fear", "anger"])


@pytest.mark.parametrize("value", [["bad"], ("bad",), {"bad": 1}])
def test_a_list_is_no_single_label(value: Any) -> None:
    with pytest.raises(ValueError, match="not one of the labels"):
        reader(task("bad", "good"))(value)


@pytest.mark.parametrize(
    ("value", "flag"),
    [(1, True), ("0", False), (1.0, True), ("0.0", False), (True, True), ("False", False), (" TRUE ", True)],
)
def test_a_flag_is_a_number_or_a_word(value: Any, flag: bool) -> None:
    assert read_flag(value) is flag


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (2, "is 2, not 0 or 1, nor false or true"),
        ("yes", "is 'yes', not 0 or 1"),
        (None, "is missing"),
        ("", "is empty"),
        (0.5, "is 0.5, not"),
        (float("nan"), "is nan, not"),
    ],
)
def test_anything_else_is_no_flag(value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        read_flag(value)
    assert str(refusal.value).startswith(problem)
