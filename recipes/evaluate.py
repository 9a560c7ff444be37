"""Scores a trained model on the data of a recipe.

    python recipes/evaluate.py
    python recipes/evaluate.py --config recipes/paper/full_finetuning.yaml --data_dir DIR --model OUT --split test

The recipe's tasks say where the data are; `--model` is its `output_dir` unless told otherwise.
"""

import logging
import sys
from pathlib import Path

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from transformers import AutoModel, AutoTokenizer

from hf_multitask import MultiTaskTrainer
from hf_multitask.data.preparation import prepare
from hf_multitask.data.sources import SPLITS
from hf_multitask.evaluation.metrics import trivial_score
from hf_multitask.evaluation.summary import results_table
from hf_multitask.recipe import RecipeParser, refusals

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"


def main() -> None:
    with refusals():
        parser = RecipeParser(DEFAULT_CONFIG, description=__doc__)
        parser.add_argument("--model", help="Folder or Hub id of the model; by default the recipe's output_dir.")
        parser.add_argument("--split", default="validation", choices=SPLITS, help="The split to score.")
        recipe = parser.parse_recipe(sys.argv[1:])
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        name_or_path = str(parser.extra.model or recipe.training.output_dir)
        split = parser.extra.split
        model = AutoModel.from_pretrained(name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        # The table of tasks is the model's: the recipe says only where their data are.
        tasks = {name: task for name, task in model.config.tasks.items() if name in recipe.sources}
        longest = model.config.longest_input(tokenizer)
        splits = list(dict.fromkeys(["train", split]))
        max_length = min(recipe.data.max_length or longest, longest)
        rows = prepare(tasks, recipe.sources, splits, tokenizer, max_length, recipe.data.on_bad_rows).rows
        trainer = MultiTaskTrainer(model, recipe.training, eval_dataset=rows[split], processing_class=tokenizer)

    metrics = trainer.evaluate()
    trivial = {
        name: trivial_score(tasks[name], rows["train"][name]["label"], rows[split][name]["label"]) for name in tasks
    }
    if trainer.is_world_process_zero():
        print(results_table(tasks, metrics, trivial))
    trainer.end()


if __name__ == "__main__":
    main()
