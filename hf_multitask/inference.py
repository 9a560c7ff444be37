"""Predictions and embeddings for texts, from a trained model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
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
from hf_multitask.model.packing import use_packing


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
    collator = MultiTaskCollator(tokenizer, task_configs=model.config.tasks, packing=use_packing(model, "auto"))
    dataset = MultiTaskDataset({task: tokens})
    order = dataset.by_length()
    batches = DataLoader(dataset, batch_size=batch_size, sampler=order, collate_fn=collator)
    model.eval()
    logits = torch.cat([model(**send_to_device(batch, model.device)).logits[task].float().cpu() for batch in batches])
    return _in_order(logits, order)


@torch.inference_mode()
def encode(
    model: MultiTaskBertModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int = 64,
    max_length: int | None = None,
) -> np.ndarray:
    """Embeddings of texts, pooled as the config says.

    Args:
        model: The model; it is put into evaluation mode.
        tokenizer: The model's.
        texts: Texts.
        batch_size: Texts at a time; texts of like length go together.
        max_length: In tokens; by default, the longest that the model takes.

    Returns:
        [number of texts, hidden size], float32, in the order of the texts.
    """
    if len(texts) == 0:
        return np.zeros((0, model.config.hidden_size), dtype=np.float32)
    max_length = max_length or longest_input(tokenizer, model.config.encoder_config)
    ids = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
    collator = MultiTaskCollator(tokenizer, packing=use_packing(model, "auto"))
    order = np.argsort([len(sequence) for sequence in ids], kind="stable").tolist()
    model.eval()
    parts = []
    for start in range(0, len(order), batch_size):
        inputs = collator.lay_out([{"input_ids": ids[i]} for i in order[start : start + batch_size]])
        parts.append(model(**send_to_device(inputs, model.device)).pooler_output.float().cpu())
    return _in_order(torch.cat(parts), order)


def _in_order(values: torch.Tensor, order: list[int]) -> np.ndarray:
    """Rows that were computed in `order`, put back into their own."""
    result = np.empty(values.shape, dtype=np.float32)
    result[order] = values.numpy()
    return result
