"""A recipe: a YAML file and command-line flags, read into dataclasses.

The YAML's keys are the flags' names, in one flat list, and `tasks` is a table by name:

    backbone: google-bert/bert-base-uncased
    learning_rate: 1.0e-5
    tasks:
      sst:
        type: single_label_classification
        labels: [very negative, negative, neutral, positive, very positive]
        files: {train: ids-sst-train.csv, validation: ids-sst-dev.csv, text: sentence, label: sentiment}

`--learning_rate 2e-5` overrides a key, `--tasks.sst.pooling cls` a task's and `--smart.weight 0.1` a group's.
`extends: base.yaml` starts from another recipe, `extends: [a.yaml, b.yaml]` from several, of which later ones go first;
`tasks: {sst: null}` then leaves a task of theirs out. Words mean what YAML 1.2 says; see
`hf_multitask_cli/recipe_yaml.py`.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, PreTrainedTokenizerBase
from transformers.hf_argparser import string_to_bool

from hf_multitask.data.preparation import PreparedData, prepare
from hf_multitask.data.sources import FileSource, HubSource, Source
from hf_multitask.evaluation.own_metrics import is_own, look_in
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig, TaskConfig
from hf_multitask.model.kinds import task_keys
from hf_multitask.model.messages import nearest, refuse_unknown_keys
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask_cli.arguments import CardArguments, DataArguments, ModelArguments, ReportArguments
from hf_multitask_cli.recipe_yaml import as_boolean, load_yaml, parse_value

_NESTED_FLAG = re.compile(r"--\w+\.")
_SOURCES: dict[str, type[Source]] = {"files": FileSource, "hub": HubSource}


@dataclass
class Recipe:
    """A recipe as it was read.

    Args:
        model, data, card, report, training: The arguments.
        tasks: The table of tasks, by name.
        sources: Where each task's rows come from, by name.
    """

    model: ModelArguments
    data: DataArguments
    card: CardArguments
    report: ReportArguments
    training: MultiTaskTrainingArguments
    tasks: dict[str, TaskConfig]
    sources: dict[str, Source]


class RecipeParser(HfArgumentParser):
    """Reads a recipe. All its errors are a `ValueError` of one sentence that names the key.

    Args:
        default_config: The YAML file that is read if the command line names none.
        description: For `--help`.
        flags: A script's own; their values are in `extra` once a recipe was read.
    """

    extra: argparse.Namespace

    def __init__(
        self,
        default_config: str | Path,
        description: str | None = None,
        flags: argparse.ArgumentParser | None = None,
    ) -> None:
        super().__init__(
            (ModelArguments, DataArguments, CardArguments, ReportArguments, MultiTaskTrainingArguments),  # type: ignore[arg-type]
            description=description,
            allow_abbrev=False,
            parents=[flags] if flags is not None else [],
        )
        for action in self._actions:
            if action.type is string_to_bool:
                action.type = _boolean
            if action.nargs == "+" or action.dest == "report_to":
                # transformers takes several reporters, which its parser does not know; and a list may be empty.
                action.nargs = "*"
        self.add_argument("--config", default=str(default_config), help="The recipe, a YAML file.")

    def parse_recipe(self, args: Sequence[str]) -> Recipe:
        """Reads the file that `--config` names, and then the rest of the command line over it."""
        args, nested_flags = _split_nested_flags(args)
        config = self._known(args).config
        values = load_yaml(Path(config))
        folder = Path(config).expanduser().parent
        tasks = values["tasks"] = values.get("tasks") or {}
        if not isinstance(tasks, dict):
            raise ValueError(f"{config}: tasks must be a mapping by name, not {tasks!r}.")
        for flag, value in nested_flags:
            _set_nested_value(values, flag, value)
        del values["tasks"]
        try:
            for key, value in values.items():
                action = self._option_string_actions.get(f"--{key}")
                if isinstance(value, list) and len(value) != 1 and action is not None and action.nargs != "*":
                    raise ValueError(f"{key} takes one value, not {value!r}; recipes/sweep.py trains with several.")
                if isinstance(value, float) and action is not None and action.type is str:
                    raise ValueError(f"{key} is text, and is read as the number {value!r}: put it in quotes.")
            defaults = self._known(_as_flags(values))
            for key in (key for key, value in values.items() if value is None or value == []):
                if not hasattr(defaults, key):
                    self._known([f"--{key}"])
                elif values[key] == []:
                    # No flag can say this.
                    setattr(defaults, key, [])
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
        self.extra = self._known(args, defaults)
        model, data, card, report, training = self.parse_dict(vars(self.extra), allow_extra_keys=True)
        if not model.backbone:
            raise ValueError(f"{config}: backbone is missing: a model id on the Hub, or a folder.")
        if not tasks:
            raise ValueError(f"{config}: tasks is missing: at least one task.")
        _expand_home(model, data, training, report)
        modules_dir = folder / (report.modules_dir or "")
        # A folder beside the recipe goes before a model of that name on the Hub.
        if os.path.isdir(folder / model.backbone):
            model.backbone = str(folder / model.backbone)
        table = {}
        sources = {}
        for name, entry in tasks.items():
            try:
                table[name], sources[name] = _read_task(entry, data.data_dir, folder)
                if any(map(is_own, table[name].metrics)):
                    report.modules_dir = str(modules_dir)
                    look_in(modules_dir)
                evaluation_of(table[name]).chosen  # noqa: B018  (refuses what it could not be scored by)
            except ValueError as error:
                raise ValueError(f"{config}: task {name!r}: {error}") from error
        return Recipe(model, data, card, report, training, table, sources)

    def _known(self, args: Sequence[str], namespace: Any = None) -> Any:
        namespace, unknown = self.parse_known_args(list(args), namespace)
        if unknown:
            # Each has a second spelling with dashes; what is asked for is no help.
            known = [option for option in self._option_string_actions if re.fullmatch(r"--(?!help)\w+", option)]
            raise ValueError(f"unknown argument {unknown[0]!r}; {nearest(unknown[0].partition('=')[0], known)}")
        return namespace

    def error(self, message: str) -> NoReturn:
        """Instead of argparse's exit with a page of usage."""
        raise ValueError(message)


def prepare_data(
    recipe: Recipe, config: MultiTaskBertConfig, tokenizer: PreTrainedTokenizerBase, splits: Sequence[str]
) -> PreparedData:
    """The recipe's data for those of a model's tasks that it has data for, cut where recipe, tokenizer or model say.

    Args:
        recipe: The recipe.
        config: The model's, whose table of tasks goes before the recipe's.
        tokenizer: The model's.
        splits: As for [`prepare`].

    Raises:
        ValueError: As for [`prepare`], or the recipe's labels or scores of a task mean something else to the model.
    """
    for name in (name for name in config.tasks if name in recipe.sources):
        ours, theirs = recipe.tasks[name], config.tasks[name]
        for key in (key for key in ours.differences(theirs) if key in ours.LABEL_KEYS):
            values = (getattr(ours, key), getattr(theirs, key, None))
            raise ValueError(
                f"task {name!r}: {key} is {values[0]!r} in the recipe and {values[1]!r} in the model "
                f"{config.name_or_path}, to which the same rows mean something else; name its own recipe by --config."
            )
    longest = config.longest_input(tokenizer)
    max_length = min(recipe.data.max_length or longest, longest)
    tasks = {name: task for name, task in config.tasks.items() if name in recipe.sources}
    return prepare(
        tasks, recipe.sources, splits, tokenizer, max_length, recipe.data.on_bad_rows, recipe.data.max_eval_rows
    )


def _as_flags(values: dict[str, Any]) -> list[str]:
    """YAML values as command-line flags, so that both are checked by the same rules."""
    flags: list[str] = []
    for key, value in values.items():
        if value is None or value == []:
            continue
        if isinstance(value, dict):
            value = json.dumps(value)
        flags += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def _expand_home(
    model: ModelArguments, data: DataArguments, training: MultiTaskTrainingArguments, report: ReportArguments
) -> None:
    """Paths may begin with `~`, also where no shell has seen them."""
    for owner, key in ((model, "backbone"), (data, "data_dir"), (training, "output_dir"), (report, "modules_dir")):
        value = getattr(owner, key)
        if isinstance(value, str) and value.startswith("~"):
            setattr(owner, key, str(Path(value).expanduser()))


def _boolean(word: str) -> bool:
    """As transformers reads booleans, and `on` and `off`."""
    return string_to_bool(as_boolean(word))


def _split_nested_flags(args: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--tasks.<name>.<key> value`, `--smart.<key>=value` and their like out of a command line."""
    rest: list[str] = []
    flags: list[tuple[str, str]] = []
    words = iter(args)
    for word in words:
        if not _NESTED_FLAG.match(word):
            rest.append(word)
            continue
        flag, equals, value = word.partition("=")
        if not equals and (value := next(words, "")) == "":
            raise ValueError(f"{flag} needs a value.")
        flags.append((flag, value))
    return rest, flags


def _set_nested_value(values: dict[str, Any], flag: str, value: str) -> None:
    """Sets what a nested flag names; keys of tasks and groups are checked when these are read."""
    group, *keys = flag.removeprefix("--").split(".")
    tasks = values["tasks"]
    if group == "tasks" and keys[0] not in tasks:
        raise ValueError(f"{flag}: task {keys[0]!r} is unknown; {nearest(keys[0], list(tasks))}")
    if group == "tasks" and len(keys) == 1:
        raise ValueError(f"{flag}: name a key of the task, as in --tasks.{keys[0]}.pooling.")
    entry = values
    for key in [group, *keys[:-1]]:
        entry[key] = {} if entry.get(key) is None else entry[key]
        entry = entry[key]
        if not isinstance(entry, dict):
            raise ValueError(f"{flag}: there is a value where keys would have to be.")
    entry[keys[-1]] = parse_value(value)


def _read_task(entry: Any, data_dir: str | None, folder: Path) -> tuple[TaskConfig, Source]:
    if not isinstance(entry, dict):
        raise ValueError(f"must be a mapping with a type and its data, not {entry!r}.")
    refuse_unknown_keys(entry, [*task_keys(), *_SOURCES])
    task = TaskConfig.from_dict({key: value for key, value in entry.items() if key not in _SOURCES})
    given = [kind for kind in _SOURCES if entry.get(kind) is not None]
    if not given:
        raise ValueError("names no data; give files or hub.")
    kind = given[0] if len(given) == 1 else "files" if data_dir is not None else "hub"
    try:
        source = _SOURCES[kind].from_dict(entry[kind])
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from error
    if isinstance(source, FileSource):
        source.data_dir = str(Path(data_dir) if data_dir is not None else folder / Path(source.data_dir).expanduser())
    return task, source
