"""A trainer on random rows, and a record of its gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_multitask import MultiTaskBertModel, MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model

TRAINING = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "disable_tqdm": True, "use_cpu": True}


@pytest.fixture
def make_trainer(tmp_path: Path, tokenizer: Any):
    """Builds a trainer on random rows; keyword arguments go to the training arguments."""

    def make(
        model: MultiTaskBertModel | None = None, rows: int = 20, callbacks: list | None = None, **args: Any
    ) -> MultiTaskTrainer:
        weighting = None if isinstance(args.get("loss_weighting"), str) else args.pop("loss_weighting", None)
        args = {"output_dir": str(tmp_path / "out"), **TRAINING, **args}
        return MultiTaskTrainer(
            model or tiny_model(),
            MultiTaskTrainingArguments(**args),
            train_dataset=task_rows(rows, seed=1),
            eval_dataset=task_rows(9, seed=2),
            processing_class=tokenizer,
            callbacks=callbacks,
            loss_weighting=weighting,
        )

    return make


class Gradients(TrainerCallback):
    """Keeps the gradients of every update, before clipping can matter."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def even_noise(shape: Any, **kwargs: Any) -> torch.Tensor:
    """In place of `torch.randn`: the same at every token, so that batches of different layouts compare."""
    return torch.linspace(-1, 2, shape[-1]).expand(shape)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn", even_noise)
