"""From a recipe to the trainer that runs it."""

from typing import Any

from transformers import AutoTokenizer, set_seed

from hf_multitask.data.preparation import PreparedData
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel
from hf_multitask.recipe import Recipe, prepare_data
from hf_multitask.training.trainer import MultiTaskTrainer


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
        data = prepare_data(recipe, model.config, tokenizer, ["train", "validation"])
    rows = data.rows
    trainer = MultiTaskTrainer(model, args, rows["train"], rows["validation"], processing_class=tokenizer, **kwargs)
    return trainer, data
