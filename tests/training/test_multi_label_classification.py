"""Tasks whose rows have several labels, beside others, by every method: what holds for all kinds holds for them."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from hf_multitask import MultiTaskBertModel, MultiTaskCollator, MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.batch import rows_of_tokens
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.tokenization import tokenize
from hf_multitask.hub.checkpoints import check_same_model
from hf_multitask.training.perturbation import random_state
from hf_multitask.training.proximal import ProximalArguments, ProximalPoint
from hf_multitask.training.smart import Smart, SmartArguments
from tests.conftest import TASKS, sentences, task_rows, tiny_model, without_dropout
from tests.training.conftest import TRAINING

LABELS = ["cat", "dog", "film", "plot"]
KIND: dict[str, Any] = {"type": "multi_label_classification", "labels": LABELS}
TABLE: dict[str, Any] = {
    "topics": KIND,
    "apart": {**KIND, "texts": 2, "pair_features": "u,v,|u-v|"},
    "together": {**KIND, "texts": 2, "pair_encoding": "cross"},
    "sst": TASKS["sst"],
}
CONFIGS: Any = {name: TaskConfig.from_dict(task) for name, task in TABLE.items()}
NAMES = [name for name in TABLE if name != "sst"]


def rows(count: int, seed: int = 0) -> dict[str, Dataset]:
    """Rows whose labels are the words that their first text has."""
    table = {"sst": task_rows(count, seed)["sst"]}
    for number, name in enumerate(NAMES):
        texts = [sentences(count, seed + 10 * number + side) for side in range(CONFIGS[name].texts)]
        columns = ["sentence1", "sentence2"] if len(texts) == 2 else ["sentence"]
        labels = [[label for label in LABELS if label in text.split()] for text in texts[0]]
        table[name] = Dataset.from_dict({**dict(zip(columns, texts, strict=True)), "label": labels})
    return {name: table[name] for name in TABLE}


def stored(dataset: Dataset) -> Dataset:
    """With labels as ids, as rows that were checked have them."""
    ids = [[LABELS.index(label) for label in row] for row in dataset["label"]]
    return dataset.remove_columns("label").add_column("label", ids)


@pytest.fixture
def make_batch(tokenizer: Any) -> Any:
    """Three rows of each task."""

    def make(packing: bool = True) -> dict[str, Any]:
        data = {
            name: tokenize(part if name == "sst" else stored(part), CONFIGS[name], tokenizer, 64)
            for name, part in rows(3, seed=4).items()
        }
        collator = MultiTaskCollator(tokenizer, task_configs=CONFIGS, packing=packing)
        return collator(MultiTaskDataset(data).__getitems__(range(12)))

    return make


@pytest.fixture
def make(tmp_path: Path, tokenizer: Any) -> Any:
    def make(data: Any = None, evaluated: Any = None, model: Any = None, **args: Any) -> MultiTaskTrainer:
        args = {"output_dir": str(tmp_path / "out"), **TRAINING, "report_to": [], **args}
        data, evaluated = data or rows(16, seed=1), evaluated or rows(9, seed=2)
        settings = MultiTaskTrainingArguments(**args)
        return MultiTaskTrainer(model or tiny_model(TABLE), settings, data, evaluated, processing_class=tokenizer)

    return make


# ---- One step ----


def test_packed_and_padded_batches_have_the_same_outputs_and_losses(make_batch: Any) -> None:
    model = tiny_model(TABLE)
    packed, padded = (model(**make_batch(packing)) for packing in (True, False))
    torch.testing.assert_close(packed.loss, padded.loss, rtol=1e-5, atol=1e-5)
    for name in NAMES:
        assert packed.logits[name].shape == (3, 4)
        torch.testing.assert_close(packed.logits[name], padded.logits[name], rtol=1e-4, atol=1e-4)


def naive_divergence(z: Tensor, w: Tensor) -> Tensor:
    p, q = Bernoulli(logits=z), Bernoulli(logits=w)
    return (kl_divergence(p, q) + kl_divergence(q, p)).mean()


def encoded(model: MultiTaskBertModel, name: str, ids: Tensor, types: Tensor, offset: Any) -> Tensor:
    """The logits of one row, from its word embeddings, each input by itself."""
    words = model.get_input_embeddings()(ids) + offset
    ends = (ids == 3).nonzero().flatten().tolist()
    cut = [0, ends[0] + 1, len(ids)] if CONFIGS[name].sequences_per_row == 2 else [0, len(ids)]
    parts = [slice(begin, end) for begin, end in pairwise(cut)]
    pooled = [
        model(inputs_embeds=words[part].unsqueeze(0), token_type_ids=types[part].unsqueeze(0)).pooler_output
        for part in parts
    ]
    return model.heads[name](*pooled)[0]


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_smart_is_that_of_a_naive_reference(make_batch: Any, monkeypatch: Any, packing: bool) -> None:
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch(packing)
    reference = copy.deepcopy(model).double().eval()
    # The same start at every token: 0.1 times a line from -1 to 2.
    line = torch.linspace(-1, 2, 16)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: line.expand(shape))
    smart = Smart(SmartArguments(sigma=0.1, eta=0.5, epsilon=0.3, norm="inf", steps=1), model)
    with smart.recording() as clean:
        outputs = model(**batch)
    values = smart(batch, outputs.logits, clean).values
    owners, _ = rows_of_tokens(batch, CONFIGS)
    types = batch.get("token_type_ids", torch.zeros_like(batch["input_ids"]))
    for place, name in enumerate(TABLE):
        if name == "sst":
            continue
        expected = []
        for row in range(3 * place, 3 * place + 3):
            where = owners == row
            given = (reference, name, batch["input_ids"][where], types[where])
            delta = (0.1 * line.double()).expand(int(where.sum()), 16).clone().requires_grad_()
            plain = encoded(*given, 0.0).detach()
            (gradient,) = torch.autograd.grad(naive_divergence(encoded(*given, delta), plain), delta)
            moved = (delta + 0.5 * gradient / gradient.abs().max()).clamp(-0.3, 0.3).detach()
            expected.append(naive_divergence(encoded(*given, moved), plain).item())
        assert values[name].item() == pytest.approx(np.mean(expected), rel=2e-3)


def test_the_proximal_point_is_the_divergence_from_where_the_model_was(make_batch: Any) -> None:
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch()
    proximal = ProximalPoint(ProximalArguments(), model)
    proximal.start()
    before = model(**batch).logits
    with torch.no_grad():
        for name in NAMES:
            model.heads[name].out_proj.bias.add_(0.5)
    after = model(**batch).logits
    terms = proximal(batch, after, random_state(torch.device("cpu")))
    for name in NAMES:
        expected = torch.stack([naive_divergence(z, w) for z, w in zip(after[name], before[name], strict=True)]).mean()
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-4)


# ---- A run ----

SMART = {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}


def test_it_learns_and_is_evaluated_and_reloaded(make: Any, tmp_path: Path, tokenizer: Any) -> None:
    # Every set of labels: the text names them.
    sets = [[label for place, label in enumerate(LABELS) if number >> place & 1] for number in range(16)]
    topics = Dataset.from_dict({"sentence": [" and ".join(names) or "the hill" for names in sets], "label": sets})
    data = {"topics": topics, "sst": rows(16)["sst"]}
    model = tiny_model({name: TABLE[name] for name in data})
    trainer = make(data, data, model, max_steps=200, learning_rate=5e-3, per_device_train_batch_size=16)
    trainer.train()
    metrics = trainer.evaluate()
    output = trainer.predict(trainer.eval_dataset)
    labels = [[label in names for label in LABELS] for names in sets]
    assert output.label_ids["topics"].tolist() == labels
    predicted = torch.from_numpy(output.predictions["topics"]).sigmoid() >= 0.5
    assert metrics["eval_topics_f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics["eval_topics_exact_match"] == np.mean((predicted.numpy() == labels).all(1))
    assert metrics["eval_topics_f1_micro"] > 0.9
    assert metrics["eval_final_score"] == (metrics["eval_topics_f1_macro"] + metrics["eval_sst_accuracy"]) / 2
    trainer.save_model()
    again = MultiTaskBertModel.from_pretrained(tmp_path / "out")
    inputs = tokenizer(["a cat sat on the film"], return_tensors="pt")
    assert torch.equal(again(**inputs, task="topics").logits, trainer.model.eval()(**inputs, task="topics").logits)


def test_a_stream_gives_the_rows_that_a_table_does(make: Any) -> None:
    data = {name: part.to_iterable_dataset() for name, part in rows(8, seed=1).items()}
    trainer = make(data, max_steps=2, schedule="round_robin", epoch_length="2")
    trainer.train()
    assert trainer.train_dataset.datasets["topics"].labels == stored(rows(8, seed=1)["topics"])["label"][:]


def test_tokens_of_a_callers_own_are_trained_on_and_scored(make: Any, tokenizer: Any) -> None:
    def tokens(part: Dataset, name: str) -> Dataset:
        return tokenize(part, CONFIGS[name], tokenizer, 64).remove_columns("truncated")

    texts = rows(8, seed=1)
    given = {name: tokens(part, name) for name, part in texts.items()}
    trainer = make(given, given, max_steps=1)
    trainer.train()
    assert trainer.evaluate()["eval_topics_f1_micro"] == trainer.evaluate(texts)["eval_topics_f1_micro"]


def test_labels_of_a_step_that_is_not_finite_are_written_down(make: Any, tmp_path: Path) -> None:
    model = tiny_model(TABLE)
    with torch.no_grad():
        model.heads["topics"].out_proj.bias[0] = float("nan")
    trainer = make(model=model, max_steps=1, nonfinite_patience=5)
    trainer.train()
    written = (tmp_path / "out" / "_nonfinite_losses.jsonl").read_text()
    assert '"task": "topics"' in written
    assert '"label": [' in written


# ---- Thresholds ----


def test_thresholds_that_are_tuned_are_in_the_config_and_the_card_and_score_as_well_as_any(
    make: Any, tmp_path: Path
) -> None:
    data = rows(64, seed=1)
    trainer = make(data, data, max_steps=10, learning_rate=3e-3)
    trainer.train()
    before = trainer.evaluate()
    picked = trainer.tune_thresholds()
    assert list(picked) == NAMES
    after = trainer.evaluate()
    for name in NAMES:
        assert after[f"eval_{name}_f1_macro"] >= before[f"eval_{name}_f1_macro"]
    assert after["eval_topics_f1_macro"] > before["eval_topics_f1_macro"]
    assert after["eval_sst_accuracy"] == before["eval_sst_accuracy"]
    trainer.save_model()
    trainer.create_model_card()
    saved = MultiTaskBertModel.from_pretrained(tmp_path / "out").config.tasks["topics"]
    assert saved.each_threshold == picked["topics"]["thresholds"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`topics`: the validation rows picked its thresholds" in card
    assert "| topics | multi_label_classification | one text | any of: cat, dog, film, plot |" in card
    assert "type: f1_macro" in card


def test_a_run_whose_thresholds_were_tuned_is_the_same_run(make: Any, tmp_path: Path) -> None:
    trainer = make()
    trainer.tune_thresholds()
    trainer.save_model()
    check_same_model(tmp_path / "out", tiny_model(TABLE).config)
    other = {**TABLE, "topics": {**KIND, "labels": LABELS[::-1]}}
    with pytest.raises(ValueError, match="labels of task 'topics' is"):
        check_same_model(tmp_path / "out", tiny_model(other).config)


def test_without_such_a_task_there_is_nothing_to_tune(make_trainer: Any, caplog: Any) -> None:
    assert make_trainer().tune_thresholds() == {}
    assert "No task has thresholds to tune." in caplog.text


def test_without_rows_there_is_nothing_to_tune_by(tmp_path: Path, tokenizer: Any) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path), **TRAINING)
    with pytest.raises(ValueError, match="tune_thresholds needs labelled rows: give an eval_dataset"):
        MultiTaskTrainer(tiny_model(TABLE), args, rows(4), processing_class=tokenizer).tune_thresholds()
