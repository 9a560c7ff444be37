"""Masked tokens through training: the methods, against naive references, and what an evaluation gives."""

import copy
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor

from hf_multitask import MultiTaskBertModel, MultiTaskCollator, MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.batch import rows_of_tokens
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.masked_language_modeling import MaskedLanguageModeling
from hf_multitask.training.compatibility import check_model
from hf_multitask.training.perturbation import random_state
from hf_multitask.training.proximal import ProximalArguments, ProximalPoint
from hf_multitask.training.smart import Smart, SmartArguments, SmartOutput
from tests.conftest import TASKS, sentences, tiny_model, without_dropout
from tests.training.conftest import Gradients
from tests.training.test_processes import launch

TABLE = {"mlm": {"type": "masked_language_modeling"}, "sst": TASKS["sst"]}
CONFIGS = {name: TaskConfig.from_dict(task) for name, task in TABLE.items()}
every_layout = pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])


def rows(count: int, seed: int = 0) -> dict[str, Dataset]:
    texts = sentences(count, seed)
    return {
        "mlm": Dataset.from_dict({"sentence": texts}),
        "sst": Dataset.from_dict({"sentence": texts, "label": [i % 5 for i in range(count)]}),
    }


def phrases(count: int, seed: int = 0) -> dict[str, Dataset]:
    """Texts of which every word follows from the one before."""
    return {
        "mlm": Dataset.from_dict({"sentence": ["the big cat sat on a mat and not very good"] * count}),
        "sst": rows(count, seed)["sst"],
    }


@pytest.fixture
def make_batch(tokenizer: Any):
    """Four rows of each task."""

    def make(packing: bool = True) -> dict[str, Any]:
        tables = {name: tokenize(table, CONFIGS[name], tokenizer, 64) for name, table in rows(4, seed=3).items()}
        return MultiTaskCollator(tokenizer, CONFIGS, packing)(MultiTaskDataset(tables).__getitems__(range(8)))

    return make


def regularize(model: MultiTaskBertModel, batch: dict[str, Any], **args: Any) -> SmartOutput:
    smart = Smart(SmartArguments(**args), model)
    with smart.recording() as clean:
        outputs = model(**batch)
    return smart(batch, outputs.logits, clean)


def naive_row(model: MultiTaskBertModel, ids: Tensor, places: list[int], delta: Any) -> Tensor:
    """Logits of the masked tokens of one row that has no padding, in double precision."""
    words: Any = model.get_input_embeddings()
    states = model(inputs_embeds=words(ids).unsqueeze(0) + delta).last_hidden_state[0]
    head: Any = model.heads["mlm"]
    return head.norm(torch.nn.functional.gelu(head.dense(states[places]))) @ words.weight.T


def naive_divergence(z: Tensor, w: Tensor) -> Tensor:
    p, q = z.log_softmax(-1), w.log_softmax(-1)
    return ((p.exp() * (p - q)).sum(-1) + (q.exp() * (q - p)).sum(-1)).mean()


def masked_rows(batch: dict[str, Any]) -> list[tuple[Tensor, list[int]]]:
    """The ids of each row of `mlm`, and the places that are masked."""
    owners, _ = rows_of_tokens(batch, CONFIGS)
    places = batch["head_inputs"]["mlm"]["masked"].tolist()
    return [(batch["input_ids"][owners == row], [p for p in each if p >= 0]) for row, each in enumerate(places)]


# ---- SMART and the proximal point ----


@every_layout
def test_smart_is_that_of_a_naive_reference(make_batch, packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ascent on each row by itself, on its words as they are read; those that are said are left as they are."""
    args = {"projection": "ball", "norm": "inf", "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}
    start = torch.linspace(-1, 2, 16)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: start.expand(shape))
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch(packing)
    found = regularize(model, batch, tasks={"mlm": 1.0}, **args).values["mlm"]
    torch.testing.assert_close(regularize(model, batch, **args).values["mlm"], found)

    reference, values = copy.deepcopy(model).double().eval(), []
    for ids, places in masked_rows(batch):
        clean = naive_row(reference, ids, places, 0.0).detach()
        delta = (0.1 * start.double()).expand(len(ids), 16).clone().requires_grad_()
        (g,) = torch.autograd.grad(naive_divergence(naive_row(reference, ids, places, delta), clean), delta)
        delta = (delta + 0.3 * g / g.abs().max()).clamp(-0.2, 0.2).detach()
        values.append(naive_divergence(naive_row(reference, ids, places, delta), clean))
    torch.testing.assert_close(found.double(), torch.stack(values).mean(), rtol=2e-3, atol=1e-6)


@every_layout
@pytest.mark.parametrize("dropout", ["shared", "independent"])
def test_smart_on_a_fraction_of_the_rows(make_batch, packing: bool, dropout: str) -> None:
    model, batch = tiny_model(TABLE).train(), make_batch(packing)
    common = {"fraction": 0.5, "dropout": dropout}
    still = regularize(model, batch, projection="normalized", sigma=0, eta=0, **common)
    assert all((value == 0) == (dropout == "shared") for value in still.values.values())
    moved = regularize(model, batch, epsilon=0.5, sigma=0.1, eta=0.5, **common)
    assert all(value > 0 for value in moved.values.values())


@every_layout
def test_the_proximal_term_is_the_mean_over_rows_of_their_masked_tokens_divergence(make_batch, packing: bool) -> None:
    """Each model says words by its own embeddings."""
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch(packing)
    proximal = ProximalPoint(ProximalArguments(), model)
    proximal.start()
    assert float(proximal(batch, model(**batch).logits, random_state(torch.device("cpu")))["mlm"]) == 0
    before = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    found = proximal(batch, model(**batch).logits, random_state(torch.device("cpu")))["mlm"]
    after = copy.deepcopy(model).double().eval()
    values = [
        naive_divergence(*(naive_row(each, ids, places, 0.0) for each in (after, before)))
        for ids, places in masked_rows(batch)
    ]
    torch.testing.assert_close(found.double(), torch.stack(values).mean(), rtol=2e-3, atol=1e-6)


# ---- Runs ----


def trainer_of(tokenizer: Any, folder: Path, model: Any = None, data: Any = rows, **args: Any) -> MultiTaskTrainer:
    settings = {"max_steps": 60, "learning_rate": 5e-3, "logging_steps": 10, "per_device_eval_batch_size": 4}
    settings |= {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    return MultiTaskTrainer(
        model or tiny_model(TABLE),
        MultiTaskTrainingArguments(str(folder), **{**settings, **args}),
        data(24, seed=1),
        data(9, seed=2),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize(
    "args",
    [
        {"smart": {"weight": 0.1}, "proximal": {"weight": 0.1}, "schedule": "proportional"},
        {"smart": {"weight": 0.1, "fraction": 0.5}, "packing": "off"},
        {"surgery": "pcgrad"},
        {"loss_weighting": "uncertainty"},
    ],
    ids=["smart and proximal", "a fraction, padded", "surgery", "weighting"],
)
def test_every_method_learns_what_is_masked(tokenizer: Any, tmp_path: Path, args: dict[str, Any]) -> None:
    trainer = trainer_of(tokenizer, tmp_path, without_dropout(tiny_model(TABLE)), data=phrases, **args)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_mlm_perplexity"] < before["eval_mlm_perplexity"] / 5
    assert after["eval_mlm_accuracy"] > 0.5
    assert after["eval_final_score"] == after["eval_sst_accuracy"], "what helps others does not count"


def test_an_evaluation_keeps_two_numbers_of_each_masked_token(tokenizer: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path)
    output: Any = trainer.predict(rows(9, seed=2))
    kept, labels = output.predictions["mlm"], output.label_ids["mlm"]
    assert kept.shape == (*labels.shape, 2)
    assert ((kept[..., 1] == -100) == (labels == -100)).all()
    are_there = labels != -100
    assert output.metrics["test_mlm_perplexity"] == pytest.approx(math.exp(kept[are_there][:, 0].mean()), rel=1e-5)
    again: Any = trainer.predict(rows(9, seed=2))
    assert np.array_equal(again.predictions["mlm"], kept)
    tokens = [tokenizer(text)["input_ids"] for text in rows(9, seed=2)["mlm"]["sentence"]]
    for ids, right in zip(tokens, labels, strict=True):
        assert set(right[right >= 0]) <= set(ids), "rows come out in their order"


def test_masks_differ_from_epoch_to_epoch(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    drawn = MaskedLanguageModeling.batch_rows

    def recorded(self: Any, given: Sequence[dict[str, Any]], tokenizer: Any) -> Any:
        output = drawn(self, given, tokenizer)
        seen.append(tuple((row["row"], tuple(row["masked"])) for row in output))
        return output

    monkeypatch.setattr(MaskedLanguageModeling, "batch_rows", recorded)
    trainer_of(tokenizer, tmp_path, max_steps=6, per_device_train_batch_size=8).train()
    first, second = ({row: places for batch in seen[i : i + 3] for row, places in batch} for i in (0, 3))
    assert first.keys() == second.keys()
    assert len(first) == 24
    assert first != second


def test_a_head_that_says_the_same_of_all_tokens_is_warned_of(tokenizer: Any, tmp_path: Path, caplog: Any) -> None:
    model = tiny_model(TABLE)
    torch.nn.init.zeros_(model.heads["mlm"].dense.weight)
    trainer = trainer_of(tokenizer, tmp_path, model, max_steps=4, logging_steps=4, learning_rate=0.0)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    (dead,) = [message for message in caplog.messages if "the head's output" in message]
    assert dead.startswith("step 4: task 'mlm': the head's output was the same for all of the last 32 rows")


def test_rows_that_made_a_loss_infinite_are_kept(tokenizer: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, max_steps=1, nonfinite_patience=3)
    trainer.model.heads["mlm"].dense.bias.data[0] = float("nan")
    trainer.train()
    kept = (tmp_path / "_nonfinite_losses.jsonl").read_text()
    assert '"task": "mlm"' in kept
    assert '"label": [' in kept


def test_a_resumed_run_is_the_whole_one_bit_for_bit(tokenizer: Any, tmp_path: Path) -> None:
    args = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "smart": {"weight": 0.1}}
    whole = trainer_of(tokenizer, tmp_path / "whole", **args)
    whole.train()
    resumed = trainer_of(tokenizer, tmp_path / "whole", **args)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize("args", [{"dataloader_num_workers": 2}, {"packing": "off"}], ids=["workers", "padded"])
def test_workers_and_layouts_draw_the_same_masks(tokenizer: Any, tmp_path: Path, args: dict[str, Any]) -> None:
    recorders = []
    for folder, settings in (("a", {}), ("b", args)):
        recorders.append(Gradients())
        trainer = trainer_of(tokenizer, tmp_path / folder, without_dropout(tiny_model(TABLE)), max_steps=2, **settings)
        trainer.add_callback(recorders[-1])
        trainer.train()
    for name, gradient in recorders[0].seen[0].items():
        torch.testing.assert_close(recorders[1].seen[0][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_rows_may_come_tokenized_or_as_a_stream_and_labels_of_other_tasks_are_not_read(
    tokenizer: Any, tmp_path: Path
) -> None:
    sst = rows(24, seed=1)["sst"]
    tokenized = Dataset.from_dict({"input_ids": tokenizer(sst["sentence"][:])["input_ids"], "label": ["x"] * 24})
    args = MultiTaskTrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True)
    for given, columns in ((sst, {}), (tokenized, {}), (sst.to_iterable_dataset(), {"mlm": {"rows": 24}})):
        model = tiny_model({"mlm": TABLE["mlm"]})
        trainer = MultiTaskTrainer(model, args, {"mlm": given}, processing_class=tokenizer, columns=columns)
        assert math.isfinite(trainer.train().training_loss)


def test_a_tokenizer_without_a_mask_token_is_refused_before_training(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="puts a mask token in the place of words, and the tokenizer has none"):
        trainer_of(tokenizer, tmp_path)


def test_zero_stage_3_is_refused() -> None:
    class Plugin:
        zero_stage = 3

    class Arguments:
        deepspeed_plugin = Plugin()

    with pytest.raises(ValueError, match="task 'mlm': a masked_language_modeling reads the word embeddings beside the"):
        check_model(tiny_model(TABLE), Arguments())  # type: ignore[arg-type]
    check_model(tiny_model(), Arguments())  # type: ignore[arg-type]
    Plugin.zero_stage = 2
    check_model(tiny_model(TABLE), Arguments())  # type: ignore[arg-type]


_WORKER = """
import sys
import torch
from transformers import PreTrainedTokenizerFast
from tests.conftest import tiny_model, without_dropout
from tests.training.conftest import Gradients
from tests.training.test_masked_language_modeling import RUN, TABLE, mask_row_by_row, rows, trainer_of

folder = sys.argv[1]
mask_row_by_row()
recorder = Gradients()
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder + "/tokenizer")
trainer = trainer_of(tokenizer, folder, without_dropout(tiny_model(TABLE)), **RUN, per_device_train_batch_size=4)
trainer.add_callback(recorder)
trainer.train()
metrics, output = trainer.evaluate(), trainer.predict(rows(9, seed=2))
losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
if trainer.is_world_process_zero():
    found = {"gradients": recorder.seen, "metrics": metrics, "losses": losses, "outputs": output.predictions["mlm"]}
    torch.save({**found, "labels": output.label_ids["mlm"]}, folder + "/result.pt")
trainer.end()
"""
RUN = {"max_steps": 3, "max_grad_norm": 0.0, "logging_steps": 1, "learning_rate": 1e-3}


def mask_row_by_row(setattr_: Any = setattr) -> None:
    """Draws each row's masks by the row alone: those of a batch are others where it is divided among processes."""
    drawn = MaskedLanguageModeling.batch_rows
    setattr_(
        MaskedLanguageModeling,
        "batch_rows",
        lambda self, given, tokenizer: [masked for row in given for masked in drawn(self, [row], tokenizer)],
    )


def test_two_processes_train_and_predict_as_one_does_with_the_same_masks(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows have other numbers of masked tokens, and what is kept is gathered from batches of any width."""
    tokenizer.save_pretrained(tmp_path / "two" / "tokenizer")
    process = launch(tmp_path / "two", _WORKER)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    two = torch.load(tmp_path / "two" / "result.pt", weights_only=False)
    mask_row_by_row(monkeypatch.setattr)
    one = trainer_of(
        tokenizer, tmp_path / "one", without_dropout(tiny_model(TABLE)), **RUN, per_device_train_batch_size=8
    )
    recorder = Gradients()
    one.add_callback(recorder)
    one.train()
    for mine, theirs in zip(recorder.seen, two["gradients"], strict=True):
        for name, gradient in mine.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert two["losses"] == pytest.approx([log["loss"] for log in one.state.log_history if "loss" in log], rel=1e-4)
    metrics, output = one.evaluate(), one.predict(rows(9, seed=2))
    for name in ("eval_mlm_perplexity", "eval_mlm_accuracy"):
        assert two["metrics"][name] == pytest.approx(metrics[name], rel=1e-4), name
    labels: Any = output.label_ids
    assert np.array_equal(two["labels"], labels["mlm"])
    np.testing.assert_allclose(two["outputs"], output.predictions["mlm"], rtol=1e-3, atol=1e-4)
