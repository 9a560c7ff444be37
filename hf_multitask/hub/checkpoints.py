"""Checkpoints of unfinished runs, in folders and on the Hub."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from transformers import PreTrainedConfig, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME

from hf_multitask.hub.adapters import CONFIG_NAME as ADAPTERS_CONFIG_NAME
from hf_multitask.hub.manifest import check_whole, newest_whole
from hf_multitask.hub.upload import refused_by_hub
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig
from hf_multitask_cli.recipe_yaml import as_boolean

LAST_CHECKPOINT = "last-checkpoint"
# Of an encoder's configuration: by what its key is told, beside those that every model of transformers has.
_CHANGEABLE_OF_ENCODER = re.compile(r"_|.*drop|.*initializer|use_cache$|output_")


def find_checkpoint(
    resume: str | bool, output_dir: str, token: str | None = None, config: MultiTaskBertConfig | None = None
) -> str:
    """The folder to resume from, whole and of the same encoder and tasks.

    Args:
        resume: A folder, a repository as for [`fetch_checkpoint`], or True or a word for it, such as `true`: the newest
            whole one of the run.
        output_dir: The run's folder.
        token: Of the Hub.
        config: Of the model that is to go on.

    Raises:
        ValueError: There is none in the run's folder, or the one that is named is not whole, or has other tasks or
            another encoder than the model; see [`check_same_model`].
        OSError: As for [`fetch_checkpoint`].
    """
    if as_boolean(resume) is True:
        folder = str(newest_whole(output_dir))
    else:
        folder = str(resume) if Path(str(resume)).is_dir() else fetch_checkpoint(str(resume), token)
        check_whole(folder)
    if config is not None:
        check_same_model(folder, config)
    return folder


def check_same_model(folder: str | Path, config: MultiTaskBertConfig) -> None:
    """Refuses a folder whose model has other tasks or another encoder: weights and the optimizer's states would be left
    out or go to wrong places.

    Args:
        folder: The checkpoint, or a run's folder. One without a configuration of ours is not looked at.
        config: Of the model that is to go on.

    Raises:
        ValueError: They differ; the message says in what.
    """
    files = [Path(folder) / name for name in (CONFIG_NAME, ADAPTERS_CONFIG_NAME)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return
    saved: MultiTaskBertConfig = MultiTaskBertConfig.from_json_file(file)
    for what, differences in (
        ("tasks are", _task_differences(saved, config)),
        ("encoder is", _encoder_differences(saved.encoder_config, config.encoder_config)),
    ):
        if found := "; ".join(differences):
            raise ValueError(
                f"checkpoint {folder} cannot be resumed, since its {what} not this run's: {found}. "
                f"Resume with the {what.split()[0]} that it has, or begin a new run from its model by backbone."
            )


def _task_differences(saved: MultiTaskBertConfig, wanted: MultiTaskBertConfig) -> Iterator[str]:
    if list(saved.tasks) != list(wanted.tasks):
        # The order too: the optimizer's states are found by it.
        yield f"it has {', '.join(saved.tasks) or 'none'}, and the run has {', '.join(wanted.tasks) or 'none'}"
    for name in (name for name in saved.tasks if name in wanted.tasks):
        there, here = saved.tasks[name], wanted.tasks[name]
        for key in there.differences(here, free=(*there.CHANGEABLE_KEYS, "pooling")):
            values = (getattr(there, key, None), getattr(here, key, None))
            yield f"{key} of task {name!r} is {values[0]!r} there and {values[1]!r} in the run"
        poolings = saved.pooling_of(name), wanted.pooling_of(name)
        if poolings[0] != poolings[1]:
            yield f"pooling of task {name!r} is {poolings[0]!r} there and {poolings[1]!r} in the run"


def _encoder_differences(saved: PreTrainedConfig, wanted: PreTrainedConfig) -> Iterator[str]:
    # As JSON has them, in which a tuple is a list.
    there, here = (json.loads(config.to_json_string(use_diff=False)) for config in (saved, wanted))
    common = {entry.name for entry in fields(PreTrainedConfig)}
    keys = [key for key in there | here if key not in common and not _CHANGEABLE_OF_ENCODER.match(key)]
    # Other types have other keys.
    for key in keys if saved.model_type == wanted.model_type else ["model_type"]:
        if there.get(key) != here.get(key):
            yield f"{key} is {there.get(key)!r} there and {here.get(key)!r} in the run"


def steps_made(folder: str | Path) -> int:
    """The updates that a checkpoint, or a finished run's folder, has behind it; 0 where none are recorded."""
    path = Path(folder) / TRAINER_STATE_NAME
    return TrainerState.load_from_json(str(path)).global_step if path.is_file() else 0


def fetch_checkpoint(repo: str, token: str | None = None) -> str:
    """Downloads the newest checkpoint that a run pushed with the hub_strategy `checkpoint` or `all_checkpoints`.

    Args:
        repo: The repository's id, with `@` and a revision if it is not the main branch: `user/name@revision`.
        token: Of the Hub, for private repositories.

    Returns:
        The folder of the checkpoint, for `resume_from_checkpoint`.

    Raises:
        OSError: There is no such repository, no checkpoint in it, or the Hub cannot be reached.
    """
    repo_id, _, revision = repo.partition("@")
    with refused_by_hub(f"the checkpoint {repo!r} is no folder"):
        files = HfApi(token=token).list_repo_files(repo_id, revision=revision or None)
        folders = [Path(file).parent.name for file in files if re.fullmatch(rf"[^/]+/{TRAINER_STATE_NAME}", file)]
        steps = {name: int(name.rpartition("-")[2]) for name in folders if re.fullmatch(r"checkpoint-\d+", name)}
        name = LAST_CHECKPOINT if LAST_CHECKPOINT in folders else max(steps, key=lambda name: steps[name], default=None)
        if name is None:
            raise OSError(
                f"{repo} on the Hub holds no checkpoint; the hub_strategy checkpoint or all_checkpoints pushes them."
            )
        downloaded = snapshot_download(repo_id, revision=revision or None, token=token, allow_patterns=f"{name}/*")
    return str(Path(downloaded) / name)
