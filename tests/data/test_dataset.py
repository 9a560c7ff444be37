import pytest
from datasets import Dataset

from hf_multitask.data.dataset import MultiTaskDataset

ROWS = MultiTaskDataset(
    {
        "a": Dataset.from_dict({"input_ids": [[1], [2, 2]], "label": [0, 1], "row": [1, 2]}),
        "b": Dataset.from_dict(
            {"input_ids": [[3], [4], [5]], "input_ids_2": [[6], [7], [8]], "label": [0.5, 1.5, 2.5]}
        ),
    }
)


def test_rows_of_all_tasks_stand_one_after_the_other() -> None:
    assert len(ROWS) == 5
    assert ROWS.offsets == {"a": 0, "b": 2}
    assert ROWS[1] == {"task": "a", "row": 2, "input_ids": [2, 2], "label": 1}
    assert ROWS[2] == {"task": "b", "row": 1, "input_ids": [3], "input_ids_2": [6], "label": 0.5}


@pytest.mark.parametrize("indices", [[4, 0, 2, 1], [0, 0, 3], [2, 3, 4], []])
def test_a_batch_comes_in_the_order_asked_for(indices: list[int]) -> None:
    assert ROWS.__getitems__(indices) == [ROWS[index] for index in indices]


def test_by_length_gives_all_rows_the_shortest_first_whichever_their_task() -> None:
    one = Dataset.from_dict({"input_ids": [[1, 1, 1], [1], [1, 1]]})
    two = Dataset.from_dict({"input_ids": [[1], [1]], "input_ids_2": [[1, 1, 1], [1]]})
    # Tokens by index: 3, 1, 2 and 4, 2.
    assert MultiTaskDataset({"one": one, "two": two}).by_length() == [1, 2, 4, 0, 3]
