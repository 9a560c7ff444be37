"""What the card says of scores that are no better than a predictor that ignores the text."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from hf_multitask import MultiTaskTrainingArguments
from hf_multitask.hub.card import RunFacts, build_card
from hf_multitask.model.pipeline_mtbert import MultiTaskPipeline
from tests.conftest import tiny_model

METRICS = {
    "eval_sst_accuracy": 0.3,
    "eval_quora_accuracy": 0.9,
    "eval_sts_pearson": 0.8,
    "eval_sts_rmse": 1.0,
    "eval_final_score": 0.7,
}
TRIVIAL = {
    "sst": {"accuracy": 0.3},
    "quora": {"accuracy": 0.6},
    "sts": {"pearson": math.nan, "rmse": 1.5},
}


@pytest.fixture
def limits(tmp_path: Path) -> Any:
    """The card's sentences on scores, for some facts and metrics."""

    def write(facts: RunFacts, **metrics: float) -> list[str]:
        config, args = tiny_model().config, MultiTaskTrainingArguments(str(tmp_path), use_cpu=True)
        history = [{**METRICS, **metrics}]
        shape: Any = {"step": 1, "sizes": {}, "parameters": 1, "history": history}
        card = str(build_card(facts, name="a/b", config=config, args=args, **shape))
        lines = card.split("## Limits")[1].splitlines()
        return [line for line in lines if line.startswith("- `") and "threshold" not in line]

    return write


def test_scores_that_are_no_better_are_named_by_the_metric_that_counts(limits: Any) -> None:
    facts = RunFacts(trivial=TRIVIAL)
    tie = (
        "- `sst`: no better than a predictor that ignores the text (accuracy 0.300, that of the majority class 0.300)."
    )
    assert limits(facts) == [tie]
    assert limits(facts, eval_sst_accuracy=0.31) == []
    undefined = "- `sts`: no better than a predictor that ignores the text (pearson undefined)."
    assert limits(facts, eval_sts_pearson=math.nan) == [tie, undefined]
    # Scores in the right order, and on another scale.
    scale = "- `sts`: rmse 1.600 is no better than that of the mean score, 1.500."
    assert limits(facts, eval_sts_rmse=1.6) == [tie, scale]


def test_what_the_run_found_stands_in_place_of_the_scores_alone(limits: Any) -> None:
    facts = RunFacts(trivial=TRIVIAL, shortfalls={"quora": "not shown; all predictions are '*a*'."})
    assert limits(facts) == [r"- `quora`: not shown; all predictions are '\*a\*'."]
    assert limits(RunFacts(trivial=TRIVIAL, shortfalls={})) == []


def test_results_are_of_the_metrics_that_a_task_chose_under_the_hubs_names(tmp_path: Path) -> None:
    classes = {"type": "single_label_classification", "num_labels": 3, "metrics": ["f1_macro", "mcc"]}
    config = tiny_model({"x": {**classes, "counts": "mcc"}}).config
    args = MultiTaskTrainingArguments(str(tmp_path), use_cpu=True)
    history = [{"eval_x_f1_macro": 0.25, "eval_x_mcc": -0.1, "eval_final_score": 0.45}]
    facts = RunFacts(trivial={"x": {"f1_macro": 0.2, "mcc": 0.0}})
    shape: Any = {"step": 1, "sizes": {}, "parameters": 1, "history": history}
    card = build_card(facts, name="a/b", config=config, args=args, **shape)
    (entry,) = card.data.to_dict()["model-index"][0]["results"]
    assert [(metric["type"], metric["name"], metric["value"]) for metric in entry["metrics"]] == [
        ("f1", "F1, mean over classes", 0.25),
        ("matthews_correlation", "Matthews correlation", -0.1),
    ]
    assert "| x | f1_macro | 0.250 | 0.200 (majority class) |" in str(card)
    assert "- `x`: no better than a predictor that ignores the text (mcc -0.100)." in str(card)


def test_each_task_is_called_as_it_can_be(tmp_path: Path, tokenizer: Any) -> None:
    kinds = {"rank": "ranking", "swag": "multiple_choice", "race": "multiple_choice", "qa": "question_answering"}
    kinds["mlm"] = "masked_language_modeling"
    tasks: dict[str, Any] = {name: {"type": kind} for name, kind in kinds.items()}
    tasks["race"]["texts"] = 2
    model, args = tiny_model(tasks), MultiTaskTrainingArguments(str(tmp_path), use_cpu=True)
    shape: Any = {"step": 1, "sizes": {}, "parameters": 1, "history": []}
    card = str(build_card(RunFacts(), name="a/b", config=model.config, args=args, **shape))
    pipe = MultiTaskPipeline(model, tokenizer)
    calls = re.findall(r"^print\((pipe\(.*, task=.*\))\)$", card, re.MULTILINE)
    assert len(calls) == len(tasks) - 1
    for call in calls:
        assert eval(call, {"pipe": pipe}).keys() >= {"score"}
    assert "| rank | ranking | one text with candidates |" in card
    assert 'print(pipe("a text", task="mlm"))  # of each mask token in it' in card
    assert "| race | multiple_choice | two texts, as one input with candidates |" in card
