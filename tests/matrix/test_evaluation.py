"""What is said of each kind's rows, and how it is scored and reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.evaluation.uncertainty import Interval, all_intervals
from hf_multitask.hub.card import RunFacts
from hf_multitask.model.words import Words
from tests.matrix.kinds import EVALUATED, Kind, every_kind, every_kind_mixed, flat, keeps_outputs


def scores(kind: Kind) -> set[str]:
    """By what the tasks are scored, as `<task>_<metric>`."""
    return {f"{name}_{metric}" for name, task in kind.tasks.items() for metric in evaluation_of(task).chosen}


def intervals_of(kind: Kind) -> dict[str, Interval]:
    """Of few draws, which take no time."""
    rows = kind.scored.predictions
    predicted, truth = {name: rows[name].predicted for name in rows}, {name: rows[name].truth for name in rows}
    return all_intervals(kind.tasks, predicted, truth, resamples=20)


def counts(kind: Kind) -> bool:
    """Whether the final score has any of the tasks in it."""
    return any(evaluation_of(task).counting for task in kind.tasks.values())


@every_kind_mixed
def test_an_evaluation_has_every_metric_and_a_final_score(mixed: Kind) -> None:
    metrics = mixed.scored.metrics
    assert {f"eval_{score}" for score in scores(mixed)} <= set(metrics)
    for name, task in mixed.tasks.items():
        assert np.isfinite(metrics[f"eval_{name}_loss"])
        share = evaluation_of(task).share({key: metrics[f"eval_{name}_{key}"] for key in evaluation_of(task).chosen})
        assert share is None or 0 <= share <= 1
    assert not counts(mixed) or 0 <= metrics["eval_final_score"] <= 1


@every_kind
def test_rows_are_predicted_alike_in_batches_of_any_size(kind: Kind, tmp_path: Path) -> None:
    one_by_one: Any = kind.trainer(tmp_path, per_device_eval_batch_size=1).predict(kind.data.rows["validation"])
    for name, task in kind.tasks.items():
        rows = kind.scored.predictions[name]
        assert len(rows.outputs) == len(rows.labels) == EVALUATED
        for metric in evaluation_of(task).chosen:
            expected = kind.scored.metrics[f"eval_{name}_{metric}"]
            assert one_by_one.metrics[f"test_{name}_{metric}"] == pytest.approx(expected, abs=1e-4, nan_ok=True)
        if keeps_outputs(task):
            each = [
                task.each_output(torch.from_numpy(outputs)) for outputs in (one_by_one.predictions[name], rows.outputs)
            ]
            torch.testing.assert_close(*each, rtol=1e-4, atol=1e-4)


@every_kind
def test_a_predictor_that_ignores_the_text_has_every_metric_too(kind: Kind) -> None:
    for name, task in kind.tasks.items():
        # A kind may have no such predictor.
        trivial = kind.scored.trivial.get(name)
        assert trivial is None or list(trivial) == list(evaluation_of(task).chosen)


@every_kind_mixed
def test_every_score_has_an_interval(mixed: Kind) -> None:
    intervals = intervals_of(mixed)
    assert set(intervals) - {"final_score"} == scores(mixed)
    for score, interval in intervals.items():
        assert interval.value == pytest.approx(mixed.scored.metrics[f"eval_{score}"], nan_ok=True)
        assert not interval.low > interval.high


@every_kind
def test_the_worst_rows_and_their_errors_are_shown(kind: Kind) -> None:
    for name in kind.tasks:
        rows = kind.scored.predictions[name]
        evaluation, errors = rows.evaluation, rows.evaluation.errors(rows)
        assert errors.shape == (EVALUATED,)
        worst = rows.worst(3)
        assert [errors[row] for row in worst] == sorted(errors[errors > 0], reverse=True)[:3]
        for row in range(EVALUATED):
            cells = evaluation.error_cells(rows, row)
            assert len(cells) == len(evaluation.error_columns)
            assert all(isinstance(cell, str) for cell in [*cells, *evaluation.text_cells(rows, row)])
        assert isinstance(evaluation.symptom(rows), str)


@every_kind
def test_a_report_and_a_card_say_all_scores(kind: Kind, tmp_path: Path) -> None:
    trainer = kind.trainer(tmp_path)
    trainer.state.log_history.append(kind.scored.metrics)
    report = kind.scored.report("A title", intervals_of(kind), examples=2)
    trainer.run_facts = RunFacts(trivial=kind.scored.trivial, report=report, reports=kind.data.reports)
    trainer.create_model_card()
    pages = [report.to_markdown(), (tmp_path / "README.md").read_text()]
    for name, task in kind.tasks.items():
        assert f"## Task {name}\n" in pages[0]
        for metric in evaluation_of(task).chosen:
            assert all(f"| {name} | {metric} |" in page for page in pages)
    # Its figures are drawn for it.
    assert report.to_html().count("<h2>") == len(kind.tasks) + 1


# ---- The pipeline ----


def told(kind: Kind, name: str) -> list[dict[str, Any]]:
    """The texts of the evaluated rows as the pipeline reads them."""
    forms = kind.tasks[name].text_columns
    return [
        {key: Words.of_list(text) if forms[key] == "words" else text for key, text in row.items()}
        for row in kind.texts(name)
    ]


def tokenized(kind: Kind, name: str) -> list[dict[str, Any]]:
    return kind.data.rows["validation"][name].to_list()


@every_kind
def test_the_pipeline_says_what_the_evaluation_does_under_the_keys_of_its_kind(kind: Kind) -> None:
    pipe = pipeline("multi-task", model=kind.model(), tokenizer=kind.tokenizer)
    for name, task in kind.tasks.items():
        inputs = kind.inputs(name)
        answers = pipe(inputs, task=name)
        assert len(answers) == EVALUATED
        assert flat(pipe(inputs, task=name, batch_size=1)) == flat(answers)
        for answer in answers:
            # Several answers have one name, by which files hold them.
            assert set(answer) == set(task.PREDICTION_KEYS) if isinstance(answer, dict) else len(task.PREDICTION_KEYS)
        if keeps_outputs(task):
            rows = [{**texts, **tokens} for texts, tokens in zip(told(kind, name), tokenized(kind, name), strict=True)]
            outputs = torch.from_numpy(kind.scored.predictions[name].outputs)
            assert flat(task.predictions_for(rows, outputs)) == flat(answers)
