"""What a run's folder says of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_multitask.past_run import PastRun, backbone_in_words

ARGUMENTS = {
    "seed": 7,
    "learning_rate": 1e-5,
    "head_learning_rate": None,
    "optim": "adamw_torch",
    "schedule": "round_robin",
    "epoch_length": "largest",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "mixing": "rows",
    "largest_task_epochs": 1,
}


def write(folder: Path, epoch: float = 0.5, recipe: dict[str, Any] | None = None, **arguments: Any) -> PastRun:
    """A run of 5 steps on 80 and 20 rows."""
    state = {"global_step": 5, "epoch": epoch, "log_history": [{"loss": 1.0, "step": 5}], "train_batch_size": 4}
    rows = {"big": {"rows": 82, "dropped": [{}], "more_dropped": 1}, "small": {"rows": 20, "dropped": []}}
    rows["streamed"] = {"rows": None, "dropped": []}
    files = {"trainer_state": state, "training_args": {**ARGUMENTS, **arguments}, "data_report": {"train": rows}}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    if recipe is not None:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return PastRun.read(folder)


def test_the_title_says_backbone_tasks_steps_and_seed(tmp_path: Path) -> None:
    run = write(tmp_path, recipe={"backbone": "google-bert/bert-base-uncased"})
    assert run.title("mine, test", ["a", "b"]) == "mine, test: google-bert/bert-base-uncased on a, b, 5 steps, seed 7"
    (tmp_path / "base").mkdir()
    assert write(tmp_path, recipe={"backbone": "base"}).backbone == "base"
    assert write(tmp_path, recipe={"backbone": "../gone/base"}).backbone == "base"
    assert write(tmp_path, recipe={"backbone": "../gone/base", "from_scratch": True}).backbone == "new weights"


def test_a_checkpoint_is_of_the_run_that_it_lies_in(tmp_path: Path) -> None:
    write(tmp_path, recipe={"backbone": "base", "from_scratch": True})
    for name in ("base", "checkpoint-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3, "epoch": 0.3}')
    run = PastRun.read(tmp_path / "checkpoint-3")
    assert (run.state["global_step"], run.backbone, run.rows["big"]) == (3, "new weights", 80)
    assert run.training().from_scratch


def test_what_a_folder_does_not_say_is_left_out(tmp_path: Path) -> None:
    for nothing in (PastRun.read(tmp_path), PastRun.read("user/model")):
        assert nothing.title("model, test", ["a"]) == "model, test: on a"
        assert nothing.training() is None
        assert nothing.history == []
    (tmp_path / "config.json").write_text(json.dumps({"encoder_config": {"model_type": "bert"}}))
    assert PastRun.read(tmp_path).title("model", ["a"]) == "model: an encoder of type bert on a"


def test_a_file_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(ValueError, match=r"trainer_state\.json is no JSON: .*\.$"):
        PastRun.read(tmp_path)


def test_the_backbone_in_words() -> None:
    assert backbone_in_words("google-bert/bert-base-uncased", False, False) == "google-bert/bert-base-uncased"
    assert backbone_in_words("a/folder", False, True) == "folder"
    assert backbone_in_words("a/folder", True, True) == "new weights"
    assert backbone_in_words("some/model", True, False) == "new weights in the shape of some/model"


@pytest.mark.parametrize(
    ("arguments", "epoch", "processes", "passes"),
    [
        # 80 rows in steps of 8 are 10 steps, in which the small one goes round four times.
        ({}, 0.5, None, {"big": 0.5, "small": 2.0}),
        ({}, 2.25, 1, {"big": 2.25, "small": 9.0}),
        # Steps of 16 rows, of which an epoch has 5.
        ({}, 1.0, 2, {"big": 1.0, "small": 4.0}),
        ({"epoch_length": "5"}, 1.0, 2, {"big": 1.0, "small": 4.0}),
        ({"epoch_length": "5"}, 1.0, 1, {"big": 0.5, "small": 2.0}),
        # As many processes as there were make an epoch of so many steps longer: without them, it is not known.
        ({"epoch_length": "5"}, 1.0, None, {}),
        # In its first epoch, the largest alone.
        ({"schedule": "adaptive_round_robin"}, 0.5, None, {"big": 0.5, "small": 0.0}),
        ({"schedule": "adaptive_round_robin"}, 1.5, None, {"big": 1.5, "small": 2.0}),
        ({"schedule": "adaptive_sampling"}, 1.5, None, {}),
    ],
)
def test_how_often_the_rows_were_read(
    tmp_path: Path, arguments: dict, epoch: float, processes: int | None, passes: dict
) -> None:
    training = write(tmp_path, epoch=epoch, **arguments).training(processes)
    assert training is not None
    assert training.passes == pytest.approx(passes)
    assert training.rows == {"big": 80, "small": 20}
    assert (training.steps, training.learning_rate, training.head_learning_rate) == (5, 1e-5, None)
    assert (training.optimizer, training.history) == ("adamw_torch", [{"loss": 1.0, "step": 5}])


def test_rows_drawn_by_size_are_read_as_often_of_each_task(tmp_path: Path) -> None:
    training = write(tmp_path, epoch=30.0, schedule="proportional").training()
    assert training is not None
    assert training.passes["small"] == pytest.approx(training.passes["big"], rel=0.1)


def test_what_was_trained_is_in_the_recipe(tmp_path: Path) -> None:
    training = write(tmp_path, recipe={"freeze_backbone": True, "from_scratch": True}).training()
    assert training is not None
    assert (training.is_frozen, training.from_scratch) == (True, True)
