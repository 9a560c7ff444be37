"""Rankings through training: two processes as one, the methods against naive references, what an evaluation gives."""

import copy
import json
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
from hf_multitask.data.schedule import SizeSampling
from hf_multitask.data.tokenization import tokenize
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.model.plan import read_plan
from hf_multitask.training.smart import Smart, SmartArguments
from tests.conftest import TASKS, sentences, tiny_model, without_dropout
from tests.training.conftest import TRAINING, Gradients, even_noise
from tests.training.test_processes import launch

TABLE: dict[str, Any] = {"rank": {"type": "ranking", "symmetric": True}, "sst": TASKS["sst"]}
CONFIGS: dict[str, Any] = {name: TaskConfig.from_dict(task) for name, task in TABLE.items()}
every_layout = pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])


def rows(count: int, seed: int = 0) -> dict[str, Dataset]:
    """Rows of up to three negatives; some texts are there several times."""
    texts = [sentences(count, seed + side) for side in range(5)]
    table = {"anchor": texts[0], "positive": texts[1]}
    table["negatives"] = [[texts[2 + k][i] for k in range((i + seed) % 4 if i % 3 else 0)] for i in range(count)]
    table["anchor"][1] = table["anchor"][0]
    return {
        "rank": Dataset.from_dict(table),
        "sst": Dataset.from_dict({"sentence": texts[0], "label": [i % 5 for i in range(count)]}),
    }


def make_trainer(folder: Any, tokenizer: Any, recorder: Gradients | None = None, **args: Any) -> MultiTaskTrainer:
    return MultiTaskTrainer(
        without_dropout(tiny_model(TABLE)),
        MultiTaskTrainingArguments(str(folder), **{**TRAINING, **args}),
        train_dataset=rows(24, seed=1),
        eval_dataset=rows(9, seed=2),
        processing_class=tokenizer,
        callbacks=[recorder] if recorder else None,
    )


# ---- Several processes ----

_WORKER = """
import json, sys
import torch
from transformers import PreTrainedTokenizerFast
from tests.training.conftest import Gradients, even_noise
from tests.training.test_ranking import make_trainer

folder, runs = sys.argv[1], json.loads(sys.argv[2])
torch.randn = even_noise
results = []
for settings in runs:
    recorder = Gradients()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder + "/tokenizer")
    trainer = make_trainer(folder, tokenizer, recorder, **settings)
    trainer.train()
    metrics = trainer.evaluate()
    losses = [log["loss_rank"] for log in trainer.state.log_history if "loss_rank" in log]
    results.append({"gradients": recorder.seen, "losses": losses, "metrics": metrics})
if trainer.is_world_process_zero():
    torch.save(results, folder + "/result.pt")
trainer.end()
"""
SETTINGS = {"max_steps": 4, "epoch_length": "4", "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no"}
# Larger steps than those that are usual: with them, rounding errors stay far below what is measured.
SMART = {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}
RUNS: list[dict[str, Any]] = [
    {},
    {"smart": SMART, "proximal": {"weight": 0.3}},
    {"surgery": "upgrad", "gradient_accumulation_steps": 1},
    {"loss_weighting": "famo"},
    {"schedule": "proportional", "mixing": "tasks"},
]


@pytest.mark.slow
def test_two_processes_learn_from_the_candidates_of_both(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "two"
    tokenizer.save_pretrained(folder / "tokenizer")
    process = launch(folder, _WORKER, json.dumps([{**SETTINGS, **run} for run in RUNS]))
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    monkeypatch.setattr(torch, "randn", even_noise)
    for run, two in zip(RUNS, torch.load(folder / "result.pt"), strict=True):
        recorder = Gradients()
        one = make_trainer(
            tmp_path / "one", tokenizer, recorder, **{**SETTINGS, **run, "per_device_train_batch_size": 8}
        )
        one.train()
        for step, (mine, theirs) in enumerate(zip(recorder.seen, two["gradients"], strict=True)):
            for name, gradient in mine.items():
                said = f"{run}: step {step}: {name}"
                torch.testing.assert_close(theirs[name], gradient, rtol=5e-3, atol=1e-3, msg=said)
        losses = [log["loss_rank"] for log in one.state.log_history if "loss_rank" in log]
        assert two["losses"] == pytest.approx(losses, rel=1e-3), run
        metrics = one.evaluate()
        for metric in evaluation_of(CONFIGS["rank"]).metrics:
            assert two["metrics"][f"eval_rank_{metric}"] == pytest.approx(metrics[f"eval_rank_{metric}"], abs=1e-4)


@pytest.mark.slow
def test_a_process_without_rows_of_the_task_is_not_waited_for(tmp_path: Path, tokenizer: Any) -> None:
    # Of four drawn rows in a step, one at most may be of the task.
    schedule = SizeSampling({"rank": 24, "sst": 24}, 1, "4", batches_per_step=2, seed=42)
    steps = [[schedule.rows(epoch, 2 * step + side) for side in (0, 1)] for epoch in range(3) for step in range(4)]
    assert any(("rank" in first) != ("rank" in second) for first, second in steps)
    folder = tmp_path / "two"
    tokenizer.save_pretrained(folder / "tokenizer")
    settings = {**SETTINGS, "max_steps": 12, "schedule": "proportional", "per_device_train_batch_size": 1}
    process = launch(folder, _WORKER, json.dumps([settings]))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    (two,) = torch.load(folder / "result.pt")
    assert len(two["gradients"]) == 12


# ---- SMART ----


@pytest.fixture
def make_batch(tokenizer: Any):
    def make(packing: bool = True) -> dict[str, Any]:
        tables = {name: tokenize(table, CONFIGS[name], tokenizer, 9) for name, table in rows(4, seed=3).items()}
        return MultiTaskCollator(tokenizer, CONFIGS, packing)(MultiTaskDataset(tables).__getitems__(range(8)))

    return make


def naive_divergence(outputs: Tensor, others: Tensor) -> Tensor:
    """The sum over rows, text by text; absent ones are zeros."""
    places = [(row, place) for row in range(len(outputs)) for place in range(1, outputs.shape[1])]
    places = [place for place in places if others[place].detach().any()]
    total = outputs.new_zeros(())
    for row in range(len(outputs)):
        z, w = (torch.stack([20 * one[row, 0] @ one[place] for place in places]) for one in (outputs, others))
        p, q = z.log_softmax(0), w.log_softmax(0)
        total = total + (p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum()
    return total


@every_layout
def test_smart_perturbs_all_rows_of_a_batch_at_once(make_batch, packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    args = {"projection": "ball", "norm": "inf", "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}
    start = torch.linspace(-1, 2, 16)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: start.expand(shape))
    model, batch = without_dropout(tiny_model(TABLE)).train(), make_batch(packing)
    smart = Smart(SmartArguments(tasks={"rank": 1.0}, **args), model)  # type: ignore[arg-type]
    with smart.recording() as clean:
        outputs = model(**batch)
    found = smart(batch, outputs.logits, clean).values["rank"]

    reference = copy.deepcopy(model).double().eval()
    numbers = read_plan(batch["tasks"], CONFIGS, int(max(batch["tasks"]["rank"].max() + 1, 0)) + 4, "cpu")["rank"]
    real = batch["packing"]["mask"] if packing else batch["attention_mask"].bool()
    tokens = [
        batch["input_ids"][0, batch["packing"]["padded"][i][real[i]]] if packing else batch["input_ids"][i][real[i]]
        for i in range(len(real))
    ]

    def embedded(deltas: dict[int, Tensor]) -> Tensor:
        """Outputs of the rows, each text through the encoder alone, in double precision."""
        texts = []
        for row in numbers.tolist():
            for number in row:
                if number < 0:
                    texts.append(torch.zeros(16, dtype=torch.float64))
                    continue
                states = reference.get_input_embeddings()(tokens[number]).unsqueeze(0) + deltas.get(number, 0.0)
                pooled = reference(inputs_embeds=states).pooler_output[0]
                texts.append(pooled / pooled.norm())
        return torch.stack(texts).unflatten(0, numbers.shape)

    clean_outputs = embedded({}).detach()
    deltas = {
        number: (0.1 * start.double()).expand(len(tokens[number]), 16).clone().requires_grad_()
        for number in numbers[numbers >= 0].tolist()
    }
    # The head's lengths of 1 are in fp32.
    slopes = torch.autograd.grad(naive_divergence(embedded(deltas), clean_outputs), list(deltas.values()))
    by_number = dict(zip(deltas, slopes, strict=True))
    moved = {}
    for row in numbers.tolist():
        mine = [number for number in row if number >= 0]
        size = max(by_number[number].abs().max() for number in mine)
        moved |= {n: (deltas[n] + 0.3 * by_number[n] / size).clamp(-0.2, 0.2).detach() for n in mine}
    expected = naive_divergence(embedded(moved), clean_outputs) / len(numbers)
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=1e-6)


@every_layout
def test_nothing_moved_is_nothing_learnt(make_batch, packing: bool) -> None:
    model, batch = tiny_model(TABLE).train(), make_batch(packing)
    smart = Smart(SmartArguments(projection="normalized", sigma=0, eta=0, fraction=0.5), model)
    with smart.recording() as clean:
        outputs = model(**batch)
    assert all(value == 0 for value in smart(batch, outputs.logits, clean).values.values())
    assert rows_of_tokens(batch, CONFIGS)[1] == 8


# ---- Training and evaluation ----


def test_packed_and_padded_batches_have_one_gradient(make_batch) -> None:
    gradients = []
    for packing in (True, False):
        model: MultiTaskBertModel = without_dropout(tiny_model(TABLE)).train()
        model(**make_batch(packing)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_training_brings_texts_closer_and_evaluation_says_how_close(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer(
        tmp_path, tokenizer, max_steps=30, learning_rate=5e-3, metric_for_best_model="rank_mrr_at_10", logging_steps=5
    )
    train = rows(24, seed=1)
    before = trainer.evaluate(train)["eval_rank_mrr_at_10"]
    trainer.train()
    after = trainer.evaluate(train)
    assert after["eval_rank_mrr_at_10"] > before + 0.1
    assert trainer.args.greater_is_better
    assert {f"eval_rank_{name}" for name in evaluation_of(CONFIGS["rank"]).metrics} <= after.keys()
    predicted: Any = trainer.predict(train)
    outputs = predicted.predictions["rank"]
    # Rows go through the model by their length and come out in their order.
    with torch.no_grad():
        first = trainer.model.eval()(**tokenizer(train["rank"]["anchor"][5], return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(outputs[5, 0], (first / first.norm()).numpy(), atol=1e-5)


def test_a_run_that_goes_on_makes_the_same_steps(tmp_path: Path, tokenizer: Any) -> None:
    settings = {"max_steps": 6, "epoch_length": "3", "save_steps": 4}
    whole = make_trainer(tmp_path / "whole", tokenizer, **settings)
    whole.train()
    again = make_trainer(tmp_path / "whole", tokenizer, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_ranking_alone_has_no_weights_in_its_head_and_trains(tmp_path: Path, tokenizer: Any) -> None:
    trainer = MultiTaskTrainer(
        tiny_model({"rank": TABLE["rank"]}),
        MultiTaskTrainingArguments(str(tmp_path), max_steps=3, head_learning_rate=1e-2, **TRAINING),
        {"rank": rows(12)["rank"]},
        processing_class=tokenizer,
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert not all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("anchor", " ", "row 2: column 'anchor' is blank"),
        ("positive", None, "row 2: column 'positive' is missing"),
        ("negatives", ["dog", ""], "row 2: column 'negatives' has a text 2 that is empty"),
        ("negatives", ["dog", None], "row 2: column 'negatives' has a text 2 that is missing"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(
    tmp_path: Path, tokenizer: Any, column: str, value: Any, said: str
) -> None:
    table = {"anchor": ["a cat", "dog"], "positive": ["the cat", "a dog"], "negatives": [[], ["hill"]]}
    table[column][1] = value
    with pytest.raises(ValueError, match=said):
        MultiTaskTrainer(
            tiny_model(TABLE),
            MultiTaskTrainingArguments(str(tmp_path), **TRAINING),
            {"rank": Dataset.from_dict(table)},
            processing_class=tokenizer,
        )


@pytest.mark.parametrize(
    ("names", "counts"), [(["q", "a"], [2, 2]), (["q", "a", "w1"], [3, 3]), (["q", "a", "w1", "w2"], [4, 3])]
)
def test_negatives_may_have_a_column_each(tmp_path: Path, tokenizer: Any, names: list[str], counts: list[int]) -> None:
    table = {"q": ["a cat", "dog"], "a": ["the cat", "a dog"], "w1": ["hill", "mat"], "w2": ["film", None]}
    trainer = MultiTaskTrainer(
        tiny_model(TABLE),
        MultiTaskTrainingArguments(str(tmp_path), **TRAINING),
        {"rank": Dataset.from_dict(table)},
        processing_class=tokenizer,
        columns={"rank": {"text": names}},
    )
    assert [len(lengths) for lengths in trainer.train_dataset.datasets["rank"]["lengths"]] == counts


def test_a_list_that_came_as_text_is_no_text(tmp_path: Path, tokenizer: Any) -> None:
    table = {"anchor": ["a cat"], "positive": ["the cat"], "negatives": ['["hill", "mat"]']}
    with pytest.raises(ValueError, match=r"column 'negatives' is '\[\"hill\", \"mat\"\]', not a list of texts"):
        MultiTaskTrainer(
            tiny_model(TABLE),
            MultiTaskTrainingArguments(str(tmp_path), **TRAINING),
            {"rank": Dataset.from_dict(table)},
            processing_class=tokenizer,
        )
