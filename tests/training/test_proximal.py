import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_multitask import MultiTaskCollator, TaskConfig
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.tokenization import tokenize
from hf_multitask.training.perturbation import random_state
from hf_multitask.training.proximal import ProximalArguments, ProximalPoint
from tests.conftest import TASKS, task_rows, tiny_model

CONFIGS = {name: TaskConfig.from_dict(task) for name, task in TASKS.items()}


@pytest.fixture
def batch(tokenizer: Any) -> dict[str, Any]:
    rows = {name: tokenize(rows, CONFIGS[name], tokenizer, 64) for name, rows in task_rows(3, seed=3).items()}
    data = MultiTaskDataset(rows)
    return MultiTaskCollator(tokenizer, task_configs=CONFIGS, packing=True)(data.__getitems__(range(len(data))))


def started(model: Any, **args: Any) -> ProximalPoint:
    proximal = ProximalPoint(ProximalArguments(**args), model)
    proximal.start()
    return proximal


def term(proximal: ProximalPoint, model: Any, batch: dict[str, Any]) -> dict[str, float]:
    random = random_state(torch.device("cpu"))
    logits = model(**batch).logits
    return {name: float(value.detach()) for name, value in proximal(batch, logits, random).items()}


def test_the_average_follows_its_recursion() -> None:
    model = tiny_model()
    proximal = started(model)
    weight = model.heads["sst"].out_proj.bias
    with torch.no_grad():
        weight.fill_(2.0)
    proximal.average.heads["sst"].out_proj.bias.data.fill_(10.0)
    followed = []
    for value, momentum in ((2.0, 0.9), (2.0, 0.9), (4.0, 0.5)):
        weight.data.fill_(value)
        proximal.update(momentum)
        followed.append(float(proximal.average.heads["sst"].out_proj.bias[0]))
    # 0.9 · 10 + 0.1 · 2, 0.9 · 9.2 + 0.1 · 2, (8.48 + 4) / 2
    assert followed == pytest.approx([9.2, 8.48, 6.24])


def test_the_term_is_nothing_where_the_model_has_not_moved_whatever_the_dropout(batch: dict[str, Any]) -> None:
    model = tiny_model().train()
    proximal = started(model)
    assert term(proximal, model, batch) == dict.fromkeys(TASKS, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    assert all(value > 0 for value in term(proximal, model, batch).values())
    proximal.update(momentum=0.0)  # the last iterate itself
    assert term(proximal, model, batch) == dict.fromkeys(TASKS, 0.0)


def test_the_pass_of_the_average_leaves_random_numbers_and_gradients_alone(batch: dict[str, Any]) -> None:
    model = tiny_model().train()
    proximal = started(model)
    random = random_state(torch.device("cpu"))
    logits = model(**batch).logits
    expected = torch.get_rng_state()
    value = sum(proximal(batch, logits, random).values())
    assert torch.equal(torch.get_rng_state(), expected)
    value.backward()
    assert all(parameter.grad is None for parameter in proximal.average.parameters())
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_model_and_average_can_change_places() -> None:
    model = tiny_model()
    proximal = started(model)
    mine = copy.deepcopy(model.state_dict())
    for parameter in proximal.average.parameters():
        parameter += 1.0
    proximal.exchange()
    assert all(torch.equal(value, mine[name] + 1.0) for name, value in model.named_parameters())
    proximal.exchange()
    assert all(torch.equal(value, mine[name]) for name, value in model.named_parameters())


def test_the_average_is_saved_and_loaded_to_the_last_bit(tmp_path: Path) -> None:
    model = tiny_model()
    proximal = started(model)
    proximal.average.heads["sts"].dense_u.weight.data.normal_()
    proximal.save(str(tmp_path), writes=True)
    other = started(model)
    other.load(str(tmp_path))
    for name, value in proximal.average.state_dict().items():
        assert torch.equal(other.average.state_dict()[name], value), name


def test_a_checkpoint_without_an_average_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no average\.safetensors: its run had no proximal point"):
        started(tiny_model()).load(str(tmp_path))
