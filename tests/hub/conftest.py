import pytest

from hf_multitask import MultiTaskBertModel
from tests.conftest import tiny_model


@pytest.fixture
def model() -> MultiTaskBertModel:
    return tiny_model()
