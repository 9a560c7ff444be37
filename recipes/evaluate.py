"""Scores a trained model on the data of a recipe, with 95 % bootstrap intervals.

    python recipes/evaluate.py
    python recipes/evaluate.py --model OUT
    python recipes/evaluate.py --config recipes/paper/full_finetuning.yaml --data_dir DIR --model OUT --split test
    python recipes/evaluate.py --config mine.yaml --report    # with figures, worst errors and bias probes

The recipe's tasks say where the data are: that of `--config`, or the one that the run saved in the model's folder, or
the quickstart's. `--model` is the recipe's `output_dir` unless told otherwise.
"""

import argparse
import logging
import sys
from pathlib import Path

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_multitask_cli.arguments import SPLITS
from hf_multitask_cli.command_line import answer_at_once, model_place, refusals, writable_folder

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"
FLAGS = argparse.ArgumentParser(add_help=False)
FLAGS.add_argument("--model", help="Folder or Hub id of the model; by default the recipe's output_dir.")
FLAGS.add_argument("--split", default="validation", choices=SPLITS, help="The split to score.")
FLAGS.add_argument(
    "--report",
    nargs="?",
    const="",
    metavar="DIR",
    help="Write a report, by default to report/ in the model's folder, or report-<split>/ there.",
)

if __name__ == "__main__":
    # Before the imports that take seconds.
    answer_at_once(__doc__, DEFAULT_CONFIG, FLAGS)

from accelerate import PartialState

from hf_multitask.evaluation.summary import results_table
from hf_multitask.past_run import PastRun
from hf_multitask.recipe import RecipeParser
from hf_multitask.saved_recipe import default_to_saved_recipe
from hf_multitask.scoring import score_model

logger = logging.getLogger(__name__)


def main() -> None:
    with refusals():
        parser = RecipeParser(DEFAULT_CONFIG, __doc__, FLAGS)
        given, _ = parser.parse_known_args(sys.argv[1:])
        named = model_place(given.model) if given.model else None
        named = named or (given.output_dir if given.output_dir != parser.get_default("output_dir") else None)
        default_to_saved_recipe(parser, sys.argv[1:], [named] if named else [])
        recipe = parser.parse_recipe(sys.argv[1:])
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        split, folder = parser.extra.split, parser.extra.report
        model = model_place(str(parser.extra.model or recipe.training.output_dir))
        if folder is not None:
            place = "report" if split == "validation" else f"report-{split}"
            if not folder and parser.extra.model and not Path(model).is_dir():
                raise ValueError("--report needs a folder for a model on the Hub: --report DIR.")
            folder = writable_folder(folder or f"{model}/{place}")
        examples = recipe.report.examples(recipe.training.push_to_hub)
        run = PastRun.read(model)
        scored = score_model(recipe, model, split, probe=folder is not None)
    if PartialState().is_main_process:
        intervals = scored.intervals()
        print(results_table(scored.tasks, scored.metrics, scored.trivial, intervals))
        shortfalls = scored.shortfalls(run.training())
        if folder is not None:
            title = run.title(f"{Path(model).absolute().name}, {split}", scored.tasks)
            scored.report(title, intervals, run.history, examples, shortfalls).save(folder)
            print(f"\nThe report is in {folder}.", flush=True)
        for name, said in shortfalls.items():
            logger.warning("task %r: %s", name, said)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
