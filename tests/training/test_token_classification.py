"""Tags of words through training: the methods, against naive references, and what an evaluation gives."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from seqeval.metrics import f1_score
from torch import Tensor

from hf_multitask import MultiTaskBertModel, MultiTaskCollator, MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.batch import rows_of_tokens
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.tokenization import tokenize
from hf_multitask.training.perturbation import random_state
from hf_multitask.training.proximal import ProximalArguments, ProximalPoint
from hf_multitask.training.smart import Smart, SmartArguments, SmartOutput
from tests.conftest import TASKS, sentences, tiny_model, without_dropout

LABELS = ["O", "B-animal", "I-animal", "B-place"]
TABLE = {"ner": {"type": "token_classification", "labels": LABELS}, "sst": TASKS["sst"]}
CONFIGS = {name: TaskConfig.from_dict(task) for name, task in TABLE.items()}
TAGS = {"cat": "B-animal", "dog": "B-animal", "big": "I-animal", "hill": "B-place", "mat": "B-place"}
every_layout = pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])


def rows(count: int, seed: int = 0) -> dict[str, Dataset]:
    texts = sentences(count, seed)
    words = [text.split() for text in texts]
    tags = [[TAGS.get(word, "O") for word in row] for row in words]
    return {
        "ner": Dataset.from_dict({"tokens": words, "label": tags}),
        "sst": Dataset.from_dict({"sentence": texts, "label": [i % 5 for i in range(count)]}),
    }


@pytest.fixture
def make_batch(tokenizer: Any):
    """Four rows of each task, cut to seven tokens, so that some words are cut off."""

    def make(packing: bool = True) -> dict[str, Any]:
        tables = {}
        for name, table in rows(4, seed=3).items():
            if name == "ner":
                table = table.map(lambda row: {"label": [LABELS.index(tag) for tag in row["label"]]})
            tables[name] = tokenize(table, CONFIGS[name], tokenizer, 7)
        return MultiTaskCollator(tokenizer, CONFIGS, packing)(MultiTaskDataset(tables).__getitems__(range(8)))

    return make


def regularize(model: MultiTaskBertModel, batch: dict[str, Any], **args: Any) -> SmartOutput:
    smart = Smart(SmartArguments(**args), model)
    with smart.recording() as clean:
        outputs = model(**batch)
    return smart(batch, outputs.logits, clean)


def naive_row(model: MultiTaskBertModel, ids: Tensor, starts: list[int], delta: Any) -> Tensor:
    """Logits of the words of one row that has no padding, in double precision."""
    embeddings = model.get_input_embeddings()(ids).unsqueeze(0) + delta
    states = model(inputs_embeds=embeddings).last_hidden_state[0]
    head: Any = model.heads["ner"]
    return head.out_proj(head.dense(states[starts]).clamp(min=0))


def naive_divergence(z: Tensor, w: Tensor) -> Tensor:
    p, q = z.log_softmax(-1), w.log_softmax(-1)
    return ((p.exp() * (p - q)).sum(-1) + (q.exp() * (q - p)).sum(-1)).mean()


# ---- SMART and the proximal point ----


@every_layout
def test_smart_is_that_of_a_naive_reference(make_batch, packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ascent on each row by itself: the start is the same for every token."""
    args = {"projection": "ball", "norm": "inf", "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}
    start = torch.linspace(-1, 2, 16)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: start.expand(shape))
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch(packing)
    starts = batch["head_inputs"]["ner"]["word_starts"]
    assert (batch["labels"]["ner"] >= 0).sum() > (starts >= 0).sum(), "some words are cut off"
    found = regularize(model, batch, tasks={"ner": 1.0}, **args).values["ner"]
    both = regularize(model, batch, **args).values["ner"]
    torch.testing.assert_close(both, found)

    reference = copy.deepcopy(model).double().eval()
    owners, _ = rows_of_tokens(batch, CONFIGS)
    values = []
    for row in range(4):
        ids, words = batch["input_ids"][owners == row], [place for place in starts[row].tolist() if place >= 0]
        clean = naive_row(reference, ids, words, 0.0).detach()
        delta = (0.1 * start.double()).expand(len(ids), 16).clone().requires_grad_()
        (g,) = torch.autograd.grad(naive_divergence(naive_row(reference, ids, words, delta), clean), delta)
        delta = (delta + 0.3 * g / g.abs().max()).clamp(-0.2, 0.2).detach()
        values.append(naive_divergence(naive_row(reference, ids, words, delta), clean))
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
def test_the_proximal_term_is_the_mean_over_rows_of_their_words_divergence(make_batch, packing: bool) -> None:
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch(packing)
    proximal = ProximalPoint(ProximalArguments(), model)
    proximal.start()
    assert float(proximal(batch, model(**batch).logits, random_state(torch.device("cpu")))["ner"]) == 0
    before = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    found = proximal(batch, model(**batch).logits, random_state(torch.device("cpu")))["ner"]
    after, (owners, _) = copy.deepcopy(model).double().eval(), rows_of_tokens(batch, CONFIGS)
    values = []
    for row, starts in enumerate(batch["head_inputs"]["ner"]["word_starts"].tolist()):
        ids, words = batch["input_ids"][owners == row], [place for place in starts if place >= 0]
        values.append(naive_divergence(*(naive_row(each, ids, words, 0.0) for each in (after, before))))
    torch.testing.assert_close(found.double(), torch.stack(values).mean(), rtol=2e-3, atol=1e-6)


# ---- Runs ----


def trainer_of(tokenizer: Any, folder: Path, model: Any = None, **args: Any) -> MultiTaskTrainer:
    settings = {"max_steps": 120, "learning_rate": 5e-3, "logging_steps": 10, "per_device_eval_batch_size": 4}
    settings |= {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    return MultiTaskTrainer(
        model or tiny_model(TABLE),
        MultiTaskTrainingArguments(str(folder), **{**settings, **args}),
        rows(24, seed=1),
        rows(9, seed=2),
        processing_class=tokenizer,
    )


def test_tags_are_learnt_with_smart_and_proximal_point(tokenizer: Any, tmp_path: Path) -> None:
    args: dict[str, Any] = {"smart": {"weight": 0.1}, "proximal": {"weight": 0.1}, "schedule": "proportional"}
    trainer = trainer_of(tokenizer, tmp_path, without_dropout(tiny_model(TABLE)), **args)
    before = trainer.evaluate(rows(24, seed=1))
    trainer.train()
    after = trainer.evaluate(rows(24, seed=1))
    assert after["eval_ner_f1"] > max(0.6, before["eval_ner_f1"])
    assert after["eval_final_score"] == pytest.approx((after["eval_ner_f1"] + after["eval_sst_accuracy"]) / 2)


def test_predictions_of_all_batches_are_one_array_in_the_order_of_the_rows(tokenizer: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path)
    trainer.train()
    output: Any = trainer.predict(rows(9, seed=2))
    labels = rows(9, seed=2)["ner"]["label"]
    width = max(map(len, labels))
    assert output.predictions["ner"].shape == (9, width, 4)
    found = [[LABELS[tag] for tag in row if tag >= 0] for row in output.label_ids["ner"]]
    assert found == labels[:]
    best = output.predictions["ner"].argmax(-1)
    said = [[LABELS[tag] for tag in row[: len(tags)]] for row, tags in zip(best, labels, strict=True)]
    assert output.metrics["test_ner_f1"] == pytest.approx(f1_score(labels[:], said))


def test_a_head_that_says_the_same_of_all_words_is_warned_of(tokenizer: Any, tmp_path: Path, caplog: Any) -> None:
    model = tiny_model(TABLE)
    torch.nn.init.zeros_(model.heads["ner"].out_proj.weight)
    trainer = trainer_of(tokenizer, tmp_path, model, max_steps=2, logging_steps=2, learning_rate=0.0)
    with caplog.at_level(logging.WARNING):
        trainer.train()
        trainer.evaluate()
    dead = [message for message in caplog.messages if "the head's output" in message]
    assert dead == [
        "step 2: task 'ner': the head's output was the same for all of the last 16 rows: it no longer learns.",
        "task 'ner': the head's output is the same for all rows.",
    ]


def test_rows_that_made_a_loss_infinite_are_kept_with_their_tags(tokenizer: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tokenizer, tmp_path, max_steps=1, nonfinite_patience=3)
    trainer.model.heads["ner"].out_proj.bias.data[0] = float("nan")
    trainer.train()
    kept = (tmp_path / "_nonfinite_losses.jsonl").read_text()
    assert '"task": "ner"' in kept
    assert '"label": [' in kept
