"""What a run refuses only when it begins, such as a checkpoint of another method."""

from pathlib import Path


class RunRefusedError(ValueError):
    """A run's arguments or its checkpoint make it impossible, which is found when it begins."""


def checkpoint_file(folder: str, name: str, otherwise: str) -> Path:
    """A method's own file in a checkpoint.

    Args:
        folder: The checkpoint.
        name: The file's name.
        otherwise: What the run of a checkpoint without that file had.

    Raises:
        RunRefusedError: It is not there.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise RunRefusedError(f"checkpoint {folder} has no {name}: its run had {otherwise}, or saved models only.")
    return path
