"""Trains one encoder on several tasks at once, as a recipe says.

    accelerate launch recipes/train.py
    accelerate launch recipes/train.py --config recipes/paper/full_finetuning.yaml --learning_rate 2e-5 --data_dir DIR

Every key of the recipe is a flag; `--tasks.<name>.<key>` changes a task. See `recipes/quickstart.yaml`.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from transformers import AutoTokenizer, set_seed

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel, MultiTaskTrainer
from hf_multitask.data.preparation import PreparedData
from hf_multitask.data.sources import HubSource
from hf_multitask.evaluation.metrics import trivial_score
from hf_multitask.evaluation.summary import results_table
from hf_multitask.hub.card import RunFacts
from hf_multitask.hub.checkpoints import fetch_checkpoint
from hf_multitask.recipe import Recipe, RecipeParser, prepare_data, refusals, writable_folder

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"


def build_model(recipe: Recipe) -> MultiTaskBertModel:
    """A model with the recipe's tasks, on a pretrained encoder or on a new one."""
    backbone, pooling = recipe.model.backbone, recipe.model.pooling
    if recipe.model.from_scratch:
        model = MultiTaskBertModel(MultiTaskBertConfig.from_backbone(backbone, tasks=recipe.tasks, pooling=pooling))
    else:
        model = MultiTaskBertModel.from_backbone(backbone, tasks=recipe.tasks, pooling=pooling)
    if recipe.model.freeze_backbone:
        model.freeze_backbone()
    return model


def run_facts(recipe: Recipe, data: PreparedData) -> RunFacts:
    """What the model card says beyond what the trainer knows."""
    backbone, train, validation = recipe.model.backbone, data.rows["train"], data.rows["validation"]
    return RunFacts(
        backbone=f"{Path(backbone).name if Path(backbone).is_dir() else backbone}"
        f"{' (new weights)' if recipe.model.from_scratch else ''}",
        base_model=None if Path(backbone).is_dir() or recipe.model.from_scratch else backbone,
        datasets={
            name: (str(source.path), source.name)
            for name, source in recipe.sources.items()
            if isinstance(source, HubSource) and not Path(str(source.path)).exists()
        },
        language=recipe.card.language,
        license=recipe.card.license,
        reports=data.reports,
        trivial={
            name: trivial_score(task, train[name]["label"], validation[name]["label"])
            for name, task in recipe.tasks.items()
        },
    )


def main() -> None:
    with refusals():
        recipe = RecipeParser(DEFAULT_CONFIG, description=__doc__).parse_recipe(sys.argv[1:])
        args = recipe.training
        logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
        output_dir = writable_folder(str(args.output_dir))
        set_seed(args.seed)
        model = build_model(recipe)
        tokenizer = AutoTokenizer.from_pretrained(recipe.model.backbone)
        if recipe.data.max_length is not None:
            # Saved with the tokenizer, so that whoever loads the model cuts texts where the training did.
            tokenizer.model_max_length = min(recipe.data.max_length, tokenizer.model_max_length)
        with args.main_process_first(desc="preparing the data"):
            data = prepare_data(recipe, model.config, tokenizer, ["train", "validation"])
        trainer = MultiTaskTrainer(model, args, data.rows["train"], data.rows["validation"], processing_class=tokenizer)
        resume = args.resume_from_checkpoint
        if resume not in (None, "true") and not Path(resume).is_dir():
            resume = fetch_checkpoint(resume, args.hub_token)
    trainer.run_facts = run_facts(recipe, data)
    if trainer.is_world_process_zero():
        report = {
            split: {name: {**asdict(entry), "source": entry.place} for name, entry in by_task.items()}
            for split, by_task in data.reports.items()
        }
        (output_dir / "data_report.json").write_text(json.dumps(report, indent=2))

    result = trainer.train(resume_from_checkpoint=True if resume == "true" else resume)
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    trainer.create_model_card()
    with refusals():
        # With push_to_hub, this pushes too.
        trainer.save_model()
    if trainer.is_world_process_zero():
        print(f"\n{results_table(recipe.tasks, metrics, trainer.run_facts.trivial)}\n\nSaved to {output_dir}.")
    trainer.end()


if __name__ == "__main__":
    main()
