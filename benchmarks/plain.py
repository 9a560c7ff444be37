"""A task as a user of transformers alone would train it: transformers' model with a head, and its plain `Trainer`.

Rows come from our loaders and are cut, ordered and scored as ours are, and the head has a learning rate of its own. All
else is transformers' default.
"""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_multitask.data.schedule import RowStream
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.model.task_config import TaskConfig

# What the loss leaves out.
_NO_LABEL = -100


def make_trainer(
    backbone: str,
    name: str,
    task: TaskConfig,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, Any],
    head_learning_rate: float,
    callbacks: list[TrainerCallback] | None = None,
) -> Trainer:
    """The trainer of a task.

    Args:
        backbone: Folder or Hub id of the encoder.
        name: The task's, by which our rows are shuffled.
        rows: Tokenized training rows of ours.
        settings: For `TrainingArguments`, with `max_steps`.
        head_learning_rate: Of the pooler too, where the model has one.
    """
    training = TrainingArguments(**settings, train_sampling_strategy="sequential")
    count = training.max_steps * training.per_device_train_batch_size
    ours = RowStream(len(rows), training.seed, name).take(0, count)
    collate = DataCollatorForTokenClassification if task.READS_TOKENS else DataCollatorWithPadding
    model = _model(backbone, task)
    trainer = Trainer(
        model,
        training,
        collate(tokenizer),
        _rows(rows.select(ours), task),
        callbacks=callbacks,
        optimizers=(_optimizer(model, training.learning_rate, head_learning_rate), None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def score(trainer: Trainer, task: TaskConfig, rows: Dataset) -> dict[str, float]:
    """The metrics of tokenized rows of ours, by our functions."""
    logits = trainer.predict(_rows(rows, task)).predictions
    labels = task.collate(rows["label"][:]).numpy()
    return evaluation_of(task).score(_predicted(task, np.asarray(logits), rows), labels)


def _model(backbone: str, task: TaskConfig) -> PreTrainedModel:
    if task.READS_TOKENS:
        return AutoModelForTokenClassification.from_pretrained(backbone, num_labels=len(task.label_names))
    # A kind goes by the same name there.
    return AutoModelForSequenceClassification.from_pretrained(
        backbone, num_labels=len(task.label_names) or 1, problem_type=task.type
    )


def _optimizer(model: PreTrainedModel, learning_rate: float, head_learning_rate: float) -> torch.optim.Optimizer:
    """Trainer's default, with two rates."""
    parts: tuple[list[Any], list[Any]] = [], []
    for name, parameter in model.named_parameters():
        parts[not name.startswith(model.base_model_prefix) or ".pooler." in name].append(parameter)
    rates = (learning_rate, head_learning_rate)
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True)]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


def _rows(rows: Dataset, task: TaskConfig) -> Dataset:
    """Rows of ours, with the label as transformers' models want it."""
    read = [column for column in ("input_ids", "token_type_ids") if column in rows.column_names]
    others = [column for column in rows.column_names if column not in read]
    return rows.map(lambda row: {"labels": _label(row, task)}, remove_columns=others)


def _label(row: dict[str, Any], task: TaskConfig) -> Any:
    if not task.READS_TOKENS:
        # A list of labels becomes zeros and ones.
        return task.collate([row["label"]])[0].tolist()
    labels = [_NO_LABEL] * len(row["input_ids"])
    for start, tag in zip(row["word_starts"], row["label"], strict=True):
        if start >= 0:
            labels[start] = tag
    return labels


def _predicted(task: Any, logits: np.ndarray, rows: Dataset) -> np.ndarray:
    """What the logits predict, to be compared with labels as our models' predictions are."""
    if task.READS_TOKENS:
        ids, starts = logits.argmax(-1), rows["word_starts"][:]
        # Words that were cut off are no entity, on both sides.
        tags = [
            [int(row[start]) if start >= 0 else task.outside for start in of_row]
            for row, of_row in zip(ids, starts, strict=True)
        ]
        return task.collate(tags).numpy()
    if getattr(task, "is_binary", False):
        # Ours has one logit for the two labels of a pair.
        logits = logits[:, 1] - logits[:, 0]
    return evaluation_of(task).predicted(logits.squeeze(-1) if logits.shape[-1] == 1 else logits)
