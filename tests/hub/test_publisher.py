"""Pushing, with the real client, to the loopback Hub."""

import copy
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from transformers import AutoModel, AutoTokenizer, pipeline

from hf_multitask import (
    MultiTaskBertModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TaskConfig,
)
from hf_multitask.data.checking import BadRow
from hf_multitask.data.loading import SplitReport
from hf_multitask.hub import upload
from hf_multitask.hub.card import RunFacts, build_card
from hf_multitask.hub.checkpoints import fetch_checkpoint
from tests.conftest import TASKS, task_rows, tiny_model
from tests.hub.server import OWNER_TOKEN, READER_TOKEN, LoopbackHub, card_problems
from tests.hub.test_loading import CODE, assert_same

EVERYTHING = CODE | {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
EVERYTHING |= {"training_args.json"}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries, the client's and ours, follow each other at once."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def make_trainer(tokenizer: Any, tmp_path: Path) -> Any:
    def make(model: MultiTaskBertModel | None = None, **arguments: Any) -> MultiTaskTrainer:
        settings = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "report_to": "none", "use_cpu": True}
        settings |= {"hub_model_id": "user/run", "push_to_hub": True, "per_device_train_batch_size": 4, **arguments}
        args = MultiTaskTrainingArguments(str(tmp_path / "out"), **settings)
        model = tiny_model() if model is None else model
        return MultiTaskTrainer(model, args, task_rows(20), task_rows(9, seed=2), processing_class=tokenizer)

    return make


def content(hub: LoopbackHub, path: str, repo_id: str = "user/run") -> str:
    return hub.files(repo_id)[path].read_text()


def test_a_push_holds_all_that_a_model_needs_byte_for_byte_and_no_pickle(
    hub: LoopbackHub, make_trainer: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(hub_strategy="end", hub_token=OWNER_TOKEN)
    trainer.train()
    trainer.evaluate()
    assert hub.messages("user/run") == []
    trainer.push_to_hub()
    assert hub.messages("user/run") == ["End of training"]
    sent = hub.files("user/run")
    assert set(sent) == EVERYTHING
    for path, blob in sent.items():
        assert blob.read_bytes() == (tmp_path / "out" / path).read_bytes(), path
    assert_same(AutoModel.from_pretrained("user/run", cache_dir=tmp_path / "cache"), trainer.model.eval())
    AutoTokenizer.from_pretrained("user/run", cache_dir=tmp_path / "cache")
    arguments = json.loads(content(hub, "training_args.json"))
    assert arguments["max_steps"] == 4
    assert arguments["output_dir"] == "out"
    for secret in (str(tmp_path), OWNER_TOKEN):
        assert not [path for path, blob in sent.items() if secret.encode() in blob.read_bytes()]
    assert card_problems(content(hub, "README.md")) == []


@pytest.mark.parametrize("pushes", [1, 3])
def test_a_push_in_the_background_leaves_out_the_same_files(
    hub: LoopbackHub, make_trainer: Any, monkeypatch: pytest.MonkeyPatch, pushes: int
) -> None:
    begins, look = threading.Event(), HfApi._prepare_upload_folder_additions

    def look_late(*args: Any, **kwargs: Any) -> Any:
        assert begins.wait(60)
        return look(*args, **kwargs)

    monkeypatch.setattr(HfApi, "_prepare_upload_folder_additions", look_late)
    trainer = make_trainer(hub_strategy="end")
    recipe = Path(trainer.args.output_dir) / "recipe.yaml"
    recipe.write_text("data_dir: /home/somebody")
    futures = [trainer.push_to_hub(f"push {number}", blocking=False) for number in range(pushes)]
    begins.set()
    for future in futures:
        future.result(timeout=60)
    assert hub.messages("user/run")[0] == "push 0"
    assert set(hub.files("user/run")) == EVERYTHING
    deadline = time.monotonic() + 10
    # The thread that pushed puts it back a moment after the push is done.
    while not recipe.exists() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert recipe.read_text() == "data_dir: /home/somebody"
    assert not recipe.with_name("_recipe.yaml").exists()


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("every_save", set()),
        ("checkpoint", {"last-checkpoint"}),
        ("all_checkpoints", {"checkpoint-2", "checkpoint-4"}),
    ],
)
def test_pushes_during_training_are_as_complete(
    hub: LoopbackHub, make_trainer: Any, strategy: str, folders: set[str]
) -> None:
    trainer = make_trainer(hub_strategy=strategy, hub_always_push=True, save_total_limit=1)
    trainer.train()
    assert "Training in progress, step 2" in hub.messages("user/run")
    assert "Training in progress, step 4" in hub.messages("user/run")
    repository = hub.repositories["user/run"]
    for sha in repository.branches["main"][1:]:
        files = set(repository.commits[sha])
        if repository.messages[sha].endswith("checkpoint"):
            continue
        assert {path for path in files if "/" not in path} == EVERYTHING | {"trainer_state.json"}
    files = hub.files("user/run")
    assert {path.split("/")[0] for path in files if "/" in path} == folders
    for folder in folders:
        assert {f"{folder}/optimizer.pt", f"{folder}/trainer_state.json"} <= set(files)
    assert not list(Path(trainer.args.output_dir).glob("_push-*"))
    assert "4 updates" in content(hub, "README.md")


def test_a_run_is_resumed_from_a_checkpoint_on_the_hub(hub: LoopbackHub, make_trainer: Any, tmp_path: Path) -> None:
    whole = make_trainer(push_to_hub=False, hub_model_id=None)
    whole.train()
    make_trainer(hub_strategy="checkpoint", max_steps=4, save_steps=2, hub_always_push=True).train()
    hub_repository = hub.repositories["user/run"]
    at_2 = next(
        sha
        for sha in hub_repository.branches["main"]
        if hub_repository.messages[sha] == "Training in progress, step 2, checkpoint"
    )
    resumed = make_trainer(push_to_hub=False, hub_model_id=None)
    resumed.train(resume_from_checkpoint=f"user/run@{at_2}")
    assert resumed.state.global_step == 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_newest_checkpoint_on_the_hub_is_found_and_none_is_said(hub: LoopbackHub) -> None:
    files = {f"checkpoint-{step}/trainer_state.json": b"{}" for step in (500, 1000, 90)}
    hub.add("user/many", files)
    assert Path(fetch_checkpoint("user/many")).name == "checkpoint-1000"
    hub.add("user/many", {"last-checkpoint/trainer_state.json": b"{}"})
    assert Path(fetch_checkpoint("user/many")).name == "last-checkpoint"
    hub.add("user/none", {"README.md": b""})
    with pytest.raises(OSError, match="user/none on the Hub holds no checkpoint; the hub_strategy checkpoint or"):
        fetch_checkpoint("user/none")
    with pytest.raises(OSError, match="'user/absent' is no folder: the Hub has no such repository"):
        fetch_checkpoint("user/absent")
    with pytest.raises(OSError, match="'outputs/no/such' is no folder"):
        fetch_checkpoint("outputs/no/such")


def test_a_private_repository_stays_private(hub: LoopbackHub, make_trainer: Any) -> None:
    make_trainer(hub_private_repo=True)
    assert hub.repositories["user/run"].private


# ---- Refusals and faults ----


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "user/run: the Hub wants a token that it knows; run `hf auth login`, or set HF_TOKEN"),
        ("hf_unknown", "user/run: the Hub wants a token that it knows"),
        (READER_TOKEN, "user/run: the Hub does not let this token do that"),
    ],
)
def test_a_token_that_will_not_do_is_refused_before_training(
    hub: LoopbackHub, make_trainer: Any, monkeypatch: pytest.MonkeyPatch, token: str | None, message: str
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match=message):
        make_trainer(hub_token=token)


@pytest.mark.parametrize("status", [500, 503, 429, None])
@pytest.mark.parametrize("path", ["/api/models/user/run/commit/main", "/api/models/user/run/preupload/main", "/lfs/*"])
def test_a_fault_that_passes_is_no_fault(
    hub: LoopbackHub, make_trainer: Any, status: int | None, path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(hub_strategy="end")
    hub.lfs_from = 10_000
    hub.fail("PUT" if path.startswith("/lfs") else "POST", path, status, times=1)
    trainer.push_to_hub()
    assert hub.faults[0].times == 0
    assert set(hub.files("user/run")) == EVERYTHING
    sent = hub.files("user/run")["model.safetensors"].read_bytes()
    assert sent == (tmp_path / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "the Hub does not let this token do that"),
        (500, "500"),
        (None, "user/run: "),
    ],
)
def test_a_push_that_fails_for_good_says_where_the_model_is(
    hub: LoopbackHub, make_trainer: Any, tmp_path: Path, status: int | None, message: str
) -> None:
    trainer = make_trainer(hub_strategy="end")
    hub.fail("POST", "/api/models/user/run/commit/main", status, times=100)
    with pytest.raises(OSError, match="the push failed: ") as error:
        trainer.push_to_hub()
    assert message in str(error.value)
    out = tmp_path / "out"
    assert f"The model is whole in {out}; push it by: hf upload user/run {out} ." in str(error.value)
    assert "--exclude 'checkpoint-*' '_*' recipe.yaml" in str(error.value)
    assert_same(AutoModel.from_pretrained(out), trainer.model.eval())


def test_a_push_that_fails_during_training_is_said_and_the_training_goes_on(
    hub: LoopbackHub, make_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(hub_strategy="every_save", hub_always_push=True)
    hub.fail("POST", "/api/models/user/run/commit/main", 403, times=1)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert trainer.state.global_step == 4
    said = [record.getMessage() for record in caplog.records if "A push during training failed" in record.getMessage()]
    assert len(said) == 1
    assert f"The checkpoints are whole in {trainer.args.output_dir}" in said[0]
    assert hub.messages("user/run") == ["Training in progress, step 4"]
    assert (Path(trainer.args.output_dir) / "checkpoint-2" / "model.safetensors").exists()


def test_what_a_killed_run_was_pushing_is_cleared_away(hub: LoopbackHub, make_trainer: Any, tmp_path: Path) -> None:
    (tmp_path / "out" / "_push-abc").mkdir(parents=True)
    make_trainer()
    assert not (tmp_path / "out" / "_push-abc").exists()


def test_offline_a_push_is_refused_at_the_start(make_trainer: Any) -> None:
    with pytest.raises(OSError, match="user/run: HF_HUB_OFFLINE is set"):
        make_trainer()


def test_waits_between_tries_double_up_to_half_a_minute(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    (tmp_path / "file").write_text("x")
    hub.add("user/waits", {})
    hub.fail("POST", "/api/models/user/waits/commit/main", 500, times=100)
    monkeypatch.setattr(upload.time, "sleep", waits.append)
    with pytest.raises(OSError, match="user/waits: "):
        upload.upload_folder("user/waits", str(tmp_path), first_wait=10.0)
    assert waits == [10.0, 20.0, 30.0, 30.0]


# ---- The card ----


def test_the_trainers_card_says_what_it_knows_and_that_the_rest_was_not_measured(
    hub: LoopbackHub, make_trainer: Any
) -> None:
    trainer = make_trainer(hub_strategy="end")
    trainer.train()
    metrics = trainer.evaluate()
    trainer.push_to_hub(language=["en"], license="apache-2.0", tags="test", finetuned_from="user/base")
    card = content(hub, "README.md")
    data = yaml.safe_load(card.split("---")[1])
    assert (data["language"], data["license"]) == (["en"], "apache-2.0")
    assert data["tags"] == ["hf-multitask", "multi-task", "test"]
    assert data["base_model"] == "user/base"
    results = data["model-index"][0]["results"]
    found = {
        (result["dataset"]["name"], metric["type"]): metric["value"]
        for result in results
        for metric in result["metrics"]
    }
    assert found == {
        ("sst", "accuracy"): metrics["eval_sst_accuracy"],
        ("quora", "accuracy"): metrics["eval_quora_accuracy"],
        ("sts", "pearson"): metrics["eval_sts_pearson"],
        ("sts", "rmse"): metrics["eval_sts_rmse"],
    }
    assert set(TASKS) == {result["dataset"]["name"] for result in results}
    assert "What the encoder started from was not recorded" in card
    assert "| sst | train | given in Python | 20 | 0 | not counted | 0 |" in card
    assert f"| sst | accuracy | {metrics['eval_sst_accuracy']:.3f} | not measured |" in card
    assert str(trainer.args.output_dir) not in card


def test_a_card_before_any_evaluation_says_so(hub: LoopbackHub, make_trainer: Any) -> None:
    trainer = make_trainer(hub_strategy="end")
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "## Results\n\nNot measured." in card
    assert "model-index" not in card


def test_labels_do_not_break_the_cards_tables(make_trainer: Any) -> None:
    trainer = make_trainer(push_to_hub=False, hub_model_id=None)
    config = copy.copy(trainer.model.config)
    config.tasks = {"odd": TaskConfig("single_label_classification", labels=["a|b", "<i>", "好"])}
    card = build_card(
        RunFacts(),
        name="user/odd",
        config=config,
        args=trainer.args,
        history=[],
        step=0,
        sizes={},
        parameters=1,
    )
    assert r"| odd | single_label_classification | one text | a\|b, &lt;i>, 好 |" in str(card)


def test_the_card_says_what_became_of_the_rows(make_trainer: Any) -> None:
    trainer = make_trainer(push_to_hub=False, max_steps=1)
    odd = SplitReport("dev.csv", 20, [BadRow(3, "is blank.")], also_in_train=2, truncated=4, not_evaluated=9)
    usual = SplitReport("train.csv", 20)
    trainer.run_facts = RunFacts(reports={"train": {"sst": usual}, "validation": {"sst": odd}})
    trainer.create_model_card()
    said = re.findall(
        r"^- `sst`: (\d+) of 20 (\w+) rows (.*)$", (Path(trainer.args.output_dir) / "README.md").read_text(), re.M
    )
    assert said == [
        ("4", "validation", "were cut to the longest input."),
        ("2", "validation", "stand in train too."),
        ("1", "validation", "could not be used."),
        ("9", "validation", "were left out of the evaluation."),
    ]


def test_the_card_says_nothing_that_says_nothing_and_its_tags_snippet_runs(make_trainer: Any) -> None:
    trainer = make_trainer(push_to_hub=False, hub_model_id=None)
    trainer.run_facts = RunFacts(backbone="new weights")
    trainer.save_model()
    trainer.create_model_card()
    folder = trainer.args.output_dir
    card = (Path(folder) / "README.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", card.split("## Training\n")[1], re.M))
    assert not {"debug", "head_learning_rate", "num_train_epochs"} & set(rows)
    assert not {"None", "[]", "{}", ""} & set(rows.values())
    assert (rows["max_steps"], rows["bf16"]) == ("4", "False")
    assert re.search(r"The encoder, of type bert with \d+ layers of \d+ dimensions, started from: new weights\.", card)
    assert "OMP_NUM_THREADS" in card
    assert ".shape" not in card
    # The snippet that the Hub shows for the tag.
    tag = yaml.safe_load(card.split("---")[1])["pipeline_tag"]
    features = pipeline(tag, model=folder, trust_remote_code=True)("a text")
    assert len(features[0][0]) == trainer.model.config.encoder_config.hidden_size


def test_pushes_of_checkpoints_follow_each_other_in_order(
    hub: LoopbackHub, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    pushed: list[str] = []

    def slow_at_first(*args: Any, commit_message: str, **kwargs: Any) -> None:
        begun.append(commit_message)
        threading.Event().wait(0.5 if len(begun) == 1 else 0)
        pushed.append(commit_message)

    monkeypatch.setattr("hf_multitask.hub.publisher.upload_folder", slow_at_first)
    make_trainer(hub_strategy="every_save", hub_always_push=True).train()
    assert pushed == ["Training in progress, step 2", "Training in progress, step 4"]
