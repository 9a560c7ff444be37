"""transformers' Trainer for a dictionary of tasks."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import ProgressCallback
from transformers.trainer_utils import TrainOutput

from hf_multitask.data.batch import select_rows
from hf_multitask.data.collator import MultiTaskCollator
from hf_multitask.data.given import GivenData
from hf_multitask.hub.publisher import ModelPublisher
from hf_multitask.model.dropout import use_bit_dropout
from hf_multitask.model.encoder import words_of
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel
from hf_multitask.model.packing import use_packing
from hf_multitask.model.plan import row_counts
from hf_multitask.model.positions import embedding_sizes
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.callbacks import (
    EmbeddingGradientKeeper,
    EpochLosses,
    EpochSetter,
    SparseEmbeddingGradient,
    TaskProgressCallback,
)
from hf_multitask.training.compatibility import (
    NO_SEARCH,
    check_methods,
    check_model,
    check_optimizer,
    settled_arguments,
)
from hf_multitask.training.evaluator import MultiTaskEvaluator
from hf_multitask.training.health import HealthWarnings, NonFiniteGuard
from hf_multitask.training.meters import Meters
from hf_multitask.training.optimizer import check_learnable, separate_heads
from hf_multitask.training.perturbation import random_state, set_random_state
from hf_multitask.training.proximal import ProximalPoint
from hf_multitask.training.regularization import Regularization
from hf_multitask.training.scheduling import ScheduledTrainer
from hf_multitask.training.smart import Smart
from hf_multitask.training.surgery import GradientSurgery, build_weighting
from hf_multitask.training.weighting import LossWeighting, balanced_losses, build_scalarizer
from hf_multitask_cli.arguments import OnBadRows

logger = logging.getLogger(__name__)


class MultiTaskTrainer(MultiTaskEvaluator, ScheduledTrainer, ModelPublisher):
    """Trains and evaluates a [`MultiTaskBertModel`] on all its tasks.

    Args:
        model: The model; its config has the table of tasks.
        args: The run's arguments.
        train_dataset, eval_dataset: A dataset or pandas table per task, by name. Either tokenized rows, or rows with
            the columns `sentence` (or `sentence1` and `sentence2`) and `label`, which are checked and tokenized here.
        processing_class: The tokenizer.
        loss_weighting: In place of the argument of that name, a module of your own from the tasks' losses [K] to a
            scalar; see [`LossWeighting`].
        columns: By task, the columns that are read in place of those, of all datasets that are given, to `evaluate` and
            `predict` too: `{"sst": {"text": "review", "label": "stars", "label_map": {"*": "bad"}}}`; see
            [`GivenData`]. A pair's `text` is two columns.
        on_bad_rows: `error` refuses rows that cannot be used; `drop` leaves them out, logs them, and reports them in
            `data_reports`, by split and task.
        kwargs: As transformers' Trainer takes them. `compute_metrics` may be a function by task, from an
            `EvalPrediction` of that task alone to its metrics in place of ours. Where one of them picks the best
            checkpoint, say `greater_is_better` too: without it, less is better of a name that ends in `loss` or `rmse`.

    Raises:
        ValueError: A dataset for a task that the model does not have, a missing column, or a row that cannot be
            used; all before training begins.

    What an evaluation gives is said in [`MultiTaskEvaluator`], what a step holds in [`ScheduledTrainer`], what is saved
    and pushed in [`ModelPublisher`].
    """

    # The loss is a mean over each batch. Left to guess, Trainer would take the model's **kwargs for a sign that it
    # is not, and make the gradient too large by the number of accumulation steps.
    loss_is_scaled_for_ga = False

    model: MultiTaskBertModel
    args: MultiTaskTrainingArguments

    def __init__(
        self,
        model: MultiTaskBertModel,
        args: MultiTaskTrainingArguments | None = None,
        train_dataset: Mapping[str, Dataset] | None = None,
        eval_dataset: Mapping[str, Dataset] | None = None,
        processing_class: Any = None,
        loss_weighting: nn.Module | None = None,
        columns: Mapping[str, Mapping[str, Any]] | None = None,
        on_bad_rows: OnBadRows = "error",
        **kwargs: Any,
    ) -> None:
        args = settled_arguments(args, kwargs)
        check_model(model, args)
        # A batch's sequences do not split along their first dimension: one process, one device.
        args._setup_devices  # noqa: B018  (finds the devices)
        args._n_gpu = min(args._n_gpu, 1)
        if args.ddp_find_unused_parameters is None:
            # Not every backward reaches every head; Trainer would look for them only without activation checkpointing.
            args.ddp_find_unused_parameters = True
        self._tasks = model.config.tasks
        longest = model.config.longest_input(processing_class) if processing_class else 0
        limits, sizes = (longest, model.config.most_tokens), embedding_sizes(model.config.encoder_config)
        self._given = GivenData(self._tasks, processing_class, *limits, columns, on_bad_rows, sizes)
        self.data_reports = {}
        self._epoch_setter = EpochSetter()
        packing = use_packing(model, args.packing)
        if (collator := kwargs.pop("data_collator", None)) is None:
            collator = MultiTaskCollator(processing_class, self._tasks, packing, with_rows=True)
        kwargs["compute_metrics"] = self._metrics_function(kwargs.get("compute_metrics", self._task_metrics))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=self._prepare_datasets("train_dataset", train_dataset, "train"),
            eval_dataset=self._prepare_datasets("eval_dataset", eval_dataset, "validation"),
            processing_class=processing_class,
            **kwargs,
        )
        self._epoch_losses = None
        if args.schedule == "adaptive_sampling":
            self._epoch_losses = EpochLosses(self._tasks, self.accelerator)
            self.add_callback(self._epoch_losses)
        if self.train_dataset is not None:
            # A mistake in the arguments is found before training.
            self._phase_lengths(args.max_steps)
            check_optimizer(args, kwargs)
        self._check_best_metric()
        has_rows = self.train_dataset is not None or self.eval_dataset is not None
        if has_rows and processing_class is None and isinstance(collator, MultiTaskCollator):
            raise ValueError("processing_class is missing: the tokenizer, which knows how to fill a batch up.")
        self._set_up_methods(loss_weighting)
        self.add_callback(self._epoch_setter)
        self._guard = NonFiniteGuard(
            self.accelerator, args.nonfinite_patience, str(args.output_dir), self._tasks, processing_class
        )
        self._health = HealthWarnings(self._tasks)
        self.add_callback(self._guard)
        self.add_callback(self._health)
        if self.args.device.type == "cpu":
            use_bit_dropout(model)
            self._spare_embedding_gradient()
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TaskProgressCallback)

    def _set_up_methods(self, loss_weighting: nn.Module | None) -> None:
        """What of a step's loss and gradients is more than a sum."""
        args, names = self.args, list(self._tasks)
        smart = Smart(args.smart, self.model) if args.smart else None
        self._proximal = ProximalPoint(args.proximal, self.model) if args.proximal else None
        coupling = [name for name, task in self._tasks.items() if task.COUPLES_ROWS]
        self._regularization = Regularization(self.accelerator, smart, self._proximal, coupling)
        if loss_weighting is None and args.loss_weighting != "fixed":
            loss_weighting = build_scalarizer(args.loss_weighting, len(names))
        self._weighting = LossWeighting(loss_weighting, names, self.accelerator) if loss_weighting else None
        self._surgery = None
        if args.surgery != "none":
            shared = self.model.backbone.parameters()
            self._surgery = GradientSurgery(build_weighting(args.surgery), shared, names, self.accelerator)
        is_divided = self.is_fsdp_enabled or self.is_deepspeed_enabled
        check_methods(args, self._proximal, self._weighting, self._surgery, is_divided)
        for callback in (self._proximal, self._weighting):
            if callback is not None:
                self.add_callback(callback)
        logged = [f"loss_{name}" for name in names] + self._regularization.names(names)
        logged += self._weighting.names() if self._weighting else []
        logged += self._surgery.names(names) if self._surgery else []
        self._meters = Meters(logged, sums=["smart_skipped"], device=args.device)

    def _spare_embedding_gradient(self) -> None:
        embeddings = words_of(self.model)
        # Neither processes' exchange of gradients nor compiled graphs take sparse ones.
        alone = self.args.world_size == 1 and not self.args.torch_compile
        # A head that reads the table gives it a gradient of all words.
        alone = alone and not any(task.READS_VOCABULARY for task in self._tasks.values())
        if alone and embeddings is not None and embeddings.weight.requires_grad:
            # Gradient surgery keeps memory of its own.
            callback = EmbeddingGradientKeeper if self._surgery is None else SparseEmbeddingGradient
            self.add_callback(callback(embeddings))

    # ---- Training ----

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the parents; a training that breaks off leaves the model as it would at its end.

        Raises:
            FloatingPointError: Too many updates in a row could not be made; see [`NonFiniteGuard`]. A checkpoint has
                the last one that was.
        """
        self._stop_packing_if_need_be()
        try:
            return super().train(*args, **kwargs)
        except FloatingPointError:
            # All processes come here together.
            if not self.is_deepspeed_enabled:
                self._save_checkpoint(self.model_wrapped, None)
            raise
        finally:
            self.is_in_train = False
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, SparseEmbeddingGradient):
                    callback.restore()

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Not offered.

        Raises:
            NotImplementedError: Always; the message says what serves in its place.
        """
        raise NotImplementedError(NO_SEARCH)

    def total_steps(self) -> int:
        """The updates of the whole run, those before a checkpoint that it resumes from included."""
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """As the parent, which within an epoch would make one more step of a run that has made all."""
        begin = super()._init_training_state(max_steps, steps_per_epoch, epochs, resume_from_checkpoint, trial)
        if resume_from_checkpoint is None or self.state.global_step < max_steps:
            return begin
        logger.warning(
            "%s is of a finished run: it has made %d of %d steps, and no more are made. To train on, raise max_steps "
            "or num_train_epochs.",
            *(resume_from_checkpoint, self.state.global_step, max_steps),
        )
        return epochs, 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The parent's optimizer, with groups of their own for the heads."""
        is_new = self.optimizer is None
        check_learnable(self.model, self.train_dataset.datasets if self.train_dataset else ())
        learnt = list(self._weighting.scalarizer.parameters()) if self._weighting else []
        optimizer = super().create_optimizer(model)
        if is_new:
            groups = separate_heads(
                optimizer.param_groups,
                self.model if model is None else model,
                self.args.head_learning_rate,
                self.args.head_weight_decay,
                self.get_decay_parameter_names(self.model if model is None else model),
            )
            if learnt:
                groups.append({**groups[-1], "params": learnt, "weight_decay": 0.0})
            optimizer.param_groups[:] = groups
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(id(parameter) not in known for parameter in learnt):
            raise ValueError("the optimizer does not have the parameters of loss_weighting, which it is to train.")
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

        A task's loss is a mean over its rows, or over their labels; it counts by the number of rows, so that every row
        has the same weight whichever batch it is in. In Round Robin that number is `per_device_train_batch_size`, and
        all count fully.
        """
        batch, inputs = inputs, {key: value for key, value in inputs.items() if key != "rows"}
        if not model.training:
            outputs = model(**inputs)
            loss = sum(outputs.losses.values())
            return (loss, outputs) if return_outputs else loss
        # Kept for the logs, which come when the scheduler has already moved on.
        self._head_learning_rate = float(self.optimizer.param_groups[-1]["lr"]) if self.optimizer else 0.0
        random = random_state(self.args.device) if self._weighting and self._weighting.needs_update else None
        output = self._regularization(model, inputs, self.state.global_step, self._train_batch_size)
        counts = row_counts(inputs["tasks"])
        for name, value in output.outputs.losses.items():
            self._meters.add(f"loss_{name}", value, counts[name])
            if self._epoch_losses is not None:
                self._epoch_losses.add(name, value, counts[name])
        for name, value in output.logs.items():
            self._meters.add(name, value)
        losses = balanced_losses(output.outputs, inputs, self._tasks, self.accelerator)
        losses = self._row_weighted(inputs, losses)
        if self._weighting is None:
            loss = sum(losses.values())
        else:
            loss, weights = self._weighting(losses, partial(self._losses_again, inputs, random))
            for name, value in weights.items():
                self._meters.add(name, value)
        penalties = self._row_weighted(inputs, output.penalties, by_task=False)
        if penalties:
            loss = loss + sum(penalties.values())
        whole = {name: value.detach() + penalties.get(name, 0.0) for name, value in losses.items()}
        self._guard.add(batch, whole, output.outputs.logits)
        self._health.add(output.outputs.logits)
        return (loss, output.outputs) if return_outputs else loss

    def _row_weighted(
        self, inputs: Mapping[str, Any], values: Mapping[str, torch.Tensor], by_task: bool = True
    ) -> dict[str, torch.Tensor]:
        """Means over a task's rows, times their number in a batch's, and, `by_task`, the weight of the task's loss."""
        counts = row_counts(inputs["tasks"])
        return {
            name: (self._tasks[name].weight if by_task else 1.0) * (counts[name] / self._train_batch_size) * value
            for name, value in values.items()
        }

    @torch.no_grad()
    def _losses_again(self, inputs: dict[str, Any], random: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses of a batch after an update, under the dropout masks of the pass before it."""
        after = random_state(self.args.device)
        set_random_state(random, self.args.device)
        losses = balanced_losses(self.model(**inputs), inputs, self._tasks, self.accelerator)
        set_random_state(after, self.args.device)
        return self._row_weighted(inputs, losses)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The parent's step; with gradient surgery, one for each task over its own rows."""
        if self._surgery is None:
            return super().training_step(model, inputs, num_items_in_batch)
        inputs = self._prepare_inputs(inputs)
        losses = []
        for name, count in row_counts(inputs["tasks"]).items():
            part = select_rows(inputs, {name: torch.arange(count, device=self.args.device)}, self._tasks)
            with self._surgery.collecting(name):
                losses.append(super().training_step(model, part, num_items_in_batch))
        if self.accelerator.sync_gradients:
            for name, value in self._surgery.combine().items():
                self._meters.add(name, value.to(self.args.device))
        return torch.stack(losses).sum()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self._guard.set_gradient_norm(norm)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each task's mean loss and regularisers since the last log, and the heads' learning rate."""
        for stream in self.train_dataset.streams.values() if self.train_dataset is not None else ():
            stream.refresh_report()
        if "loss" in logs:
            logs |= self._meters.read(self.accelerator)
            if self.args.head_learning_rate is not None:
                logs["head_learning_rate"] = self._head_learning_rate
        super().log(logs, start_time)

    # ---- Evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As the parent; during training, of the average's weights where they are wanted."""
        with self._evaluated_weights():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    @contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        # At the end of training the model gets the average for good.
        exchanges = self.is_in_train and self._proximal is not None and self._proximal.args.use_average
        if exchanges:
            self._proximal.exchange()
        try:
            yield
        finally:
            if exchanges:
                self._proximal.exchange()

    # ---- Checkpoints ----

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        for method in self._checkpointed():
            method.save(output_dir, writes=self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # First, so that a checkpoint of another method is told by its missing file.
        for method in self._checkpointed() if checkpoint is not None else []:
            method.load(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _checkpointed(self) -> list[Any]:
        """What has a file of its own in a checkpoint."""
        return [method for method in (self._proximal, self._weighting, self._epoch_losses) if method is not None]

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._proximal is not None and self._proximal.args.use_average:
            self._proximal.load(self.state.best_model_checkpoint)
