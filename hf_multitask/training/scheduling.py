"""The schedule that a run's arguments ask for, and the course of the learning rate over its phases."""

import math
from collections.abc import Mapping, Sequence

from hf_multitask.data.schedule import (
    AdaptiveSampling,
    AnnealedSampling,
    Phases,
    RoundRobin,
    Schedule,
    SizeSampling,
    adaptive_round_robin,
)
from hf_multitask.training.arguments import MultiTaskTrainingArguments


def build_schedule(
    args: MultiTaskTrainingArguments,
    sizes: Mapping[str, int],
    batch_size: int,
    seed: int,
    history: Sequence[Mapping[str, float]],
) -> Schedule:
    """The schedule of a run.

    Args:
        args: The run's arguments.
        sizes: Rows of each task's dataset.
        batch_size: Rows of each task in a batch.
        seed: Of the draws.
        history: Past epochs' mean losses, for `adaptive_sampling`.

    Raises:
        ValueError: A wrong `epoch_length`, or an empty dataset.
    """
    batches_per_step = args.gradient_accumulation_steps * args.world_size
    shape = (sizes, batch_size, args.epoch_length, batches_per_step)
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
