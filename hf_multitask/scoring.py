"""A model on a split of a recipe's data: its predictions, their scores, and the report of both."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer
from transformers.trainer_utils import has_length

from hf_multitask.building import prepare_available
from hf_multitask.data.preparation import PreparedData
from hf_multitask.evaluation.bias import probe_bias
from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.shortfalls import Training, shortfalls
from hf_multitask.evaluation.task_evaluations import TaskPredictions, check_metrics, evaluation_of
from hf_multitask.evaluation.uncertainty import Interval, all_intervals
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.recipe import Recipe
from hf_multitask.training.callbacks import TaskProgressCallback
from hf_multitask.training.compatibility import check_model
from hf_multitask.training.trainer import MultiTaskTrainer

if TYPE_CHECKING:
    from hf_multitask.evaluation.report import Report

logger = logging.getLogger(__name__)


@dataclass
class Scored:
    """What a model says of a split, and how good that is; each by task.

    Args:
        predictions: For those of the model's tasks that there are data for, in the order of the rows.
        metrics: As an evaluation gives them, with the prefix `eval`.
        trivial: The metrics of a predictor that ignores the text.
        bias: What [`probe_bias`] found, if that was wanted.
    """

    predictions: dict[str, TaskPredictions]
    metrics: Metrics
    trivial: dict[str, Metrics]
    bias: pd.DataFrame | None = None

    @property
    def tasks(self) -> dict[str, TaskConfig]:
        """Those that were scored."""
        return {name: rows.task for name, rows in self.predictions.items()}

    def intervals(self) -> dict[str, Interval]:
        """Of the metrics, from [`all_intervals`]; they are computed once."""
        return self._intervals

    @cached_property
    def _intervals(self) -> dict[str, Interval]:
        predicted = {name: rows.predicted for name, rows in self.predictions.items()}
        return all_intervals(self.tasks, predicted, {name: rows.truth for name, rows in self.predictions.items()})

    def shortfalls(self, training: Training | None = None) -> dict[str, str]:
        """By task, what is to be said of those that are no better than a predictor that ignores the text.

        Args:
            training: Of the model, if it is known; it may say why.
        """
        return shortfalls(self.predictions, self.metrics, self.trivial, self.intervals(), training)

    def report(
        self,
        title: str,
        intervals: Mapping[str, Interval],
        history: Sequence[Mapping[str, Any]] = (),
        examples: int = 10,
        shortfalls: Mapping[str, str] | None = None,
    ) -> "Report":
        """The report; the arguments are those of [`build_report`]."""
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation.report import build_report

        return build_report(
            *(title, self.predictions, self.metrics, self.trivial, intervals, history, self.bias, examples),
            shortfalls=shortfalls,
        )


def score(trainer: MultiTaskTrainer, data: PreparedData, split: str, probe: bool = False) -> Scored:
    """Predicts a split with a trainer's model; all processes take part.

    Args:
        trainer: The trainer.
        data: With the rows of the split, and those of `train` for the trivial predictor, where there are any.
        split: `train`, `validation` or `test`.
        probe: Whether to probe for biases too, where a task's kind can be.
    """
    rows, tasks = data.rows[split], trainer.model.config.tasks
    probed = {name: tasks[name] for name in rows if evaluation_of(tasks[name]).is_probed} if probe else {}
    with _bars(trainer, ScoringProgress()):
        output: Any = trainer.predict(cast(Any, rows), metric_key_prefix="eval")
    texts = {
        name: [checked[column] for column in tasks[name].text_columns if column in checked.column_names]
        for name, checked in data.texts[split].items()
    }
    return Scored(
        predictions={
            name: TaskPredictions(
                task=tasks[name],
                outputs=output.predictions[name],
                labels=output.label_ids[name],
                texts=list(zip(*texts[name], strict=True)),
                rows=rows[name],
            )
            for name in rows
        },
        metrics=output.metrics,
        trivial=trivial_scores(tasks, data, split, trainer.processing_class),
        bias=_probe(trainer, probed) if probed else None,
    )


def _probe(trainer: MultiTaskTrainer, tasks: Mapping[str, TaskConfig]) -> pd.DataFrame:
    """Probes a trainer's model for biases, under one progress bar."""

    def predict(datasets: Any) -> Any:
        return trainer.predict(datasets, metric_key_prefix="eval").predictions

    with _bars(trainer, None) as are_shown:
        shown = are_shown and trainer.is_world_process_zero()
        return probe_bias(tasks, predict, tokenizer=trainer.processing_class, shows_progress=shown)


class ScoringProgress(TaskProgressCallback):
    """A progress bar for each task that is scored, with its name."""

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not has_length(eval_dataloader):
            return
        bar = self.prediction_bar
        if bar is None or bar.n >= bar.total:
            # The one of the task before is full.
            self.on_predict(args, state, control)
            loader: Any = eval_dataloader
            (name,) = loader.dataset.datasets
            bar = self.prediction_bar = tqdm(total=len(loader), desc=f"scoring {name}", dynamic_ncols=True)
        bar.update(1)


@contextmanager
def _bars(trainer: MultiTaskTrainer, instead: TaskProgressCallback | None) -> Iterator[bool]:
    """Puts progress bars in the place of a trainer's own, or none; gives whether it has any."""
    own = trainer.pop_callback(TaskProgressCallback)
    if own is not None and instead is not None:
        trainer.add_callback(instead)
    try:
        yield own is not None
    finally:
        if own is not None:
            if instead is not None:
                trainer.remove_callback(instead)
            trainer.add_callback(own)


def trivial_scores(
    tasks: Mapping[str, TaskConfig], data: PreparedData, split: str, tokenizer: Any
) -> dict[str, Metrics]:
    """By task, the metrics on a split of a predictor that knows the labels of `train` alone.

    Tasks that have no rows of both are not there, nor those whose kind has no such predictor.
    """
    train, found = data.rows.get("train", {}), {}
    for name, rows in data.rows.get(split, {}).items():
        if name in train:
            evaluation = evaluation_of(tasks[name])
            learnt = evaluation.learnt_of(train[name], tokenizer)
            found[name] = evaluation.trivial(learnt, evaluation.labels_of(rows, tokenizer))
    return {name: metrics for name, metrics in found.items() if metrics}


def score_model(recipe: Recipe, name_or_path: str, split: str, probe: bool = False) -> Scored:
    """Predicts a split of a recipe's data with a saved model.

    Args:
        recipe: Says where the data are, how long inputs may be, and on what to compute; the tasks are the model's, and
            so are their metrics where the recipe names none.
        name_or_path: The model's folder or Hub id.
        split: `train`, `validation` or `test`.
        probe: Whether to probe for biases too.

    Raises:
        ValueError, OSError: The model or the data cannot be read, or the recipe has none of the model's tasks.
    """
    # Scoring pushes nothing, whatever the recipe's training does.
    recipe.training.push_to_hub = False
    try:
        model: Any = AutoModel.from_pretrained(name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except OSError as error:
        raise OSError(f"model {name_or_path} cannot be loaded: {error}") from error
    check_model(model)
    for name, task in model.config.tasks.items():
        chosen = recipe.tasks.get(name)
        if chosen is not None and (chosen.metrics or chosen.counts):
            task.metrics, task.counts = chosen.metrics, chosen.counts
    check_metrics(model.config.tasks)
    try:
        data = prepare_available(recipe, model.config, tokenizer, [split], ["train"])
    except ValueError as error:
        # Rows of train only tell what a predictor makes that ignores the text: without them, all else is there.
        data = prepare_available(recipe, model.config, tokenizer, [split], [])
        logger.warning("The trivial predictor is not measured, since train cannot be read: %s", error)
    trainer = MultiTaskTrainer(model, recipe.training, eval_dataset=data.rows[split], processing_class=tokenizer)
    return score(trainer, data, split, probe)
