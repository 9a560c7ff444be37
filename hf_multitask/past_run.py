"""What the folder of a run says of it: how long it trained, on what, from which weights, and at which rates."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from hf_multitask.evaluation.shortfalls import Training
from hf_multitask.hub.publisher import RECIPE_NAME
from hf_multitask.training.scheduling import build_schedule
from hf_multitask_cli.recipe_yaml import load_yaml

ARGUMENTS_NAME, DATA_REPORT_NAME = "training_args.json", "data_report.json"


def backbone_in_words(backbone: str, from_scratch: bool, is_folder: bool) -> str:
    """What an encoder started from; of a folder, which is someone's own, the name alone, and nothing of new weights."""
    if from_scratch:
        return "new weights" + ("" if is_folder else f" in the shape of {backbone}")
    return Path(backbone).name if is_folder else backbone


def run_folder(folder: str | Path) -> Path:
    """The folder of the run that a model's folder is of: of a checkpoint within a run, the one that it lies in."""
    folder = Path(folder)
    parent = folder.absolute().parent
    is_checkpoint = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.absolute().name) is not None
    is_within = is_checkpoint and not (folder / RECIPE_NAME).is_file() and (parent / RECIPE_NAME).is_file()
    return parent if is_within else folder


@dataclass(frozen=True)
class PastRun:
    """A run, as the files of its folder have it; what is not there is empty.

    Args:
        state: Of `trainer_state.json`.
        arguments: Of `training_args.json`.
        recipe: Of `recipe.yaml`.
        rows: By task, the rows that it trained on, from `data_report.json`.
        backbone: What its encoder started from, in words.
    """

    state: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    backbone: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> "PastRun":
        """Reads a folder, of a run or of a checkpoint in it; of a model on the Hub, nothing is known.

        Raises:
            ValueError: A file of the folder is not what it should be.
        """
        folder, run = Path(folder), run_folder(folder)
        recipe = load_yaml(run / RECIPE_NAME) if (run / RECIPE_NAME).is_file() else {}
        rows = {
            name: entry["rows"] - len(entry["dropped"]) - entry.get("more_dropped", 0)
            for name, entry in _read(run / DATA_REPORT_NAME).get("train", {}).items()
            if entry["rows"] is not None
        }
        if backbone := recipe.get("backbone", ""):
            # The recipe's paths start from its folder.
            is_folder = (run / backbone).is_dir() or backbone.startswith((".", "/"))
            backbone = backbone_in_words(backbone, recipe.get("from_scratch", False), is_folder)
        elif kind := _read(folder / CONFIG_NAME).get("encoder_config", {}).get("model_type"):
            backbone = f"an encoder of type {kind}"
        return cls(_read(folder / TRAINER_STATE_NAME), _read(folder / ARGUMENTS_NAME), recipe, rows, backbone)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The trainer's log."""
        return self.state.get("log_history", [])

    def title(self, name: str, tasks: Iterable[str]) -> str:
        """Of a page about the run: its name, backbone, tasks, steps and seed.

        There is no date in it: the same run gives the same page.
        """
        parts = [f"{f'{self.backbone} ' if self.backbone else ''}on {', '.join(tasks)}"]
        if (steps := self.state.get("global_step")) is not None:
            parts.append(f"{steps} steps")
        if (seed := self.arguments.get("seed")) is not None:
            parts.append(f"seed {seed}")
        return f"{name}: {', '.join(parts)}"

    def training(self, processes: int | None = None) -> Training | None:
        """What may say why a task was not learnt; None where the folder says nothing of the training.

        Args:
            processes: How many there were, if that is known.
        """
        if not self.state and not self.arguments:
            return None
        return Training(
            steps=self.state.get("global_step", 0),
            rows=self.rows,
            passes=self._passes(processes),
            learning_rate=self.arguments.get("learning_rate"),
            head_learning_rate=self.arguments.get("head_learning_rate"),
            optimizer=self.arguments.get("optim", ""),
            is_frozen=self.recipe.get("freeze_backbone", False),
            from_scratch=self.recipe.get("from_scratch", False) if self.recipe else None,
            history=self.history,
        )

    def _passes(self, processes: int | None) -> dict[str, float]:
        """By task, how often its rows were read; of a run whose schedule its arguments do not tell, nothing."""
        kind, epoch = self.arguments.get("schedule"), self.state.get("epoch")
        # An epoch that is a number of steps is longer with more processes; and one drawn by losses is not known before.
        is_unknown = processes is None and str(self.arguments.get("epoch_length")).isdecimal()
        if kind in (None, "adaptive_sampling") or epoch is None or is_unknown or not self.rows:
            return {}
        args = SimpleNamespace(**{**self.arguments, "world_size": processes or 1})
        batch, seed = self.state.get("train_batch_size") or args.per_device_train_batch_size, args.seed
        schedule = build_schedule(cast(Any, args), self.rows, batch, seed, [])
        begun = int(epoch)
        before, after = schedule.drawn_before(begun), schedule.drawn_before(begun + 1)
        return {
            name: (before.get(name, 0) + (epoch - begun) * (after.get(name, 0) - before.get(name, 0))) / size
            for name, size in self.rows.items()
        }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
