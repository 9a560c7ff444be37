"""Each kind in two processes, which make the gradients that one makes of the whole batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_multitask.evaluation.task_evaluations import evaluation_of
from tests.matrix.kinds import BATCH, NAMES, keeps_outputs, with_another
from tests.training.conftest import Gradients
from tests.training.test_processes import launch

RUN = {"max_steps": 3, "max_grad_norm": 0.0}
_WORKER = """
import sys
from pathlib import Path
import torch
from tests.matrix.kinds import with_another
from tests.matrix.test_processes import RUN
from tests.training.conftest import Gradients

folder, recorder = Path(sys.argv[1]), Gradients()
kind = with_another(sys.argv[2])
trainer = kind.trainer(folder, kind.model(dropout=False), [recorder], **RUN, per_device_eval_batch_size=2)
trainer.train()
output = trainer.predict(kind.data.rows["validation"])
if trainer.is_world_process_zero():
    torch.save((recorder.seen, output), folder / "result.pt")
trainer.end()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_and_are_scored_as_one(name: str, tmp_path: Path) -> None:
    process = launch(tmp_path / "two", _WORKER, name)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    gradients, found = torch.load(tmp_path / "two" / "result.pt", weights_only=False)
    kind, recorder = with_another(name), Gradients()
    settings = {**RUN, "per_device_train_batch_size": 2 * BATCH}
    one = kind.trainer(tmp_path / "one", kind.model(dropout=False), [recorder], **settings)
    one.train()
    output: Any = one.predict(kind.data.rows["validation"])
    if not all(task.HAS_LABELS or task.COUPLES_ROWS for task in kind.tasks.values()):
        # What is drawn of a batch's rows, as which tokens are masked, is drawn otherwise of half of them.
        assert [list(mine) for mine in recorder.seen] == [list(theirs) for theirs in gradients]
        assert all(np.array_equal(found.label_ids[name], output.label_ids[name]) for name in kind.tasks)
        return
    for mine, theirs in zip(recorder.seen, gradients, strict=True):
        assert list(mine) == list(theirs)
        for parameter, gradient in mine.items():
            torch.testing.assert_close(theirs[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)
    for name, task in kind.tasks.items():
        assert len(found.predictions[name]) == len(output.predictions[name])
        if keeps_outputs(task):
            each = [task.each_output(torch.from_numpy(of.predictions[name])) for of in (found, output)]
            torch.testing.assert_close(*each, rtol=1e-3, atol=1e-3)
        assert np.array_equal(found.label_ids[name], output.label_ids[name])
        for metric in evaluation_of(task).chosen:
            key = f"test_{name}_{metric}"
            assert found.metrics[key] == pytest.approx(output.metrics[key], rel=1e-3, abs=1e-3, nan_ok=True), key
