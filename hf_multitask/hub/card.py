"""The model card, filled from what a run did and measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_multitask.data.loading import SplitReport
from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig

_METRIC_NAMES = {"accuracy": "Accuracy", "pearson": "Pearson correlation"}


def build_card(
    template: Path,
    *,
    name: str,
    backbone: str,
    config: MultiTaskBertConfig,
    metrics: Metrics,
    table: str,
    reports: Mapping[str, Mapping[str, SplitReport]],
    hyperparameters: Mapping[str, Any],
) -> ModelCard:
    """Fills the template; nothing is said that the run did not do or measure.

    Args:
        template: The Jinja template, `model_card.md`.
        name: Of the model.
        backbone: What the encoder started from, in words or as a Hub id.
        config: The model's.
        metrics: What the evaluation gave, with the prefix `eval`.
        table: The results as a Markdown table.
        reports: What became of each split's rows, by split and then by task.
        hyperparameters: Of the run, by name.
    """
    sources = [report.source for by_task in reports.values() for report in by_task.values()]
    # The folder that a local file lies in is nobody's business.
    places = {source: Path(source).name if Path(source).is_file() else source for source in sources}
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=places[reports["validation"][task].source],
            dataset_name=task,
            dataset_split="validation",
            metric_type=metric,
            metric_name=label,
            metric_value=metrics[f"eval_{task}_{metric}"],
        )
        for task in config.tasks
        for metric, label in _METRIC_NAMES.items()
        if f"eval_{task}_{metric}" in metrics
    ]
    data = ModelCardData(
        model_name=name, library_name="transformers", tags=["hf-multitask", "multi-task"], eval_results=results
    )
    return ModelCard.from_template(
        data,
        template_path=str(template),
        name=name,
        backbone=backbone,
        pooling=config.pooling,
        tasks=config.tasks,
        reports=reports,
        places=places,
        table=table,
        hyperparameters=hyperparameters,
    )
