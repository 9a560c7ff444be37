"""Whether a checkpoint is whole: its manifest lists every file with size and hash, and is written last."""

import hashlib
import json
import logging
import os
import re
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"


def seal(folder: str | Path) -> None:
    """Writes the manifest of a checkpoint's files, once they are on the disk: a folder without one is not whole.

    Raises:
        OSError: The disk is full or fails; the folder is then not whole.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    entries = {str(path.relative_to(folder)): _size_and_hash(path, to_disk=True) for path in files}
    aside = folder / f"{MANIFEST_NAME}.tmp"
    with aside.open("w", encoding="utf-8") as file:
        json.dump({"files": entries}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / MANIFEST_NAME)


def problem_of(folder: str | Path) -> str | None:
    """Why a checkpoint is not whole, in a sentence; None if it is."""
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return f"it has no {MANIFEST_NAME}: it was not written to its end, or by an earlier version."
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST_NAME} cannot be read."
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is not there."
        if file.stat().st_size != entry["size"]:
            return f"{name} has {file.stat().st_size:,} bytes, not {entry['size']:,}."
    # Only when all sizes are right, since it reads every byte.
    for name, entry in entries.items():
        if _size_and_hash(folder / name) != entry:
            return f"{name} has other bytes than were written."
    return None


def newest_whole(output_dir: str | Path) -> Path:
    """The checkpoint of the most steps in a run's folder that is whole; those that are not are logged.

    Raises:
        ValueError: There is none.
    """
    steps = {
        int(match[1]): path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)) and path.is_dir()
    }
    for step in sorted(steps, reverse=True):
        problem = problem_of(steps[step])
        if problem is None:
            return steps[step]
        logger.warning("%s is not whole and is passed over: %s", steps[step], problem)
    there = ", ".join(steps[step].name for step in sorted(steps)) or "none at all"
    raise ValueError(f"{output_dir} has no whole checkpoint to resume from; there are: {there}.")


def check_whole(folder: str | Path) -> None:
    """Refuses a checkpoint that its manifest contradicts; one without a manifest is taken, with a warning.

    Raises:
        ValueError: A file is missing, cut short or changed.
    """
    problem = problem_of(folder)
    if problem is not None and (Path(folder) / MANIFEST_NAME).is_file():
        raise ValueError(f"checkpoint {folder} is not whole: {problem}")
    if problem is not None:
        logger.warning("checkpoint %s: %s It is taken as it is.", folder, problem)


def _size_and_hash(path: Path, to_disk: bool = False) -> dict[str, int | str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if to_disk:
            os.fsync(file.fileno())
        # hashlib.file_digest is of Python 3.11.
        while part := file.read(1 << 20):
            digest.update(part)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}
