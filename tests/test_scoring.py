"""A model on a split: what is shown while it is scored."""

from typing import Any

import pytest

from hf_multitask.data.preparation import PreparedData
from hf_multitask.scoring import score
from hf_multitask.training.callbacks import TaskProgressCallback
from tests.conftest import TASKS, task_rows
from tests.training.conftest import make_trainer  # noqa: F401  (a fixture)


def lines(written: str) -> list[str]:
    """What the progress bars are called."""
    return [line.split(":")[0].strip() for line in written.replace("\r", "\n").splitlines() if "%|" in line]


@pytest.mark.parametrize("probe", [False, True])
def test_every_progress_bar_has_a_name_and_the_probes_have_one(
    make_trainer: Any,  # noqa: F811
    capsys: pytest.CaptureFixture,
    probe: bool,
) -> None:
    trainer = make_trainer(disable_tqdm=False)
    own = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TaskProgressCallback)]
    rows = task_rows(9)
    data = PreparedData(rows={"train": rows, "validation": rows}, texts={"validation": rows})
    capsys.readouterr()
    scored = score(trainer, data, "validation", probe=probe)
    names = list(dict.fromkeys(lines(capsys.readouterr().err)))
    assert names == [f"scoring {name}" for name in TASKS] + ["bias probes"] * probe
    # The trainer's own are back.
    assert own == [
        callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TaskProgressCallback)
    ]
    assert scored.intervals() is scored.intervals()
    assert set(scored.shortfalls()) <= set(TASKS)


def test_a_trainer_without_progress_bars_shows_none(
    make_trainer: Any,  # noqa: F811
    capsys: pytest.CaptureFixture,
) -> None:
    trainer = make_trainer(disable_tqdm=True)
    rows = task_rows(9)
    before = len(trainer.callback_handler.callbacks)
    capsys.readouterr()
    score(trainer, PreparedData(rows={"validation": rows}, texts={"validation": rows}), "validation", probe=True)
    assert lines(capsys.readouterr().err) == []
    assert len(trainer.callback_handler.callbacks) == before
