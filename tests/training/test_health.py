"""Losses that are not finite, that jump, and heads that are dead."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import TrainerCallback

from hf_multitask.hub.manifest import newest_whole
from hf_multitask.training.health import NONFINITE_NAME, HealthWarnings, is_constant
from tests.conftest import task_rows, tiny_model, without_dropout
from tests.training.conftest import TRAINING

RUN = {"max_steps": 8, "logging_steps": 1, "save_strategy": "no"}


class Weights(TrainerCallback):
    """The weights after every update."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))


def poison(model: Any, task: str, passes: set[int], value: float = float("nan")) -> None:
    """Makes a task's output not finite for its second row, in those of its passes (from 0)."""
    head, count = model.heads[task], iter(range(1000))

    def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if module.training and next(count) in passes:
            wrong = torch.zeros_like(output)
            wrong[1] = value
            return output + wrong
        return output

    head.register_forward_hook(hook)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / NONFINITE_NAME).read_text().splitlines()]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_with_a_loss_that_is_not_finite_is_left_out_and_its_row_saved(
    make_trainer: Any, tmp_path: Path, caplog: Any, value: float
) -> None:
    model, weights = without_dropout(tiny_model()), Weights()
    poison(model, "sst", {3}, value)
    trainer = make_trainer(model, callbacks=[weights], **RUN)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert [bool(torch.equal(a, b)) for a, b in zip(weights.seen, weights.seen[1:], strict=False)] == [
        *[False, False, True],
        *[False] * 4,
    ]
    assert weights.seen[-1].isfinite().all()
    (record,) = records(tmp_path / "out")
    assert (record["step"], record["task"], record["process"]) == (4, "sst", 0)
    assert record["loss"] in ("nan", "inf")
    # The row's number leads to its text, and the record has that text too.
    (row,) = record["rows"]
    given = task_rows(20, seed=1)["sst"][row["row"] - 1]
    assert row["label"] == given["label"]
    assert row["text"] == f"[CLS] {given['sentence']} [SEP]"
    assert "step 4: the loss is of task 'sst' nan" in caplog.text or "of task 'sst' inf" in caplog.text


def test_no_outputs_are_kept_until_the_update(make_trainer: Any) -> None:
    trainer = make_trainer(max_steps=1)
    outputs = {"sst": torch.zeros(4, 7, 1000), "quora": torch.zeros(4), "sts": torch.zeros(4, 0, 5)}
    trainer._guard.add({}, {name: value.sum() for name, value in outputs.items()}, outputs)
    (held,) = trainer._guard._batches
    assert [value.shape for value in held[2].values()] == [(4,)] * 3


def test_patience_counts_updates_in_a_row(make_trainer: Any, tmp_path: Path) -> None:
    model = tiny_model()
    poison(model, "quora", {1, 2, 4, 5})
    make_trainer(model, **RUN, nonfinite_patience=2).train()
    assert [record["step"] for record in records(tmp_path / "out")] == [2, 3, 5, 6]

    model, weights = tiny_model(), Weights()
    poison(model, "quora", {1, 2, 3, 4})
    trainer = make_trainer(model, callbacks=[weights], **RUN, nonfinite_patience=2, output_dir=str(tmp_path / "end"))
    with pytest.raises(
        FloatingPointError, match=r"step 4: the loss is of task 'quora' nan; 3 updates in a row"
    ) as error:
        trainer.train()
    assert str(tmp_path / "end" / NONFINITE_NAME) in str(error.value)
    # It ends with the weights of the last update that could be made, in a whole checkpoint too.
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert newest_whole(tmp_path / "end").name == "checkpoint-3"


def test_a_gradient_that_is_not_finite_counts_too(make_trainer: Any, tmp_path: Path) -> None:
    model = tiny_model()
    model.heads["sts"].register_full_backward_pre_hook(lambda module, gradient: (gradient[0] * float("nan"),))
    with pytest.raises(FloatingPointError, match=r"step 1: the gradient's norm is nan, with finite losses \(of task"):
        make_trainer(model, **RUN, nonfinite_patience=0).train()
    # No loss tells which rows they were: all of the update are there.
    assert {record["task"]: len(record["rows"]) for record in records(tmp_path / "out")} == {
        name: 4 for name in ("sst", "quora", "sts")
    }


@pytest.mark.parametrize(
    "method",
    [
        {"gradient_accumulation_steps": 2, "max_steps": 4, "packing": "off"},
        {"surgery": "upgrad"},
        {"loss_weighting": "famo"},
        {"smart": {"weight": 0.5}, "proximal": {"weight": 0.5}},
    ],
    ids=["accumulation", "surgery", "weighting", "regularisers"],
)
def test_every_method_recovers_from_one_bad_update(make_trainer: Any, tmp_path: Path, method: dict[str, Any]) -> None:
    model = tiny_model()
    poison(model, "sst", {2})
    trainer = make_trainer(model, **{**RUN, **method})
    trainer.train()
    assert [record["task"] for record in records(tmp_path / "out")] == ["sst"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert trainer.state.log_history[-2]["loss_sts"] == trainer.state.log_history[-2]["loss_sts"]


def test_under_a_gradient_scaler_losses_count_and_the_norms_that_it_tries_do_not(
    make_trainer: Any, tmp_path: Path
) -> None:
    model, weights = tiny_model(), Weights()
    poison(model, "sst", {3})
    trainer = make_trainer(model, callbacks=[weights], **RUN, nonfinite_patience=0)
    # As fp16 on a GPU; this scale makes infinite gradients of finite losses until it was halved a few times.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with pytest.raises(FloatingPointError, match="step 4: the loss is of task 'sst' nan; 1 updates in a row"):
        trainer.train()
    assert [record["step"] for record in records(tmp_path / "out")] == [4]
    assert torch.equal(weights.seen[0], weights.seen[1])
    assert weights.seen[-1].isfinite().all()


def test_deepspeed_has_made_the_update_so_that_the_first_ends_the_run(make_trainer: Any, monkeypatch: Any) -> None:
    model = tiny_model()
    poison(model, "sst", {0})
    trainer = make_trainer(model)
    monkeypatch.setattr(trainer._guard, "_accelerator", _DeepSpeed(trainer.accelerator))
    with pytest.raises(
        FloatingPointError, match="step 1: the loss is of task 'sst' nan, and DeepSpeed has made the up"
    ):
        trainer.train()


class _DeepSpeed:
    """An accelerator that says it is of DeepSpeed."""

    distributed_type = DistributedType.DEEPSPEED

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)


def test_rows_of_the_data_are_in_no_file_that_is_pushed() -> None:
    # Trainer's push leaves such names out.
    assert NONFINITE_NAME.startswith("_")


def test_the_model_is_not_given_the_numbers_of_rows(make_trainer: Any) -> None:
    trainer, seen = make_trainer(), set()
    trainer.model.backbone.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    rows = {"sst": task_rows(9)["sst"].remove_columns("label")}
    assert len(trainer.predict(rows).predictions["sst"]) == 9
    assert "input_ids" in seen
    assert "rows" not in seen


def test_a_negative_patience_is_refused(make_trainer: Any) -> None:
    with pytest.raises(ValueError, match="nonfinite_patience must be at least 0, not -1"):
        make_trainer(nonfinite_patience=-1)


def log(watch: HealthWarnings, step: int, **losses: float) -> None:
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=step)
    watch.on_log(None, state, None, logs={"loss": 1.0, **losses})


def test_a_loss_that_jumps_is_warned_of_and_an_ordinary_one_is_not(caplog: Any) -> None:
    watch = HealthWarnings(tiny_model().config.tasks)
    for step, loss in enumerate([1.0, 0.8, 1.1, 0.9, 1.0, 1.2, float("nan"), 2.9]):
        log(watch, step, loss_sst=loss)
    assert "jumped" not in caplog.text
    log(watch, 9, loss_sst=3.5, loss_sts=0.1)
    assert "step 9: the loss of task 'sst' jumped to 3.5; the median of the last 7 logs is 1." in caplog.text
    assert "'sts'" not in caplog.text


def test_a_spread_of_losses_is_no_jump(caplog: Any) -> None:
    watch = HealthWarnings(tiny_model().config.tasks)
    # Median 0.5, median absolute deviation 0.4: six deviations above it are 0.5 + 6 * 1.4826 * 0.4 = 4.06.
    for step, loss in enumerate([0.1, 0.5, 0.9, 0.1, 0.9, 4.0]):
        log(watch, step, loss_sst=loss)
    assert "jumped" not in caplog.text


def test_a_dead_head_is_warned_of_once_in_training_and_in_evaluation(make_trainer: Any, caplog: Any) -> None:
    model = tiny_model()
    model.heads["sts"].register_forward_hook(lambda module, inputs, output: output * 0)
    trainer = make_trainer(model, **RUN)
    trainer.train()
    dead = [message for message in caplog.messages if "the head's output was the same" in message]
    # Four rows of a step are too few to tell.
    assert dead == [
        "step 2: task 'sts': the head's output was the same for all of the last 8 rows: it no longer learns."
    ]
    caplog.clear()
    trainer.evaluate()
    assert "task 'sts': the head's output is the same for all rows." in caplog.text
    assert "'sst'" not in caplog.text


def test_one_evaluated_row_is_no_dead_head(make_trainer: Any, caplog: Any) -> None:
    make_trainer().evaluate({"sst": Dataset.from_dict({"sentence": ["a film"], "label": [1]})})
    assert "the head's output" not in caplog.text


def test_constant_is_relative_to_the_size_of_the_outputs() -> None:
    assert is_constant(torch.tensor([1000.0, 2.0]), torch.tensor([1000.0005, 2.0]))
    assert not is_constant(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]))


def test_rows_in_a_batch_are_numbered_as_their_source_numbers_them(make_trainer: Any) -> None:
    rows = task_rows(20, seed=1)["sst"].add_column("row", list(range(101, 121)))
    trainer = make_trainer(**TRAINING)
    dataset = trainer._prepare_datasets("train_dataset", {"sst": rows}, "train")
    assert dataset[3]["row"] == 4
