"""The model card, filled from what a run did and measured."""

import math
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import TrainingArguments

from hf_multitask.data.loading import SplitReport
from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.shortfalls import compared_scores, counting_score, no_better
from hf_multitask.evaluation.summary import escaped, results_table
from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.hub.adapters import Adapter
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig, TaskConfig
from hf_multitask_cli.arguments import defaults_of

if TYPE_CHECKING:
    # Its libraries that draw take a second to import.
    from hf_multitask.evaluation.report import Report

TEMPLATE = Path(__file__).with_name("model_card.md")

# Said of every run; the others are said where they are not what they are by default.
_ALWAYS_REPORTED = (
    "learning_rate",
    "head_learning_rate",
    "weight_decay",
    "optim",
    "lr_scheduler_type",
    "max_grad_norm",
    "schedule",
    "epoch_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "seed",
)
# Of the machine and of the run's housekeeping; they do not change what is learnt.
_NEVER_REPORTED: tuple[str, ...] = (
    *("output_dir", "run_name", "logging", "log_", "hub_", "push_", "report_to", "project", "trackio"),
    *("disable_tqdm", "resume_", "save_", "dataloader_", "local_rank", "ddp_", "do_", "accelerator_config"),
    *("remove_unused_columns", "restore_callback"),
)


@dataclass
class RunFacts:
    """What the card says of a run beyond what its trainer knows.

    Args:
        backbone: What the encoder started from, in words.
        base_model: Its id on the Hub, if it has one.
        datasets: By task, the id of its dataset on the Hub and its configuration there, where it has one.
        language: Codes of the texts' languages, such as `en`.
        license: The identifier of the model's licence, such as `apache-2.0`.
        reports: What became of each split's rows, by split and then by task.
        trivial: By task, the metrics of a predictor that ignores the text.
        report: On the finished model, saved in `report/`.
        shortfalls: By task, what is to be said of those that are no better than a predictor that ignores the text;
            None while that was not looked at, when the scores alone say it.
    """

    backbone: str = ""
    base_model: str | None = None
    datasets: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    language: Sequence[str] = ()
    license: str | None = None
    reports: Mapping[str, Mapping[str, SplitReport]] = field(default_factory=dict)
    trivial: Mapping[str, Metrics] = field(default_factory=dict)
    report: "Report | None" = None
    shortfalls: Mapping[str, str] | None = None


def build_card(
    facts: RunFacts,
    *,
    name: str,
    config: MultiTaskBertConfig,
    args: TrainingArguments,
    history: Sequence[Mapping[str, Any]],
    step: int,
    sizes: Mapping[str, Mapping[str, int]],
    parameters: int,
    adapter: Adapter | None = None,
    tuned: Collection[str] = (),
    **metadata: Any,
) -> ModelCard:
    """Fills the template `model_card.md`; nothing is said that the run did not do or measure.

    Args:
        facts: What the trainer does not know.
        name: The model's, as the card's code loads it.
        config: The model's.
        args: The run's arguments.
        history: The run's logs: the last evaluation, and the training's time, are taken from there.
        step: Updates so far.
        sizes: Rows by split and task; used where there are no reports.
        parameters: Of the model.
        adapter: What was trained of it, if not the whole.
        tuned: The tasks whose thresholds were picked by the validation rows.
        metadata: Further `tags`, and fields of `ModelCardData` that go before those which are filled here.
    """
    metrics = _last(history, "eval_")
    intervals = facts.report.intervals if facts.report else None
    reports = facts.reports or {
        split: {task: SplitReport("given in Python", rows) for task, rows in by_task.items()}
        for split, by_task in sizes.items()
    }
    values: dict[str, Any] = {
        "model_name": name,
        "library_name": "transformers" if adapter is None else "peft",
        # The Hub shows a snippet with the pipeline of this name: it must be one that can read the model. Those of
        # classification and similarity want another kind of model than one with several heads.
        "pipeline_tag": "feature-extraction",
        "tags": ["hf-multitask", "multi-task"],
        "base_model": facts.base_model or (adapter.base_model if adapter is not None else None),
        "datasets": sorted({dataset for dataset, _ in facts.datasets.values()}) or None,
        "language": list(facts.language) or None,
        "license": facts.license,
        "eval_results": list(_results(facts, config, metrics)) or None,
    }
    tags = metadata.pop("tags", None) or []
    values |= {key: value for key, value in metadata.items() if value is not None}
    values["tags"] += [tags] if isinstance(tags, str) else tags
    return ModelCard.from_template(
        ModelCardData(**values),
        template_path=str(TEMPLATE),
        name=name,
        facts=facts,
        config=config,
        cell=escaped,
        encoder=_encoder(config),
        parameters=parameters,
        adapter=adapter,
        step=step,
        table=results_table(config.tasks, metrics, facts.trivial, intervals) if metrics else None,
        reports=reports,
        hyperparameters=_hyperparameters(args),
        hardware=_hardware(args),
        seconds=_last(history, "train_runtime").get("train_runtime"),
        limits=list(_limits(facts, config, metrics, tuned)),
    )


def _results(facts: RunFacts, config: MultiTaskBertConfig, metrics: Metrics) -> Iterator[EvalResult]:
    """The model index: each task's metrics on the validation split."""
    for name, task in config.tasks.items():
        # Results of the same dataset would be merged, so that one that is not on the Hub goes by the task's name.
        dataset, configuration = facts.datasets.get(name, (name, None))
        evaluation = evaluation_of(task)
        for metric, kind in evaluation.chosen.items():
            value = metrics.get(f"eval_{name}_{metric}", math.nan)
            if math.isfinite(value):
                yield EvalResult(
                    task_type=evaluation.hub_task,
                    task_name=f"{name} ({task.type})",
                    dataset_type=dataset,
                    dataset_config=configuration,
                    dataset_name=name,
                    dataset_split="validation",
                    metric_type=kind.hub_type or metric,
                    metric_name=kind.title,
                    metric_value=value,
                )


def _encoder(config: MultiTaskBertConfig) -> str:
    """The encoder's kind and size, as far as its configuration says them."""
    encoder: Any = config.encoder_config
    sizes = {"layers": "num_hidden_layers", "dimensions": "hidden_size"}
    known = [f"{value} {word}" for word, key in sizes.items() if (value := getattr(encoder, key, None))]
    return f"of type {encoder.model_type}" + (f" with {' of '.join(known)}" if known else "")


def _limits(facts: RunFacts, config: MultiTaskBertConfig, metrics: Metrics, tuned: Collection[str]) -> Iterator[str]:
    """What the run's own figures warn of."""
    for name, task in config.tasks.items():
        if name in tuned:
            yield f"`{name}`: the validation rows picked its thresholds, and its scores on these are a little too good."
        yield from _shortfall(name, task, facts, metrics)
        yield from (f"`{name}`: {limit}" for limit in evaluation_of(task).limits())
    for split, by_task in facts.reports.items():
        for name, report in by_task.items():
            if report.truncated:
                yield f"`{name}`: {report.truncated} of {report.rows} {split} rows were cut to the longest input."
            if report.also_in_train:
                yield f"`{name}`: {report.also_in_train} of {report.rows} {split} rows stand in train too."
            if report.all_dropped:
                yield f"`{name}`: {report.all_dropped} of {report.rows} {split} rows could not be used."
            if report.not_evaluated:
                yield f"`{name}`: {report.not_evaluated} of {report.rows} {split} rows were left out of the evaluation."


def _shortfall(name: str, task: TaskConfig, facts: RunFacts, metrics: Metrics) -> Iterator[str]:
    """What a task's scores say beside those of the trivial predictor."""
    value, trivial = counting_score(task, metrics, f"eval_{name}_"), facts.trivial.get(name)
    if facts.shortfalls is not None:
        if name in facts.shortfalls:
            yield f"`{name}`: {escaped(facts.shortfalls[name])}"
    elif value is not None and trivial is not None and no_better(task, value, trivial):
        yield f"`{name}`: no better than a predictor that ignores the text ({compared_scores(task, value, trivial)})."
    evaluation = evaluation_of(task)
    for metric, known in (trivial or {}).items():
        found = metrics.get(f"eval_{name}_{metric}")
        if metric == evaluation.counting or found is None:
            continue
        if found <= known if evaluation.chosen[metric].greater_is_better else found >= known:
            trivial_name = evaluation.trivial_name
            yield f"`{name}`: {metric} {found:.3f} is no better than that of the {trivial_name}, {known:.3f}."


def _hyperparameters(args: TrainingArguments) -> dict[str, Any]:
    """What shaped the training: the usual arguments, and any other that is not what it is by default."""
    values = args.to_dict()
    reported = {name: values[name] for name in _ALWAYS_REPORTED}
    reported |= {"mixed_precision": args.mixed_precision, "processes": args.world_size}
    usual = defaults_of(args)
    for entry in fields(args):
        if entry.init and not entry.name.startswith(_NEVER_REPORTED) and getattr(args, entry.name) != usual[entry.name]:
            reported.setdefault(entry.name, values[entry.name])
    # What is not set, and what another argument overrules, says nothing.
    reported.pop("max_steps" if args.max_steps <= 0 else "num_train_epochs")
    return {name: value for name, value in reported.items() if value not in (None, "", [], {})}


def _hardware(args: TrainingArguments) -> str:
    if args.device.type == "cuda":
        return f"{args.world_size} x {torch.cuda.get_device_name(args.device)}"
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    where = f" ({os.cpu_count()} cores, {platform.machine()})" if args.device.type == "cpu" else ""
    return f"{processes} on {args.device.type.upper()}{where}"


def _last(history: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    """The last entry of the logs that has a key of this prefix."""
    return next((dict(entry) for entry in reversed(history) if any(key.startswith(prefix) for key in entry)), {})
