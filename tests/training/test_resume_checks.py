"""What a checkpoint is compared with before a run goes on from it, and a run that has no more steps to make."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from tests.conftest import task_rows, tiny_model
from tests.training.conftest import TRAINING

LABELS = ["negative", "positive"]
SST = {"type": "single_label_classification", "labels": LABELS}
QUORA = {"type": "pair_classification"}


@pytest.fixture
def make_run(tmp_path: Path, tokenizer: Any):
    def make(tasks: dict[str, Any], model: dict[str, Any] | None = None, **args: Any) -> MultiTaskTrainer:
        rows = task_rows(8, seed=1)
        sources = {name: rows["sst" if tasks[name]["type"].startswith("single") else "quora"] for name in tasks}
        sources = {name: source.map(lambda row: {"label": int(row["label"]) % 2}) for name, source in sources.items()}
        settings = {"output_dir": str(tmp_path / "out"), "max_steps": 2, "save_steps": 1, **TRAINING, **args}
        return MultiTaskTrainer(
            tiny_model(tasks, **(model or {})),
            MultiTaskTrainingArguments(**settings),
            sources,
            processing_class=tokenizer,
        )

    return make


@pytest.mark.parametrize(
    ("tasks", "difference"),
    [
        (
            {"sst": {**SST, "labels": LABELS[::-1]}, "quora": QUORA},
            "labels of task 'sst' is ['negative', 'positive'] there and ['positive', 'negative'] in the run",
        ),
        ({"moods": SST, "quora": QUORA}, "it has sst, quora, and the run has moods, quora"),
        ({"sst": SST}, "it has sst, quora, and the run has sst"),
        ({"sst": SST, "quora": QUORA, "quora2": QUORA}, "it has sst, quora, and the run has sst, quora, quora2"),
        ({"quora": QUORA, "sst": SST}, "it has sst, quora, and the run has quora, sst"),
        (
            {"sst": {**SST, "type": "pair_classification"}, "quora": QUORA},
            "texts of task 'sst' is 1 there and 2 in the run",
        ),
        (
            {"sst": SST, "quora": {**QUORA, "pair_features": "u,v,|u-v|"}},
            "pair_features of task 'quora' is 'u,v' there and 'u,v,|u-v|' in the run",
        ),
        ({"sst": {**SST, "pooling": "cls"}, "quora": QUORA}, "pooling of task 'sst' is 'mean' there and 'cls' in"),
    ],
)
def test_a_checkpoint_of_other_tasks_is_refused_with_the_difference(
    make_run: Any, tmp_path: Path, tasks: dict[str, Any], difference: str
) -> None:
    make_run({"sst": SST, "quora": QUORA}, max_steps=1).train()
    resumed = make_run(tasks)
    with pytest.raises(ValueError, match="its tasks are not this run's") as refusal:
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert difference in str(refusal.value)
    assert resumed.state.global_step == 0


@pytest.mark.parametrize(
    ("model", "difference"),
    [
        ({"encoder": {"hidden_size": 32}}, "hidden_size is 16 there and 32 in the run"),
        ({"encoder": {"num_hidden_layers": 1}}, "num_hidden_layers is 2 there and 1 in the run"),
        ({"encoder": {"num_hidden_layers": 3}}, "num_hidden_layers is 2 there and 3 in the run"),
        # Its optimizer's states would go to weights of other shapes, which ends the process.
        ({"kind": "roberta"}, "model_type is 'bert' there and 'roberta' in the run"),
        ({"encoder": {"hidden_act": "relu"}}, "hidden_act is 'gelu' there and 'relu' in the run"),
    ],
    ids=["size", "fewer layers", "more layers", "type", "function"],
)
@pytest.mark.parametrize("only_model", [True, False])
def test_a_checkpoint_of_another_encoder_is_refused_with_the_difference(
    make_run: Any, model: dict[str, Any], difference: str, only_model: bool
) -> None:
    make_run({"sst": SST}, max_steps=1, save_only_model=only_model).train()
    resumed = make_run({"sst": SST}, model)
    with pytest.raises(ValueError, match="its encoder is not this run's") as refusal:
        resumed.train(resume_from_checkpoint=True)
    assert difference in str(refusal.value)


def test_how_an_encoder_is_trained_may_change(make_run: Any) -> None:
    make_run({"sst": SST}, max_steps=1).train()
    resumed = make_run({"sst": SST}, {"encoder": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.0}})
    assert resumed.train(resume_from_checkpoint=True).global_step == 2


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", True])
def test_a_word_for_yes_resumes_from_the_newest_checkpoint(make_run: Any, word: Any) -> None:
    make_run({"sst": SST}, max_steps=1).train()
    resumed = make_run({"sst": SST}, resume_from_checkpoint=word)
    assert resumed.args.resume_from_checkpoint in ("true", True)
    assert resumed.train(resume_from_checkpoint=word).global_step == 2


@pytest.mark.parametrize("word", ["false", "False", "no", "off", False])
def test_a_word_for_no_begins_anew(make_run: Any, word: Any, caplog: pytest.LogCaptureFixture) -> None:
    make_run({"sst": SST}, max_steps=1).train()
    run = make_run({"sst": SST}, resume_from_checkpoint=word)
    assert run.args.resume_from_checkpoint is None
    with caplog.at_level(logging.INFO):
        assert run.train(resume_from_checkpoint=word).global_step == 2
    assert "Resuming from" not in caplog.text


def test_how_tasks_are_trained_may_change(make_run: Any) -> None:
    make_run({"sst": SST, "quora": QUORA}, max_steps=1).train()
    resumed = make_run(
        {"sst": {**SST, "weight": 2.0, "dropout": 0.3, "metrics": ["mcc"], "counts": "mcc"}, "quora": QUORA}
    )
    assert resumed.train(resume_from_checkpoint=True).global_step == 2


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"max_steps": 2}, {"max_steps": 2}),
        ({"max_steps": 3}, {"max_steps": 1}),
        ({"max_steps": -1, "num_train_epochs": 1, "epoch_length": "2"}, {"max_steps": -1, "num_train_epochs": 1}),
    ],
    ids=["within an epoch", "fewer steps than were made", "epochs"],
)
def test_a_finished_run_makes_no_more_steps(
    make_run: Any, tmp_path: Path, first: dict[str, Any], then: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tasks = {"sst": SST, "quora": QUORA}
    whole = make_run(tasks, **first)
    whole.train()
    folders = {path.name for path in (tmp_path / "out").iterdir()}
    again = make_run(tasks, **{**first, **then})
    with caplog.at_level(logging.WARNING):
        result = again.train(resume_from_checkpoint=True)
    assert result.global_step == whole.state.global_step
    assert "is of a finished run" in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == folders
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    # One that has steps left makes these.
    more = make_run(tasks, **{**first, "max_steps": whole.state.global_step + 1})
    assert more.train(resume_from_checkpoint=True).global_step == whole.state.global_step + 1
    assert more.total_steps() == whole.state.global_step + 1
