"""A saved model on the data of a recipe."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import AutoModel, AutoTokenizer

from hf_multitask.evaluation.metrics import Metrics, predictions, trivial_score
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.recipe import Recipe, prepare_data
from hf_multitask.training.trainer import MultiTaskTrainer


@dataclass
class Scored:
    """What a model says of a split, and how good that is; each by task.

    Args:
        tasks: Those of the model's tasks that the recipe has data for.
        metrics: As an evaluation gives them, with the prefix `eval`.
        predicted, labels: Class ids or scores, [B], in the order of the rows.
        trivial: The metrics of a predictor that ignores the text.
    """

    tasks: dict[str, TaskConfig]
    metrics: Metrics
    predicted: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    trivial: dict[str, Metrics]


def score_model(recipe: Recipe, name_or_path: str, split: str) -> Scored:
    """Predicts a split of a recipe's data with a saved model.

    Args:
        recipe: Says where the data are, how long inputs may be, and on what to compute; the tasks are the model's.
        name_or_path: The model's folder or Hub id.
        split: `train`, `validation` or `test`.

    Raises:
        ValueError, OSError: The model or the data cannot be read.
    """
    model: Any = AutoModel.from_pretrained(name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    rows = prepare_data(recipe, model.config, tokenizer, list(dict.fromkeys(["train", split]))).rows
    trainer: Any = MultiTaskTrainer(model, recipe.training, eval_dataset=rows[split], processing_class=tokenizer)
    output = trainer.predict(rows[split], metric_key_prefix="eval")
    tasks = {name: model.config.tasks[name] for name in rows[split]}
    return Scored(
        tasks=tasks,
        metrics=output.metrics,
        predicted={name: predictions(task, output.predictions[name]) for name, task in tasks.items()},
        labels=output.label_ids,
        trivial={
            name: trivial_score(task, rows["train"][name]["label"], rows[split][name]["label"])
            for name, task in tasks.items()
        },
    )
