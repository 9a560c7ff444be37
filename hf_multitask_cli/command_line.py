"""What the scripts of `recipes/` answer and refuse at once: this module imports nothing that takes long."""

import argparse
import importlib.util
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hf_multitask_cli.arguments import (
    CardArguments,
    DataArguments,
    ModelArguments,
    MultiTaskArguments,
    ReportArguments,
)
from hf_multitask_cli.recipe_yaml import load_yaml


def answer_at_once(description: str, default_config: Path, flags: argparse.ArgumentParser | None = None) -> None:
    """Answers `--help`, and refuses a recipe that is not there or is no YAML; else does nothing.

    For the top of a script that reads a recipe, above the imports that take seconds.

    Args:
        description: The script's.
        default_config: The recipe that is read if the command line names none.
        flags: The script's own.
    """
    end_quietly_when_interrupted()
    argv = sys.argv[1:]
    if any(word in ("-h", "--help") and argv[i + 1 : i + 2] != ["all"] for i, word in enumerate(argv)):
        _short_help(description, default_config, flags).print_help()
        sys.exit()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    if config := parser.parse_known_args(argv)[0].config:
        with refusals():
            load_yaml(Path(config))


def end_quietly_when_interrupted() -> None:
    """Makes Ctrl-C end a script that has nothing to save, without a traceback, until something else is arranged."""
    # One that is ignored stays so: a shell's background jobs ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_when_interrupted() -> None:
    """Makes Ctrl-C a `KeyboardInterrupt` again, for a script that has something to say of what it leaves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def check_installed(package: str, extra: str) -> None:
    """Refuses to go on without a package that an extra of this one brings.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"this needs {package}, which is not installed: pip install -e '.[{extra}]'")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The description as it stands, and each flag's default."""


def _short_help(
    description: str, default_config: Path, flags: argparse.ArgumentParser | None
) -> argparse.ArgumentParser:
    """Has this package's flags, which are few beside those of transformers, and needs nothing of transformers."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="All of transformers' TrainingArguments are flags too, such as --learning_rate, --num_train_epochs,\n"
        "--max_steps, --per_device_train_batch_size, --seed and --output_dir. `--help all` has every flag.",
        formatter_class=_HelpFormatter,
        parents=[flags] if flags is not None else [],
    )
    parser.add_argument("--config", metavar="FILE", default=str(default_config), help="The recipe, a YAML file.")
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').rstrip()} [--KEY VALUE ...]"
    for owner in (ModelArguments, DataArguments, CardArguments, ReportArguments, MultiTaskArguments):
        group = parser.add_argument_group((owner.__doc__ or "").partition("\n")[0].removesuffix("."))
        for key in fields(owner):
            default = key.default if key.default not in (MISSING, None, "") else argparse.SUPPRESS
            # A choice is shown as such; anything else by a word for it.
            choices = get_args(key.type) if get_origin(key.type) is Literal else None
            metavar = None if choices else "VALUE"
            group.add_argument(
                f"--{key.name}", default=default, choices=choices, metavar=metavar, help=key.metadata["help"]
            )
    return parser


@contextmanager
def refusals(
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, ImportError), status: int = 2
) -> Iterator[None]:
    """Around what a script does before its work begins: bad input ends it with one sentence and exit status 2.

    Args:
        kinds: Of errors that are sentences.
        status: The exit status.
    """
    try:
        yield
    except kinds as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            # Nothing is left to be flushed at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(status)


def _is_unread() -> bool:
    """Whether who reads what is printed has read enough, as `head` has."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def writable_folder(path: str) -> Path:
    """Makes a folder if need be, and makes sure that files can be written there.

    Raises:
        OSError: They cannot.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(f"output_dir {path} cannot be written: {error.strerror}.") from error


def from_one_on(word: str) -> int:
    """A flag's whole number, of things of which there must be some."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {word!r}")
    return int(word)


def model_place(name: str) -> str:
    """A model's folder, from home where it begins with `~`, or its id on the Hub.

    Raises:
        ValueError: It can be no id, and there is no such folder.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise ValueError(f"model {name} is a file: give the folder that it lies in.")
    if name.startswith(("/", "~", ".")) or name.endswith("/") or name.count("/") > 1:
        raise ValueError(f"model {name} is not there: there is no such folder.")
    return name


def as_flags(changes: dict[str, Any], prefix: str = "--") -> list[str]:
    """Changes of a recipe's keys as flags; those within a mapping change it, as `--smart.weight=0.02`."""
    flags: list[str] = []
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            flags += as_flags(value, f"{prefix}{key}.")
        elif prefix == "--" and "." not in key:
            words = value if isinstance(value, list) else [value]
            words = [json.dumps(word) if word is None or isinstance(word, dict) else word for word in words]
            flags += [f"--{key}", *map(str, words)]
        else:
            flags.append(f"{prefix}{key}={json.dumps(value)}")
    return flags
