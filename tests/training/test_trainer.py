import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score
from transformers import AutoModel, EarlyStoppingCallback, TrainerCallback

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.training.callbacks import EmbeddingGradientKeeper
from tests.conftest import TASKS, task_rows, tiny_model, without_dropout
from tests.model.test_encoders import tiny, tiny_config
from tests.training.conftest import TRAINING, Gradients

SCHEDULES = [
    {"schedule": "round_robin"},
    {"schedule": "adaptive_round_robin"},
    {"schedule": "proportional"},
    {"schedule": "temperature", "sampling_alpha": 0.3, "mixing": "tasks"},
    {"schedule": "annealed"},
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["schedule"])


# ---- Training ----


def test_a_step_draws_a_batch_of_every_task_and_logs_each_tasks_loss(make_trainer) -> None:
    trainer = make_trainer(max_steps=2, logging_steps=1, head_learning_rate=5e-3, lr_scheduler_type="constant")
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["tasks"] == {"sst": 4, "quora": 4, "sts": 4}
    assert batch["packing"]["mask"].shape[0] == 4 + 8 + 8
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(log["loss_sst"] + log["loss_quora"] + log["loss_sts"], rel=1e-5)
    assert log["learning_rate"] == 1e-3
    assert log["head_learning_rate"] == 5e-3


def test_logged_task_losses_are_means_since_the_last_log(make_trainer) -> None:
    fine = make_trainer(without_dropout(tiny_model()), max_steps=4, logging_steps=1)
    fine.train()
    coarse = make_trainer(without_dropout(tiny_model()), max_steps=4, logging_steps=2)
    coarse.train()
    each = [log["loss_sts"] for log in fine.state.log_history if "loss_sts" in log]
    pairs = [log["loss_sts"] for log in coarse.state.log_history if "loss_sts" in log]
    assert pairs == pytest.approx([(each[0] + each[1]) / 2, (each[2] + each[3]) / 2], rel=1e-5)


@pytest.mark.parametrize("steps", [2, 4])
@every_schedule
def test_accumulation_gives_the_gradient_of_the_larger_batch(make_trainer, schedule: dict, steps: int) -> None:
    gradients = []
    for batch_size, accumulation in ((8, 1), (8 // steps, steps)):
        recorder = Gradients()
        make_trainer(
            without_dropout(tiny_model()),
            callbacks=[recorder],
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=4,
            epoch_length="2",
            max_grad_norm=0.0,
            **schedule,
        ).train()
        gradients.append(recorder.seen)
    for large, small in zip(*gradients, strict=True):
        assert large.keys() == small.keys()
        for name in large:
            torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-5, msg=name)


def test_every_row_has_the_same_weight_in_the_loss(make_trainer) -> None:
    trainer = make_trainer(tiny_model({**TASKS, "sts": {**TASKS["sts"], "weight": 2.0}}))  # batches of 4
    indices = [*range(6), 20, 21, 60]  # six rows of sst, two of quora, one of sts
    batch = trainer.data_collator(trainer.train_dataset.__getitems__(indices))
    assert batch["tasks"] == {"sst": 6, "quora": 2, "sts": 1}
    losses = without_dropout(trainer.model).train()(**batch).losses
    expected = (6 * losses["sst"] + 2 * losses["quora"] + 2.0 * losses["sts"]) / 4
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)


@pytest.mark.parametrize(("compiling", "kept"), [({}, True), ({"torch_compile_backend": "eager"}, False)])
def test_the_embeddings_gradient_is_kept_unless_the_model_is_compiled(
    make_trainer, compiling: dict, kept: bool
) -> None:
    trainer = make_trainer(max_steps=2, **compiling)
    assert math.isfinite(trainer.train().training_loss)
    callbacks = trainer.callback_handler.callbacks
    assert any(isinstance(callback, EmbeddingGradientKeeper) for callback in callbacks) == kept


def test_one_task_a_step_trains_its_head_alone(make_trainer) -> None:
    recorder = Gradients()
    make_trainer(callbacks=[recorder], max_steps=6, schedule="proportional", mixing="tasks").train()
    heads = [{name.split(".")[1] for name in gradients if name.startswith("heads")} for gradients in recorder.seen]
    assert all(len(trained) == 1 for trained in heads)
    assert len(set.union(*heads)) > 1


def test_heads_train_at_their_own_rate_and_a_frozen_backbone_stays(make_trainer) -> None:
    model = tiny_model()
    model.freeze_backbone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(model, max_steps=2, head_learning_rate=1e-2)
    trainer.train()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"heads"}
    assert {group["lr"] for group in trainer.optimizer.param_groups} <= {0.0, 1e-2 * 0.5, 1e-2}


@pytest.mark.parametrize(
    ("epoch_length", "accumulation", "steps"),
    # 20, 40 and 23 rows, 4 of each task to a batch
    [("largest", 1, 10), ("smallest", 1, 5), ("7", 1, 7), ("largest", 3, 4), ("smallest", 2, 3)],
)
def test_the_length_of_an_epoch_is_explicit(make_trainer, epoch_length: str, accumulation: int, steps: int) -> None:
    trainer = make_trainer(epoch_length=epoch_length, gradient_accumulation_steps=accumulation, num_train_epochs=2)
    result = trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == 2 * steps
    rows = 2 * steps * accumulation * 3 * 4
    assert result.metrics["train_samples_per_second"] * result.metrics["train_runtime"] == pytest.approx(rows, rel=0.05)


def test_the_same_seed_is_the_same_run_and_another_is_not(make_trainer) -> None:
    losses = [make_trainer(max_steps=3, seed=seed).train().training_loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 5, 8])
@every_schedule
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_trainer, tmp_path: Path, schedule: dict, stop: int
) -> None:
    settings = {"epoch_length": "5", "num_train_epochs": 2, "logging_steps": 1, "save_steps": stop, **schedule}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stop}"))
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_bf16_trains_through_real_autocast(make_trainer) -> None:
    trainer = make_trainer(max_steps=2, bf16=True)
    dtypes = set()
    trainer.model.backbone.encoder.layer[0].output.dense.register_forward_hook(lambda *call: dtypes.add(call[2].dtype))
    assert math.isfinite(trainer.train().training_loss)
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_change_nothing(make_trainer, workers: int) -> None:
    reference = make_trainer(max_steps=3).train()
    assert make_trainer(max_steps=3, dataloader_num_workers=workers).train().training_loss == reference.training_loss


@pytest.mark.parametrize("bf16", [False, True])
def test_packing_changes_nothing_but_the_work(make_trainer, bf16: bool) -> None:
    runs = []
    for packing in ("on", "off"):
        trainer = make_trainer(without_dropout(tiny_model()), packing=packing, max_steps=4, logging_steps=1, bf16=bf16)
        batch = next(iter(trainer.get_train_dataloader()))
        assert ("packing" in batch) == (packing == "on")
        trainer.train()
        metrics = trainer.evaluate()
        runs.append([*(log["loss"] for log in trainer.state.log_history if "loss" in log), metrics["eval_loss"]])
    assert runs[0] == pytest.approx(runs[1], rel=0.02 if bf16 else 1e-4)


def test_attention_that_cannot_read_packed_batches_gets_padded_ones(make_trainer) -> None:
    trainer = make_trainer(without_dropout(tiny_model()), max_steps=2)
    expected = trainer.evaluate()
    trainer.model.set_attn_implementation("eager")
    for key, value in trainer.evaluate().items():
        if not key.endswith(("runtime", "per_second")):
            assert value == pytest.approx(expected[key], rel=1e-4), key
    assert math.isfinite(trainer.train().training_loss)


def test_packing_that_is_on_is_refused_once_attention_cannot_read_it(make_trainer) -> None:
    trainer = make_trainer(packing="on", max_steps=1)
    trainer.model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="packing is on, but a bert backbone with eager attention cannot read"):
        trainer.train()


@pytest.mark.parametrize("kind", ["canine", "xlnet", "gpt2", "llama"])
def test_encoders_that_are_padded_train_and_are_evaluated(make_trainer, kind: str) -> None:
    trainer = make_trainer(tiny(tiny_config(kind)), max_steps=2)
    assert not trainer.data_collator.packing
    assert math.isfinite(trainer.train().training_loss)
    assert math.isfinite(trainer.evaluate()["eval_loss"])


# ---- Evaluation ----


def test_metrics_of_an_evaluation_equal_those_of_the_raw_logits(make_trainer) -> None:
    trainer = make_trainer(per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    logits: dict[str, list] = {}
    for name, rows in task_rows(9, seed=2).items():
        texts = [rows[column] for column in rows.column_names if column.startswith("sentence")]
        logits[name] = []
        for row in zip(*texts, strict=True):
            inputs = trainer.processing_class(list(row), padding=True, return_tensors="pt")
            logits[name].append(trainer.model(**inputs, task=name).logits[0].detach())
    labels = {name: rows["label"][:] for name, rows in task_rows(9, seed=2).items()}
    sst = accuracy_score(labels["sst"], [int(row.argmax()) for row in logits["sst"]])
    quora = accuracy_score(labels["quora"], [int(row > 0) for row in logits["quora"]])
    r = pearsonr(labels["sts"], [row.item() for row in logits["sts"]]).statistic
    assert metrics["eval_sst_accuracy"] == pytest.approx(sst)
    assert metrics["eval_quora_accuracy"] == pytest.approx(quora)
    assert metrics["eval_sts_pearson"] == pytest.approx(r, abs=1e-5)
    assert metrics["eval_final_score"] == pytest.approx((sst + quora + (r + 1) / 2) / 3, abs=1e-5)
    mse = np.mean([(row.item() - label) ** 2 for row, label in zip(logits["sts"], labels["sts"], strict=True)])
    assert metrics["eval_sts_loss"] == pytest.approx(mse, rel=1e-4)
    assert metrics["eval_loss"] == pytest.approx(sum(metrics[f"eval_{name}_loss"] for name in TASKS), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_row_is_counted_once_whatever_the_batch_size(make_trainer, batch_size: int) -> None:
    trainer = make_trainer(per_device_eval_batch_size=batch_size)
    output = trainer.predict(task_rows(9, seed=2))
    assert {name: len(array) for name, array in output.predictions.items()} == {"sst": 9, "quora": 18, "sts": 12}
    assert output.label_ids["sst"].tolist() == task_rows(9, seed=2)["sst"]["label"][:]
    metrics = trainer.evaluate()
    assert metrics["eval_samples_per_second"] * metrics["eval_runtime"] == pytest.approx(9 + 18 + 12, rel=0.05)


@pytest.mark.parametrize("packing", ["on", "off"])
def test_predictions_come_in_the_order_of_the_rows(make_trainer, packing: str) -> None:
    trainer = make_trainer(packing=packing, per_device_eval_batch_size=4)
    rows = task_rows(9, seed=2)["quora"]
    together = trainer.predict({"quora": rows}).predictions["quora"]
    alone = [trainer.predict({"quora": rows.select([i])}).predictions["quora"][0] for i in range(len(rows))]
    assert together == pytest.approx(np.array(alone), abs=1e-5)


def test_the_weight_of_a_task_is_in_the_sum_and_not_in_its_own_loss(make_trainer) -> None:
    plain = make_trainer().evaluate()
    heavy = make_trainer(tiny_model({**TASKS, "sst": {**TASKS["sst"], "weight": 3.0}})).evaluate()
    assert heavy["eval_sst_loss"] == plain["eval_sst_loss"]
    assert heavy["eval_loss"] == pytest.approx(plain["eval_loss"] + 2 * plain["eval_sst_loss"])


def test_callbacks_see_one_evaluation_with_all_tasks(make_trainer) -> None:
    seen = []

    class Recorder(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            seen.append(metrics)

    make_trainer(callbacks=[Recorder()], max_steps=4, eval_strategy="steps", eval_steps=2).train()
    assert len(seen) == 2
    for metrics in seen:
        assert {"eval_sst_accuracy", "eval_quora_accuracy", "eval_sts_pearson", "eval_final_score"} <= set(metrics)


def test_one_task_can_be_evaluated_by_name_or_by_its_own_rows(make_trainer) -> None:
    trainer = make_trainer()
    everything = trainer.evaluate()
    by_name = trainer.evaluate("quora")
    assert by_name["eval_quora_accuracy"] == by_name["eval_final_score"] == everything["eval_quora_accuracy"]
    assert "eval_sst_accuracy" not in by_name
    other = trainer.evaluate({"quora": task_rows(9, seed=2)["quora"]}, metric_key_prefix="test")
    assert other["test_quora_accuracy"] == everything["eval_quora_accuracy"]


def test_rows_without_labels_are_predicted(make_trainer) -> None:
    trainer = make_trainer()
    rows = task_rows(9, seed=2)
    output = trainer.predict({"sts": rows["sts"].remove_columns("label")})
    assert output.predictions["sts"].shape == (12,)
    assert output.label_ids == {}
    assert np.array_equal(output.predictions["sts"], trainer.predict(rows).predictions["sts"])


def test_the_best_checkpoint_is_the_one_with_the_best_final_score(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(
        max_steps=6,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
    )
    trainer.train()
    scores = {log["step"]: log["eval_final_score"] for log in trainer.state.log_history if "eval_final_score" in log}
    best = max(scores, key=lambda step: scores[step])
    assert trainer.state.best_global_step == best
    assert trainer.state.best_metric == scores[best]
    assert trainer.evaluate()["eval_final_score"] == scores[best]
    saved = AutoModel.from_pretrained(tmp_path / "out" / f"checkpoint-{best}")
    for name, value in saved.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


def test_early_stopping_counts_evaluations_of_all_tasks(make_trainer) -> None:
    trainer = make_trainer(
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        learning_rate=0.0,
        max_steps=20,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
    )
    trainer.train()
    # The first evaluation is the best; nothing changes, so the second and third exhaust the patience.
    assert trainer.state.global_step == 6


def test_an_undefined_correlation_is_said_and_is_neither_zero_nor_the_best(make_trainer, caplog: Any) -> None:
    trainer = make_trainer()
    constant = Dataset.from_dict(
        {"sentence1": ["a cat", "a dog"], "sentence2": ["the cat", "a film"], "label": [2.0, 2.0]}
    )
    metrics = trainer.evaluate({"sts": constant})
    assert math.isnan(metrics["eval_sts_pearson"])
    assert math.isnan(metrics["eval_final_score"])
    assert "task 'sts': pearson is undefined" in caplog.text
    assert not trainer._determine_best_metric(metrics, trial=None)


# ---- Saving ----


def test_what_was_trained_is_loaded_to_the_last_bit(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    trainer.save_model()
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    trainer.model.eval()
    for name, rows in task_rows(9, seed=2).items():
        texts = [text for column in rows.column_names if column.startswith("sentence") for text in rows[column][:]]
        inputs = trainer.processing_class(texts, padding=True, return_tensors="pt")
        assert torch.equal(loaded(**inputs, task=name).logits, trainer.model(**inputs, task=name).logits), name
    assert not list((tmp_path / "out").glob("pytorch_model*"))


# ---- Bad input ----


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "train_dataset must be a dictionary"),
        ({}, "train_dataset must be a dictionary"),
        ({"stss": task_rows(4)["sts"]}, "task 'stss' is unknown; did you mean 'sts'"),
        ({"sst": [1, 2]}, "task 'sst': train_dataset must be a datasets.Dataset, not list"),
        (
            {"sst": Dataset.from_dict({"text": ["a"], "label": [1]})},
            "task 'sst': train_dataset has no column 'sentence'",
        ),
        ({"sst": Dataset.from_dict({"sentence": ["a"]})}, "task 'sst': train_dataset has no column 'label'"),
        ({"sst": Dataset.from_dict({"sentence": ["a", "b"], "label": [1, 7]})}, "row 2: column 'label' is 7"),
        ({"sst": Dataset.from_dict({"sentence": ["a", " "], "label": [1, 1]})}, "row 2: column 'sentence' is blank"),
        ({"sst": Dataset.from_dict({"sentence": [], "label": []})}, "task 'sst': train_dataset has no rows"),
    ],
)
def test_bad_training_data_are_refused_before_training(tmp_path: Path, tokenizer: Any, data: Any, message: str) -> None:
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), **TRAINING)
    with pytest.raises(ValueError, match=message):
        MultiTaskTrainer(tiny_model(), args, train_dataset=data, processing_class=tokenizer)


def test_a_training_that_breaks_off_leaves_the_embeddings_as_they_were(make_trainer) -> None:
    class Interruption(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    trainer = make_trainer(max_steps=3, callbacks=[Interruption()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not trainer.model.get_input_embeddings().sparse
    assert not trainer.is_in_train


def test_fp16_on_a_cpu_is_refused_and_not_silently_fp32(make_trainer) -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        make_trainer(fp16=True)


def test_a_wrong_epoch_length_is_refused_before_training(make_trainer) -> None:
    with pytest.raises(ValueError, match="epoch_length 'longest' must be"):
        make_trainer(epoch_length="longest")


def test_tasks_without_rows_are_named(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), **TRAINING, max_steps=1)
    rows = {"sts": task_rows(8)["sts"]}
    trainer = MultiTaskTrainer(tiny_model(), args, train_dataset=rows, processing_class=tokenizer)
    assert "train_dataset has no rows for: sst, quora" in caplog.text
    assert math.isfinite(trainer.train().training_loss)


def test_logs_are_json(make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.save_state()
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["best_metric"] == trainer.state.best_metric
