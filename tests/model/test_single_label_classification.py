import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional as F

from hf_multitask import TaskConfig
from tests.model.heads import naive_mlp

H = 6
U, V = torch.randn(3, H), torch.randn(3, H)
CLASSES = TaskConfig("single_label_classification", num_labels=5)
BINARY = TaskConfig("single_label_classification", texts=2)


def test_single_label_classification_is_hidden_layer_relu_output_layer() -> None:
    head = TaskConfig("single_label_classification", num_labels=4).build_head(H).eval()
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
    head = TaskConfig("pair_classification", pair_features=features).build_head(H).eval()
    logits = head(U, V)
    torch.testing.assert_close(logits, naive_mlp(head, torch.cat(combined, dim=1)))
    assert logits.shape == (3,)


def test_pair_classification_with_three_classes_has_three_logits() -> None:
    head = TaskConfig("pair_classification", labels=["entails", "neutral", "contradicts"]).build_head(H)
    assert head(U, V).shape == (3, 3)


def test_dropout_drops_u_and_v_individually_and_only_in_training() -> None:
    head = TaskConfig("pair_classification", dropout=0.5).build_head(H)
    same = head.eval()(U, U)
    torch.testing.assert_close(same, head(U, U))
    seen = []
    head.dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head.train()(U, U)
    u, v = seen[0].split(H, dim=1)
    assert not torch.equal(u == 0, v == 0)


@pytest.mark.parametrize(("texts", "logits"), [(1, (3, 2)), (2, (3,))])
def test_two_labels_have_one_logit_where_a_row_is_a_pair(texts: int, logits: tuple[int, ...]) -> None:
    task = TaskConfig("single_label_classification", texts=texts, labels=["no", "yes"])
    assert task.build_head(H)(*(U, V)[:texts]).shape == logits


def test_the_loss_of_each_row_is_the_papers() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2])
    expected = [math.log(1 + math.e + math.e**2), math.log(3)]
    many = TaskConfig("single_label_classification", num_labels=3)
    assert many.losses(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)
    expected = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    assert BINARY.losses(torch.tensor([2.0, -1.0]), torch.tensor([1, 0])).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_loss_in_half_precision_is_computed_in_fp32() -> None:
    logits = torch.randn(4, 5).bfloat16()
    expected = F.cross_entropy(logits.double(), torch.zeros(4).long(), reduction="none")
    assert CLASSES.losses(logits, torch.zeros(4).long()).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_classes_diverge_by_symmetric_kl() -> None:
    z, w = torch.randn(6, 5), torch.randn(6, 5)
    p, q = Categorical(logits=z.double()), Categorical(logits=w.double())
    expected = kl_divergence(p, q) + kl_divergence(q, p)
    torch.testing.assert_close(CLASSES.divergences(z, w).double(), expected, rtol=1e-4, atol=1e-6)


def test_one_logit_diverges_as_a_bernoulli_variable_and_not_as_a_softmax_of_one() -> None:
    z, w = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])
    p, q = Bernoulli(logits=z.double()), Bernoulli(logits=w.double())
    expected = kl_divergence(p, q) + kl_divergence(q, p)
    torch.testing.assert_close(BINARY.divergences(z, w).double(), expected)
    assert BINARY.divergences(z, w).tolist() == [pytest.approx(0.2310586), 0.0]  # (1/2 - σ(1)) (0 - 1)


def test_predictions_are_the_best_labels_with_their_probabilities() -> None:
    task = TaskConfig("single_label_classification", labels=["a", "b", "c"])
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]])
    best, second = {"label": "c", "label_id": 2}, {"label": "b", "label_id": 1}
    assert task.predictions(logits) == [{**best, "score": pytest.approx(5 / 8)}]
    (ranked,) = task.predictions(logits, top_k=2)
    assert ranked == [{**best, "score": pytest.approx(5 / 8)}, {**second, "score": pytest.approx(2 / 8)}]
    assert len(task.predictions(logits, top_k=None)[0]) == 3
    (yes,) = TaskConfig("single_label_classification", texts=2, labels=["no", "yes"]).predictions(torch.tensor([1.0]))
    assert yes == {"label": "yes", "label_id": 1, "score": pytest.approx(1 / (1 + math.exp(-1)))}
