from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_multitask import MultiTaskCollator, TaskConfig
from hf_multitask.data.batch import rows_of_tokens, select_rows
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.tokenization import tokenize
from tests.conftest import TASKS, tiny_model

CONFIGS = {name: TaskConfig.from_dict(task) for name, task in TASKS.items()}


@pytest.fixture
def batch_of(tokenizer: Any):
    """Batches rows of `sst` (one text each) and `sts` (two each): 2, 1, 3 words, and (1, 4), (2, 1)."""
    sst = {"sentence": ["a cat", "film", "the good film"], "label": [0, 1, 2]}
    sts = {"sentence1": ["dog", "big dog"], "sentence2": ["a small dog ran", "cat"], "label": [1.0, 2.0]}
    rows = {"sst": Dataset.from_dict(sst), "sts": Dataset.from_dict(sts)}
    data = MultiTaskDataset({name: tokenize(rows[name], CONFIGS[name], tokenizer, 64) for name in rows})

    def make(indices: list[int], packing: bool) -> dict[str, Any]:
        collator = MultiTaskCollator(tokenizer, task_configs=CONFIGS, packing=packing)
        return collator(data.__getitems__(indices))

    return make


@pytest.mark.parametrize("packing", [True, False])
def test_both_texts_of_a_pair_belong_to_its_row_and_padding_to_none(batch_of, packing: bool) -> None:
    owners, count = rows_of_tokens(batch_of([0, 1, 2, 3, 4], packing), CONFIGS)
    assert count == 5
    # [CLS] and [SEP] count with the words.
    tokens = {row: int((owners == row).sum()) for row in range(6)}
    assert [tokens[row] for row in range(5)] == [4, 3, 5, 3 + 6, 4 + 3]
    if packing:
        assert owners[0, :29].tolist() == [0] * 4 + [1] * 3 + [2] * 5 + [3] * 3 + [4] * 4 + [3] * 6 + [4] * 3 + [5]
    else:
        assert owners[0].tolist() == [0] * 4 + [5] * 2


@pytest.mark.parametrize("packing", [True, False])
def test_a_part_of_a_batch_is_the_batch_of_those_rows(batch_of, packing: bool) -> None:
    model = tiny_model()
    whole = batch_of([0, 1, 2, 3, 4], packing)
    part = select_rows(whole, {"sst": torch.tensor([0, 2]), "sts": torch.tensor([1])}, CONFIGS)
    expected = batch_of([0, 2, 4], packing)
    assert part["tasks"] == expected["tasks"] == {"sst": 2, "sts": 1}
    for name in ("sst", "sts"):
        assert torch.equal(part["labels"][name], expected["labels"][name])
        torch.testing.assert_close(model(**part).logits[name], model(**expected).logits[name])
    if packing:
        assert part["input_ids"].shape == expected["input_ids"].shape
        assert torch.equal(part["packing"]["mask"], expected["packing"]["mask"])


@pytest.mark.parametrize("packing", [True, False])
def test_tasks_that_are_not_chosen_are_left_out(batch_of, packing: bool) -> None:
    part = select_rows(batch_of([0, 1, 3], packing), {"sts": torch.tensor([0])}, CONFIGS)
    assert part["tasks"] == {"sts": 1}
    assert set(part["labels"]) == {"sts"}
    assert tiny_model()(**part).logits["sts"].shape == (1,)
