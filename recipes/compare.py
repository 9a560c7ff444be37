"""Says whether one model is better than another on the data of a recipe.

    python recipes/compare.py outputs/a outputs/b --config recipes/paper/base.yaml --data_dir DIR

For every task and metric: both scores, their difference (second less first) with its 95 % bootstrap interval, the
p-value of a paired permutation test, and that value corrected for the number of tasks and metrics (Holm). Models may be
folders or Hub ids; they are compared on the tasks that both have, by the metrics that the recipe or else the first one
names, by default on the data of the recipe that the first one's run saved in its folder.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_multitask_cli.arguments import SPLITS
from hf_multitask_cli.command_line import answer_at_once, model_place, refusals

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"
FLAGS = argparse.ArgumentParser(add_help=False)
# Not nargs=2: the recipe's YAML is parsed by the same parser, and names none.
FLAGS.add_argument("models", nargs="*", metavar="MODEL", help="Folder or Hub id of a model; two of them.")
FLAGS.add_argument("--split", default="validation", choices=SPLITS, help="The split to compare on.")

if __name__ == "__main__":
    # Before the imports that take seconds.
    answer_at_once(__doc__, DEFAULT_CONFIG, FLAGS)

from accelerate import PartialState

from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.summary import comparison_table
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.evaluation.uncertainty import compare
from hf_multitask.recipe import RecipeParser
from hf_multitask.saved_recipe import default_to_saved_recipe
from hf_multitask.scoring import Scored, score_model


def shared_tasks(first: Scored, second: Scored) -> list[str]:
    """The tasks that can be compared; their labels are the recipe's in both models.

    Raises:
        ValueError: There are none.
    """
    names = [name for name in first.tasks if name in second.tasks]
    if not names:
        raise ValueError(f"the models share no task: {', '.join(first.tasks)}; {', '.join(second.tasks)}.")
    return names


def first_metrics(first: Scored, side: Scored, names: Sequence[str]) -> Metrics:
    """What an evaluation of one model gives by the metrics of the first, which may not be its own."""
    return {
        f"eval_{name}_{metric}": value
        for name in names
        for metric, value in evaluation_of(first.tasks[name])
        .score(side.predictions[name].predicted, first.predictions[name].truth)
        .items()
    }


def main() -> None:
    with refusals():
        parser = RecipeParser(DEFAULT_CONFIG, __doc__, FLAGS)
        default_to_saved_recipe(parser, sys.argv[1:], parser.parse_known_args(sys.argv[1:])[0].models)
        recipe = parser.parse_recipe(sys.argv[1:])
        if len(parser.extra.models) != 2:
            raise ValueError(f"name two models to compare, not {len(parser.extra.models)}.")
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        places = [model_place(model) for model in parser.extra.models]
        first, second = (score_model(recipe, place, parser.extra.split) for place in places)
        names = shared_tasks(first, second)
    if PartialState().is_main_process:
        comparisons = {
            name: compare(
                first.tasks[name],
                first.predictions[name].predicted,
                second.predictions[name].predicted,
                first.predictions[name].truth,
            )
            for name in names
        }
        before, after = (first_metrics(first, side, names) for side in (first, second))
        print(comparison_table(before, after, comparisons))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
