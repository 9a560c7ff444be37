"""Choices through training: the methods, and what an evaluation gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from tests.conftest import TASKS, sentences, tiny_model

TABLE = {"swag": {"type": "multiple_choice"}, "sst": TASKS["sst"]}


def rows(count: int, seed: int = 0) -> dict[str, Dataset]:
    """Rows of two to four choices, beside those of a classification."""
    texts = sentences(count, seed)
    words = ["cat", "dog", "hill", "mat"]
    return {
        "swag": Dataset.from_dict(
            {
                "sentence": texts,
                "choices": [[f"{word} {text}" for word in words[: 2 + i % 3]] for i, text in enumerate(texts)],
                "label": [i % 2 for i in range(count)],
            }
        ),
        "sst": Dataset.from_dict({"sentence": texts, "label": [i % 5 for i in range(count)]}),
    }


def trainer_of(model: Any, tokenizer: Any, folder: Path, **args: Any) -> MultiTaskTrainer:
    options: dict[str, Any] = {"per_device_train_batch_size": 4, "max_steps": 4, "use_cpu": True, "report_to": []}
    arguments = MultiTaskTrainingArguments(
        str(folder), **{**options, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, **args}
    )
    return MultiTaskTrainer(
        model,
        arguments,
        train_dataset={name: rows(12)[name] for name in model.config.tasks},
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("encoding", ["cross", "bi"])
def test_an_evaluation_is_that_of_each_row_by_itself(tokenizer: Any, tmp_path: Path, encoding: str) -> None:
    model = tiny_model({"swag": {**TABLE["swag"], "pair_encoding": encoding}})
    task = model.config.tasks["swag"]
    given = {"swag": rows(9, 1)["swag"]}
    # Batches of other widths than each other's.
    trainer = trainer_of(model, tokenizer, tmp_path, per_device_eval_batch_size=2)
    metrics = trainer.evaluate(given)
    model.eval()
    losses, are_right = [], []
    for row in given["swag"]:
        tokens = task.tokenize(tokenizer, {"sentence": [row["sentence"]], "choices": [row["choices"]]}, 64)
        item = {"task": "swag", "row": 1, **{key: values[0] for key, values in tokens.items()}}
        (logits,) = model(**trainer.data_collator([item])).logits["swag"]
        assert logits.shape == (len(row["choices"]),)
        losses.append(F.cross_entropy(logits, torch.tensor(row["label"])).item())
        are_right.append(int(logits.argmax()) == row["label"])
    assert metrics["eval_swag_loss"] == pytest.approx(sum(losses) / 9, rel=1e-4)
    assert metrics["eval_swag_accuracy"] == pytest.approx(sum(are_right) / 9)


@pytest.mark.parametrize(
    "method",
    [
        {"smart": {"weight": 1.0}},
        {"proximal": {"weight": 1.0}},
        {"surgery": "pcgrad"},
        {"packing": "off"},
    ],
    ids=lambda method: next(iter(method)),
)
def test_each_method_trains_it_beside_another_task(tokenizer: Any, tmp_path: Path, method: dict[str, Any]) -> None:
    trainer = trainer_of(tiny_model(TABLE), tokenizer, tmp_path, **method)
    trainer.train()
    losses = [entry["loss_swag"] for entry in trainer.state.log_history if "loss_swag" in entry]
    assert losses
    assert all(0 < loss < 10 for loss in losses)
    assert TaskConfig(**TABLE["swag"]) == trainer.model.config.tasks["swag"]
