import math

import pytest
import torch

from hf_multitask import TaskConfig
from tests.model.heads import naive_mlp

H = 6
U, V = torch.randn(3, H), torch.randn(3, H)


def naive_cosine(head: torch.nn.Module) -> torch.Tensor:
    second = head.dense_u if head.dense_v is None else head.dense_v
    a, b = U @ head.dense_u.weight.T + head.dense_u.bias, V @ second.weight.T + second.bias
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("projection", ["shared", "separate"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_regression_maps_the_cosine_to_the_score_range(projection: str, activation: str) -> None:
    task = TaskConfig("pair_regression", projection=projection, score_activation=activation, score_range=[1, 3])
    head = task.build_head(H).eval()
    torch.testing.assert_close(head(U, V), 1 + 2 * naive_cosine(head).clamp(min=0))
    leak = 0.0 if activation == "relu" else 0.1
    cosine = naive_cosine(head)
    torch.testing.assert_close(head.train()(U, V), 1 + 2 * torch.where(cosine > 0, cosine, leak * cosine))


@pytest.mark.parametrize(("activation", "learns"), [("relu", False), ("leaky_relu", True)])
def test_only_the_leaky_map_has_a_gradient_where_the_cosine_is_negative(activation: str, learns: bool) -> None:
    head = TaskConfig("pair_regression", score_activation=activation).build_head(H)
    torch.nn.init.eye_(head.dense_u.weight)
    torch.nn.init.zeros_(head.dense_u.bias)
    TaskConfig("pair_regression").losses(head(U, -U + 0.1 * V), torch.full((3,), 4.0)).sum().backward()
    assert bool(head.dense_u.weight.grad.abs().max() > 0) == learns


def test_a_cross_encoded_regression_stays_within_its_range() -> None:
    head = TaskConfig("pair_regression", pair_encoding="cross", score_range=[-1, 1]).build_head(H).eval()
    scores = head(100 * torch.randn(50, H))
    assert scores.shape == (50,)
    assert scores.min() >= -1
    assert scores.max() <= 1
    torch.testing.assert_close(head(U), 2 * torch.sigmoid(naive_mlp(head, U)) - 1)


def test_one_text_within_a_range_is_a_sigmoid_too() -> None:
    head = TaskConfig("regression", score_range=[0, 10]).build_head(H).eval()
    torch.testing.assert_close(head(U), 10 * torch.sigmoid(naive_mlp(head, U)))


@pytest.mark.parametrize("texts", [1, 2])
def test_without_a_range_a_score_is_what_the_feed_forward_head_gives(texts: int) -> None:
    head = TaskConfig("regression", texts=texts, pair_features="u,v,u*v").build_head(H).eval()
    features = U if texts == 1 else torch.cat([U, V, U * V], dim=1)
    torch.testing.assert_close(head(*(U, V)[:texts]), naive_mlp(head, features))


def test_the_loss_of_each_row_is_its_squared_error() -> None:
    task = TaskConfig("regression", texts=2, score_range=[0, 5])
    assert task.losses(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 4.5])).tolist() == [1.0, 0.25]


def test_scores_diverge_by_their_squared_difference() -> None:
    task = TaskConfig("regression")
    assert task.divergences(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.5])).tolist() == [4.0, 0.25]


def test_a_prediction_is_the_score() -> None:
    assert TaskConfig("regression").predictions(torch.tensor([1.5, -2.0])) == [{"score": 1.5}, {"score": -2.0}]


@pytest.mark.parametrize("bounds", [[1], [2, 1], [0, math.inf], ["a", "b"], 3])
def test_a_range_is_two_numbers_the_lower_first(bounds: object) -> None:
    with pytest.raises(ValueError, match=r"score_range .* must be two numbers, the lower first"):
        TaskConfig("regression", score_range=bounds)
