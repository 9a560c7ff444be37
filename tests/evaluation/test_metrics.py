import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, root_mean_squared_error

from hf_multitask import TaskConfig
from hf_multitask.evaluation.metrics import MeanMetric, Metric, mean_of_shares
from hf_multitask.evaluation.task_evaluations import evaluation_of

CLASSES: Any = evaluation_of(TaskConfig("single_label_classification", num_labels=3))
BINARY: Any = evaluation_of(TaskConfig("single_label_classification", texts=2))
SCORES: Any = evaluation_of(TaskConfig("regression", score_range=[0, 5]))

# Final score, SST accuracy, paraphrase accuracy, STS correlation: every row of the paper's Tables 3 to 6.
PAPER = [
    (0.759, 0.509, 0.858, 0.821),
    (0.562, 0.385, 0.677, 0.246),
    (0.701, 0.460, 0.776, 0.733),
    (0.763, 0.504, 0.862, 0.849),
    (0.770, 0.528, 0.862, 0.841),
    (0.761, 0.514, 0.861, 0.817),
    (0.762, 0.519, 0.843, 0.846),
    (0.753, 0.503, 0.843, 0.825),
    (0.754, 0.499, 0.863, 0.800),
]


@pytest.mark.parametrize(("final", "sst", "quora", "sts"), PAPER)
def test_the_final_score_gives_the_papers_to_three_decimals(final: float, sst: float, quora: float, sts: float) -> None:
    shares = {"sst": CLASSES.share({"accuracy": sst}), "quora": BINARY.share({"accuracy": quora})}
    ours = mean_of_shares(shares | {"sts": SCORES.share({"pearson": sts, "rmse": 1.0})})
    # Half a unit of the third decimal: what rounding to the paper's three decimals takes or adds.
    assert abs(ours - final) <= 0.0005 + 1e-12


def test_metrics_equal_scikit_learns_and_scipys() -> None:
    draw = np.random.default_rng(0)
    truth, guess = draw.integers(3, size=500), draw.integers(3, size=500)
    assert CLASSES.score(guess, truth)["accuracy"] == pytest.approx(accuracy_score(truth, guess), abs=1e-12)
    truth, guess = draw.uniform(0, 5, 500), draw.uniform(0, 5, 500)
    metrics = SCORES.score(guess, truth)
    assert metrics["pearson"] == pytest.approx(pearsonr(guess, truth).statistic, abs=1e-12)
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(truth, guess), abs=1e-12)


@pytest.mark.parametrize(("guess", "truth"), [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [1])])
def test_an_undefined_correlation_is_nan(guess: list[float], truth: list[float]) -> None:
    metrics = SCORES.score(np.array(guess), np.array(truth))
    assert math.isnan(metrics["pearson"])
    assert math.isfinite(metrics["rmse"])
    assert math.isnan(mean_of_shares({"sts": SCORES.share(metrics), "sst": 1.0}))


def test_logits_become_predictions_and_probabilities() -> None:
    logits = np.array([[0.0, math.log(3), 0.0], [2.0, -1.0, 1.0]])
    assert CLASSES.predicted(logits).tolist() == [1, 0]
    assert CLASSES.probabilities(logits)[0].tolist() == pytest.approx([0.2, 0.6, 0.2])
    logits = np.array([math.log(3), -math.log(4)])
    assert BINARY.predicted(logits).tolist() == [1, 0]
    assert BINARY.probabilities(logits).ravel().tolist() == pytest.approx([0.25, 0.75, 0.8, 0.2])
    assert SCORES.predicted(np.array([2.5], dtype=np.float32)).tolist() == [2.5]


def test_the_trivial_predictor_knows_only_the_training_labels() -> None:
    assert CLASSES.trivial(np.array([2, 2, 0]), np.array([2, 0, 0, 1])) == {"accuracy": 0.25}
    metrics = SCORES.trivial(np.array([1.0, 3.0]), np.array([0.0, 4.0]))
    assert metrics["rmse"] == 2.0
    assert math.isnan(metrics["pearson"])


def test_metrics_of_many_draws_of_rows_are_those_of_each() -> None:
    draw = np.random.default_rng(0)
    predicted, labels = draw.normal(size=20), draw.normal(size=20)
    rows = draw.integers(20, size=(3, 4, 20))
    slow = Metric("Largest", lambda predicted, labels: np.max(predicted - labels))
    for metric in (*SCORES.metrics.values(), *CLASSES.metrics.values(), slow):
        values = metric.of_rows((predicted, labels), rows)
        assert values.shape == (3, 4)
        assert values[1, 2] == pytest.approx(metric.compute(predicted[rows[1, 2]], labels[rows[1, 2]]), abs=1e-12)


def test_a_metric_of_means_reads_of_drawn_rows_what_it_reads_of_all() -> None:
    def ratio(first: np.ndarray, second: np.ndarray) -> Any:
        return (first.mean(axis=-2) / second.mean(axis=-2)).sum(axis=-1)

    draw = np.random.default_rng(0)
    evidence = (draw.random((20, 3)), 1 + draw.random((20, 3)))
    rows = draw.integers(20, size=(4, 7))
    # Fewer rows than there are, as where one is left out.
    expected = [ratio(*(values[drawn] for values in evidence)) for drawn in rows]
    assert MeanMetric("Ratio", ratio).of_rows(evidence, rows).tolist() == pytest.approx(expected)
    assert float(MeanMetric("Ratio", ratio).of_rows(evidence, rows[0])) == pytest.approx(expected[0])
