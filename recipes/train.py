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
from hf_multitask.data.preparation import prepare
from hf_multitask.data.tokenization import longest_input
from hf_multitask.evaluation.metrics import trivial_score
from hf_multitask.evaluation.summary import results_table
from hf_multitask.hub.card import build_card
from hf_multitask.recipe import Recipe, RecipeParser, refusals, writable_folder

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"
CARD_TEMPLATE = Path(__file__).parents[1] / "model_card.md"
REPORTED_HYPERPARAMETERS = (
    "learning_rate",
    "head_learning_rate",
    "weight_decay",
    "head_weight_decay",
    "optim",
    "lr_scheduler_type",
    "max_grad_norm",
    "schedule",
    "largest_task_epochs",
    "sampling_alpha",
    "mixing",
    "phase_learning_rates",
    "phase_restart",
    "loss_weighting",
    "surgery",
    "smart",
    "proximal",
    "epoch_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "seed",
)


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


def main() -> None:
    with refusals():
        recipe = RecipeParser(DEFAULT_CONFIG, description=__doc__).parse_recipe(sys.argv[1:])
        args = recipe.training
        logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
        output_dir = writable_folder(str(args.output_dir))
        set_seed(args.seed)
        model = build_model(recipe)
        tokenizer = AutoTokenizer.from_pretrained(recipe.model.backbone)
        longest = longest_input(tokenizer, model.config.encoder_config)
        with args.main_process_first(desc="preparing the data"):
            max_length = min(recipe.data.max_length or longest, longest)
            splits = ["train", "validation"]
            data = prepare(recipe.tasks, recipe.sources, splits, tokenizer, max_length, recipe.data.on_bad_rows)
        train, validation = data.rows["train"], data.rows["validation"]
        trainer = MultiTaskTrainer(model, args, train, validation, processing_class=tokenizer)

    resume = args.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint=True if resume == "true" else resume)
    trainer.save_metrics("train", result.metrics)

    metrics = trainer.evaluate()
    trivial = {
        name: trivial_score(recipe.tasks[name], train[name]["label"], validation[name]["label"]) for name in train
    }
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    trainer.save_model()
    if trainer.is_world_process_zero():
        report = {
            split: {name: asdict(entry) for name, entry in tasks.items()} for split, tasks in data.reports.items()
        }
        (output_dir / "data_report.json").write_text(json.dumps(report, indent=2))
        table = results_table(recipe.tasks, metrics, trivial)
        hyperparameters = {**args.to_dict(), "world_size": args.world_size}
        card = build_card(
            CARD_TEMPLATE,
            name=output_dir.name,
            backbone=f"{Path(recipe.model.backbone).name}{' (new weights)' if recipe.model.from_scratch else ''}",
            config=model.config,
            metrics=metrics,
            table=table,
            reports=data.reports,
            hyperparameters={key: hyperparameters[key] for key in REPORTED_HYPERPARAMETERS},
        )
        card.save(output_dir / "README.md")
        print(f"\n{table}\n\nSaved to {output_dir}.")
    trainer.end()


if __name__ == "__main__":
    main()
