"""Smoothness-inducing adversarial regularisation (paper section 4.4; Jiang et al. 2020, SMART, section 3.1).

    R_s(θ) = 1/n Σ_i max over ‖δ_i‖_p ≤ ε of ℓ_s(f(x_i + δ_i; θ), f(x_i; θ))

f are a task's outputs, ℓ_s their [`divergence`], x_i the embeddings of a row, both texts of a pair together. The inner
maximum is sought by T steps of gradient ascent from a random start, ν ~ N(0, σ²).

Cost, in forward passes F of the batch (a backward is 2F, one to activations alone F): a plain step is 3F, with the
regulariser (6 + 2T)F; T = 1 makes 2.67 times the plain step, T = 0 twice.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from hf_multitask.data.batch import rows_of_tokens, select_rows
from hf_multitask.model.messages import nearest
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel
from hf_multitask.model.plan import row_counts
from hf_multitask.training.divergence import divergence, with_divergence
from hf_multitask.training.groups import ArgumentGroup
from hf_multitask.training.perturbation import CleanPass, PerturbationSite, random_state, set_random_state

logger = logging.getLogger(__name__)

# In place of a norm that is 0.
_TINY = torch.finfo(torch.float32).tiny


@dataclass
class SmartArguments(ArgumentGroup):
    """How SMART is done; the defaults are the SMART paper's, but for the weight, which is the best of Table 5.

    Args:
        weight: λ_s, at least 0; at 0 nothing is computed.
        projection: What becomes of an ascent along the gradient g from δ.
            `ball`: δ + η g / ‖g‖_∞, projected onto ‖δ‖_p ≤ ε, norms over a whole row (the SMART paper);
            `normalized`: η g / (‖g‖_p + ε) of each token, a radius of η (mt-dnn in one version); `unit`:
            (δ + η g) / (‖δ + η g‖_p + ε) of each token, a radius of 1 whatever η is (mt-dnn in another version,
            smart-pytorch). Word embeddings have values of about 0.05: see `smart_radius` in the logs.
        epsilon: ε. None: 1e-5 for `ball`, 0 for the others, where it guards a division that cannot fail here. The
            ports have 1e-6 there, which tokens' gradients are often below: their radius is then smaller than said.
        sigma: σ, of the random start; in half precision it must not vanish beside the states that it is added to.
        eta: η.
        steps: T. With 0, g is random in place of a gradient: noise of the same radius, without its ascent (RAPT).
        norm: p, `1`, `2` or `inf`.
        reduction: `mean` over the rows of a batch, as in the formula; `sum` multiplies by the rows of each task in a
            batch, `per_device_train_batch_size`, as smart-pytorch does: there, λ_s = 0.02 at 8 rows is 0.16 here.
        dropout: Whether the perturbed passes draw the clean one's masks, `shared`, or `independent` ones, whose
            difference is in the divergence then and, with a small radius, is all of it (R-Drop).
        tasks: The weight of each task's regulariser, by name; tasks that are not named have none. None: 1 for all.
        layer: None: the word embeddings are perturbed. k: the input of layer k from 0 on, that of 0 being the sum of
            words and positions; lower layers then run once, and what is smoothed is the network above them.
        every: Every k-th step only, with k times the weight: over k steps the sum of the regulariser's gradients has
            the same expectation (for weights that change little in between).
        fraction: The share of each task's rows, drawn for each step, over whose mean the regulariser is taken: an
            unbiased estimate of the mean over all. A part of the rows cannot share the dropout masks of a pass over
            all, so that with `shared` it has a clean pass of its own.

    Raises:
        ValueError: A value out of range.
    """

    weight: float = 0.02
    projection: Literal["ball", "normalized", "unit"] = "ball"
    epsilon: float | None = None
    sigma: float = 1e-5
    eta: float = 1e-3
    steps: int = 1
    norm: Literal["1", "2", "inf"] = "inf"
    reduction: Literal["mean", "sum"] = "mean"
    dropout: Literal["shared", "independent"] = "shared"
    tasks: dict[str, float] | None = None
    layer: int | None = None
    every: int = 1
    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon is None:
            self.epsilon = 1e-5 if self.projection == "ball" else 0.0
        for key in ("weight", "epsilon", "sigma", "eta"):
            self._require(key, 0 <= getattr(self, key) < float("inf"), "a number from 0 on")
        self._require("steps", self.steps >= 0, "at least 0")
        self._require("every", self.every >= 1, "at least 1")
        self._require("fraction", 0 < self.fraction <= 1, "above 0 and at most 1")
        self._require("tasks", min((self.tasks or {}).values(), default=0) >= 0, "weights from 0 on")


@dataclass
class SmartOutput:
    """The regulariser of a batch.

    Args:
        values: By task, the mean divergence of its rows, fp32 scalars.
        radius: RMS of the perturbation over RMS of the states it is added to.
        skipped: Rows left out because their gradient was not finite.
        cosine: Between perturbation and gradient, the mean over rows; None without an ascent.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    radius: Tensor | None = None
    skipped: Tensor | None = None
    cosine: Tensor | None = None


class Smart:
    """The regulariser of a model.

    Args:
        args: How it is done.
        model: The bare model, in training mode whenever the regulariser is called.

    Raises:
        ValueError: An unknown task, or a backbone that has no such layer or nowhere to perturb.

    Example:
        >>> smart = Smart(SmartArguments(weight=1.0), model)  # doctest: +SKIP
        >>> with smart.recording() as clean:
        ...     outputs = model(**inputs)
        >>> output = smart(inputs, outputs.logits, clean)
        >>> loss = outputs.loss + sum(output.values.values())
    """

    def __init__(self, args: SmartArguments, model: MultiTaskBertModel) -> None:
        self.args = args
        self._model = model
        self._tasks = model.config.tasks
        for name in args.tasks or {}:
            if name not in self._tasks:
                raise ValueError(f"smart: tasks: task {name!r} is unknown; {nearest(name, list(self._tasks))}")
        weights = dict.fromkeys(self._tasks, 1.0) if args.tasks is None else args.tasks
        self.weights = {name: weights[name] for name in with_divergence("smart", self._tasks) if name in weights}
        try:
            self._site = PerturbationSite(model.backbone, args.layer)
        except ValueError as error:
            raise ValueError(f"smart: {error}") from error
        self._has_sized = False

    def applies(self, step: int) -> bool:
        """Whether the step, which counts updates from 0, has the regulariser."""
        return self.args.weight > 0 and step % self.args.every == 0

    def recording(self) -> AbstractContextManager[CleanPass]:
        """Around the model's own pass over a batch, which is the only clean one."""
        return self._site.recording(self.args.dropout == "shared")

    def __call__(self, inputs: Mapping[str, Any], logits: Mapping[str, Tensor], clean: CleanPass) -> SmartOutput:
        """The regulariser of a batch, whose gradient goes through both outputs of the divergence.

        Args:
            inputs: The batch, packed or padded.
            logits: The clean pass's, by task, with their graph.
            clean: What it left.
        """
        recorded = inputs = {key: value for key, value in inputs.items() if key != "labels"}
        if (rows := self._chosen_rows(inputs)) is not None:
            if not rows:
                return SmartOutput()
            inputs = select_rows(inputs, rows, self._tasks)
            if self.args.dropout == "independent" and self._site.is_words:
                logits = {name: logits[name][rows[name]] for name in rows}
            else:
                with self.recording() as clean:
                    logits = self._model(**inputs).logits
                recorded = inputs
        states = self._site.states(clean, recorded["input_ids"].shape)
        return self._regularize(inputs, logits, clean, states, _rms(states, self._rows(recorded)))

    def _chosen_rows(self, inputs: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The rows that have the regulariser, by task; None where all have it."""
        tasks, share = row_counts(inputs["tasks"]), self.args.fraction
        if share == 1 and all(self.weights.get(name) for name in tasks):
            return None
        device = inputs["input_ids"].device
        return {
            name: torch.randperm(count)[: max(1, round(share * count))].sort().values.to(device)
            for name, count in tasks.items()
            if self.weights.get(name)
        }

    def _rows(self, inputs: Mapping[str, Any]) -> "_Rows":
        return _Rows(*rows_of_tokens(inputs, self._tasks), self.args)

    def _regularize(
        self, inputs: dict[str, Any], logits: Mapping[str, Tensor], clean: CleanPass, states: Tensor, size: Tensor
    ) -> SmartOutput:
        """As the call, of the chosen rows; `size` is the RMS of the clean pass's states at its tokens."""
        rows = self._rows(inputs)
        shape = (*inputs["input_ids"].shape, states.shape[-1])
        delta = rows.real * self.args.sigma * torch.randn(shape, device=states.device)
        usable = torch.ones(rows.count, dtype=torch.bool, device=states.device)
        cosine = None
        if self.args.steps == 0:
            delta = rows.ascend(delta, torch.randn_like(delta))
        # Passes that repeat the clean one's masks would leave the generators where this noise was drawn from.
        after = random_state(states.device)
        for _ in range(self.args.steps):
            gradient = self._gradient(inputs, logits, clean, delta, rows)
            finite = rows.norm(gradient, "inf").isfinite()
            usable &= finite
            delta = rows.ascend(delta, gradient).masked_fill(~rows.spread(usable), 0)
            cosine = rows.cosine(delta, gradient)
        perturbed = self._logits(inputs, clean, delta)
        if self.args.dropout == "shared":
            set_random_state(after, states.device)
        radius = _rms(delta, rows) / size
        output = SmartOutput(radius=radius, skipped=(~usable).sum(), cosine=cosine)
        for name, ok in zip(inputs["tasks"], usable.split(list(row_counts(inputs["tasks"]).values())), strict=True):
            values = divergence(self._tasks[name], perturbed[name], logits[name])
            output.values[name] = values.masked_fill(~ok, 0).mean()
        self._check_size(states, size, radius)
        return output

    def _logits(
        self, inputs: dict[str, Any], clean: CleanPass, delta: Tensor, ascent: bool = False
    ) -> dict[str, Tensor]:
        with self._site.perturbed(clean, delta, self.args.dropout == "shared", ascent):
            return self._model(**inputs).logits

    def _gradient(
        self, inputs: dict[str, Any], logits: Mapping[str, Tensor], clean: CleanPass, delta: Tensor, rows: "_Rows"
    ) -> Tensor:
        """Of each row's divergence by its own perturbation; no parameter gets a gradient.

        The divergence is of the order of the perturbation's square, and its gradient would vanish on its way back
        through fp16. So each row starts with the gradient of its outputs brought to 1, and is scaled back at the end.
        """
        delta = delta.requires_grad_()
        perturbed = self._logits(inputs, clean, delta, ascent=True)
        outputs = list(perturbed.values())
        divergences = [
            divergence(self._tasks[name], output, logits[name].detach()) for name, output in perturbed.items()
        ]
        seeds = torch.autograd.grad(torch.cat(divergences).sum(), outputs)
        scales = [seed.detach().abs().reshape(len(seed), -1).amax(1) for seed in seeds]
        scales = [scale.masked_fill(scale == 0, 1) for scale in scales]
        seeds = tuple(
            seed / scale.reshape(-1, *[1] * (seed.dim() - 1)) for seed, scale in zip(seeds, scales, strict=True)
        )
        (gradient,) = torch.autograd.grad(outputs, delta, seeds)
        return gradient * rows.spread(torch.cat(scales))

    def _check_size(self, states: Tensor, rms: Tensor, radius: Tensor) -> None:
        """Warns, once, of a perturbation that the passes' precision does not resolve."""
        if self._has_sized:
            return
        self._has_sized = True
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        least = torch.finfo(dtype).eps
        start = self.args.sigma / float(rms) if self.args.steps else 0.0
        for what, size, then in (
            ("sigma", start, "the ascent starts from rounding errors: raise sigma"),
            ("the perturbation", float(radius), "the regulariser sees rounding errors: raise epsilon and eta"),
        ):
            if 0 < size < least:
                resolved = f"less than {dtype} resolves ({least:.0e})"
                logger.warning("smart: %s is %.0e of the states it is added to, %s; %s.", what, size, resolved, then)


class _Rows:
    """The rows of a batch, for arithmetic over their tokens [.., H].

    Args:
        owners: The row of each token; `count` for padding and filling.
        count: R, how many rows.
        args: Norm and projection.
    """

    def __init__(self, owners: Tensor, count: int, args: SmartArguments) -> None:
        self.owners, self.count, self.args = owners, count, args
        self.real = (owners < count).unsqueeze(-1)

    def spread(self, values: Tensor) -> Tensor:
        """A value per row, [R], to its tokens, [.., 1]; padding gets 0 or False."""
        return torch.cat([values, values.new_zeros(1)])[self.owners].unsqueeze(-1)

    def sum(self, values: Tensor) -> Tensor:
        """Over each row's tokens and dimensions, [R]."""
        sums = values.new_zeros(self.count + 1)
        return sums.index_add(0, self.owners.flatten(), values.sum(-1).flatten())[:-1]

    def norm(self, values: Tensor, p: str) -> Tensor:
        """‖·‖_p of each row, [R]."""
        if p == "inf":
            largest = values.abs().amax(-1).flatten()
            return values.new_zeros(self.count + 1).scatter_reduce(0, self.owners.flatten(), largest, "amax")[:-1]
        return self.sum(values.abs()) if p == "1" else self.sum(values.square()).sqrt()

    def cosine(self, values: Tensor, others: Tensor) -> Tensor:
        """The mean over rows of the cosine between them; a row where either is 0 counts as 0."""
        norms = self.norm(values, "2") * self.norm(others, "2")
        return (self.sum(values * others) / norms).nan_to_num(0).mean()

    @torch.no_grad()
    def ascend(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """One step from δ along g, as `projection` says; see [`SmartArguments`]."""
        norm, eta, epsilon = self.args.norm, self.args.eta, self.args.epsilon or 0.0
        if self.args.projection == "ball":
            slope = gradient * self.spread(1 / self.norm(gradient, "inf").clamp_min(_TINY))
            moved = self._onto_ball(delta + eta * slope)
        elif self.args.projection == "normalized":
            moved = eta * gradient / (_token_norm(gradient, norm) + epsilon).clamp_min(_TINY)
        else:
            moved = delta + eta * gradient
            moved = moved / (_token_norm(moved, norm) + epsilon).clamp_min(_TINY)
        return moved.masked_fill(~self.real, 0)

    def _onto_ball(self, delta: Tensor) -> Tensor:
        """The nearest point with ‖δ‖_p ≤ ε, row by row."""
        epsilon = self.args.epsilon or 0.0
        if self.args.norm == "inf":
            return delta.clamp(-epsilon, epsilon)
        if self.args.norm == "2":
            return delta * self.spread(epsilon / self.norm(delta, "2").clamp_min(max(epsilon, _TINY)))
        excess = torch.stack([_l1_excess(delta[self.owners == row], epsilon) for row in range(self.count)])
        return delta.sign() * (delta.abs() - self.spread(excess)).clamp_min(0)


def _token_norm(values: Tensor, p: str) -> Tensor:
    return torch.linalg.vector_norm(values, float(p), dim=-1, keepdim=True)


def _l1_excess(values: Tensor, radius: float) -> Tensor:
    """By how much every value must shrink for their absolute sum to be at most the radius (Duchi et al. 2008)."""
    sizes = values.abs().flatten().sort(descending=True).values
    excess = (sizes.cumsum(0) - radius) / torch.arange(1, len(sizes) + 1, device=sizes.device)
    return excess[(sizes >= excess).sum() - 1].clamp_min(0)


def _rms(values: Tensor, rows: _Rows) -> Tensor:
    """Root mean square over the values of real tokens."""
    squares = values.detach().float().square() * rows.real
    return (squares.sum() / (rows.real.sum() * values.shape[-1])).sqrt()
