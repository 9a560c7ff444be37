from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_multitask import MultiTaskBertModel, TaskConfig
from hf_multitask.model import kinds as register
from hf_multitask.model.plan import ABSENT, numbered, read_plan, row_counts
from hf_multitask.model.task_config import register_task_type
from tests.conftest import TASKS, tiny_model

TABLE = {name: TaskConfig.from_dict(task) for name, task in TASKS.items()}
IDS = torch.tensor([[2, 5, 3], [2, 6, 3], [2, 7, 3], [2, 8, 3]])


class LargestHead(nn.Module):
    """The largest value of the sequences that a row has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, embeddings: Tensor, are_there: Tensor) -> Tensor:
        return self.scale * embeddings.masked_fill(~are_there.unsqueeze(-1), -1e4).amax((1, 2))


class LargestTokenHead(LargestHead):
    """The same, of tokens' states."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return super().forward(states.flatten(1, 2), mask.flatten(1).bool())


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds whose rows have any number of sequences."""
    monkeypatch.setattr(register, "KINDS", dict(register.KINDS))

    @register_task_type("largest")
    @dataclass
    class Largest(TaskConfig):
        SEQUENCES_VARY = True
        READS_TOKENS = False

        def build_head(self, hidden_size: int) -> nn.Module:
            return LargestTokenHead() if self.READS_TOKENS else LargestHead()

    @register_task_type("largest_of_tokens")
    @dataclass
    class LargestOfTokens(Largest):
        READS_TOKENS = True


def model_of(**tasks: str) -> MultiTaskBertModel:
    return tiny_model(tasks={**TASKS, **{name: {"type": kind} for name, kind in tasks.items()}}).eval()


def test_a_number_of_rows_means_first_texts_and_then_second_ones() -> None:
    plan = read_plan({"sst": 1, "sts": 2}, TABLE, 5, "cpu")
    assert plan["sst"].tolist() == [[0]]
    assert plan["sts"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"sst": 4}, "5 sequences do not fit"),
        ({"sst": 1, "sts": 0}, "5 sequences do not fit"),
        ({}, "5 sequences do not fit"),
        ({"sts": torch.tensor([[0], [1]])}, r"task 'sts': a row reads 2 of sequences: .* not \(2, 1\)"),
        ({"sst": 1, "sts": torch.tensor([[1, 2]])}, "tasks 'sst': where one task has a plan, .* all need one"),
        ({"sts": torch.tensor([0, 1])}, r"its plan is \[B, N\], not \(2,\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tasks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(tasks, TABLE, 5, "cpu")


def test_rows_of_any_number_of_sequences_are_numbered_one_after_the_other() -> None:
    assert numbered([2, 1, 3], first=4).tolist() == [[4, 5, ABSENT], [6, ABSENT, ABSENT], [7, 8, 9]]


def test_rows_are_counted_either_way() -> None:
    assert row_counts({"sst": 3, "sts": torch.tensor([[0, 1], [2, 3]])}) == {"sst": 3, "sts": 2}


def test_tasks_may_read_the_same_sequences_and_in_any_order() -> None:
    model = tiny_model().eval()
    shared = model(IDS, tasks={"sst": torch.tensor([[3], [0]]), "sts": torch.tensor([[0, 3]])}).logits
    torch.testing.assert_close(shared["sst"], model(IDS, task="sst").logits[[3, 0]])
    torch.testing.assert_close(shared["sts"], model(IDS[[0, 3]], task="sts").logits)


def test_labels_may_be_there_of_some_tasks_alone() -> None:
    model = tiny_model().eval()
    output = model(IDS, tasks={"sst": 2, "sts": 1}, labels={"sts": torch.tensor([2.0])})
    assert list(output.losses) == ["sts"]
    assert list(output.logits) == ["sst", "sts"]
    torch.testing.assert_close(output.loss, output.losses["sts"])


def test_labels_of_a_task_without_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="labels are of task 'sts', which has no rows in the batch"):
        tiny_model()(IDS, tasks={"sst": 4}, labels={"sts": torch.tensor([2.0])})


@pytest.mark.parametrize("kind", ["largest", "largest_of_tokens"])
@pytest.mark.usefixtures("kinds")
def test_a_row_reads_as_many_sequences_as_its_plan_says(kind: str) -> None:
    model = model_of(most=kind)
    plan = torch.tensor([[0, 2, 1], [3, ABSENT, ABSENT]])
    output = model(IDS, tasks={"most": plan}).logits["most"]
    states = model(IDS).pooler_output if kind == "largest" else model(IDS).last_hidden_state

    def largest(rows: Sequence[int]) -> Tensor:
        return states[list(rows)].max()

    torch.testing.assert_close(output, torch.stack([largest([0, 1, 2]), largest([3])]))


@pytest.mark.usefixtures("kinds")
def test_such_rows_need_a_plan() -> None:
    with pytest.raises(ValueError, match=r"task 'most': rows of largest need a plan, \[B, N\], not their number"):
        model_of(most="largest")(IDS, tasks={"most": 2})
