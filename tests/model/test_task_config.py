import json
from pathlib import Path
from typing import Any

import pytest

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel, TaskConfig
from tests.conftest import encoder_config


def test_label_names_default_to_ids() -> None:
    assert TaskConfig("single_label_classification", num_labels=3).labels == ["0", "1", "2"]
    assert TaskConfig("pair_classification").labels == ["0", "1"]


@pytest.mark.parametrize(
    ("task", "sequences"),
    [
        ({"type": "single_label_classification", "num_labels": 2}, 1),
        ({"type": "single_label_classification", "num_labels": 2, "pair_encoding": "cross"}, 1),
        ({"type": "pair_classification"}, 2),
        ({"type": "pair_classification", "pair_encoding": "cross"}, 1),
        ({"type": "regression"}, 1),
        ({"type": "regression", "texts": 2}, 2),
    ],
)
def test_a_pair_that_is_encoded_apart_is_two_sequences(task: dict[str, Any], sequences: int) -> None:
    assert TaskConfig.from_dict(task).sequences_per_row == sequences


CLASSES = {"type": "single_label_classification", "num_labels": 5}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"type": "pair_regresion"}, "did you mean 'pair_regression'"),
        ({}, "type is missing"),
        ({"type": []}, "type [] is unknown"),
        ("sst", "must be a mapping"),
        ({**CLASSES, "poling": "cls"}, "unknown key 'poling'; did you mean 'pooling'"),
        ({**CLASSES, "pooling": "meen"}, "pooling 'meen' is unknown; did you mean 'mean'"),
        ({"type": "single_label_classification"}, "needs labels"),
        ({**CLASSES, "labels": ["a", "b"]}, "num_labels is 5, but labels has 2"),
        ({**CLASSES, "num_labels": 1}, "at least two different names"),
        ({**CLASSES, "num_labels": 2.5}, "num_labels must be a whole number, not 2.5"),
        ({"type": "single_label_classification", "labels": "abc"}, "labels must be a list, not 'abc'"),
        ({"type": "single_label_classification", "labels": [["a"], ["b"]]}, "must be names"),
        ({"type": "pair_regression", "score_range": True}, "score_range True must be two numbers"),
        ({"type": "pair_classification", "labels": ["yes", "yes"]}, "at least two different names"),
        ({"type": "pair_classification", "labels": [False, True]}, "put true and false in quotes"),
        ({**CLASSES, "score_range": [0, 5]}, "score_range is a key of regression, not of single_label_classification"),
        (
            {"type": "pair_regression", "num_labels": 5},
            "num_labels is a key of multi_label_classification, single_label_classification, token_classification, n",
        ),
        ({"type": "pair_regression", "score_range": [5, 0]}, "the lower first"),
        ({"type": "pair_regression", "score_range": [0, float("nan")]}, "must be two numbers"),
        ({"type": "pair_regression", "score_range": [0, float("inf")]}, "must be two numbers"),
        ({"type": "pair_regression", "score_range": [float("-inf"), 0]}, "must be two numbers"),
        ({"type": "pair_regression", "pair_encoding": "siamese"}, "known: bi, cross"),
        ({**CLASSES, "dropout": 1.0}, "dropout 1.0"),
        ({**CLASSES, "weight": -1}, "weight -1"),
        ({**CLASSES, "weight": "heavy"}, "weight 'heavy'"),
        ({**CLASSES, "metrics": "mcc"}, "metrics 'mcc' must be a list of names, such as [accuracy, mcc]"),
        ({**CLASSES, "metrics": [1]}, "metrics [1] must be a list of names"),
        ({**CLASSES, "counts": ["mcc"]}, "counts ['mcc'] must be the name of a metric, or none"),
    ],
)
def test_a_wrong_task_is_refused_by_a_sentence_that_names_it(task: Any, message: str) -> None:
    with pytest.raises(ValueError, match="task 'mine'") as error:
        MultiTaskBertConfig(tasks={"mine": task})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"pooling": "max", "dropout": 0.5, "weight": 2.0, "metrics": ["mcc"], "counts": "none"}, []),
        ({"num_labels": 3}, ["labels", "num_labels"]),
        ({"num_labels": 0, "labels": list("43210")}, ["labels"]),
        ({"type": "pair_classification", "pair_encoding": "cross"}, ["texts", "pair_encoding"]),
    ],
)
def test_heads_differ_by_what_they_read_and_say(change: dict[str, Any], keys: list[str]) -> None:
    task, other = TaskConfig.from_dict(CLASSES), TaskConfig.from_dict({**CLASSES, **change})
    assert task.differences(other) == other.differences(task) == keys


def test_metrics_travel_as_they_were_written_and_nothing_looks_them_up(tmp_path: Path) -> None:
    own = {"name": "cost", "function": "no_such_module:cost", "greater_is_better": False}
    task = {**CLASSES, "metrics": ["f1_macro", "no_such_module:gain", own], "counts": "f1_macro"}
    config = MultiTaskBertConfig(encoder_config=encoder_config(), tasks={"x": task, "y": CLASSES})
    MultiTaskBertModel(config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["tasks"]
    assert saved[0]["metrics"] == task["metrics"]
    assert saved[0]["counts"] == "f1_macro"
    assert not {"metrics", "counts"}.intersection(saved[1])
    assert MultiTaskBertModel.from_pretrained(tmp_path).config.tasks == config.tasks
