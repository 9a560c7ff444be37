"""Gradient surgery: the tasks' gradients on the shared backbone, combined by more than a sum (paper section 4.6).

The paper gave it up for want of memory: K losses of one graph must be differentiated K times while the graph is kept.
But the tasks' rows are different rows. Here each task has a forward and a backward of its own, over its own rows, that
together cost what one pass over all rows does, and only one task's activations are held at a time. What is kept is the
K gradients, K times the backbone's size; their Gramian [K, K] gives TorchJD's weightings all they need.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations, combinations_with_replacement
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from hf_multitask.model.messages import nearest

# Values of each gradient: 2 MB in fp32.
_PART = 1 << 19


def build_weighting(name: str) -> nn.Module:
    """A weighting from a Gramian [K, K] to weights [K].

    Args:
        name: `sum`, the plain sum, or a weighting of TorchJD's by the name of its aggregator, such as `pcgrad`,
            `upgrad` or `mgda`.

    Raises:
        ValueError: There is none of that name, or it needs arguments or a state of its own.
        ImportError: TorchJD is not installed.
    """
    if name == "sum":
        return PlainSum()
    try:
        classes = _weightings()
    except ImportError as error:
        raise ImportError(f"surgery {name!r} needs TorchJD: pip install hf-multitask[torchjd]") from error
    if name.lower() not in classes:
        raise ValueError(f"surgery {name!r} is unknown; {nearest(name.lower(), ['sum', *classes])}")
    try:
        weighting = classes[name.lower()]()
        weighting(torch.eye(2))
    except Exception as error:
        raise ValueError(f"surgery {name!r} cannot be used as it is: {error}") from error
    return weighting


def surgery_names() -> list[str]:
    """All that `surgery` can be and that changes the gradients, or measures them; TorchJD must be installed."""
    names = []
    for name in dict.fromkeys(["sum", *_weightings()]):
        with suppress(ValueError):
            build_weighting(name)
            names.append(name)
    return names


def _weightings() -> dict[str, type[nn.Module]]:
    """TorchJD's weightings that keep nothing from step to step, by name."""
    from torchjd import Stateful, aggregation

    return {
        key.removesuffix("Weighting").lower(): value
        for key, value in vars(aggregation).items()
        if key.endswith("Weighting") and key != "Weighting" and not issubclass(value, Stateful)
    }


class PlainSum(nn.Module):
    """Every task's gradient with the weight 1, as without surgery: to measure their cosines."""

    def forward(self, gramian: Tensor) -> Tensor:
        """Gramian [K, K] to ones [K]."""
        return torch.ones(len(gramian))


class GradientSurgery:
    """Collects the tasks' gradients of a step one by one and puts their combination in place.

    Args:
        weighting: From [`build_weighting`], or any module from a Gramian [K, K] to weights [K], K being the tasks of
            the step. Weights are scaled so that orthogonal gradients of equal length get 1 each: backbone and heads
            keep their proportion, and `pcgrad`, `upgrad` and `dualproj` are the plain sum where there is no conflict.
        shared: The backbone's parameters. Heads have the gradients of their own losses.
        tasks: All that a step can have.
        accelerator: Says by what the loss is scaled in fp16, and lets processes agree.

    Example:
        >>> surgery = GradientSurgery(build_weighting("sum"), model.backbone.parameters(), ["a", "b"], accelerator)
        ... # doctest: +SKIP
        >>> for task, loss in losses.items():
        ...     with surgery.collecting(task):
        ...         loss.backward()
        >>> cosines = surgery.combine()
    """

    def __init__(
        self, weighting: nn.Module, shared: Iterable[nn.Parameter], tasks: Sequence[str], accelerator: Accelerator
    ) -> None:
        self._weighting, self._accelerator = weighting, accelerator
        self._shared = [parameter for parameter in shared if parameter.requires_grad]
        self._tasks = list(tasks)
        self._seen: set[str] = set()
        self._gradients: Tensor | None = None

    @property
    def has_parameters(self) -> bool:
        """Whether anything of the backbone is trained."""
        return bool(self._shared)

    @staticmethod
    def names(tasks: Sequence[str]) -> list[str]:
        """Of all cosines that can be logged."""
        return [_pair(*pair) for pair in combinations(tasks, 2)]

    @contextmanager
    def collecting(self, task: str) -> Iterator[None]:
        """Around a backward of one task: the backbone's gradients are that task's, those of earlier batches of the
        step included, so that processes exchange their sum."""
        if self._gradients is None:
            self._gradients = torch.zeros(len(self._tasks), sum(p.numel() for p in self._shared), **_kind(self._shared))
        elif not self._seen:
            self._gradients.zero_()
        self._seen.add(task)
        self._point_to(self._gradients[self._tasks.index(task)])
        try:
            yield
        except BaseException:
            # A step that broke off begins anew.
            self._seen.clear()
            raise
        finally:
            for parameter in self._shared:
                parameter.grad = None

    def combine(self) -> dict[str, Tensor]:
        """Puts the combined gradient in place and returns the cosines of the tasks' gradients, by their log's name;
        a gradient that is 0 or not finite has none."""
        assert self._gradients is not None
        names = [name for name in self._tasks if name in self._seen]
        self._seen.clear()
        rows = [self._tasks.index(name) for name in names]
        gramian = self._gramian(rows)
        first, *others = rows
        # A sum of what is not finite is not finite either, and a gradient scaler then skips the step.
        weights = self._weights(gramian).tolist() if gramian.isfinite().all() else [1.0] * len(rows)
        combined = self._gradients[first]
        combined.mul_(weights[0])
        for row, weight in zip(others, weights[1:], strict=True):
            combined.add_(self._gradients[row], alpha=weight)
        self._point_to(combined)
        lengths = gramian.diagonal().sqrt()
        cosines = gramian / (lengths.unsqueeze(0) * lengths.unsqueeze(1))
        return {
            _pair(names[i], names[j]): cosines[i, j]
            for i, j in combinations(range(len(names)), 2)
            if cosines[i, j].isfinite()
        }

    def _gramian(self, rows: list[int]) -> Tensor:
        """Inner products of the gradients as they are without a gradient scaler's factor, on the CPU."""
        assert self._gradients is not None
        scaler = self._accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0
        pairs = list(combinations_with_replacement(range(len(rows)), 2))
        # By parts that stay in a cache while every pair reads them; one product of matrices takes three times as long.
        products = torch.stack(
            [
                torch.stack([torch.dot(part[rows[i]], part[rows[j]]) for i, j in pairs])
                for part in self._gradients.split(_PART, dim=1)
            ]
        ).sum(0)
        gramian = torch.empty(len(rows), len(rows))
        for (i, j), product in zip(pairs, products.tolist(), strict=True):
            gramian[i, j] = gramian[j, i] = product
        return gramian / scale**2

    def _weights(self, gramian: Tensor) -> Tensor:
        even = self._weighting(torch.eye(len(gramian)))
        weights = self._weighting(gramian) * (len(gramian) / even.sum())
        # PCGrad draws an order, and processes draw different ones.
        return broadcast(weights.to(self._accelerator.device)) if self._accelerator.num_processes > 1 else weights

    def _point_to(self, row: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self._shared]
        for parameter, gradient in zip(self._shared, row.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)


def _pair(first: str, second: str) -> str:
    return f"gradient_cosine_{first}_{second}"


def _kind(parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    return {"dtype": parameters[0].dtype, "device": parameters[0].device}
