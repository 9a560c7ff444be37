"""A step's passes: the model's own, and those of the terms that its loss has beside the tasks', SMART and the proximal
point."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_multitask.model.modeling_mtbert import MultiTaskOutput
from hf_multitask.model.processes import rows_together
from hf_multitask.training.perturbation import random_state
from hf_multitask.training.proximal import ProximalPoint
from hf_multitask.training.smart import Smart, SmartOutput


@dataclass
class RegularizedOutput:
    """What a pass with its regularisers gave.

    Args:
        outputs: The model's.
        penalties: By task, the weighted sum of its regularisers, each a mean over its rows.
        logs: What to log, scalars by name.
    """

    outputs: MultiTaskOutput
    penalties: dict[str, Tensor] = field(default_factory=dict)
    logs: dict[str, Tensor] = field(default_factory=dict)


class Regularization:
    """Runs a batch through the model, and through the passes of its regularisers.

    Args:
        accelerator: Gives the precision of the passes.
        smart, proximal: The regularisers, if any.
        coupling: The tasks whose rows depend on each other. Those of all processes do, in steps in which each process
            has rows of all these tasks, or none has.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        smart: Smart | None,
        proximal: ProximalPoint | None,
        coupling: Sequence[str] = (),
    ) -> None:
        self._accelerator, self._coupling = accelerator, coupling
        self._smart, self._proximal = smart, proximal

    def names(self, tasks: Mapping[str, Any]) -> list[str]:
        """Of all that can be logged."""
        terms = (["smart"] if self._smart else []) + (["proximal"] if self._proximal else [])
        sizes = ["smart_cosine", "smart_radius", "smart_skipped"] if self._smart else []
        return [f"{term}_{name}" for term in terms for name in tasks] + sizes

    def __call__(self, model: nn.Module, inputs: dict[str, Any], step: int, batch_size: int) -> RegularizedOutput:
        """The model's outputs and their penalties.

        Args:
            model: As Trainer wraps it. The regularisers' passes go through the bare model: their gradients come in
                the one backward of the loss, which is all that DistributedDataParallel needs to see.
            inputs: The batch.
            step: Updates made so far.
            batch_size: Rows of each task in a batch, by which `reduction: sum` multiplies.
        """
        with rows_together(self._are_together(inputs)):
            return self._passes(model, inputs, step, batch_size)

    def _are_together(self, inputs: Mapping[str, Any]) -> bool:
        """Whether all processes have rows of the same coupling tasks; else one would wait for another in vain."""
        if self._accelerator.num_processes == 1 or not self._coupling:
            return False
        has_rows = torch.tensor([float(name in inputs["tasks"]) for name in self._coupling])
        shares = self._accelerator.reduce(has_rows.to(self._accelerator.device), "mean")
        return bool(((shares == 0) | (shares == 1)).all())

    def _passes(self, model: nn.Module, inputs: dict[str, Any], step: int, batch_size: int) -> RegularizedOutput:
        smart = self._smart if self._smart and self._smart.applies(step) else None
        proximal = self._proximal if self._proximal and self._proximal.args.weight else None
        if smart is None and proximal is None:
            return RegularizedOutput(model(**inputs))
        # One autocast around all passes keeps the weights' casts from each to the next.
        with self._accelerator.autocast(), ExitStack() as recording:
            random = random_state(inputs["input_ids"].device)
            clean = recording.enter_context(smart.recording()) if smart else None
            output = RegularizedOutput(model(**inputs))
            recording.close()
            logits: Any = output.outputs.logits
            if smart is not None and clean is not None:
                factor = smart.args.weight * smart.args.every * (batch_size if smart.args.reduction == "sum" else 1)
                self._add_smart(output, smart(inputs, logits, clean), smart.weights, factor)
            if proximal is not None:
                values = proximal(inputs, logits, random)
                self._add(output, "proximal", values, dict.fromkeys(values, proximal.args.weight))
        return output

    def _add_smart(
        self, output: RegularizedOutput, result: SmartOutput, weights: Mapping[str, float], factor: float
    ) -> None:
        self._add(output, "smart", result.values, {name: factor * weight for name, weight in weights.items()})
        for name in ("cosine", "radius", "skipped"):
            if (value := getattr(result, name)) is not None:
                output.logs[f"smart_{name}"] = value

    def _add(
        self, output: RegularizedOutput, term: str, values: Mapping[str, Tensor], weights: Mapping[str, float]
    ) -> None:
        for name, value in values.items():
            output.logs[f"{term}_{name}"] = value
            output.penalties[name] = output.penalties.get(name, 0) + weights[name] * value
