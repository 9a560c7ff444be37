"""Batches of random rows, for tests of the model."""

from typing import Any

import torch

from hf_multitask import MultiTaskBertModel
from tests.conftest import TASKS

KINDS = ["bert", "roberta", "distilbert", "modernbert"]
ALL_TASKS = {
    **TASKS,
    "nli": {"type": "pair_classification", "num_labels": 3, "pair_encoding": "cross", "pooling": "cls"},
    "close": {"type": "pair_regression", "pair_encoding": "cross", "pooling": "max"},
    "paper_sts": {"type": "pair_regression", "projection": "separate"},
}


def batch(tasks: dict[str, int], model: MultiTaskBertModel, length: int = 7) -> dict[str, Any]:
    """Random padded sequences and labels for some rows of each task."""
    total = sum(rows * model.config.tasks[name].sequences_per_row for name, rows in tasks.items())
    lengths = torch.randint(2, length + 1, (total, 1))
    mask = (torch.arange(length) < lengths).long()
    labels = {}
    for name, rows in tasks.items():
        task = model.config.tasks[name]
        labels[name] = 5 * torch.rand(rows) if not task.label_names else torch.randint(task.num_labels, (rows,))
    return {
        "input_ids": torch.randint(5, 40, (total, length)) * mask,
        "attention_mask": mask,
        "tasks": tasks,
        "labels": labels,
    }


class OneTask(torch.nn.Module):
    """What an exporter is given: the logits of a task."""

    def __init__(self, model: MultiTaskBertModel, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, attention_mask, task=self.task).logits
