"""Scores a trained model on the data of a recipe, with 95 % bootstrap intervals.

    python recipes/evaluate.py
    python recipes/evaluate.py --config recipes/paper/full_finetuning.yaml --data_dir DIR --model OUT --split test

The recipe's tasks say where the data are; `--model` is its `output_dir` unless told otherwise.
"""

import logging
import sys
from pathlib import Path

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from accelerate import PartialState

from hf_multitask.data.sources import SPLITS
from hf_multitask.evaluation.summary import results_table
from hf_multitask.evaluation.uncertainty import bootstrap_intervals
from hf_multitask.recipe import RecipeParser, refusals
from hf_multitask.scoring import score_model

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"


def main() -> None:
    with refusals():
        parser = RecipeParser(DEFAULT_CONFIG, description=__doc__)
        parser.add_argument("--model", help="Folder or Hub id of the model; by default the recipe's output_dir.")
        parser.add_argument("--split", default="validation", choices=SPLITS, help="The split to score.")
        recipe = parser.parse_recipe(sys.argv[1:])
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        scored = score_model(recipe, str(parser.extra.model or recipe.training.output_dir), parser.extra.split)
    if PartialState().is_main_process:
        intervals = {
            name: bootstrap_intervals(task, scored.predicted[name], scored.labels[name])
            for name, task in scored.tasks.items()
        }
        print(results_table(scored.tasks, scored.metrics, scored.trivial, intervals))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
