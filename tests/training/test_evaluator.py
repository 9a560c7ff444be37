import sys
import types
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import EvalPrediction

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.training.checkpoints import RunRefusedError
from tests.conftest import TASKS, task_rows, tiny_model


def build(tmp_path: Any, tokenizer: Any, compute_metrics: Any = "ours", rows: Any = None, **arguments: Any) -> Any:
    arguments = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, **arguments}
    args = MultiTaskTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[], **arguments)
    own = {} if compute_metrics == "ours" else {"compute_metrics": compute_metrics}
    rows = rows or task_rows(6)
    return MultiTaskTrainer(tiny_model(), args, task_rows(6), rows, processing_class=tokenizer, **own)


@pytest.mark.parametrize(
    ("metric", "is_greater_better"),
    [
        ("sts_rmse", False),
        ("eval_sts_rmse", False),
        ("sts_loss", False),
        ("eval_loss", False),
        ("sts_pearson", True),
        ("eval_sst_accuracy", True),
        ("final_score", True),
    ],
)
def test_the_best_checkpoint_is_the_one_with_the_best_value(
    tmp_path: Any, tokenizer: Any, metric: str, is_greater_better: bool
) -> None:
    trainer = build(tmp_path, tokenizer, load_best_model_at_end=True, metric_for_best_model=metric)
    assert trainer.args.greater_is_better is is_greater_better
    other = build(tmp_path, tokenizer, metric_for_best_model=metric, greater_is_better=not is_greater_better)
    assert other.args.greater_is_better is not is_greater_better


def build_choosing(tmp_path: Any, tokenizer: Any, sts: dict[str, Any], **arguments: Any) -> Any:
    """A trainer whose task `sts` has further keys."""
    args = MultiTaskTrainingArguments(
        str(tmp_path),
        max_steps=1,
        use_cpu=True,
        report_to=[],
        eval_strategy="steps",
        save_strategy="steps",
        **arguments,
    )
    model = tiny_model({**TASKS, "sts": {**TASKS["sts"], **sts}})
    return MultiTaskTrainer(model, args, task_rows(6), task_rows(6), processing_class=tokenizer)


@pytest.mark.parametrize(("metric", "is_greater_better"), [("sts_mae", False), ("sts_r2", True), ("sts_price", False)])
def test_any_metric_that_a_task_chose_picks_the_best_by_its_own_direction(
    tmp_path: Any, tokenizer: Any, monkeypatch: Any, metric: str, is_greater_better: bool
) -> None:
    mine: Any = types.ModuleType("mine")
    mine.price = lambda predictions, references: float(np.abs(predictions - references).sum())
    monkeypatch.setitem(sys.modules, "mine", mine)
    chosen = ["mae", "r2", {"function": "mine:price", "greater_is_better": False}]
    choice = {"load_best_model_at_end": True, "metric_for_best_model": metric}
    trainer = build_choosing(tmp_path, tokenizer, {"metrics": chosen, "counts": "spearman"}, **choice)
    assert trainer.args.greater_is_better is is_greater_better
    trainer.train()
    metrics = trainer.evaluate()
    assert trainer.state.best_metric == metrics[f"eval_{metric}"]
    assert "eval_sts_pearson" not in metrics
    parts = [metrics["eval_sst_accuracy"], metrics["eval_quora_accuracy"], (metrics["eval_sts_spearman"] + 1) / 2]
    assert metrics["eval_final_score"] == pytest.approx(np.mean(parts))
    told = build_choosing(tmp_path, tokenizer, {"metrics": chosen}, greater_is_better=not is_greater_better, **choice)
    assert told.args.greater_is_better is not is_greater_better


def test_metrics_that_are_none_are_refused_before_training(tmp_path: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="task 'sts': metric 'spaerman' is unknown; did you mean 'spearman'"):
        build_choosing(tmp_path, tokenizer, {"metrics": ["spaerman"]})
    with pytest.raises(ValueError, match="'sts_mae' is not evaluated"):
        build_choosing(tmp_path, tokenizer, {}, load_best_model_at_end=True, metric_for_best_model="sts_mae")


def test_a_run_whose_tasks_do_not_count_has_no_final_score(tmp_path: Any, tokenizer: Any) -> None:
    tasks = {name: {**task, "counts": "none"} for name, task in TASKS.items()}
    args = MultiTaskTrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    trainer = MultiTaskTrainer(tiny_model(tasks), args, None, task_rows(6), processing_class=tokenizer)
    metrics = trainer.evaluate()
    assert "eval_final_score" not in metrics
    assert "eval_sst_accuracy" in metrics


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("sts_rmsee", "metric_for_best_model 'sts_rmsee' is not evaluated; did you mean 'sts_rmse'"),
        ("eval_sst_acuracy", "did you mean 'sst_accuracy'"),
        ("sst_pearson", "'sst_pearson' is not evaluated"),
        ("accuracy", "'accuracy' is not evaluated"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused_at_once(
    tmp_path: Any, tokenizer: Any, metric: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, tokenizer, load_best_model_at_end=True, metric_for_best_model=metric)


def test_a_task_without_labels_has_no_score_and_the_others_do(tmp_path: Any, tokenizer: Any) -> None:
    rows = task_rows(6)
    rows["quora"] = rows["quora"].remove_columns("label")
    trainer = build(tmp_path, tokenizer, rows=rows, load_best_model_at_end=True)
    trainer.train()
    metrics = trainer.evaluate()
    assert not any("quora" in key and not key.endswith(("runtime", "per_second")) for key in metrics)
    expected = np.mean([metrics["eval_sst_accuracy"], (metrics["eval_sts_pearson"] + 1) / 2])
    assert metrics["eval_final_score"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="'quora_accuracy' is not evaluated"):
        build(tmp_path, tokenizer, rows=rows, load_best_model_at_end=True, metric_for_best_model="quora_accuracy")


def test_without_metrics_there_are_losses_to_choose_by(tmp_path: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"'eval_final_score' is not evaluated; known: .*loss"):
        build(tmp_path, tokenizer, None, load_best_model_at_end=True)
    trainer = build(tmp_path, tokenizer, None, load_best_model_at_end=True, metric_for_best_model="sts_loss")
    trainer.train()
    assert "eval_final_score" not in trainer.evaluate()


def test_a_task_may_have_metrics_of_the_callers_own(tmp_path: Any, tokenizer: Any) -> None:
    def largest(evaluated: EvalPrediction) -> dict[str, float]:
        return {"largest": float(evaluated.predictions.max()), "rows": len(evaluated.label_ids)}

    trainer = build(tmp_path, tokenizer, {"sts": largest})
    metrics = trainer.evaluate()
    assert metrics["eval_sts_rows"] == 9
    assert metrics["eval_sts_largest"] == pytest.approx(trainer.predict(task_rows(6)).predictions["sts"].max())
    assert metrics["eval_final_score"] == pytest.approx(
        (metrics["eval_sst_accuracy"] + metrics["eval_quora_accuracy"]) / 2
    )
    with pytest.raises(ValueError, match="compute_metrics: task 'stss' is unknown; did you mean 'sts'"):
        build(tmp_path, tokenizer, {"stss": largest})


def test_they_get_the_losses_if_those_are_asked_for(tmp_path: Any, tokenizer: Any) -> None:
    def mean_loss(evaluated: EvalPrediction) -> dict[str, float]:
        assert len(evaluated.losses) == len(evaluated.label_ids)
        return {"mean_loss": float(evaluated.losses.mean())}

    metrics = build(tmp_path, tokenizer, {"sts": mean_loss}, include_for_metrics=["loss"]).evaluate()
    assert metrics["eval_sts_mean_loss"] == pytest.approx(metrics["eval_sts_loss"])


def test_a_dataset_of_no_task_is_refused_by_the_name_of_its_argument(tmp_path: Any, tokenizer: Any) -> None:
    trainer, rows = build(tmp_path, tokenizer), task_rows(6)["sst"]
    with pytest.raises(ValueError, match=r"^eval_dataset must be a dictionary .*, not Dataset\."):
        trainer.evaluate(rows)
    with pytest.raises(ValueError, match=r"^test_dataset must be a dictionary .*, not Dataset\."):
        trainer.predict(rows)


def test_a_task_that_is_not_there_cannot_be_evaluated(tmp_path: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="task 'ssst' is unknown; did you mean 'sst'"):
        build(tmp_path, tokenizer).evaluate("ssst")


@pytest.mark.parametrize(
    ("compute_metrics", "arguments"),
    [(None, {}), (lambda _: {"mine": 1.0}, {}), ("ours", {"prediction_loss_only": True})],
)
def test_a_run_that_picks_no_best_needs_no_metric(
    tmp_path: Any, tokenizer: Any, compute_metrics: Any, arguments: dict[str, Any]
) -> None:
    trainer = build(tmp_path, tokenizer, compute_metrics, **arguments)
    trainer.train()
    assert trainer.state.best_metric is None
    if arguments:
        with pytest.raises(ValueError, match="'eval_final_score' is not evaluated"):
            build(tmp_path, tokenizer, load_best_model_at_end=True, **arguments)


@pytest.mark.parametrize("arguments", [{}, {"save_strategy": "best"}, {"load_best_model_at_end": True}])
def test_a_misspelt_metric_is_refused_whatever_it_is_for(tmp_path: Any, tokenizer: Any, arguments: Any) -> None:
    for own in ("ours", {"sst": lambda _: {"f1": 1.0}}):
        with pytest.raises(ValueError, match="'sts_rmsee' is not evaluated; did you mean 'sts_rmse'"):
            build(tmp_path, tokenizer, own, metric_for_best_model="sts_rmsee", **arguments)


def test_a_metric_that_only_the_evaluation_can_tell_is_refused_there(tmp_path: Any, tokenizer: Any) -> None:
    own = {"sts": lambda _: {"mine": 1.0}}
    trainer = build(tmp_path, tokenizer, own, load_best_model_at_end=True, metric_for_best_model="sts_mien")
    with pytest.raises(RunRefusedError, match="'sts_mien' is not evaluated; did you mean 'eval_sts_mine'"):
        trainer.train()


def test_of_a_metric_of_which_less_is_better_the_least_is_kept(tmp_path: Any, tokenizer: Any) -> None:
    values = iter([3.0, 1.0, 2.0])
    trainer = build(
        tmp_path,
        tokenizer,
        {"sts": lambda _: {"rmse": next(values)}},
        metric_for_best_model="sts_rmse",
        load_best_model_at_end=True,
    )
    trainer.args.max_steps = 3
    trainer.train()
    assert trainer.state.best_metric == 1.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")


@pytest.mark.parametrize(
    ("metric", "arguments", "warning"),
    [
        ("sts_mae", {}, "'sts_mae' is computed by a function of the caller's: the greatest value is taken to be"),
        ("eval_sts_rmse", {}, "the least value is taken to be the best, by the metric's name; say greater_is_better"),
        ("sts_mae", {"greater_is_better": False}, None),
        ("sts_mae", {"greater_is_better": True}, None),
        ("sts_mae", {"load_best_model_at_end": False}, None),
        ("sts_loss", {}, None),
        ("final_score", {}, None),
    ],
)
def test_the_guessed_direction_of_a_metric_of_the_callers_own_is_said_once(
    tmp_path: Any, tokenizer: Any, caplog: Any, metric: str, arguments: Any, warning: str | None
) -> None:
    arguments = {"load_best_model_at_end": True, "metric_for_best_model": metric, **arguments}
    trainer = build(tmp_path, tokenizer, {"sts": lambda _: {"mae": 1.0, "rmse": 1.0}}, **arguments)
    trainer.train()
    said = [message for message in caplog.messages if "taken to be the best" in message]
    assert len(said) == (warning is not None)
    assert warning is None or warning in said[0]


def test_a_prediction_needs_rows(tmp_path: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="test_dataset is missing: a dictionary with a dataset for each task"):
        build(tmp_path, tokenizer).predict(None)


def test_metrics_of_a_callers_own_are_a_mapping(tmp_path: Any, tokenizer: Any) -> None:
    trainer = build(tmp_path, tokenizer, compute_metrics={"sst": lambda evaluated: None})
    with pytest.raises(ValueError, match="compute_metrics: task 'sst': it must give a mapping of metrics, not None"):
        trainer.evaluate()


def test_a_score_that_is_undefined_says_why(tmp_path: Any, tokenizer: Any, caplog: Any) -> None:
    tasks: Any = {"sts": TASKS["sts"], "qa": {"type": "question_answering", "no_answer": True}}
    args = MultiTaskTrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    model = tiny_model(tasks)
    trainer = MultiTaskTrainer(model, args, processing_class=tokenizer)
    answered = Dataset.from_dict({"question": ["cat"] * 3, "context": ["a cat sat"] * 3, "label": ["cat sat"] * 3})
    trainer.evaluate({"qa": answered})
    assert "no_answer_accuracy is undefined: predictions or labels are constant, or no row is of those" in caplog.text
    model.heads["sts"].register_forward_hook(lambda module, given, output: output * float("nan"))
    trainer.evaluate({"sts": task_rows(6)["sts"]})
    assert "task 'sts': pearson is undefined: outputs are not all finite." in caplog.text
