import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_multitask import MultiTaskBertModel, MultiTaskCollator, TaskConfig
from hf_multitask.data.batch import rows_of_tokens
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.tokenization import tokenize
from hf_multitask.model.dropout import use_bit_dropout
from hf_multitask.training.smart import Smart, SmartArguments, SmartOutput, _Rows
from tests.conftest import TASKS, task_rows, tiny_model, without_dropout

CONFIGS = {name: TaskConfig.from_dict(task) for name, task in TASKS.items()}
LARGE = {"epsilon": 0.5, "sigma": 0.1, "eta": 0.5}
PROJECTIONS = ["ball", "normalized", "unit"]
every_layout = pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])


@pytest.fixture
def make_batch(tokenizer: Any):
    """Two rows of sst, two of quora, three of sts."""

    def make(packing: bool = True) -> dict[str, Any]:
        rows = {
            name: tokenize(task_rows(9, seed=3)[name].select(range(size)), CONFIGS[name], tokenizer, 64)
            for name, size in (("sst", 2), ("quora", 2), ("sts", 3))
        }
        return MultiTaskCollator(tokenizer, task_configs=CONFIGS, packing=packing)(
            MultiTaskDataset(rows).__getitems__(range(7))
        )

    return make


def regularize(model: MultiTaskBertModel, batch: dict[str, Any], **args: Any) -> SmartOutput:
    smart = Smart(SmartArguments(**args), model)
    with smart.recording() as clean:
        outputs = model(**batch)
    return smart(batch, outputs.logits, clean)


class Deltas:
    """Records the perturbations that a model's words are given, first to last."""

    def __init__(self, model: MultiTaskBertModel) -> None:
        self.seen: list[Tensor] = []
        self._words: list[Tensor] = []
        embeddings = model.get_input_embeddings()
        plain = embeddings.forward
        embeddings.forward = lambda ids: self._words.append(plain(ids)) or self._words[-1]
        model.backbone.embeddings.LayerNorm.register_forward_pre_hook(self._read)
        self._rest: Tensor | None = None

    def _read(self, _: Any, args: tuple[Tensor]) -> None:
        # What is normalised is words + δ + positions + types; the first pass, the clean one, says what the rest is.
        rest = (args[0] - self._words[-1]).detach()
        if self._rest is None:
            self._rest = rest
        else:
            self.seen.append(rest - self._rest)


# ---- The maximum within: against a naive reference, row by row, padded, in double precision ----


def naive_divergence(task: TaskConfig, z: Tensor, w: Tensor) -> Tensor:
    if not task.label_names:
        return (z - w) ** 2
    if task.is_binary:
        z, w = torch.stack([z, 0 * z], -1), torch.stack([w, 0 * w], -1)
    p, q = z.log_softmax(-1), w.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1) + (q.exp() * (q - p)).sum(-1)


def naive_gradient(model: MultiTaskBertModel, name: str, texts: list[Tensor], deltas: list[Tensor]) -> list[Tensor]:
    """The gradient of one row's divergence, texts encoded one by one from their word embeddings."""
    deltas = [delta.clone().requires_grad_() for delta in deltas]

    def logits(offsets: list[Any]) -> Tensor:
        embeddings = [
            model(inputs_embeds=model.get_input_embeddings()(ids).unsqueeze(0) + offset).pooler_output
            for ids, offset in zip(texts, offsets, strict=True)
        ]
        return model.heads[name](*embeddings)[0]

    value = naive_divergence(CONFIGS[name], logits(deltas), logits([0.0] * len(texts)).detach())
    return list(torch.autograd.grad(value, deltas))


def naive_l1_projection(values: np.ndarray, radius: float) -> np.ndarray:
    """By bisection for the threshold."""
    low, high = 0.0, np.abs(values).max()
    if np.abs(values).sum() <= radius:
        return values
    for _ in range(200):
        middle = (low + high) / 2
        too_large = np.maximum(np.abs(values) - middle, 0).sum() > radius
        low, high = (middle, high) if too_large else (low, middle)
    return np.sign(values) * np.maximum(np.abs(values) - high, 0)


def naive_ascent(delta: np.ndarray, g: np.ndarray, args: SmartArguments) -> np.ndarray:
    """One row's tokens [n, H], both texts of a pair one below the other."""
    order = {"1": 1, "2": 2, "inf": np.inf}[args.norm]
    if args.projection == "normalized":
        return args.eta * g / (np.linalg.norm(g, order, axis=1, keepdims=True) + args.epsilon)
    if args.projection == "unit":
        moved = delta + args.eta * g
        return moved / (np.linalg.norm(moved, order, axis=1, keepdims=True) + args.epsilon)
    moved = delta + args.eta * g / np.abs(g).max()
    if args.norm == "inf":
        return np.clip(moved, -args.epsilon, args.epsilon)
    if args.norm == "2":
        return moved * min(1.0, args.epsilon / np.sqrt((moved**2).sum()))
    return naive_l1_projection(moved, args.epsilon)


@every_layout
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_the_perturbation_is_that_of_a_naive_reference(
    make_batch, projection: str, norm: str, steps: int, packing: bool
) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch(packing)
    reference = copy.deepcopy(model).double().eval()
    reference.heads.train()  # the slope of negative cosines is the training one
    args = {"projection": projection, "norm": norm, "steps": steps, "sigma": 0.1, "eta": 0.5}
    args["epsilon"] = {"1": 20.0, "2": 1.0, "inf": 0.2}[norm] if projection == "ball" else 1e-3
    recorded = Deltas(model)
    regularize(model, batch, **args)
    start, *_, final = recorded.seen
    assert len(recorded.seen) == steps + 1

    owners, count = rows_of_tokens(batch, CONFIGS)
    assert not final[owners == count].any()
    names = [name for name, rows in batch["tasks"].items() for _ in range(rows)]
    for row, name in enumerate(names):
        ids, delta = batch["input_ids"][owners == row], start[owners == row].double()
        sizes = text_sizes(ids)
        for _ in range(steps):
            gradient = naive_gradient(reference, name, list(ids.split(sizes)), list(delta.split(sizes)))
            delta = torch.from_numpy(
                naive_ascent(delta.numpy(), torch.cat(gradient).numpy(), SmartArguments.read("smart", args))
            )
        torch.testing.assert_close(final[owners == row].double(), delta, rtol=2e-3, atol=2e-4)


def text_sizes(ids: Tensor) -> list[int]:
    """The lengths of a row's texts, each of which ends with [SEP]."""
    ends = [0, *((ids == 3).nonzero().flatten() + 1).tolist()]
    return [end - start for start, end in pairwise(ends)]


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_the_balls_radius_is_never_exceeded(make_batch, norm: str) -> None:
    model, batch = tiny_model().train(), make_batch()
    recorded = Deltas(without_dropout(model))
    regularize(model, batch, norm=norm, steps=3, epsilon=0.3, sigma=0.01, eta=5.0)
    owners, count = rows_of_tokens(batch, CONFIGS)
    for delta in recorded.seen[1:]:
        for row in range(count):
            radius = torch.linalg.vector_norm(delta[owners == row].double(), float(norm))
            assert 0.299 < radius <= 0.3 * (1 + 1e-5)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_a_ball_of_radius_0_holds_no_perturbation(make_batch, norm: str) -> None:
    output = regularize(tiny_model().train(), make_batch(), norm=norm, epsilon=0.0, sigma=0.1, eta=0.5)
    assert float(output.radius) == 0.0
    assert all(value == 0 for value in output.values.values())


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_more_steps_raise_the_inner_objective(make_batch, projection: str) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    reached = []
    for steps in (1, 2, 3):
        torch.manual_seed(0)
        # Steps that are short beside the ball; of `unit`, steps that are long beside its start.
        eta = {"ball": 0.05, "normalized": 0.02, "unit": 0.2}[projection]
        output = regularize(
            model,
            batch,
            projection=projection,
            steps=steps,
            epsilon=0.5 if projection == "ball" else 1e-6,
            sigma=1e-3,
            eta=eta,
        )
        reached.append(sum(float(value.detach()) for value in output.values.values()))
    assert reached[0] < reached[1] < reached[2]


def test_an_ascent_beats_noise_of_its_radius_and_the_cosine_tells_them_apart(make_batch) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    settings = {"projection": "normalized", "norm": "2", "eta": 0.1, "sigma": 1e-3}
    noise, ascent = (regularize(model, batch, steps=steps, **settings) for steps in (0, 1))
    assert sum(ascent.values.values()) > 2 * sum(noise.values.values())
    assert float(noise.radius) == pytest.approx(float(ascent.radius), rel=0.05)
    assert noise.cosine is None
    assert float(ascent.cosine) > 0.5
    # A step that is short beside the random start leaves it what it was: noise.
    drowned = regularize(model, batch, projection="unit", eta=1e-9, sigma=1.0)
    assert abs(float(drowned.cosine)) < 0.3


def test_the_radius_is_in_units_of_the_states(make_batch) -> None:
    model, batch = tiny_model().train(), make_batch()
    owners, count = rows_of_tokens(batch, CONFIGS)
    # Of real tokens: what fills a row or pads it is not what the perturbation is added to.
    words = model.get_input_embeddings()(batch["input_ids"])[owners < count].detach()
    output = regularize(model, batch, projection="unit", norm="2", epsilon=0, **{"sigma": 1.0})
    # Each token's perturbation has length 1, so that its RMS is 1 / sqrt(H).
    assert float(output.radius) == pytest.approx(1 / math.sqrt(16) / float(words.square().mean().sqrt()), rel=1e-4)


# ---- The regulariser ----


@pytest.mark.parametrize("layer", [None, 0, 1])
@every_layout
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_without_a_perturbation_shared_dropout_gives_exactly_nothing(
    make_batch, kind: str, packing: bool, layer: int | None
) -> None:
    rates = {"mlp_dropout": 0.1} if kind == "modernbert" else {}  # the others have dropout of their own accord
    model, batch = tiny_model(kind=kind, encoder=rates).train(), make_batch(packing)
    if kind != "bert":
        batch.pop("token_type_ids", None)
    shared = regularize(model, batch, sigma=0, eta=0, layer=layer, projection="normalized")
    assert {name: float(value) for name, value in shared.values.items()} == dict.fromkeys(TASKS, 0.0)
    independent = regularize(model, batch, sigma=0, eta=0, layer=layer, projection="normalized", dropout="independent")
    assert all(value > 0 for value in independent.values.values())


@pytest.mark.parametrize("by_bits", [False, True])
def test_shared_masks_and_noise_do_not_come_again_in_the_next_step(make_batch, by_bits: bool) -> None:
    model, batch = tiny_model().train(), make_batch()
    if by_bits:
        use_bit_dropout(model)
    torch.manual_seed(0)
    first = model(**batch).logits["sst"]
    torch.manual_seed(0)
    regularize(model, batch, **LARGE)
    after = torch.get_rng_state()
    second = model(**batch).logits["sst"]
    assert not torch.equal(first, second)
    # Nor does the noise: what the clean pass left the generator at is behind.
    torch.manual_seed(0)
    model(**batch)
    assert not torch.equal(after, torch.get_rng_state())


@every_layout
def test_the_inner_step_gives_no_parameter_a_gradient(make_batch, packing: bool) -> None:
    model, batch = tiny_model().train(), make_batch(packing)
    output = regularize(model, batch, steps=2, **LARGE)
    assert all(parameter.grad is None for parameter in model.parameters())
    sum(output.values.values()).backward()
    assert all(parameter.grad is not None for parameter in model.heads.parameters())


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("dropout", ["shared", "independent"])
def test_its_gradient_is_that_of_finite_differences(make_batch, name: str, dropout: str) -> None:
    model, batch = tiny_model().train(), make_batch()
    # With random noise the perturbation does not depend on the weights: what is left is a plain function of them.
    settings = {"steps": 0, "epsilon": 0.2, "eta": 0.2, "sigma": 0.1, "dropout": dropout}

    def value() -> Tensor:
        torch.manual_seed(5)
        return regularize(model, batch, **settings).values[name]

    value().backward()
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    step, ends = 2e-4, []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
            ends.append(float(value()))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.03)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("layer", [None, 1])
def test_layouts_give_the_same_regulariser(make_batch, layer: int | None) -> None:
    model = without_dropout(tiny_model()).train()
    packed, padded = (regularize(model, make_batch(packing), layer=layer, **LARGE) for packing in (True, False))
    for name, value in packed.values.items():
        torch.testing.assert_close(padded.values[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(padded.radius, packed.radius)


@pytest.mark.usefixtures("same_noise")
def test_a_rows_regulariser_does_not_depend_on_its_batch(make_batch, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    whole = regularize(model, batch, **LARGE)
    parts = []
    # A third of the rows, and each of the three rows of sts in turn; of the others, their first.
    for row in range(3):
        monkeypatch.setattr(torch, "randperm", lambda count, row=row: torch.tensor([row % count]))
        parts.append(regularize(model, batch, fraction=0.34, **LARGE))
    mean = sum(part.values["sts"] for part in parts) / 3
    torch.testing.assert_close(mean, whole.values["sts"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("dropout", ["shared", "independent"])
@every_layout
def test_a_fraction_of_the_rows_works_with_either_dropout(
    make_batch, packing: bool, dropout: str, layer: int | None
) -> None:
    model, batch = tiny_model().train(), make_batch(packing)
    still = regularize(
        model, batch, fraction=0.5, dropout=dropout, layer=layer, projection="normalized", sigma=0, eta=0
    )
    assert all((value == 0) == (dropout == "shared") for value in still.values.values())
    moved = regularize(model, batch, fraction=0.5, dropout=dropout, layer=layer, **LARGE)
    assert all(value > 0 for value in moved.values.values())


def test_the_smallest_fraction_is_one_row_of_each_task(make_batch) -> None:
    model, batch = tiny_model().train(), make_batch()
    smart = Smart(SmartArguments(fraction=0.01, **LARGE), model)
    assert {name: len(rows) for name, rows in smart._chosen_rows(batch).items()} == {"sst": 1, "quora": 1, "sts": 1}


def test_a_fraction_with_masks_of_its_own_needs_no_clean_pass_of_its_own(make_batch) -> None:
    passes = {}
    for dropout in ("independent", "shared"):
        model, batch = tiny_model().train(), make_batch()
        seen: list[int] = []
        model.backbone.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(1))
        regularize(model, batch, fraction=0.5, dropout=dropout, **LARGE)
        passes[dropout] = len(seen)
    # The model's own, the ascent's and the perturbed one.
    assert passes == {"independent": 3, "shared": 4}


def test_without_a_start_there_is_no_ascent_and_that_is_no_fault(make_batch) -> None:
    output = regularize(without_dropout(tiny_model()).train(), make_batch(), sigma=0, eta=0.1, epsilon=0.1)
    assert int(output.skipped) == 0
    assert all(value == 0 for value in output.values.values())
    assert float(output.cosine) == 0


def test_sums_and_cosines_are_those_of_each_row_alone() -> None:
    owners = torch.tensor([[0, 0, 1, 2, 2]])  # the last two are padding
    rows = _Rows(owners, 2, SmartArguments())
    values = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [1.0, 1.0], [9.0, 9.0], [9.0, 9.0]]])
    others = torch.tensor([[[3.0, 0.0], [0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [9.0, 9.0]]])
    assert rows.sum(values).tolist() == [7.0, 2.0]
    assert rows.norm(values, "2").tolist() == pytest.approx([5.0, math.sqrt(2)])
    # 9 / (5 * 3) of the first row; the second has a zero, which counts as 0.
    assert float(rows.cosine(values, others)) == pytest.approx((0.6 + 0) / 2)


@pytest.mark.usefixtures("same_noise")
def test_only_the_tasks_that_are_named_have_it(make_batch) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    everything = regularize(model, batch, **LARGE)
    some = regularize(model, batch, tasks={"sts": 0.5, "quora": 0.0}, **LARGE)
    assert set(some.values) == {"sts"}
    torch.testing.assert_close(some.values["sts"], everything.values["sts"], rtol=1e-4, atol=1e-6)
    assert regularize(model, batch, tasks={}, **LARGE).values == {}


def test_layers_below_the_perturbation_run_once(make_batch) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    calls = {0: 0, 1: 0}
    for number, layer in enumerate(model.backbone.encoder.layer):
        layer.attention.register_forward_hook(lambda *_, number=number: calls.update({number: calls[number] + 1}))
    output = regularize(model, batch, layer=1, **LARGE)
    assert calls == {0: 1, 1: 3}
    sum(output.values.values()).backward()
    # Their weights still have a gradient, by way of the states they gave.
    assert model.backbone.encoder.layer[0].output.dense.weight.grad.any()
    assert "forward" not in vars(model.backbone.encoder.layer[0])


def test_a_layer_that_is_not_there_and_an_unknown_task_are_refused() -> None:
    with pytest.raises(ValueError, match="smart: layer must be from 0 to 1, not 2"):
        Smart(SmartArguments(layer=2), tiny_model())
    with pytest.raises(ValueError, match="smart: tasks: task 'stss' is unknown; did you mean 'sts'"):
        Smart(SmartArguments(tasks={"stss": 1.0}), tiny_model())


# ---- Half precision ----


def test_a_gradient_that_is_not_finite_in_the_first_of_two_steps_counts_too(make_batch, monkeypatch: Any) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    owners, _ = rows_of_tokens(batch, CONFIGS)
    plain, calls = Smart._gradient, iter(range(9))

    def gradient(self: Smart, *args: Any) -> Tensor:
        values = plain(self, *args)
        if next(calls) == 0:
            values[owners == 1] = float("nan")
        return values

    monkeypatch.setattr(Smart, "_gradient", gradient)
    assert int(regularize(model, batch, steps=2, **LARGE).skipped) == 1


def test_rows_whose_gradient_is_not_finite_are_counted_and_left_out(make_batch, monkeypatch: Any) -> None:
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    owners, _ = rows_of_tokens(batch, CONFIGS)
    plain = Smart._gradient
    broken = torch.tensor([float("nan"), float("inf")])

    def gradient(self: Smart, *args: Any) -> Tensor:
        values = plain(self, *args)
        values[owners == 1] = broken[0]  # the second row of sst
        values[owners == 4] = broken[1]  # the first row of sts
        return values

    torch.manual_seed(0)
    whole = regularize(model, batch, **LARGE)
    monkeypatch.setattr(Smart, "_gradient", gradient)
    torch.manual_seed(0)
    output = regularize(model, batch, **LARGE)
    assert int(whole.skipped) == 0
    assert int(output.skipped) == 2
    assert 0 < output.values["sst"] < whole.values["sst"]
    assert 0 < output.values["sts"] < whole.values["sts"]
    torch.testing.assert_close(output.values["quora"], whole.values["quora"])
    sum(output.values.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_within_does_not_underflow_in_half_precision(make_batch, dtype: torch.dtype) -> None:
    """The gradient of a divergence of 1e-9 is nothing in fp16; brought to 1 on its way back, it is not."""
    model, batch = without_dropout(tiny_model()).train(), make_batch()
    with torch.no_grad():
        for name in ("sst", "quora"):
            for parameter in model.heads[name].out_proj.parameters():
                parameter *= 1e-4  # outputs that hardly move
    settings = {"projection": "normalized", "norm": "2", "eta": 0.1, "sigma": 0.2, "epsilon": 0.0}
    recorded = Deltas(model)
    torch.manual_seed(0)
    regularize(model, batch, **settings)
    exact, recorded._rest = recorded.seen[-1], None
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=dtype):
        output = regularize(model, batch, **settings)
    assert int(output.skipped) == 0
    assert 0 < output.values["sst"] < 1e-7
    owners, _ = rows_of_tokens(batch, CONFIGS)
    for row in range(4):
        pair = [delta[owners == row].flatten() for delta in (exact, recorded.seen[-1])]
        assert torch.cosine_similarity(*pair, 0) > 0.95, row


def test_a_gradient_scaler_changes_nothing(make_batch) -> None:
    gradients = []
    for enabled in (False, True):
        model, batch = without_dropout(tiny_model()).train(), make_batch()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=enabled)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(0)
        smart = Smart(SmartArguments(**LARGE), model)
        with smart.recording() as clean:
            outputs = model(**batch)
        loss = outputs.loss + sum(smart(batch, outputs.logits, clean).values.values())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_perturbation_that_the_precision_does_not_resolve_is_warned_of_once(make_batch, caplog: Any) -> None:
    model, batch = tiny_model().train(), make_batch()
    smart = Smart(SmartArguments(epsilon=1e-6), model)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with smart.recording() as clean:
                outputs = model(**batch)
            smart(batch, outputs.logits, clean)
    assert caplog.text.count("the ascent starts from rounding errors") == 1
    assert caplog.text.count("the regulariser sees rounding errors") == 1
    caplog.clear()
    regularize(model, batch, **LARGE)
    # In fp32, what bf16 does not resolve is large enough; and noise of the radius needs no start.
    regularize(model, batch, epsilon=1e-4, sigma=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        regularize(model, batch, **{**LARGE, "sigma": 1e-9}, steps=0)
    assert not caplog.text
