"""Functions of a user's own as metrics."""

import sys
import types
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest

from hf_multitask.evaluation.own_metrics import is_own, look_in, read_own_metric

PREDICTED, LABELS = np.array([1, 0, 2, 1]), np.array([1, 0, 0, 0])


def cost(predictions: Any, references: Any) -> float:
    """Half of what is predicted too high."""
    return float(np.mean(np.maximum(predictions - references, 0)) / 2)


def rates(predictions: Any, references: Any) -> dict[str, float]:
    return {"hits": float(np.mean(predictions == references)), "misses": float(np.mean(predictions != references))}


def bounded(predictions: Any, references: Any) -> Any:
    return np.float32(np.mean(predictions == references) * 10)


bounded.range = (0, 10)  # type: ignore[attr-defined]


class Hits(evaluate.Metric):
    greater_is_better = True
    range = (0, 1)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"hit_rate": float(np.mean(np.equal(predictions, references)))}


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that the tests name."""
    module: Any = types.ModuleType("mine")
    module.cost, module.rates, module.bounded, module.Hits, module.hits = cost, rates, bounded, Hits, Hits()
    module.number, module.swapped = 3, lambda labels, predicted: 0.0
    module.words = lambda predictions, references: "many"
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_an_entry_with_a_colon_or_of_keys_names_a_function() -> None:
    assert [is_own(entry) for entry in ("accuracy", "mine:cost", {"function": "mine:cost"})] == [False, True, True]


@pytest.mark.parametrize(
    ("entry", "name", "value", "is_better"),
    [
        ("mine:cost", "cost", 0.375, True),
        ({"name": "my_cost", "function": "mine:cost", "greater_is_better": False}, "my_cost", 0.375, False),
        ({"name": "hits", "function": "mine:rates"}, "hits", 0.5, True),
        ({"name": "misses", "function": "mine:rates", "greater_is_better": False}, "misses", 0.5, False),
        ("mine:bounded", "bounded", 5.0, True),
        ("mine:Hits", "Hits", 0.5, True),
        ("mine:hits", "hits", 0.5, True),
    ],
)
def test_a_function_or_a_metric_of_evaluate_gives_a_number(
    entry: Any, name: str, value: float, is_better: bool
) -> None:
    read, metric = read_own_metric(entry)
    assert (read, metric.greater_is_better, metric.is_own) == (name, is_better, True)
    assert metric.compute(PREDICTED, LABELS) == value
    rows = np.array([[0, 1, 2, 3], [0, 0, 0, 0]])
    assert metric.of_rows((PREDICTED, LABELS), rows)[0] == value


def test_a_metric_of_evaluate_has_the_value_of_its_compute() -> None:
    _, metric = read_own_metric("mine:Hits")
    assert metric.compute(PREDICTED, LABELS) == Hits().compute(predictions=PREDICTED, references=LABELS)["hit_rate"]


def test_a_range_is_the_way_to_0_1_and_the_recipe_goes_before_the_function() -> None:
    for entry, share in [
        ("mine:cost", None),
        ("mine:bounded", 0.5),
        ("mine:Hits", 5.0),
        ({"function": "mine:cost", "range": [-5, 15]}, 0.5),
        ({"function": "mine:bounded", "range": [0, 20]}, 0.25),
    ]:
        _, metric = read_own_metric(entry)
        assert (metric.share and metric.share(5.0)) == share


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"function": "mine:cost", "nme": "x"}, "unknown key 'nme'; did you mean 'name'"),
        ({"name": "x"}, "function None must be module:function, such as mine:cost"),
        ("mine.py:cost()", r"function 'mine.py:cost\(\)' must be module:function"),
        ({"function": "mine:cost", "name": "my cost"}, "name 'my cost' of mine:cost must be letters, digits"),
        ({"function": "mine:cost", "name": "loss"}, "name 'loss' of mine:cost must be .* none of loss, runtime"),
        ("mien:cost", "mien:cost: there is no module 'mien' beside the recipe, in its modules_dir, or on Python's"),
        ("mine:csot", "mine:csot: the module has no 'csot'; did you mean 'cost'"),
        ("mine:number", "mine:number must be a function of predictions and references, in these words"),
        ("mine:swapped", "mine:swapped must be a function of predictions and references"),
        ({"function": "mine:cost", "greater_is_better": "no"}, "greater_is_better 'no' of mine:cost must be true or"),
        ({"function": "mine:cost", "range": [1, 0]}, r"range \[1, 0\] of mine:cost must be two numbers, the lower"),
        ({"function": "mine:cost", "range": 1}, "range 1 of mine:cost must be two numbers"),
        (
            {"function": "mine:cost", "range": [0, 1], "greater_is_better": False},
            "range of mine:cost is for a metric that may count, of which the greatest value is the best",
        ),
    ],
)
def test_what_is_no_metric_is_refused_by_a_sentence(entry: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_own_metric(entry)


def test_functions_that_take_what_is_right_first_are_refused_rather_than_given_it_second() -> None:
    with pytest.raises(ValueError, match="hinge_loss must be a function of predictions and references, in these words"):
        read_own_metric("sklearn.metrics:hinge_loss")


def test_what_a_function_gives_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="metric 'other': mine:rates gave hits, misses, and none of that name"):
        read_own_metric({"name": "other", "function": "mine:rates"})[1].compute(PREDICTED, LABELS)
    with pytest.raises(ValueError, match="metric 'words': mine:words gave 'many', which is no number"):
        read_own_metric("mine:words")[1].compute(PREDICTED, LABELS)


def test_a_module_is_looked_for_in_a_folder_after_all_others(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "only_here.py").write_text("def zero(predictions, references):\n    return 0.0\n")
    (tmp_path / "evaluate.py").write_text("raise RuntimeError\n")
    (tmp_path / "broken_here.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(ValueError, match="there is no module 'only_here'"):
        read_own_metric("only_here:zero")
    look_in(tmp_path)
    look_in(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)
    assert read_own_metric("only_here:zero")[1].compute(PREDICTED, LABELS) == 0.0
    with pytest.raises(ValueError, match=r"broken_here:x: the module cannot be imported \(No module named 'there_is"):
        read_own_metric("broken_here:x")
    sys.modules.pop("only_here")
