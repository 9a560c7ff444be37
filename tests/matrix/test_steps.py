"""One step of each kind: what must change nothing of it, and what must be exactly nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_multitask import MultiTaskBertModel
from hf_multitask.data.batch import select_rows
from tests.conftest import CHECKPOINTING
from tests.matrix.kinds import BATCH, Kind, as_id, every_kind, every_kind_mixed
from tests.training.conftest import Gradients


def passed(model: MultiTaskBertModel, batch: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """What a model gives for a batch, and the gradients of its loss."""
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **{"rtol": 1e-3, "atol": 1e-5, **tolerance}, msg=name)


def first_update(kind: Kind, folder: Path, **args: Any) -> dict[str, Tensor]:
    """The gradients of the first update of a training without dropout."""
    recorder = Gradients()
    settings = {"max_steps": 1, "max_grad_norm": 0.0, **args}
    kind.trainer(folder, kind.model(dropout=False), [recorder], **settings).train()
    return recorder.seen[0]


def assert_packed_is_padded(kind: Kind, folder: Path) -> None:
    model = kind.model(dropout=False).train()
    packed, packed_gradients = passed(model, kind.batch(folder, "on"))
    padded, padded_gradients = passed(model, kind.batch(folder, "off"))
    torch.testing.assert_close(packed.loss, padded.loss, rtol=1e-5, atol=1e-5)
    for name, task in kind.tasks.items():
        each = [task.each_output(output.logits[name]) for output in (packed, padded)]
        torch.testing.assert_close(*each, rtol=1e-4, atol=1e-4)
    assert_close(packed_gradients, padded_gradients)


@every_kind_mixed
def test_packed_is_padded(mixed: Kind, tmp_path: Path) -> None:
    assert_packed_is_padded(mixed, tmp_path)


@every_kind
def test_it_is_with_every_choice_that_a_task_has(kind: Kind, tmp_path: Path) -> None:
    for variant in kind.variants():
        assert_packed_is_padded(variant, tmp_path)


@pytest.mark.parametrize("packing", ["on", "off"])
@every_kind_mixed
def test_a_part_of_a_batch_has_its_rows_outputs(mixed: Kind, packing: Any, tmp_path: Path) -> None:
    model, batch, rows = mixed.model(), mixed.batch(tmp_path, packing), torch.tensor([1, 3])
    part = select_rows(batch, dict.fromkeys(mixed.tasks, rows), mixed.tasks)
    whole, found = model(**batch), model(**part)
    for name, task in mixed.tasks.items():
        assert torch.equal(part["labels"][name], batch["labels"][name][rows])
        each = [task.each_output(logits) for logits in (found.logits[name], whole.logits[name][rows])]
        torch.testing.assert_close(*each, rtol=1e-4, atol=1e-4)


@every_kind
def test_a_divergence_is_one_of_each_row_and_nothing_of_equal_outputs(kind: Kind, tmp_path: Path) -> None:
    batch, model = kind.batch(tmp_path), kind.model()
    clean, noisy = model(**batch).logits, model.train()(**batch).logits
    for name in kind.diverging:
        task, outputs = kind.tasks[name], clean[name].detach().requires_grad_()
        some = task.divergences(outputs, noisy[name])
        assert (some >= 0).all()
        assert some.any()
        none = task.divergences(outputs, clean[name].detach().clone())
        none.sum().backward()
        assert none.tolist() == [0.0] * BATCH
        assert outputs.grad is not None
        assert not outputs.grad.any()


@every_kind
def test_layers_that_are_computed_again_change_nothing(kind: Kind, tmp_path: Path) -> None:
    again = first_update(kind, tmp_path, **{CHECKPOINTING: True})
    assert_close(again, first_update(kind, tmp_path), rtol=1e-5)


@every_kind
def test_two_small_batches_are_one_large_one(kind: Kind, tmp_path: Path) -> None:
    halves = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    small, large = first_update(kind, tmp_path, **halves), first_update(kind, tmp_path)
    assert list(small) == list(large)
    assert all(gradient.isfinite().all() for gradient in small.values())
    # A mean over the rows' labels is not that of two such means, and rows may learn from the others of their batch.
    if kind.counts_rows(tmp_path) and not any(task.COUPLES_ROWS for task in kind.tasks.values()):
        assert_close(small, large)


@every_kind
def test_a_frozen_backbone_leaves_the_heads_to_learn(kind: Kind, tmp_path: Path) -> None:
    model, before = kind.model(), kind.model().state_dict()
    model.freeze_backbone()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        with pytest.raises(ValueError, match="there is nothing to train"):
            kind.trainer(tmp_path, model).train()
        return
    kind.trainer(tmp_path, model).train()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"heads"}


@pytest.mark.parametrize("settings", [{"packing": "on"}, {"packing": "off"}], ids=as_id)
@every_kind
def test_half_precision_is_near_to_full(kind: Kind, settings: dict[str, Any], tmp_path: Path) -> None:
    losses = []
    for is_half in (True, False):
        trainer = kind.trainer(tmp_path, kind.model(dropout=False), bf16=is_half, max_steps=1, **settings)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
