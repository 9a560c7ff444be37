"""Momentum Bregman proximal point: steps that keep outputs near those of earlier weights (paper section 4.4).

    min over θ of L(θ) + λ_s R_s(θ) + μ D(θ, θ̃),    θ̃ ← β θ̃ + (1 − β) θ after each update

D is the mean [`divergence`] of the outputs under θ from those under θ̃, a moving average of the weights.

Source: Jiang et al. 2020, SMART, section 3.2 and algorithm 1.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

from hf_multitask.model.modeling_mtbert import MultiTaskBertModel
from hf_multitask.training.checkpoints import checkpoint_file
from hf_multitask.training.divergence import divergence, with_divergence
from hf_multitask.training.groups import ArgumentGroup
from hf_multitask.training.perturbation import random_state, set_random_state

AVERAGE_NAME = "average.safetensors"


@dataclass
class ProximalArguments(ArgumentGroup):
    """How the proximal point is done; the defaults are the SMART paper's.

    Args:
        weight: μ, at least 0; at 0 there is no term, and the average can still be used.
        momentum: β, from 0 (the last iterate itself) to 1 (the weights that training began with).
        early_momentum: β in the first tenth of the updates.
        use_average: Whether the average is what is evaluated during training and what the model becomes at its end.
            Checkpoints hold the trained weights, and the average beside them.

    Raises:
        ValueError: A value out of range.
    """

    weight: float = 1.0
    momentum: float = 0.999
    early_momentum: float = 0.99
    use_average: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("weight", 0 <= self.weight < float("inf"), "a number from 0 on")
        for key in ("momentum", "early_momentum"):
            self._require(key, 0 <= getattr(self, key) <= 1, "from 0 to 1")


class ProximalPoint(TrainerCallback):
    """Keeps the average of a model's weights beside it, and measures how far the model has moved from it.

    Args:
        args: How it is done.
        model: The bare model.

    As a callback it averages after every update. `average` is a model in its own right, once training has begun.
    """

    average: MultiTaskBertModel

    def __init__(self, args: ProximalArguments, model: MultiTaskBertModel) -> None:
        self.args = args
        self._model = model
        self._tasks = with_divergence("proximal", model.config.tasks)

    # ---- The term ----

    @torch.no_grad()
    def anchors(self, inputs: Mapping[str, Any], random: list[Tensor]) -> dict[str, Tensor]:
        """The average's logits by task, with the dropout masks that the model drew from the state `random`."""
        device = inputs["input_ids"].device
        after = random_state(device)
        set_random_state(random, device)
        logits = self.average.train()(**{key: value for key, value in inputs.items() if key != "labels"}).logits
        set_random_state(after, device)
        return logits

    def __call__(
        self, inputs: Mapping[str, Any], logits: Mapping[str, Tensor], random: list[Tensor]
    ) -> dict[str, Tensor]:
        """D of each task, fp32 scalars; both models see the same dropout masks, so that equal weights give 0.

        Args:
            inputs: The batch.
            logits: The model's, by task, with their graph.
            random: The generators' states before the model's pass.
        """
        tasks, anchors = self.average.config.tasks, self.anchors(inputs, random)
        return {
            name: divergence(tasks[name], value, anchors[name]).mean()
            for name, value in logits.items()
            if name in self._tasks
        }

    # ---- The average ----

    def start(self) -> None:
        """The average begins as a copy of the model's weights."""
        self.average = copy.deepcopy(self._model).requires_grad_(False)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """θ̃ ← β θ̃ + (1 − β) θ."""
        average = get_ema_multi_avg_fn(momentum)
        average(list(self.average.parameters()), list(self._model.parameters()), None)

    @torch.no_grad()
    def exchange(self) -> None:
        """The model's weights and the average's change places; done twice, nothing has changed."""
        for mine, other in zip(self.average.parameters(), self._model.parameters(), strict=True):
            mine.data, other.data = other.data, mine.data

    def save(self, folder: str, writes: bool) -> None:
        """Writes the average into a checkpoint, in the processes that write."""
        if writes:
            save_model(self.average, str(Path(folder) / AVERAGE_NAME))

    def load(self, folder: str) -> None:
        """Reads the average from a checkpoint.

        Raises:
            ValueError: The checkpoint has none.
        """
        path = checkpoint_file(folder, AVERAGE_NAME, "no proximal point")
        self.start()
        load_model(self.average, str(path))

    # ---- The loop's events ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_early = state.global_step <= state.max_steps / 10
        self.update(self.args.early_momentum if is_early else self.args.momentum)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.args.use_average:
            self._model.load_state_dict(self.average.state_dict())
