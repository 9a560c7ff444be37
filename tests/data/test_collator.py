from typing import Any

import pytest
import torch
from accelerate.utils import find_batch_size

from hf_multitask import MultiTaskCollator, TaskConfig

CONFIGS = {
    "sst": TaskConfig("single_label_classification", num_labels=5),
    "sts": TaskConfig("pair_regression"),
    "nli": TaskConfig("pair_classification", pair_encoding="cross"),
}
ROWS = [
    {"task": "sts", "input_ids": [2, 5, 3], "input_ids_2": [2, 6, 3], "label": 2.5},
    {"task": "sst", "input_ids": [2, 7, 8, 3], "label": 4},
    {"task": "sts", "input_ids": [2, 9, 3], "input_ids_2": [2, 10, 11, 3], "label": 0.0},
]
CROSS = {"task": "nli", "input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1], "label": 1}


@pytest.fixture
def collate(tokenizer: Any):
    return lambda rows, packing=False: MultiTaskCollator(tokenizer, task_configs=CONFIGS, packing=packing)(rows)


def test_tasks_stand_together_first_texts_before_second(collate) -> None:
    batch = collate(ROWS)
    assert batch["tasks"] == {"sts": 2, "sst": 1}
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0], [2, 9, 3, 0], [2, 6, 3, 0], [2, 10, 11, 3], [2, 7, 8, 3]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 3, 3, 4, 4]
    assert "token_type_ids" not in batch


def test_packed_they_stand_in_one_row_of_a_round_length(collate) -> None:
    batch = collate(ROWS, packing=True)
    row = [2, 5, 3, 2, 9, 3, 2, 6, 3, 2, 10, 11, 3, 2, 7, 8, 3]
    assert batch["input_ids"].tolist() == [row + [0] * (32 - len(row))]
    assert batch["packing"]["boundaries"].tolist() == [0, 3, 6, 9, 13, 17, 32]


def test_classes_are_integers_and_scores_are_floats(collate) -> None:
    labels = collate(ROWS)["labels"]
    assert labels["sst"].dtype == torch.int64
    assert labels["sts"].dtype == torch.float32
    assert labels["sts"].tolist() == [2.5, 0.0]


@pytest.mark.parametrize("packing", [False, True])
def test_what_infers_a_batchs_size_counts_rows(collate, packing: bool) -> None:
    assert find_batch_size(collate(ROWS, packing)) == 2
    assert find_batch_size(collate([ROWS[1]], packing)) == 1


@pytest.mark.parametrize("packing", [False, True])
def test_token_types_are_zero_where_a_row_has_none(collate, packing: bool) -> None:
    types = collate([CROSS, ROWS[1]], packing)["token_type_ids"]
    expected = [[0, 0, 0, 1, 1] + [0] * 27] if packing else [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert types.tolist() == expected


def test_rows_without_labels_give_none(collate) -> None:
    batch = collate([{"task": "sst", "input_ids": [2, 3]}])
    assert "labels" not in batch
    assert batch["tasks"] == {"sst": 1}
