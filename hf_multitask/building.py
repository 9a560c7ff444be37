"""From a recipe to the trainer that runs it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoTokenizer, IntervalStrategy, PreTrainedTokenizerBase, set_seed

from hf_multitask.data.preparation import PreparedData
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel
from hf_multitask.recipe import Recipe, prepare_data
from hf_multitask.training.trainer import MultiTaskTrainer
from hf_multitask_cli.arguments import SPLITS


def build_model(recipe: Recipe) -> MultiTaskBertModel:
    """A model with the recipe's tasks, on a pretrained encoder or on a new one.

    Raises:
        ValueError, OSError: The backbone cannot be read, or a task does not fit it.
    """
    backbone, pooling = recipe.model.backbone, recipe.model.pooling
    if recipe.model.from_scratch:
        model = MultiTaskBertModel(MultiTaskBertConfig.from_backbone(backbone, tasks=recipe.tasks, pooling=pooling))
    else:
        model = MultiTaskBertModel.from_backbone(backbone, tasks=recipe.tasks, pooling=pooling)
    if recipe.model.freeze_backbone:
        model.freeze_backbone()
    return model


def build_trainer(recipe: Recipe, **kwargs: Any) -> tuple[MultiTaskTrainer, PreparedData]:
    """The trainer of a recipe's run, seeded, and the data that it trains and validates on.

    Args:
        recipe: The recipe.
        kwargs: For [`MultiTaskTrainer`].

    Raises:
        ValueError, OSError: Something of the recipe cannot be read or used; the message names it.
    """
    args = recipe.training
    set_seed(args.seed)
    model = build_model(recipe)
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.backbone)
    if recipe.data.max_length is not None:
        # Saved with the tokenizer, so that whoever loads the model cuts texts where the training did.
        tokenizer.model_max_length = min(recipe.data.max_length, tokenizer.model_max_length)
    with args.main_process_first(desc="preparing the data"):
        # With nothing to evaluate, the tasks that have validation data are scored at the end, if there are any.
        is_evaluated = args.eval_strategy != IntervalStrategy.NO or args.eval_on_start or args.load_best_model_at_end
        required, optional = (["train", "validation"], []) if is_evaluated else (["train"], ["validation"])
        data = prepare_available(recipe, model.config, tokenizer, required, optional)
    rows, validation = data.rows["train"], data.rows.get("validation")
    trainer = MultiTaskTrainer(model, args, rows, validation, processing_class=tokenizer, **kwargs)
    return trainer, data


def prepare_available(
    recipe: Recipe,
    config: MultiTaskBertConfig,
    tokenizer: PreTrainedTokenizerBase,
    required: Sequence[str],
    optional: Sequence[str],
) -> PreparedData:
    """The recipe's data for the model's tasks, of some splits only where a task's source names them.

    Args:
        recipe, config, tokenizer: As for [`prepare_data`].
        required: Splits that every task must have.
        optional: Splits that are left out of the tasks whose source has none; what is named must be there.

    Raises:
        ValueError: As for [`prepare_data`], or the recipe has none of the model's tasks.
    """
    names = [name for name in config.tasks if name in recipe.sources]
    if not names:
        raise ValueError(
            f"the recipe has none of the model's tasks: it has {', '.join(recipe.sources)}, and the model has "
            f"{', '.join(config.tasks) or 'none'}; name the model's own recipe by --config."
        )
    prepared = PreparedData()
    for name in names:
        source = recipe.sources[name]
        splits = [split for split in SPLITS if split in required or (split in optional and getattr(source, split))]
        part = prepare_data(replace(recipe, sources={name: source}), config, tokenizer, splits)
        for whole, of_task in (
            (prepared.rows, part.rows),
            (prepared.texts, part.texts),
            (prepared.reports, part.reports),
        ):
            for split, by_task in of_task.items():
                whole.setdefault(split, {}).update(by_task)
    return prepared
