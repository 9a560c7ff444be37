"""The schedule that a run's arguments ask for, and the course of the learning rate over its phases."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import seed_worker

from hf_multitask.data.schedule import (
    AdaptiveSampling,
    AnnealedSampling,
    Phases,
    RoundRobin,
    Schedule,
    SizeSampling,
    StepBatchSampler,
    adaptive_round_robin,
)
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.callbacks import EpochLosses, EpochSetter
from hf_multitask.training.checkpoints import RunRefusedError
from hf_multitask.training.optimizer import phased

logger = logging.getLogger(__name__)


def build_schedule(
    args: MultiTaskTrainingArguments,
    sizes: Mapping[str, int | None],
    batch_size: int,
    seed: int,
    history: Sequence[Mapping[str, float]],
) -> Schedule:
    """The schedule of a run.

    Args:
        args: The run's arguments.
        sizes: Rows of each task's dataset; None where it is a stream of unknown length.
        batch_size: Rows of each task in a batch.
        seed: Of the draws.
        history: Past epochs' mean losses, for `adaptive_sampling`.

    Raises:
        ValueError: A wrong `epoch_length`, an empty dataset, or one of unknown length where that is needed.
    """
    batches_per_step = args.gradient_accumulation_steps * args.world_size
    unknown = [name for name, size in sizes.items() if size is None]
    needs_sizes = args.schedule not in ("round_robin", "adaptive_sampling") or not args.epoch_length.isdecimal()
    if unknown and needs_sizes:
        raise ValueError(
            f"task {unknown[0]!r} is streamed, and how many rows it has is not known: give rows beside its streaming, "
            "or the schedule round_robin with a number of steps as epoch_length."
        )
    known = {name: 1 if size is None else size for name, size in sizes.items()}
    shape = (known, batch_size, args.epoch_length, batches_per_step)
    if args.schedule == "adaptive_round_robin":
        return adaptive_round_robin(*shape, args.largest_task_epochs)
    if args.schedule == "proportional":
        return SizeSampling(*shape, mixing=args.mixing, seed=seed)
    if args.schedule == "temperature":
        return SizeSampling(*shape, alpha=args.sampling_alpha, mixing=args.mixing, seed=seed)
    if args.schedule == "adaptive_sampling":
        return AdaptiveSampling(*shape, alpha=args.sampling_alpha, mixing=args.mixing, seed=seed, history=history)
    evenly = RoundRobin(*shape)
    if args.schedule == "annealed":
        steps = args.max_steps * batches_per_step / evenly.batches_per_epoch
        epochs = math.ceil(steps if args.max_steps > 0 else args.num_train_epochs)
        return AnnealedSampling(*shape, epochs=epochs, mixing=args.mixing, seed=seed)
    return evenly


def phase_lengths(args: MultiTaskTrainingArguments, schedule: Schedule, steps: int) -> list[int]:
    """The steps of each phase of a schedule in a run of so many steps; phases that the run does not reach have none.

    Raises:
        ValueError: The schedule has no phases, or `phase_learning_rates` does not have one number for each.
    """
    if not isinstance(schedule, Phases):
        raise ValueError(f"the schedule {args.schedule} has no phases: no phase_learning_rates and no phase_restart.")
    factors, count = args.phase_learning_rates, len(schedule.epochs) + 1
    if factors is not None and len(factors) != count:
        raise ValueError(f"phase_learning_rates must be {count} numbers, one for each phase, not {factors}.")
    steps_per_epoch = schedule.batches_per_epoch // (args.gradient_accumulation_steps * args.world_size)
    lengths, left = [], steps
    for epochs in schedule.epochs:
        lengths.append(min(epochs * steps_per_epoch, left))
        left -= lengths[-1]
    return [*lengths, left]


class ScheduledTrainer(Trainer):
    """The half of [`MultiTaskTrainer`] that says what each step holds, and the learning rate over phases."""

    args: MultiTaskTrainingArguments
    train_dataset: Any
    _epoch_setter: EpochSetter
    _epoch_losses: EpochLosses | None

    @property
    def schedule(self) -> Schedule:
        """What each batch of training holds; for a schedule of your own, give this property in a subclass."""
        history = self._epoch_losses.history if self._epoch_losses else []
        return build_schedule(self.args, self.train_dataset.sizes, self._train_batch_size, self._data_seed, history)

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def get_train_dataloader(self) -> DataLoader:
        """Batches that hold all tasks of a step, dealt whole to the processes."""
        if self.train_dataset is None:
            raise ValueError("Trainer: training requires a train_dataset.")
        dataset, args = self.train_dataset, self.args
        sampler = StepBatchSampler(self.schedule, dataset.sizes, self._data_seed, dataset.streams)
        self._epoch_setter.sampler = sampler
        workers = args.dataloader_num_workers
        for stream in dataset.streams.values():
            stream.set_seed(self._data_seed)
        return self.accelerator.prepare(
            DataLoader(
                dataset,
                batch_sampler=sampler,
                collate_fn=self.data_collator,
                num_workers=workers,
                pin_memory=args.dataloader_pin_memory,
                # New workers would read a stream from its start.
                persistent_workers=args.dataloader_persistent_workers or bool(dataset.streams and workers),
                prefetch_factor=args.dataloader_prefetch_factor,
                # Older versions of transformers do not have it.
                multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
                worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
            )
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Rows of an evaluation's dataset, or rows that an epoch of training draws."""
        if dataloader.dataset is self.train_dataset:
            return sum(self.schedule.drawn_before(1).values())
        return super().num_examples(dataloader)

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows per update over all tasks, processes and accumulation steps."""
        return sum(self.schedule.rows(0, 0).values()) * args.gradient_accumulation_steps * args.world_size

    def _phase_lengths(self, steps: int) -> list[int] | None:
        schedule, in_phases = self.schedule, self.args.phase_learning_rates or self.args.phase_restart
        return phase_lengths(self.args, schedule, steps) if in_phases else None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """The parent's scheduler; over a schedule's phases, with a factor in each, or anew in each."""
        schedule = self.schedule
        if isinstance(schedule, Phases) and not phase_lengths(self.args, schedule, num_training_steps)[-1]:
            logger.warning("The run ends before the last phase of its schedule %s begins.", self.args.schedule)
        lengths = self._phase_lengths(num_training_steps)
        if lengths is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        courses = []
        for length in lengths if self.args.phase_restart else [num_training_steps]:
            self.lr_scheduler = None
            course = super().create_scheduler(length, optimizer)
            if not isinstance(course, LambdaLR):
                raise RunRefusedError(f"lr_scheduler_type {self.args.lr_scheduler_type} cannot go by phases.")
            courses.append(course.lr_lambdas[0])
        factors = self.args.phase_learning_rates or [1.0] * len(lengths)
        optimizer = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(optimizer, phased(courses, lengths, factors))
        return self.lr_scheduler
