"""How the tasks' losses become one, where fixed weights will not do (paper section 4.2, with its λ_i).

Methods are TorchJD's scalarizers, modules from the losses [K] to one, or a module of the user's own.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import logging

from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.messages import nearest
from hf_multitask.model.outputs import MultiTaskOutput
from hf_multitask.model.plan import row_counts
from hf_multitask.model.processes import rows_together
from hf_multitask.training.checkpoints import checkpoint_file

logger = logging.get_logger(__name__)

STATE_NAME = "loss_weighting.pt"
# By name: TorchJD's class, and whether it is made for a number of tasks.
_METHODS = {
    "uncertainty": ("UW", True),
    "dynamic_weight_average": ("DWA", False),
    "famo": ("FAMO", True),
    "imtl": ("IMTLL", True),
    "geometric_mean": ("GeometricMean", False),
    "random": ("Random", False),
}


def weighting_names() -> list[str]:
    """All that `loss_weighting` can be."""
    return ["fixed", *_METHODS]


def build_scalarizer(name: str, count: int) -> nn.Module:
    """A method by its name: `uncertainty` (Kendall et al. 2018), `dynamic_weight_average` (Liu et al. 2019), `famo`
    (Liu et al. 2023), `imtl` (Liu et al. 2021), `geometric_mean` or `random`.

    Args:
        count: K, the number of tasks.

    Raises:
        ValueError: There is none of that name.
        ImportError: TorchJD is not installed.
    """
    if name not in _METHODS:
        raise ValueError(f"loss_weighting {name!r} is unknown; {nearest(name, weighting_names())}")
    try:
        from torchjd import scalarization
    except ImportError as error:
        raise ImportError(f"loss_weighting {name!r} needs TorchJD: pip install hf-multitask[torchjd]") from error
    method, takes_count = _METHODS[name]
    return getattr(scalarization, method)(*([count] if takes_count else []))


def balanced_losses(
    outputs: MultiTaskOutput, inputs: Mapping[str, Any], tasks: Mapping[str, TaskConfig], accelerator: Accelerator
) -> dict[str, Tensor]:
    """A batch's losses, of which those that are means over labels, several to a row, count alike in every process.

    A process whose rows have more labels than others' have would be heard too little in a mean of means: its loss is
    multiplied by its labels per row over those of all processes, whose mean is then that of one process with all rows.

    Args:
        outputs: The model's.
        inputs: The batch.
        tasks: The table of tasks.
        accelerator: Of the processes, which all come here.
    """
    losses = dict(outputs.losses or {})
    if accelerator.num_processes == 1:
        return losses
    numbers = torch.zeros(len(tasks), 2, device=accelerator.device)
    for place, (name, task) in enumerate(tasks.items()):
        if name in losses:
            counts = task.label_counts(outputs.logits[name].detach(), inputs["labels"][name])  # type: ignore[index]
            rows = row_counts(inputs["tasks"])[name]
            numbers[place] = torch.tensor([rows if counts is None else int(counts.sum()), rows])
    here, everywhere = numbers, accelerator.reduce(numbers.clone(), "sum")
    # Where no word has a label, the loss is 0 whatever it is multiplied by.
    per_row = (here[:, 0] / here[:, 1]) / (everywhere[:, 0] / everywhere[:, 1])
    shares = dict(zip(tasks, per_row.nan_to_num(1.0), strict=True))
    return {name: loss * shares[name] for name, loss in losses.items()}


class LossWeighting(TrainerCallback):
    """Weighs the losses of a batch that holds every task, and keeps the method's state in step with training.

    Args:
        scalarizer: A module from the tasks' losses [K], in the order of `tasks`, to a scalar. What parameters it has
            are trained with the heads' learning rate, without weight decay. If it has a method `step()`, that is
            called between epochs (as in DWA); if `update(losses)`, with the same batch's losses after each
            update of the weights (as in FAMO: one forward pass more).
        tasks: All tasks.
        accelerator: With several processes, a method sees the losses' means over them, so that all agree.
    """

    def __init__(self, scalarizer: nn.Module, tasks: Sequence[str], accelerator: Accelerator) -> None:
        self.scalarizer = scalarizer.to(accelerator.device)
        self._tasks, self._accelerator = list(tasks), accelerator
        self._recompute: Callable[[], dict[str, Tensor]] | None = None
        self._epochs = 0

    @property
    def needs_update(self) -> bool:
        """Whether the method wants to know the losses after each update."""
        return hasattr(self.scalarizer, "update")

    def names(self) -> list[str]:
        """Of the weights, for the logs."""
        return [f"weight_{name}" for name in self._tasks]

    def __call__(
        self, losses: Mapping[str, Tensor], recompute: Callable[[], dict[str, Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses as one, and the weight ∂/∂L_i that each of them has in it, if all are finite.

        Args:
            losses: Of every task, scalars.
            recompute: Gives them anew with the weights of the time when it is called.

        Raises:
            ValueError: A task has no rows in the batch.
        """
        values = self._as_vector(losses)
        if not values.isfinite().all():
            # No update is made of them, and a method that remembers losses must not see them.
            self._recompute = None
            return values.sum(), {}
        self._recompute = recompute if self.needs_update else None
        loss = self.scalarizer(values)
        (weights,) = torch.autograd.grad(loss, values, retain_graph=True)
        return loss, dict(zip(self.names(), weights, strict=True))

    def _as_vector(self, losses: Mapping[str, Tensor]) -> Tensor:
        for name in self._tasks:
            if name not in losses:
                raise ValueError(f"loss_weighting needs every task in every batch; task {name!r} is not in this one.")
        values = torch.stack([losses[name] for name in self._tasks])
        if self._accelerator.num_processes > 1:
            # The mean's value with this process's gradient: averaged over processes, that is the mean's gradient.
            values = values + (self._accelerator.reduce(values.detach().clone(), "mean") - values.detach())
        return values

    # ---- The loop's events ----

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Trainer clears the model's gradients only.
        self.scalarizer.zero_grad()
        if self._recompute is not None:
            # Every process has rows of every task.
            with rows_together():
                losses = self._recompute()
            # A method that remembers losses must not see what is not finite, here neither.
            if (values := self._as_vector(losses)).isfinite().all():
                self.scalarizer.update(values)  # type: ignore[operator]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._epochs = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Not at an epoch's end, which a run that was stopped there and resumed would not see.
        if self._epochs < int(state.epoch or 0):
            self._epochs += 1
            if callable(step := getattr(self.scalarizer, "step", None)):
                step()

    # ---- Checkpoints ----

    def save(self, folder: str, writes: bool) -> None:
        """Writes the method's parameters and whatever else it remembers into a checkpoint.

        That is numbers, texts, tensors, optimizers and lists of them; it warns of anything else.
        """
        own = vars(self.scalarizer).keys() - vars(nn.Module()).keys()
        memory = {key: value for key in own if _can_be_saved(value := getattr(self.scalarizer, key))}
        if lost := sorted(key for key in own - memory.keys() if not callable(getattr(self.scalarizer, key))):
            logger.warning_once(f"loss_weighting: a checkpoint cannot hold its {', '.join(lost)}.")
        for key, value in memory.items():
            if isinstance(value, torch.optim.Optimizer):
                memory[key] = {"optimizer": type(value).__name__, "state": value.state_dict()}
        state = {"parameters": self.scalarizer.state_dict(), "memory": memory, "epochs": self._epochs}
        if writes:
            torch.save(state, Path(folder) / STATE_NAME)

    def load(self, folder: str) -> None:
        """Reads them from a checkpoint.

        Raises:
            ValueError: The checkpoint has none.
        """
        path = checkpoint_file(folder, STATE_NAME, "fixed weights")
        saved = torch.load(path, map_location=self._accelerator.device, weights_only=True)
        self.scalarizer.load_state_dict(saved["parameters"])
        self._epochs = saved["epochs"]
        for key, value in saved["memory"].items():
            if isinstance(value, dict) and "optimizer" in value:
                optimizer = getattr(torch.optim, value["optimizer"])(self.scalarizer.parameters())
                optimizer.load_state_dict(value["state"])
                value = optimizer
            setattr(self.scalarizer, key, value)


def _can_be_saved(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_can_be_saved, value))
    return value is None or isinstance(value, Tensor | int | float | str | torch.optim.Optimizer)
