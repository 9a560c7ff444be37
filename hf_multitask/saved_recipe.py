"""A run's own recipe, saved with its model, from which the model can be scored and trained again."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hf_multitask.data.sources import FileSource, Source
from hf_multitask.hub.publisher import RECIPE_NAME
from hf_multitask.past_run import run_folder
from hf_multitask.recipe import Recipe, RecipeParser
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask_cli.arguments import SPLITS, defaults_of

logger = logging.getLogger(__name__)

_HEADER = "# The recipe of this run, flags included, as it was saved with the model. Paths start from this folder.\n"
# Beginnings of training arguments that are of the machine, the processes or an account, and not of what is learnt.
_OF_THE_MACHINE = (
    *("output_dir", "run_name", "logging_dir", "log_", "report_to", "project", "trackio", "disable_tqdm", "debug"),
    *("hub_", "push_to_hub", "resume_from_checkpoint", "use_cpu", "do_", "local_rank", "ddp_", "fsdp", "deepspeed"),
    *("parallelism", "accelerator_config", "dataloader_num_workers", "dataloader_pin", "dataloader_persistent"),
    *("dataloader_prefetch", "skip_memory_metrics", "remove_unused_columns"),
)


def save_recipe(recipe: Recipe, folder: str | Path) -> None:
    """Writes `recipe.yaml`: what of a run's recipe is not as it is by default, with paths relative to the folder.

    Args:
        recipe: The recipe, as it was read.
        folder: The run's, which is there.
    """
    model = _changed(recipe.model)
    if os.path.isdir(recipe.model.backbone):
        model["backbone"] = _relative(recipe.model.backbone, folder)
    data = _changed(recipe.data)
    # It is part of each task's source already.
    data.pop("data_dir", None)
    report = _changed(recipe.report)
    if recipe.report.modules_dir is not None:
        report["modules_dir"] = _relative(recipe.report.modules_dir, folder)
    values = model | data | _changed(recipe.card) | report | _training(recipe.training)
    values["tasks"] = {
        name: {**_changed(task), **_source(recipe.sources[name], folder)} for name, task in recipe.tasks.items()
    }
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    (Path(folder) / RECIPE_NAME).write_text(_HEADER + text, encoding="utf-8")


def default_to_saved_recipe(parser: RecipeParser, argv: Sequence[str], models: Sequence[str]) -> None:
    """Makes the recipe that was saved with a model the one that is read where the command line names none.

    Args:
        parser: The script's.
        argv: The command line.
        models: What it names, folders or Hub ids; the first folder that has a recipe, or is a checkpoint of a run that
            has one, gives it. Where none has, the recipe that is read instead is logged.
    """
    if any(word == "--config" or word.startswith("--config=") for word in argv):
        return
    for folder in models:
        path = run_folder(folder) / RECIPE_NAME
        if path.is_file():
            # Recipes of runs name no folder to write to.
            parser.set_defaults(config=str(path), output_dir=str(folder))
            return
    if models:
        logger.warning(
            "%s has no %s, and no --config is given: the data are those of %s.",
            *(" or ".join(models), RECIPE_NAME, parser.get_default("config")),
        )


def _training(args: MultiTaskTrainingArguments) -> dict[str, Any]:
    # Not a second object of the kind with its defaults: to make one resets the devices of the run.
    values, usual = args.to_dict(), defaults_of(args)
    return {
        key: value
        for key, value in values.items()
        # None and an empty list have no flag: what they stand for is the default, or was derived from another key.
        if value != usual.get(key)
        and value not in (None, [])
        and not key.startswith(_OF_THE_MACHINE)
        # Transformers fills this in where nobody set it, under a name that not every version of it knows.
        and not (value is False and key.endswith("_checkpointing"))
    }


def _source(source: Source, folder: str | Path) -> dict[str, Any]:
    values = _changed(source)
    if not isinstance(source, FileSource):
        return {"hub": values}
    values["data_dir"] = _relative(source.data_dir, folder)
    for split in SPLITS:
        if os.path.isabs(values.get(split) or ""):
            values[split] = _relative(values[split], source.data_dir)
    return {"files": values}


def _relative(path: str, folder: str | Path) -> str:
    # Real paths, since a step up from a link is not a step back.
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()


def _changed(values: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not as they are by default."""
    usual = defaults_of(values)
    return {key: value for key, value in asdict(values).items() if value != usual[key]}
