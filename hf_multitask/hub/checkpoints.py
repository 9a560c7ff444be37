"""Checkpoints of unfinished runs, in folders and on the Hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from hf_multitask.hub.manifest import check_whole, newest_whole
from hf_multitask.hub.upload import refused_by_hub

LAST_CHECKPOINT = "last-checkpoint"
_STATE_FILE = "trainer_state.json"


def find_checkpoint(resume: str | bool, output_dir: str, token: str | None = None) -> str:
    """The folder to resume from, whole.

    Args:
        resume: A folder, a repository as for [`fetch_checkpoint`], or True or `true`, the newest whole one of the run.
        output_dir: The run's folder.
        token: Of the Hub.

    Raises:
        ValueError: There is none in the run's folder, or the one that is named is not whole.
        OSError: As for [`fetch_checkpoint`].
    """
    if resume in (True, "true"):
        return str(newest_whole(output_dir))
    folder = str(resume) if Path(str(resume)).is_dir() else fetch_checkpoint(str(resume), token)
    check_whole(folder)
    return folder


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
        folders = [Path(file).parent.name for file in files if re.fullmatch(rf"[^/]+/{_STATE_FILE}", file)]
        steps = {name: int(name.rpartition("-")[2]) for name in folders if re.fullmatch(r"checkpoint-\d+", name)}
        name = LAST_CHECKPOINT if LAST_CHECKPOINT in folders else max(steps, key=lambda name: steps[name], default=None)
        if name is None:
            raise OSError(
                f"{repo} on the Hub holds no checkpoint; the hub_strategy checkpoint or all_checkpoints pushes them."
            )
        downloaded = snapshot_download(repo_id, revision=revision or None, token=token, allow_patterns=f"{name}/*")
    return str(Path(downloaded) / name)
