"""transformers' Trainer for a dictionary of tasks."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, ProgressCallback, Trainer
from transformers.trainer_utils import EvalLoopOutput, seed_worker

from hf_multitask.data.collator import MultiTaskCollator
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.preparation import prepare_given
from hf_multitask.data.schedule import (
    AnnealedSampling,
    RoundRobin,
    Schedule,
    SizeSampling,
    StepBatchSampler,
    adaptive_round_robin,
)
from hf_multitask.data.tokenization import longest_input
from hf_multitask.evaluation.metrics import final_score, predictions, score
from hf_multitask.model.dropout import use_bit_dropout
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel
from hf_multitask.model.packing import use_packing
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.callbacks import EmbeddingGradientKeeper, EpochSetter, TaskProgressCallback
from hf_multitask.training.meters import Meters
from hf_multitask.training.optimizer import separate_heads
from hf_multitask.training.proximal import ProximalPoint
from hf_multitask.training.regularization import Regularization
from hf_multitask.training.smart import Smart

logger = logging.getLogger(__name__)


class MultiTaskTrainer(Trainer):
    """Trains and evaluates a [`MultiTaskBertModel`] on all its tasks.

    Args:
        model: The model; its config has the table of tasks.
        args: The run's arguments.
        train_dataset, eval_dataset: A dataset per task, by name. Either tokenized rows, or rows with the columns
            `sentence` (or `sentence1` and `sentence2`) and `label`, which are checked and tokenized here.
        processing_class: The tokenizer.
        kwargs: As transformers' Trainer takes them.

    Raises:
        ValueError: A dataset for a task that the model does not have, a missing column, or a row that cannot be
            used; all before training begins.

    Evaluation gives `eval_<task>_<metric>` and `eval_<task>_loss` for every task, `eval_loss` (their weighted sum)
    and `eval_final_score`. It is one evaluation: callbacks, early stopping and the choice of the best checkpoint
    see it once, with all tasks.
    """

    # The loss is a mean over each batch. Left to guess, Trainer would take the model's **kwargs for a sign that it
    # is not, and make the gradient too large by the number of accumulation steps.
    loss_is_scaled_for_ga = False

    model: MultiTaskBertModel
    args: MultiTaskTrainingArguments

    def __init__(
        self,
        model: MultiTaskBertModel,
        args: MultiTaskTrainingArguments,
        train_dataset: Mapping[str, Dataset] | None = None,
        eval_dataset: Mapping[str, Dataset] | None = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        # A batch's sequences do not split along their first dimension: one process, one device.
        args._setup_devices  # noqa: B018  (finds the devices)
        args._n_gpu = min(args._n_gpu, 1)
        self._tasks = model.config.tasks
        self._longest = longest_input(processing_class, model.config.encoder_config) if processing_class else 0
        self.processing_class = processing_class
        self._epoch_setter = EpochSetter()
        self._proximal = ProximalPoint(args.proximal) if args.proximal else None
        packing = use_packing(model, args.packing)
        kwargs.setdefault(
            "data_collator", MultiTaskCollator(processing_class, task_configs=self._tasks, packing=packing)
        )
        kwargs.setdefault("compute_metrics", self._task_metrics)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._prepare_datasets("train_dataset", train_dataset),
            eval_dataset=self._prepare_datasets("eval_dataset", eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        if self._proximal is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "proximal keeps a whole copy of the weights, which FSDP and DeepSpeed divide: leave it out."
            )
        if self.train_dataset is not None:
            self.schedule  # noqa: B018  (a mistake in the arguments is found before training)
        self.add_callback(self._epoch_setter)
        if self._proximal is not None:
            self.add_callback(self._proximal)
        smart = Smart(args.smart, model) if args.smart else None
        self._regularization = Regularization(self.accelerator, self._train_batch_size, smart, self._proximal)
        logged = [f"loss_{name}" for name in self._tasks] + self._regularization.names(self._tasks)
        self._meters = Meters(logged, sums=["smart_skipped"], device=args.device)
        if self.args.device.type == "cpu":
            use_bit_dropout(model)
            self._keep_embedding_gradient()
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TaskProgressCallback)

    def _keep_embedding_gradient(self) -> None:
        embeddings = self.model.get_input_embeddings()
        # Neither processes' exchange of gradients nor compiled graphs take sparse ones.
        alone = self.args.world_size == 1 and not self.args.torch_compile
        if alone and isinstance(embeddings, nn.Embedding) and embeddings.weight.requires_grad:
            self.add_callback(EmbeddingGradientKeeper(embeddings))

    # ---- Data ----

    def _prepare_datasets(self, argument: str, datasets: Any) -> MultiTaskDataset | None:
        if datasets is None or isinstance(datasets, MultiTaskDataset):
            return datasets
        return prepare_given(argument, datasets, self._tasks, self.processing_class, self._longest)

    @property
    def schedule(self) -> Schedule:
        """What each batch of training holds; for a schedule of your own, give this property in a subclass."""
        args, sizes = self.args, self.train_dataset.sizes
        batches_per_step = args.gradient_accumulation_steps * args.world_size
        shape = (sizes, self._train_batch_size, args.epoch_length, batches_per_step)
        draws = {"mixing": args.mixing, "seed": self._data_seed}
        if args.schedule == "adaptive_round_robin":
            return adaptive_round_robin(*shape, args.largest_task_epochs)
        if args.schedule == "proportional":
            return SizeSampling(*shape, **draws)
        if args.schedule == "temperature":
            return SizeSampling(*shape, alpha=args.sampling_alpha, **draws)
        evenly = RoundRobin(*shape)
        if args.schedule == "annealed":
            steps = args.max_steps * batches_per_step / evenly.batches_per_epoch
            epochs = math.ceil(steps if args.max_steps > 0 else args.num_train_epochs)
            return AnnealedSampling(*shape, epochs=epochs, **draws)
        return evenly

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def get_train_dataloader(self) -> DataLoader:
        """Batches that hold all tasks of a step, dealt whole to the processes."""
        if self.train_dataset is None:
            raise ValueError("Trainer: training requires a train_dataset.")
        sampler = StepBatchSampler(self.schedule, self.train_dataset.sizes, self._data_seed)
        self._epoch_setter.sampler = sampler
        args = self.args
        return self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=sampler,
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
                persistent_workers=args.dataloader_persistent_workers,
                prefetch_factor=args.dataloader_prefetch_factor,
                worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
            )
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> dict[str, DataLoader]:
        """A dataloader per task; see `evaluation_loop`."""
        if isinstance(eval_dataset, str):
            eval_dataset = {eval_dataset: self.eval_dataset.datasets[eval_dataset]}
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("Trainer: evaluation requires an eval_dataset.")
        return self.get_test_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> dict[str, DataLoader]:
        """A dataloader per task; see `evaluation_loop`."""
        datasets = self._prepare_datasets("dataset", test_dataset).datasets
        loaders = {}
        for name, dataset in datasets.items():
            loaders[name] = super().get_test_dataloader(MultiTaskDataset({name: dataset}))
        return loaders

    def _get_eval_sampler(self, eval_dataset: MultiTaskDataset) -> Any:
        return eval_dataset.by_length()

    def num_examples(self, dataloader: DataLoader) -> int:
        """Rows of an evaluation's dataset, or rows that an epoch of training draws."""
        if dataloader.dataset is self.train_dataset:
            return sum(self.schedule.drawn_before(1).values())
        return super().num_examples(dataloader)

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows per update over all tasks, processes and accumulation steps."""
        return sum(self.schedule.rows(0, 0).values()) * args.gradient_accumulation_steps * args.world_size

    # ---- Training ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The parent's optimizer, with groups of their own for the heads."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            optimizer.param_groups[:] = separate_heads(
                optimizer.param_groups,
                self.model if model is None else model,
                self.args.head_learning_rate,
                self.args.head_weight_decay,
            )
        return optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The weighted sum of the tasks' losses and their regularisers in training, the plain sum of the losses in
        evaluation (of one task each).

        A task's loss is a mean over its rows; it counts by their number, so that every row has the same weight
        whichever batch it is in. In Round Robin that number is `per_device_train_batch_size`, and all count fully.
        """
        if not model.training:
            outputs = model(**inputs)
            loss = sum(outputs.losses.values())
            return (loss, outputs) if return_outputs else loss
        output = self._regularization(model, inputs, self.state.global_step)
        for name, value in output.outputs.losses.items():
            self._meters.add(f"loss_{name}", value)
        for name, value in output.logs.items():
            self._meters.add(name, value)
        loss = sum(
            (inputs["tasks"][name] / self._train_batch_size)
            * (self._tasks[name].weight * value + output.penalties.get(name, 0))
            for name, value in output.outputs.losses.items()
        )
        return (loss, output.outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each task's mean loss and regularisers since the last log, and the heads' learning rate."""
        if "loss" in logs:
            logs |= self._meters.read(self.accelerator)
            if self.args.head_learning_rate is not None:
                logs["head_learning_rate"] = float(self.lr_scheduler.get_last_lr()[-1])
        super().log(logs, start_time)

    # ---- Checkpoints ----

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._proximal is not None and self.args.should_save:
            self._proximal.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._proximal is not None and checkpoint is not None:
            self._proximal.load(checkpoint, self.model)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._proximal is not None:
            self._proximal.load(self.state.best_model_checkpoint, self.model)

    # ---- Evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates all tasks, or those of a dictionary of datasets, or the one that is named.

        Returns:
            `<prefix>_<task>_<metric>`, `<prefix>_<task>_loss`, `<prefix>_loss`, and `<prefix>_final_score` over the
            tasks that were evaluated.
        """
        if isinstance(eval_dataset, Mapping):
            # The parent would run a separate evaluation, with callbacks and all, for each value of a dict.
            eval_dataset = self._prepare_datasets("eval_dataset", eval_dataset)
        with self._evaluated_weights():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    @contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        """During training, the average's weights where they are wanted; at its end the model gets them for good."""
        exchanges = self.is_in_train and self._proximal is not None and self._proximal.args.use_average
        if exchanges:
            self._proximal.exchange(self.model)
        try:
            yield
        finally:
            if exchanges:
                self._proximal.exchange(self.model)

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
        outputs: dict[str, EvalLoopOutput] = {}
        places: dict[str, np.ndarray] = {}
        for name, loader in dataloader.items():
            prefix = f"{metric_key_prefix}_{name}"
            outputs[name] = super().evaluation_loop(loader, description, prediction_loss_only, ignore_keys, prefix)
            dataset: Any = loader.dataset
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
        metrics = score(self._tasks[name], predictions(self._tasks[name], logits), evaluated.label_ids[name])
        for metric, value in metrics.items():
            if value != value:
                logger.warning("task %r: %s is undefined: predictions or labels are constant.", name, metric)
        return metrics

    def _final_score(self, metrics: Mapping[str, float], names: list[str], prefix: str) -> dict[str, float]:
        by_task = {
            name: {
                metric: metrics[key]
                for metric in ("accuracy", "pearson")
                if (key := f"{prefix}_{name}_{metric}") in metrics
            }
            for name in names
        }
        return {f"{prefix}_final_score": final_score(by_task)} if all(by_task.values()) else {}
