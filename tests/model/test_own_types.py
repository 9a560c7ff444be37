"""The kind of task that docs/own_task_type.md makes, as its reader would: in modules of their own."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import binary_cross_entropy
from transformers import AutoModel, pipeline

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.evaluation import task_evaluation
from hf_multitask.evaluation.report import build_report
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import all_intervals
from hf_multitask.model import kinds as register
from tests.conftest import ROOT, TASKS, tiny_model

IDS = torch.arange(5, 25).reshape(4, 5)
PAGE = (ROOT / "docs" / "own_task_type.md").read_text()
STARS = {"type": "ordinal_classification", "labels": ["bad", "fair", "good"]}
LINES = 60


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Writes and imports a module, and forgets it and its kinds at the end."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(register, "KINDS", dict(register.KINDS))
    monkeypatch.setattr(task_evaluation, "_EVALUATIONS", dict(task_evaluation._EVALUATIONS))
    names = []

    def write(name: str, text: str) -> ModuleType:
        (folder / f"{name}.py").write_text(text)
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def ordinal(written: Callable[[str, str], ModuleType]) -> ModuleType:
    """The page's two modules, imported."""
    first, second, *_ = (block.split("```")[0] for block in PAGE.split("```python\n")[1:])
    written("ordinal_evaluation", second)
    return written("ordinal", first)


def rows(count: int) -> Dataset:
    texts = [["a bad film", "a film", "a good film"][i % 3] for i in range(count)]
    return Dataset.from_dict({"sentence": texts, "label": [STARS["labels"][i % 3] for i in range(count)]})


def test_it_is_short() -> None:
    for block in PAGE.split("```python\n")[1:3]:
        assert len([line for line in block.split("```")[0].splitlines() if line.strip()]) <= LINES


def test_its_loss_and_divergence_are_those_of_its_thresholds(ordinal: ModuleType) -> None:
    task = TaskConfig(**STARS)
    outputs, others = torch.randn(2, 5, 2)
    labels = torch.tensor([0, 1, 2, 2, 0])
    above = [[label > k for k in range(2)] for label in labels.tolist()]
    expected = binary_cross_entropy(outputs.sigmoid(), torch.tensor(above).float(), reduction="none").mean(1)
    torch.testing.assert_close(task.losses(outputs, labels), expected)
    p, q = (torch.distributions.Bernoulli(logits=z) for z in (outputs, others))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(task.divergences(outputs, others), (kl(p, q) + kl(q, p)).sum(1))


def test_it_trains_with_smart_beside_the_others_and_is_scored_saved_and_piped(
    ordinal: ModuleType, tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model({"stars": STARS, "sst": TASKS["sst"]})
    sst = Dataset.from_dict({"sentence": ["a bad film", "a good film"] * 12, "label": [0, 4] * 12})
    args = MultiTaskTrainingArguments(
        str(tmp_path / "out"),
        max_steps=60,
        learning_rate=1e-2,
        smart={"weight": 0.1},
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
    )
    data = {"stars": rows(24), "sst": sst}
    trainer = MultiTaskTrainer(model, args, data, data, processing_class=tokenizer)
    trainer.train()
    assert all("smart_stars" in entry for entry in trainer.state.log_history if "loss_stars" in entry)
    metrics = trainer.evaluate()
    assert metrics["eval_stars_accuracy"] == 1.0
    assert metrics["eval_stars_distance"] == 0.0
    assert metrics["eval_final_score"] == (1.0 + metrics["eval_sst_accuracy"]) / 2
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| stars | ordinal_classification | one text | bad, fair, good |" in card
    assert "| stars | distance | 0.000 |" in card
    pipe = pipeline("multi-task", model=str(tmp_path / "out"))
    assert pipe(["a good film", "a bad film"], task="stars") == [
        {"label": "good", "label_id": 2},
        {"label": "bad", "label_id": 0},
    ]


def test_it_is_compared_and_reported(ordinal: ModuleType) -> None:
    task: Any = TaskConfig(**STARS)
    outputs = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    predicted = TaskPredictions(task, outputs, np.array([2, 2, 1, 0]), [(text,) for text in "abcd"])
    evaluation = evaluation_of(task)
    metrics = evaluation.score(predicted.predicted, predicted.labels)
    assert metrics == {"distance": 0.5, "accuracy": 0.75}
    assert evaluation.trivial([0, 1, 1, 2], predicted.labels) == {"distance": 0.75, "accuracy": 0.25}
    intervals = all_intervals({"stars": task}, {"stars": predicted.predicted}, {"stars": predicted.labels})
    assert intervals["stars_distance"].value == 0.5
    named = {f"eval_stars_{name}": value for name, value in metrics.items()} | {"eval_final_score": 0.75}
    page = build_report("a run", {"stars": predicted}, named, {}, intervals).to_markdown()
    assert "| stars | accuracy | 0.750 |" in page
    assert "| b | good | bad |" in page


def test_its_module_goes_with_the_checkpoint_and_runs_there(
    ordinal: ModuleType, tmp_path: Path, run_python: Callable
) -> None:
    model = tiny_model({"stars": STARS})
    model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "task_types.py").read_text().count("OrdinalClassification as") == 1
    saved = (tmp_path / "saved" / "ordinal.py").read_text()
    assert "from .heads import FeedForwardHead" in saved
    assert "hf_multitask" not in saved
    code = """
import json, sys, torch
sys.modules["hf_multitask"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
model.save_pretrained(sys.argv[2])
print(json.dumps(model(torch.tensor(json.loads(sys.argv[3])), task="stars").logits.tolist()))
"""
    for folder in ("saved", "again"):
        # What was loaded by its own code is saved with it, too.
        run = run_python(code, tmp_path / folder, tmp_path / ("again" if folder == "saved" else "third"), IDS.tolist())
        assert run.returncode == 0, run.stderr[-2000:]
        assert "does not go with the checkpoint" not in run.stderr
        torch.testing.assert_close(torch.tensor(json.loads(run.stdout)), model(IDS, task="stars").logits)
    assert json.loads((tmp_path / "third" / "config.json").read_text())["own_task_types"] == {
        "ordinal_classification": "ordinal"
    }


def test_who_loads_without_the_module_is_told_which_one_it_is(
    ordinal: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model({"stars": STARS}).save_pretrained(tmp_path / "saved")
    monkeypatch.delitem(register.KINDS, "ordinal_classification")
    with pytest.raises(
        ValueError, match=r"task 'stars': type 'ordinal_classification' is of the module ordinal: import"
    ):
        AutoModel.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("import sklearn.metrics", "it imports sklearn"),
        ("from hf_multitask import TaskConfig", "it imports hf_multitask"),
        ("from hf_multitask.evaluation.metrics import ACCURACY", "it imports hf_multitask"),
    ],
)
def test_a_module_that_others_could_not_run_stays_behind_with_a_warning(
    written: Callable, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch, line: str, problem: str
) -> None:
    monkeypatch.setattr("hf_multitask.model.own_types.logger.propagate", True, raising=False)
    base = "hf_multitask.model.single_label_classification"
    written(
        "kind_of_mine",
        f"{line}\nfrom {base} import SingleLabelClassification\n"
        "from hf_multitask.model.task_config import register_task_type\n\n\n"
        "@register_task_type('mine')\nclass Mine(SingleLabelClassification):\n    pass\n",
    )
    model = tiny_model({"a": {"type": "mine", "num_labels": 3}})
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "kind_of_mine.py").exists()
    said = f"Mine, of the module kind_of_mine, does not go with the checkpoint, since {problem}"
    assert said in caplog.text
    assert AutoModel.from_pretrained(tmp_path / "saved").config.tasks == model.config.tasks


def test_a_name_that_is_taken_is_refused(written: Callable, tmp_path: Path) -> None:
    kind = "from hf_multitask.model.regression import Regression\n"
    kind += "from hf_multitask.model.task_config import register_task_type\n\n\n"
    with pytest.raises(
        ValueError, match=r"task type 'regression' is taken, by hf_multitask\.model\.regression\.Regression"
    ):
        written("second", kind + "@register_task_type('regression')\nclass Other(Regression):\n    pass\n")
    written("heads", kind + "@register_task_type('mine')\nclass Mine(Regression):\n    pass\n")
    with pytest.raises(ValueError, match=r"the module heads of Mine needs another name: heads\.py is ours"):
        tiny_model({"a": {"type": "mine"}}).save_pretrained(tmp_path / "saved")
