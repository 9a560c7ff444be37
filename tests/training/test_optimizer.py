import pytest
import torch

from hf_multitask.training import optimizer
from hf_multitask.training.optimizer import phased
from tests.conftest import tiny_model


def separate_heads(groups: list[dict], model: torch.nn.Module, **settings: float | None) -> list[dict]:
    decaying = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    return optimizer.separate_heads(groups, model, decaying=decaying, **settings)


def groups_of(model: torch.nn.Module, weight_decay: float = 0.01) -> list[dict]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay, "lr": 1e-5},
        {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0, "lr": 1e-5},
    ]


def test_every_parameter_is_in_one_group_with_the_settings_of_its_part() -> None:
    model = tiny_model()
    groups = separate_heads(groups_of(model), model, learning_rate=1e-3, weight_decay=0.1)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) == len(settings)
    for name, parameter in model.named_parameters():
        is_head, decays = name.startswith("heads."), parameter.dim() > 1
        expected = (1e-3 if is_head else 1e-5, (0.1 if is_head else 0.01) if decays else 0.0)
        assert settings[id(parameter)] == expected, name


def test_heads_decay_where_the_backbone_does_not() -> None:
    model = tiny_model()
    groups = separate_heads(groups_of(model, weight_decay=0.0), model, learning_rate=None, weight_decay=0.1)
    decaying = [p for group in groups if group["weight_decay"] == 0.1 for p in group["params"]]
    heads = [p for p in model.heads.parameters() if p.dim() > 1]
    assert {id(p) for p in decaying} == {id(p) for p in heads}


def test_without_settings_of_their_own_heads_keep_the_backbones() -> None:
    model = tiny_model()
    groups = separate_heads(groups_of(model), model, learning_rate=None, weight_decay=None)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(1e-5, 0.01), (1e-5, 0.0)}


def test_a_frozen_backbone_leaves_no_empty_group() -> None:
    model = tiny_model()
    model.freeze_backbone()
    groups = separate_heads(groups_of(model), model, learning_rate=1e-3, weight_decay=None)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3]
    assert all(group["params"] for group in groups)


def test_a_wrapped_model_is_understood() -> None:
    model = tiny_model()
    wrapped = torch.nn.Sequential(model)
    groups = separate_heads(groups_of(wrapped), wrapped, learning_rate=1e-3, weight_decay=None)
    assert sum(p.numel() for group in groups if group["lr"] == 1e-3 for p in group["params"]) == sum(
        p.numel() for p in model.heads.parameters()
    )


@pytest.mark.parametrize("value", [0.0])
def test_a_learning_rate_of_zero_is_a_setting(value: float) -> None:
    model = tiny_model()
    groups = separate_heads(groups_of(model), model, learning_rate=value, weight_decay=value)
    assert [group["lr"] for group in groups] == [1e-5, 1e-5, 0.0, 0.0]


def test_a_learning_rate_goes_over_phases_in_one_course_or_begins_anew_in_each() -> None:
    falling = phased([lambda step: 1 - step / 10], lengths=[4, 6], factors=[1.0, 0.5])
    assert [falling(step) for step in (0, 3, 4, 9)] == pytest.approx([1.0, 0.7, 0.5 * 0.6, 0.5 * 0.1])
    anew = phased([lambda step: 1 - step / 4, lambda step: 1 - step / 6], lengths=[4, 6], factors=[1.0, 0.5])
    assert [anew(step) for step in (0, 3, 4, 9)] == pytest.approx([1.0, 0.25, 0.5, 0.5 / 6])


@pytest.mark.parametrize("settings", [{}, {"schedule": "proportional", "mixing": "tasks"}])
def test_a_task_of_which_nothing_would_learn_is_refused(make_trainer, settings: dict) -> None:
    model = tiny_model()
    model.freeze_backbone()
    model.heads["quora"].requires_grad_(False)
    trainer = make_trainer(model, max_steps=6, **settings)
    with pytest.raises(ValueError, match="there is nothing to train of task 'quora': the backbone is frozen"):
        trainer.train()
