from pathlib import Path

import pytest

from hf_multitask import MultiTaskTrainingArguments


def test_the_final_score_picks_the_best_checkpoint_and_higher_is_better(tmp_path: Path) -> None:
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path))
    assert args.metric_for_best_model == "eval_final_score"
    assert args.greater_is_better


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor must be 0"),
        ({"train_sampling_strategy": "sequential"}, "has no effect; use schedule"),
        ({"schedule": "proportionnal"}, "schedule 'proportionnal' is unknown; did you mean 'proportional'"),
        ({"packing": False}, "packing False is unknown; known: auto, on, off"),
        ({"largest_task_epochs": 0}, "largest_task_epochs must be at least 1, not 0"),
        ({"sampling_alpha": -0.5}, "sampling_alpha must be a number from 0 on, not -0.5"),
        ({"sampling_alpha": float("nan")}, "sampling_alpha must be a number from 0 on, not nan"),
    ],
)
def test_arguments_that_mean_nothing_here_are_refused(wrong: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskTrainingArguments(output_dir=str(tmp_path), **wrong)
