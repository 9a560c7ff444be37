"""What the trainer does at its loop's events."""

from typing import Any

from transformers import ProgressCallback, TrainerCallback

from hf_multitask.data.schedule import StepBatchSampler


class EpochSetter(TrainerCallback):
    """Tells the sampler the epoch.

    With several processes, a run that is resumed in the middle of an epoch wraps the sampler so deeply that neither
    Trainer nor accelerate reaches its `set_epoch`; the order of epoch 0 would come again.
    """

    sampler: StepBatchSampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


class TaskProgressCallback(ProgressCallback):
    """A progress bar for each task of an evaluation; the parent's one bar would have the first task's length."""

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.prediction_bar is not None and self.prediction_bar.n >= self.prediction_bar.total:
            super().on_evaluate(args, state, control)
        super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)
