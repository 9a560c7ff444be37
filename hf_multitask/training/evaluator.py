"""transformers' Trainer, evaluating several tasks as one."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.given import GivenData
from hf_multitask.data.loading import SplitReport
from hf_multitask.evaluation.metrics import Metric, mean_of_shares
from hf_multitask.evaluation.task_evaluations import (
    TaskPredictions,
    check_metrics,
    evaluation_of,
    is_greater_better,
)
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import nearest
from hf_multitask.model.packing import use_packing
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.checkpoints import RunRefusedError
from hf_multitask.training.health import DEAD_ROWS, is_constant

logger = logging.getLogger(__name__)


class MultiTaskEvaluator(Trainer):
    """The half of [`MultiTaskTrainer`] that evaluates and predicts.

    Evaluation gives `eval_<task>_<metric>` and `eval_<task>_loss` for every task, `eval_loss` (their weighted sum)
    and `eval_final_score`, over the tasks that have labels. It is one evaluation: callbacks, early stopping and the
    choice of the best checkpoint see it once, with all tasks.
    """

    args: MultiTaskTrainingArguments
    _tasks: dict[str, TaskConfig]
    # Reads the datasets that a caller gives.
    _given: GivenData
    # What became of their rows, by split and then by task: of `train` and `validation`, and, of the last call that got
    # datasets of its own, of `evaluate` and `predict`.
    data_reports: dict[str, dict[str, SplitReport]]
    # By task, what a caller computes in place of our metrics; None: the caller computes all, or nothing.
    _own_metrics: Mapping[str, Callable[[EvalPrediction], dict[str, float]]] | None
    # The rows that an evaluation has come to.
    _evaluated: MultiTaskDataset
    # The tasks that `tune_thresholds` picked something for.
    tuned: tuple[str, ...] = ()

    def _metrics_function(self, compute_metrics: Any) -> Any:
        """What the parent is to call: ours, with a caller's own function for some tasks, or a caller's alone.

        Raises:
            ValueError: A function for a task that there is not, or a task whose metrics are none.
        """
        check_metrics(self._tasks)
        if isinstance(compute_metrics, Mapping):
            for name in compute_metrics:
                if name not in self._tasks:
                    raise ValueError(f"compute_metrics: task {name!r} is unknown; {nearest(name, list(self._tasks))}")
            self._own_metrics = compute_metrics
            return self._task_metrics
        self._own_metrics = None
        return compute_metrics

    def _check_best_metric(self) -> None:
        """Refuses a `metric_for_best_model` that no evaluation will give; with metrics of a caller's own, who knows.

        Of one of ours, it finds out whether the greatest value is the best, where that was not said.

        Raises:
            ValueError: There is none of that name.
        """
        metric = self.args.metric_for_best_model
        if self.eval_dataset is None or metric is None:
            return
        name = metric.removeprefix("eval_")
        if not self._picks_best() and name == "final_score":
            # Nobody asked for it: it is what we take unless told otherwise.
            return
        is_ours = self.compute_metrics == self._task_metrics
        if (self.compute_metrics is not None and not is_ours) or name.startswith(
            tuple(f"{task}_" for task in self._own_metrics or ())
        ):
            if self.args.is_direction_guessed and self._picks_best() and not name.endswith("loss"):
                logger.warning(
                    "metric_for_best_model %r is computed by a function of the caller's: the %s value is taken to be "
                    "the best, by the metric's name; say greater_is_better.",
                    *(metric, "greatest" if self.args.greater_is_better else "least"),
                )
            return
        labelled = [
            task
            for task, rows in self.eval_dataset.datasets.items()
            if not self._tasks[task].HAS_LABELS or "label" in rows.column_names
        ]
        known = [f"{task}_loss" for task in labelled]
        if len(labelled) == len(self.eval_dataset.datasets):
            known.append("loss")
        if is_ours and not self.args.prediction_loss_only:
            scored = [task for task in labelled if task not in (self._own_metrics or ())]
            known += [f"{task}_{key}" for task in scored for key in evaluation_of(self._tasks[task]).chosen]
            known += ["final_score"] * any(evaluation_of(self._tasks[task]).counting for task in scored)
        if name not in known:
            raise ValueError(f"metric_for_best_model {metric!r} is not evaluated; {nearest(name, known)}")
        if self.args.is_direction_guessed:
            self.args.greater_is_better = is_greater_better(self._tasks, name)

    def _picks_best(self) -> bool:
        """Whether anything depends on `metric_for_best_model`."""
        args = self.args
        return (
            args.load_best_model_at_end
            or args.save_strategy == SaveStrategy.BEST
            or args.lr_scheduler_type == "reduce_lr_on_plateau"
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As the parent, which takes the metric for granted; a caller's own metrics are known only now.

        Raises:
            RunRefusedError: The best checkpoint is to be picked by a metric that was not evaluated.
        """
        metric = self.args.metric_for_best_model
        if metric is not None and f"eval_{metric.removeprefix('eval_')}" not in metrics:
            if not self._picks_best():
                return False
            raise RunRefusedError(
                f"metric_for_best_model {metric!r} is not evaluated; {nearest(f'eval_{metric}', list(metrics))}"
            )
        return super()._determine_best_metric(metrics, trial)

    def _prepare_datasets(self, argument: str, datasets: Any, split: str) -> MultiTaskDataset | None:
        """The rows of an argument, read once; the report on them is kept as that of a split."""
        if datasets is None or isinstance(datasets, MultiTaskDataset):
            return datasets
        rows, self.data_reports[split] = self._given.prepare(argument, datasets)
        return rows

    def _stop_packing_if_need_be(self) -> None:
        """Batches are padded once `set_attn_implementation` gave the model attention that cannot read packed ones."""
        collator: Any = self.data_collator
        args: Any = self.args
        if getattr(collator, "packing", False):
            collator.packing = use_packing(self.model, args.packing)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> dict[str, DataLoader]:
        """A dataloader per task; see `evaluation_loop`."""
        if isinstance(eval_dataset, str):
            known = list(self.eval_dataset.datasets) if self.eval_dataset else []
            if eval_dataset not in known:
                raise ValueError(f"eval_dataset: task {eval_dataset!r} is unknown; {nearest(eval_dataset, known)}")
            eval_dataset = MultiTaskDataset({eval_dataset: self.eval_dataset.given[eval_dataset]})
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("Trainer: evaluation requires an eval_dataset.")
        return self.get_test_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> dict[str, DataLoader]:
        """A dataloader per task; see `evaluation_loop`."""
        if test_dataset is None:
            raise ValueError("test_dataset is missing: a dictionary with a dataset for each task.")
        prepared = self._prepare_datasets("test_dataset", test_dataset, "predict")
        loaders = {}
        # With all of their columns: evaluations may read more of them than batches do.
        for name, dataset in prepared.given.items():
            loaders[name] = super().get_test_dataloader(MultiTaskDataset({name: dataset}, is_evaluated=True))
        return loaders

    def _get_eval_sampler(self, eval_dataset: MultiTaskDataset) -> Any:
        return eval_dataset.by_length()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates all tasks, or those of a dictionary of datasets, or the one that is named.

        Returns:
            `<prefix>_<task>_<metric>`, `<prefix>_<task>_loss`, `<prefix>_loss`, and `<prefix>_final_score` over the
            tasks that were evaluated.
        """
        if not isinstance(eval_dataset, str):
            # The parent would run a separate evaluation, with callbacks and all, for each value of a dict.
            eval_dataset = self._prepare_datasets("eval_dataset", eval_dataset, "evaluate")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def tune_thresholds(self, eval_dataset: Any = None) -> dict[str, dict[str, Any]]:
        """Picks what decides which labels outputs predict, such as thresholds, by labelled rows; the config keeps it.

        Scores on the same rows are then a little too good, which the card says.

        Args:
            eval_dataset: A dictionary of datasets; None: the trainer's own.

        Returns:
            By task, the keys that were picked and their values; none of tasks that have nothing to pick.

        Raises:
            ValueError: There are no rows.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None:
            raise ValueError("tune_thresholds needs labelled rows: give an eval_dataset.")
        output: Any = self.predict(rows)
        picked = {}
        for name, labels in (output.label_ids or {}).items():
            task = self._tasks[name]
            if values := evaluation_of(task).tuned(TaskPredictions(task, output.predictions[name], labels)):
                picked[name] = values
                for key, value in values.items():
                    setattr(task, key, value)
                    logger.info("task %r: %s: %s.", name, key, value)
        if not picked:
            logger.warning("No task has thresholds to tune.")
        self.tuned = tuple(picked)
        return picked

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the parent; the model is not given the numbers of the rows, and our metrics get what they read."""
        inputs = {key: value for key, value in inputs.items() if key != "rows"}
        loss, logits, labels = cast(Any, super().prediction_step(model, inputs, *args, **kwargs))
        if logits is not None and labels is not None and self.compute_metrics == self._task_metrics:
            logits = {
                name: self._tasks[name].evaluated(outputs, labels[name]) if name in labels else outputs
                for name, outputs in logits.items()
            }
        return loss, logits, labels

    def evaluation_loop(
        self,
        dataloader: Mapping[str, DataLoader],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The parent's loop for each task, as one evaluation; predictions and labels are arrays by task.

        Rows go through the model by their length and come out in the order of their datasets.
        """
        self._stop_packing_if_need_be()
        outputs: dict[str, EvalLoopOutput] = {}
        places: dict[str, np.ndarray] = {}
        for name, loader in dataloader.items():
            prefix = f"{metric_key_prefix}_{name}"
            dataset: Any = loader.dataset
            self._evaluated = dataset
            outputs[name] = super().evaluation_loop(loader, description, prediction_loss_only, ignore_keys, prefix)
            places[name] = np.argsort(dataset.by_length())
        metrics: dict[str, float] = {}
        preparation = "model_preparation_time"
        for name, output in outputs.items():
            metrics |= output.metrics
            if (time := metrics.pop(f"{metric_key_prefix}_{name}_{preparation}", None)) is not None:
                metrics[f"{metric_key_prefix}_{preparation}"] = time
        losses = {name: metrics.get(f"{metric_key_prefix}_{name}_loss") for name in outputs}
        if None not in losses.values():
            metrics[f"{metric_key_prefix}_loss"] = sum(self._tasks[name].weight * loss for name, loss in losses.items())
        metrics |= self._final_score(metrics, list(outputs), metric_key_prefix)
        return EvalLoopOutput(
            predictions={
                name: output.predictions[name][places[name]] for name, output in outputs.items() if output.predictions
            },
            label_ids={
                name: output.label_ids[name][places[name]] for name, output in outputs.items() if output.label_ids
            },
            metrics=metrics,
            num_samples=sum(output.num_samples or 0 for output in outputs.values()),
        )

    def _task_metrics(self, evaluated: EvalPrediction) -> dict[str, float]:
        """The metrics of the one task of an evaluation."""
        ((name, logits),) = evaluated.predictions.items()
        each = self._tasks[name].each_output(torch.from_numpy(logits)).numpy()
        if len(logits) >= DEAD_ROWS and len(each) and is_constant(each.min(0), each.max(0)):
            logger.warning("task %r: the head's output is the same for all rows.", name)
        if self._own_metrics and name in self._own_metrics:
            own = self._own_metrics[name](EvalPrediction(logits, evaluated.label_ids[name], losses=evaluated.losses))
            if not isinstance(own, Mapping):
                raise ValueError(f"compute_metrics: task {name!r}: it must give a mapping of metrics, not {own!r}.")
            return dict(own)
        evaluation = evaluation_of(self._tasks[name])
        rows = TaskPredictions(self._tasks[name], logits, evaluated.label_ids[name], rows=self._rows_beside(name))
        metrics = evaluation.score(rows.predicted, rows.truth)
        for metric, value in metrics.items():
            if value != value:
                why = _why_undefined(evaluation.chosen[metric], logits)
                logger.warning("task %r: %s is undefined: %s.", name, metric, why)
        return metrics

    def _rows_beside(self, name: str) -> Any:
        """The rows of a task that is being evaluated, in the order of its predictions, if its evaluation reads them."""
        if not self._tasks[name].EVALUATED_COLUMNS:
            return None
        return self._evaluated.given[name].select(self._evaluated.by_length())

    def _final_score(self, metrics: Mapping[str, float], names: list[str], prefix: str) -> dict[str, float]:
        shares = {}
        for name in names:
            begin = f"{prefix}_{name}_"
            own = {key.removeprefix(begin): value for key, value in metrics.items() if key.startswith(begin)}
            if (share := evaluation_of(self._tasks[name]).share(own)) is not None:
                shares[name] = share
        return {f"{prefix}_final_score": mean_of_shares(shares)} if shares else {}


def _why_undefined(metric: Metric, outputs: np.ndarray) -> str:
    if metric.is_own:
        return "its function gave NaN"
    if not np.isfinite(outputs).all():
        return "outputs are not all finite"
    return "predictions or labels are constant, or no row is of those that it is a mean over"
