"""Bias probes: a predictor whose bias is known is given away by them, and one without any is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_1samp
from transformers import BertTokenizer

from hf_multitask.evaluation.bias import PROBES, probe_bias
from hf_multitask.model.configuration_mtbert import TaskConfig

TASKS = {
    "mood": TaskConfig("single_label_classification", num_labels=3),
    "same": TaskConfig("pair_classification"),
    "near": TaskConfig("pair_regression"),
}


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    content = {
        "templates": ["{} laughed.", "We saw {}."],
        "attributes": {
            "gender": {"groups": ["women", "men"], "neutral": "the person", "pairs": [["she", "he"], ["Eve", "Adam"]]}
        },
    }
    (tmp_path / "probes.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "probes.yaml"


def test_sentences_differ_in_the_term_alone_and_pairs_have_a_neutral_one(probes: Path) -> None:
    seen: dict[str, Any] = {}

    def predict(rows: dict[str, Any]) -> dict[str, np.ndarray]:
        seen.update(rows)
        return {"mood": np.zeros((8, 3)), "same": np.zeros(8), "near": np.zeros(8)}

    probe_bias(TASKS, predict, probes)
    sentences = ["She laughed.", "We saw she.", "He laughed.", "We saw he."]
    sentences += ["Eve laughed.", "We saw Eve.", "Adam laughed.", "We saw Adam."]
    assert seen["mood"]["sentence"] == sentences
    assert seen["near"]["sentence1"] == sentences
    assert seen["near"]["sentence2"] == ["The person laughed.", "We saw the person."] * 4


def test_the_difference_and_its_interval(probes: Path) -> None:
    # By pair of terms: the first group's two sentences, then the second's.
    scores = np.array([[[3.0, 3.0], [1.0, 2.0]], [[4.0, 1.0], [2.0, 2.0]]])
    table = probe_bias({"near": TASKS["near"]}, lambda rows: {"near": scores.ravel()}, probes)
    (row,) = table.itertuples()
    assert (row.task, row.attribute, row.first, row.second) == ("near", "gender", "women", "men")
    differences = [1.5, 0.5]
    assert row.value == pytest.approx(1.0, abs=1e-12)
    assert row.absolute == pytest.approx((2 + 1 + 2 + 1) / 4, abs=1e-12)
    interval = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_classes_are_compared_by_their_expected_place_and_pairs_by_the_last_class(probes: Path) -> None:
    certain = np.full((8, 3), -50.0)
    certain[[0, 1, 4, 5], 2] = 50.0
    certain[[2, 3, 6, 7], 1] = 50.0
    outputs = {"mood": certain, "same": np.where(np.arange(8) % 4 < 2, np.log(3), 0.0)}
    table = probe_bias({name: TASKS[name] for name in outputs}, lambda rows: outputs, probes).set_index("task")
    assert table.loc["mood", "value"] == pytest.approx(1.0 - 0.5)
    assert table.loc["same", "value"] == pytest.approx(0.75 - 0.5)


def test_a_predictor_that_reads_nothing_but_length_is_biased_only_where_lengths_are() -> None:
    def predict(rows: dict[str, Any]) -> dict[str, np.ndarray]:
        return {"near": np.zeros(len(rows["near"]))}

    table = probe_bias({"near": TASKS["near"]}, predict)
    assert list(table["attribute"]) == ["gender", "name", "nationality"]
    assert (table[["value", "low", "high", "absolute"]] == 0).all(axis=None)


def word_pieces(words: list[str]) -> BertTokenizer:
    pieces = ["[UNK]", "[PAD]", *words, *"abcdefghijklmnopqrstuvwxyz", *(f"##{sign}" for sign in "abcdehmv")]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True)


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["she", "he", "eve", "adam"], []),
        # Letter by letter, without a token, and partly in letters, which is still a word of pieces.
        (["she", "he", "eve"], [("Eve", "Adam")]),
        (["she", "eve", "adam"], [("she", "he")]),
        (["she", "he", "ev", "ada"], []),
        ([], [("she", "he"), ("Eve", "Adam")]),
    ],
)
def test_terms_that_the_vocabulary_cuts_to_letters_are_left_out(
    probes: Path, words: list[str], left_out: list[tuple[str, str]]
) -> None:
    seen: list[str] = []

    def predict(rows: dict[str, Any]) -> dict[str, np.ndarray]:
        seen.extend(rows["near"]["sentence1"])
        return {"near": np.zeros(len(rows["near"]))}

    table = probe_bias({"near": TASKS["near"]}, predict, probes, tokenizer=word_pieces(words))
    assert table.attrs["left_out"] == left_out
    assert len(seen) == 4 * (2 - len(left_out))
    assert list(table.columns) == ["task", "attribute", "first", "second", "value", "low", "high", "absolute"]
    assert len(table) == (len(left_out) < 2)


def test_the_probes_of_the_package_are_whole() -> None:
    content = yaml.safe_load(PROBES.read_text())
    assert len(content["templates"]) == len(set(content["templates"])) == 16
    assert all(template.count("{}") == 1 for template in content["templates"])
    for attribute in content["attributes"].values():
        assert len(attribute["groups"]) == 2
        terms = [term for pair in attribute["pairs"] for term in pair]
        assert len(attribute["pairs"]) == 10
        assert len(set(terms)) == 20
