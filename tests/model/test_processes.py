"""The switch by which rows of all processes are one batch."""

from typing import Any

import pytest
import torch
from torch import distributed

from hf_multitask.model.processes import of_all_processes, rows_together


class AskedError(Exception):
    """Other processes were asked for their rows."""


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AskedError

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", refuse)


@pytest.mark.usefixtures("two_processes")
def test_other_processes_are_asked_only_where_rows_are_said_to_be_together() -> None:
    rows = torch.ones(2, 3)
    assert of_all_processes(rows, 0.0)[0] is rows
    with rows_together():
        with pytest.raises(AskedError):
            of_all_processes(rows, 0.0)
        with rows_together(False):
            assert of_all_processes(rows, 0.0)[0] is rows
    assert of_all_processes(rows, 0.0)[0] is rows
