"""Each kind's tasks in a model and its config: they come and go, are saved and loaded, and a run of them goes on."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel, TaskConfig
from hf_multitask.training.surgery import surgery_names
from hf_multitask.training.weighting import weighting_names
from tests.matrix.kinds import NAMES, PERTURBED, Kind, another, every_kind, every_kind_mixed, flat, joined, kind_of


def assert_same_outputs(model: Any, expected: Any, batch: dict[str, Any]) -> None:
    """Two models give the same for a batch, to the last bit."""
    outputs, others = model(**batch), expected(**batch)
    for name, logits in others.logits.items():
        assert torch.equal(outputs.logits[name], logits), name
    assert torch.equal(outputs.loss, others.loss)


def assert_same_weights(model: MultiTaskBertModel, expected: MultiTaskBertModel) -> None:
    assert list(model.state_dict()) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@every_kind
def test_an_entry_of_the_table_is_read_as_it_was_written(kind: Kind) -> None:
    for task in kind.tasks.values():
        again = TaskConfig.from_dict(task.to_dict())
        assert again == task
        assert again.differences(task, free=()) == []


@every_kind
def test_a_saved_model_is_loaded_to_the_last_bit(kind: Kind, tmp_path: Path) -> None:
    model = kind.model()
    model.save_pretrained(tmp_path)
    loaded = MultiTaskBertModel.from_pretrained(tmp_path)
    assert_same_outputs(loaded, model, kind.batch(tmp_path))
    assert loaded.config.tasks == kind.tasks
    assert MultiTaskBertConfig.from_dict(model.config.to_dict()).to_dict() == model.config.to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_tasks_come_and_go_and_others_stay_as_they_are(name: str, tmp_path: Path) -> None:
    kind, other = kind_of(name), kind_of(another(name))
    model, plain, batch = other.model(), other.model(), other.batch(tmp_path)
    for task in kind.tasks:
        model.add_task(task, kind.tasks[task])
    assert_same_outputs(model, plain, batch)
    assert set(model(**kind.batch(tmp_path)).losses) == set(kind.tasks)
    for task in kind.tasks:
        model.drop_task(task)
    assert_same_outputs(model, plain, batch)
    assert_same_weights(model, plain)
    assert model.config.to_dict() == plain.config.to_dict()


_STRANGER = """
import ast, sys
sys.modules["hf_multitask"] = None
from transformers import pipeline
pipe = pipeline("multi-task", model=sys.argv[1], trust_remote_code=True)
print(repr({name: pipe(rows, task=name) for name, rows in ast.literal_eval(sys.argv[2]).items()}))
"""


def test_a_model_of_all_kinds_says_the_same_without_the_package(tmp_path: Path, run_python: Callable) -> None:
    everything = joined(*map(kind_of, NAMES))
    pipe = pipeline("multi-task", model=everything.model(), tokenizer=everything.tokenizer)
    inputs = {name: everything.inputs(name) for name in everything.tasks}
    pipe.save_pretrained(tmp_path / "saved")
    run = run_python(_STRANGER, tmp_path / "saved", repr(inputs))
    assert run.returncode == 0, run.stderr[-2000:]
    here = {name: pipe(rows, task=name) for name, rows in inputs.items()}
    assert flat(ast.literal_eval(run.stdout.splitlines()[-1])) == flat(here)


# ---- A run that goes on ----


def assert_goes_on(kind: Kind, folder: Path, **args: Any) -> None:
    """Two steps, and two more from the checkpoint that they left, are four steps to the last bit."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **args}
    whole = kind.trainer(folder / "whole", **settings)
    whole.train()
    resumed = kind.trainer(folder / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-2"))
    assert_same_weights(resumed.model, whole.model)


@every_kind_mixed
def test_a_resumed_run_is_the_whole_one(mixed: Kind, tmp_path: Path) -> None:
    proximal = {"weight": 0.3, "use_average": True}
    assert_goes_on(mixed, tmp_path, smart=PERTURBED, proximal=proximal, schedule="adaptive_sampling")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [{"surgery": name} for name in surgery_names()] + [{"loss_weighting": name} for name in weighting_names()],
    ids=lambda method: "-".join(method.values()),
)
@every_kind_mixed
def test_it_is_by_every_method(mixed: Kind, method: dict[str, str], tmp_path: Path) -> None:
    assert_goes_on(mixed, tmp_path, smart=PERTURBED, bf16=True, epoch_length="2", **method)
