import math

import pytest
import torch
from torch.nn import functional as F

from hf_multitask import TaskConfig
from hf_multitask.model.heads import build_head, task_loss

H = 6
U, V = torch.randn(3, H), torch.randn(3, H)


def naive_mlp(head: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    hidden = (features @ head.dense.weight.T + head.dense.bias).clamp(min=0)
    return hidden @ head.out_proj.weight.T + head.out_proj.bias


def test_single_label_classification_is_hidden_layer_relu_output_layer() -> None:
    head = build_head(H, TaskConfig("single_label_classification", num_labels=4)).eval()
    assert head.dense.weight.shape == (H, H)
    torch.testing.assert_close(head(U), naive_mlp(head, U))
    assert head(U).shape == (3, 4)


@pytest.mark.parametrize(
    ("features", "combined"),
    [
        ("u,v", [U, V]),
        ("u,v,|u-v|", [U, V, (U - V).abs()]),
        ("u,v,u*v", [U, V, U * V]),
        ("u,v,|u-v|,u*v", [U, V, (U - V).abs(), U * V]),
    ],
)
def test_pair_classification_reads_the_features_it_is_told_to(features: str, combined: list[torch.Tensor]) -> None:
    head = build_head(H, TaskConfig("pair_classification", pair_features=features)).eval()
    logits = head(U, V)
    torch.testing.assert_close(logits, naive_mlp(head, torch.cat(combined, dim=1)).squeeze(1))
    assert logits.shape == (3,)


def test_pair_classification_with_three_classes_has_three_logits() -> None:
    head = build_head(H, TaskConfig("pair_classification", labels=["entails", "neutral", "contradicts"]))
    assert head(U, V).shape == (3, 3)


def test_dropout_drops_u_and_v_individually_and_only_in_training() -> None:
    head = build_head(H, TaskConfig("pair_classification", dropout=0.5))
    same = head.eval()(U, U)
    torch.testing.assert_close(same, head(U, U))
    seen = []
    head.dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head.train()(U, U)
    u, v = seen[0].split(H, dim=1)
    assert not torch.equal(u == 0, v == 0)


def naive_cosine(head: torch.nn.Module) -> torch.Tensor:
    second = head.dense_u if head.dense_v is None else head.dense_v
    a, b = U @ head.dense_u.weight.T + head.dense_u.bias, V @ second.weight.T + second.bias
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("projection", ["shared", "separate"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_regression_maps_the_cosine_to_the_score_range(projection: str, activation: str) -> None:
    task = TaskConfig("pair_regression", projection=projection, score_activation=activation, score_range=[1, 3])
    head = build_head(H, task).eval()
    torch.testing.assert_close(head(U, V), 1 + 2 * naive_cosine(head).clamp(min=0))
    leak = 0.0 if activation == "relu" else 0.1
    cosine = naive_cosine(head)
    torch.testing.assert_close(head.train()(U, V), 1 + 2 * torch.where(cosine > 0, cosine, leak * cosine))


@pytest.mark.parametrize(("activation", "learns"), [("relu", False), ("leaky_relu", True)])
def test_only_the_leaky_map_has_a_gradient_where_the_cosine_is_negative(activation: str, learns: bool) -> None:
    head = build_head(H, TaskConfig("pair_regression", score_activation=activation))
    torch.nn.init.eye_(head.dense_u.weight)
    torch.nn.init.zeros_(head.dense_u.bias)
    task_loss(TaskConfig("pair_regression"), head(U, -U + 0.1 * V), torch.full((3,), 4.0)).backward()
    assert bool(head.dense_u.weight.grad.abs().max() > 0) == learns


def test_a_cross_encoded_regression_stays_within_its_range() -> None:
    head = build_head(H, TaskConfig("pair_regression", pair_encoding="cross", score_range=[-1, 1])).eval()
    scores = head(100 * torch.randn(50, H))
    assert scores.shape == (50,)
    assert scores.min() >= -1
    assert scores.max() <= 1
    torch.testing.assert_close(head(U), 2 * torch.sigmoid(naive_mlp(head, U).squeeze(1)) - 1)


def test_losses_are_the_papers() -> None:
    many = TaskConfig("single_label_classification", num_labels=3)
    logits, labels = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
    assert task_loss(many, logits, labels).item() == pytest.approx(math.log(1 + math.e + math.e**2), rel=1e-6)
    binary = TaskConfig("pair_classification")
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert task_loss(binary, torch.tensor([2.0, -1.0]), torch.tensor([1, 0])).item() == pytest.approx(
        expected, rel=1e-6
    )
    scores = TaskConfig("pair_regression")
    assert task_loss(scores, torch.tensor([1.0, 4.0]), torch.tensor([2.0, 4.5])).item() == pytest.approx(0.625)


def test_a_loss_in_half_precision_is_computed_in_fp32() -> None:
    task = TaskConfig("single_label_classification", num_labels=3)
    logits = torch.randn(4, 3).bfloat16()
    expected = F.cross_entropy(logits.double(), torch.zeros(4).long())
    assert task_loss(task, logits, torch.zeros(4).long()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_labels_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need labels \[3\]"):
        task_loss(TaskConfig("pair_regression"), torch.zeros(3), torch.zeros(3, 1))
