"""Predictions for texts, from a trained model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from hf_multitask.data.collator import MultiTaskCollator
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.loading import check_rows, text_columns
from hf_multitask.data.tokenization import longest_input, tokenize
from hf_multitask.evaluation.metrics import predictions, probabilities
from hf_multitask.model.configuration_mtbert import nearest
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel


def predict(
    model: MultiTaskBertModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    batch_size: int = 64,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Predicts one task for texts, or for pairs of texts.

    Args:
        model: The model; it is put into evaluation mode.
        tokenizer: The model's.
        task: The task's name.
        texts: Texts, or pairs of texts for a pair task.
        batch_size: Rows at a time.
        max_length: In tokens; by default, the longest that the model takes.

    Returns:
        For each row, for a classification: `label` (name), `label_id`, and `score`, the label's probability; for a
        regression: `score`, within the task's range.

    Raises:
        ValueError: An unknown task, or a text that is missing or blank; the message gives its row, from 1.

    Example:
        >>> predict(model, tokenizer, "sst", ["A lovely film."])  # doctest: +SKIP
        [{'label': 'positive', 'label_id': 3, 'score': 0.71}]
    """
    logits = predict_logits(model, tokenizer, task, texts, batch_size, max_length)
    config = model.config.tasks[task]
    predicted = predictions(config, logits)
    if config.is_regression:
        return [{"score": float(score)} for score in predicted]
    chances = probabilities(config, logits)
    return [
        {"label": config.labels[label_id], "label_id": int(label_id), "score": float(chances[row, label_id])}
        for row, label_id in enumerate(predicted)
    ]


@torch.inference_mode()
def predict_logits(
    model: MultiTaskBertModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    batch_size: int = 64,
    max_length: int | None = None,
) -> np.ndarray:
    """The logits behind [`predict`], [B, C] or [B], float32, in the order of the texts."""
    if task not in model.config.tasks:
        raise ValueError(f"task {task!r} is unknown; {nearest(task, list(model.config.tasks))}")
    config = model.config.tasks[task]
    if len(texts) == 0:
        raise ValueError("there are no texts to predict for.")
    columns = text_columns(config)
    sides = zip(*texts, strict=True) if config.is_pair else [texts]
    table = {column: list(side) for column, side in zip(columns, sides, strict=True)}
    rows, bad = check_rows(Dataset.from_dict(table), config, {column: column for column in columns})
    if bad:
        raise ValueError(f"task {task!r}: {len(bad)} text(s) cannot be read, the first {bad[0]}")
    tokens = tokenize(rows, config, tokenizer, max_length or longest_input(tokenizer, model.config.encoder_config))
    collator = MultiTaskCollator(tokenizer, task_configs=model.config.tasks)
    model.eval()
    parts = []
    for batch in DataLoader(MultiTaskDataset({task: tokens}), batch_size=batch_size, collate_fn=collator):
        tensors = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
        parts.append(model(**tensors, tasks=batch["tasks"]).logits[task].float().cpu())
    return torch.cat(parts).numpy()
