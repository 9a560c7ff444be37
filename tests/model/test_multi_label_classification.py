import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence
from transformers import AutoModel, pipeline

from hf_multitask import TaskConfig
from tests.conftest import tiny_model
from tests.model.heads import naive_mlp

H = 6
U, V = torch.randn(3, H), torch.randn(3, H)
MOODS: dict[str, Any] = {"type": "multi_label_classification", "labels": ["joy", "grief", "fear"]}
TASK: Any = TaskConfig(**MOODS)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


# ---- What a task may say ----


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "multi_label_classification needs labels (a list of names) or num_labels"),
        ({"labels": ["only"]}, "labels ['only'] must be at least two different names"),
        ({"num_labels": 1}, "labels ['0'] must be at least two different names"),
        ({"num_labels": 3, "thresholds": 1.5}, "thresholds must be a probability from 0 to 1, or a list of 3, one for"),
        ({"num_labels": 3, "thresholds": [0.5, 0.5]}, "one for each label, not [0.5, 0.5]"),
        ({"num_labels": 2, "thresholds": [0.5, "high"]}, "thresholds must be a probability"),
        ({"num_labels": 2, "thresholds": True}, "thresholds must be a probability"),
        ({"num_labels": 2, "thresholds": math.nan}, "thresholds must be a probability"),
        ({"num_labels": 2, "thresholds": None}, "thresholds must be a probability"),
        ({"num_labels": 2, "separator": " "}, "separator must be the characters between two labels, such as ','"),
        ({"num_labels": 2, "separator": 3}, "separator must be the characters between two labels, such as ','"),
        ({"num_labels": 2, "score_range": [0, 5]}, "score_range is a key of regression"),
    ],
)
def test_what_a_task_cannot_be_is_refused_by_its_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        TaskConfig.from_dict({"type": "multi_label_classification", **keys})
    assert message in str(refusal.value)


def test_thresholds_are_one_for_all_or_one_for_each_and_stay_in_the_config(tmp_path: Path) -> None:
    assert TASK.each_threshold == [0.5, 0.5, 0.5]
    model = tiny_model({"all": {**MOODS, "thresholds": 0.3}, "each": {**MOODS, "thresholds": (0.1, 0.2, 1)}})
    model.save_pretrained(tmp_path)
    tasks = AutoModel.from_pretrained(tmp_path).config.tasks
    assert tasks["all"].to_dict()["thresholds"] == 0.3
    assert tasks["each"].each_threshold == [0.1, 0.2, 1]


def test_a_head_is_the_same_whatever_the_thresholds_and_the_separator() -> None:
    assert TASK.differences(TaskConfig(**MOODS, thresholds=0.1, separator="|")) == []
    assert TASK.differences(TaskConfig(**{**MOODS, "labels": ["joy", "fear", "grief"]})) == ["labels"]


# ---- Labels ----


def test_stored_labels_are_ids_in_their_order_and_become_zeros_and_ones() -> None:
    assert TASK.collate([[0, 2], [], [1]]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert TASK.collate([[]]).dtype == torch.float32
    assert TASK.is_label([])
    assert TASK.is_label([0, 2])
    assert not any(map(TASK.is_label, ([3], [-1], [2, 0], [1, 1])))


def test_labels_are_read_from_lists_and_texts() -> None:
    read = TaskConfig(**MOODS, separator="|").label_reader({"happy": "joy"}, None)
    assert read("happy | happy") == ([0], False)
    assert TASK.label_reader({}, ["Fear", "Joy"])([0, 1]) == ([0, 2], False)


# ---- What is learnt ----


@pytest.mark.parametrize(("texts", "encoding"), [(1, "bi"), (2, "bi"), (2, "cross")])
def test_a_head_has_a_logit_for_each_label(texts: int, encoding: Any) -> None:
    task = TaskConfig(**MOODS, texts=texts, pair_encoding=encoding, pair_features="u,v,|u-v|")
    sides = (U, V)[: task.sequences_per_row]
    features = torch.cat([U, V, (U - V).abs()], dim=1) if len(sides) == 2 else U
    head = task.build_head(H).eval()
    assert head(*sides).shape == (3, 3)
    torch.testing.assert_close(head(*sides), naive_mlp(head, features))


def test_the_loss_of_a_row_is_the_mean_over_its_labels() -> None:
    logits, labels = torch.tensor([[0.0, math.log(3), -math.log(3)], [0.0, 0.0, 0.0]]), TASK.collate([[1, 2], []])
    # Probabilities 1/2, 3/4 and 1/4, of which the last two are of labels that are there.
    expected = [-(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4)) / 3, math.log(2)]
    assert TASK.losses(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)
    half = TASK.losses(logits.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert half.tolist() == pytest.approx(TASK.losses(logits.bfloat16().double(), labels).tolist(), rel=1e-6)


def test_labels_diverge_each_as_a_bernoulli_variable() -> None:
    z, w = torch.randn(2, 5, 3, dtype=torch.float64)
    p, q = Bernoulli(logits=z), Bernoulli(logits=w)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)).mean(1)
    torch.testing.assert_close(TASK.divergences(z, w).double(), expected, rtol=1e-5, atol=1e-6)


# ---- What is said ----


def test_predictions_are_the_labels_that_reach_their_thresholds_likeliest_first() -> None:
    task = TaskConfig(**MOODS, thresholds=[0.5, 0.2, 0.9])
    outputs = torch.tensor([[logit(0.6), logit(0.3), logit(0.8)], [logit(0.4), logit(0.1), logit(0.8)]])
    joy, grief = {"label": "joy", "label_id": 0}, {"label": "grief", "label_id": 1}
    first, second = task.predictions(outputs)
    assert first == [{**joy, "score": pytest.approx(0.6)}, {**grief, "score": pytest.approx(0.3)}]
    assert second == []


def test_a_label_is_predicted_at_its_threshold_itself() -> None:
    ((only,),) = TASK.predictions(torch.tensor([[0.0, -1e-6, -1.0]]))
    assert only == {"label": "joy", "label_id": 0, "score": 0.5}


def test_more_than_one_or_all_are_the_likeliest_whatever_the_thresholds() -> None:
    outputs = torch.tensor([[logit(0.2), logit(0.3), logit(0.1)]])
    assert [each["label"] for each in TASK.predictions(outputs, top_k=2)[0]] == ["grief", "joy"]
    (ranked,) = TASK.predictions(outputs, top_k=None)
    assert [(each["label"], each["score"]) for each in ranked] == [
        ("grief", pytest.approx(0.3)),
        ("joy", pytest.approx(0.2)),
        ("fear", pytest.approx(0.1)),
    ]


def test_the_pipeline_gives_all_labels_scored_as_transformers_own_does(tokenizer: Any) -> None:
    pipe = pipeline("multi-task", model=tiny_model({"moods": MOODS}), tokenizer=tokenizer)
    texts = ["a good film", "the cat"]
    logits = pipe.model(**tokenizer(texts, padding=True, return_tensors="pt"), task="moods").logits
    for ranked, row in zip(pipe(texts, task="moods", top_k=None), logits, strict=True):
        # As `text-classification` does with function_to_apply="sigmoid".
        scores = [{"label": MOODS["labels"][i], "score": 1 / (1 + math.exp(-z))} for i, z in enumerate(row.tolist())]
        expected = sorted(scores, key=lambda each: -each["score"])
        assert [each["label"] for each in ranked] == [each["label"] for each in expected]
        assert [each["score"] for each in ranked] == pytest.approx([each["score"] for each in expected], rel=1e-5)
    chosen = pipe(texts, task="moods")
    assert [[each["label_id"] for each in sorted(row, key=lambda each: each["label_id"])] for row in chosen] == [
        [i for i, z in enumerate(row) if z >= 0] for row in logits.tolist()
    ]
    assert pipe(("a film", "the cat"))["moods"] == pipe(["a film", "the cat"], task="moods")
