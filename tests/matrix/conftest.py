"""The matrix: every registered kind of task, by every method."""

from typing import Any

import pytest

from tests.matrix.kinds import Kind, kind_of, with_another


@pytest.fixture
def kind(request: Any) -> Kind:
    """The tasks of one kind."""
    return kind_of(request.param)


@pytest.fixture
def mixed(request: Any) -> Kind:
    """The tasks of one kind, and one of another."""
    return with_another(request.param)
