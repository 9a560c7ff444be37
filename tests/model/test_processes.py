"""The switch by which rows of all processes are one batch."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import distributed

from hf_multitask.model import processes


class AskedError(Exception):
    """Other processes were asked for their rows."""


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AskedError

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", refuse)


def a_copy() -> Any:
    """The module as it comes with a checkpoint's own code."""
    spec: Any = importlib.util.spec_from_file_location("a_copy_of_processes", processes.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("two_processes")
def test_code_that_came_with_a_checkpoint_hears_that_rows_are_together() -> None:
    rows, copy = torch.ones(2, 3), a_copy()
    assert copy.of_all_processes(rows, 0.0)[0] is rows
    with processes.rows_together():
        with pytest.raises(AskedError):
            copy.of_all_processes(rows, 0.0)
        with copy.rows_together(False):
            assert processes.of_all_processes(rows, 0.0)[0] is rows
    assert copy.of_all_processes(rows, 0.0)[0] is rows
