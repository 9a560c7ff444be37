"""The pipeline and its model in the hands of other libraries: what they read, and the recipes of docs/hub.md."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_multitask import MultiTaskPipeline
from tests.conftest import ROOT, TASKS, tiny_model


def test_bound_to_a_task_the_config_names_its_labels_and_the_models_own_stays(tokenizer: Any) -> None:
    moods = ["bad", "so-so", "good"]
    tasks = {"mood": {"type": "single_label_classification", "labels": moods}, **TASKS}
    pipe = MultiTaskPipeline(tiny_model(tasks), tokenizer, top_k=None)
    before = pipe.model.config.to_dict()
    bound = {name: pipe.for_task(name) for name in ("mood", "quora", "sts")}
    assert bound["mood"].model.config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert bound["mood"].model.config.label2id == {"bad": 0, "so-so": 1, "good": 2}
    assert bound["mood"].model.config.num_labels == 3
    assert bound["quora"].model.config.id2label == dict(enumerate(pipe.model.config.tasks["quora"].labels))
    assert bound["sts"].model.config.id2label == {0: "sts"}
    assert pipe.model.config.to_dict() == before
    # As shap reads predictions.
    for prediction in bound["mood"]("a lovely film"):
        assert bound["mood"].model.config.label2id[prediction["label"]] == prediction["label_id"]
    # The weights are the same ones.
    with torch.no_grad():
        pipe.model.heads["mood"].get_parameter(next(iter(dict(pipe.model.heads["mood"].named_parameters())))).zero_()
    assert bound["mood"]("a film") == pipe("a film", task="mood")


def test_the_docs_recipe_for_evaluates_evaluator_runs_as_it_is_typed(
    tokenizer: Any, run_python: Callable, tmp_path: Path
) -> None:
    model = tiny_model({"sst": {"type": "single_label_classification", "num_labels": 5}})
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/hub.md").read_text(), re.DOTALL)
    (recipe,) = (block for block in blocks if "evaluator(" in block)
    recipe = recipe.replace('"user/mtbert-smart"', repr(str(tmp_path / "model")))
    # The metric would come from the Hub.
    recipe = recipe.replace('"accuracy"', "Accuracy(keep_in_memory=True)")
    head, tail = "from hf_multitask.evaluation.metrics import Accuracy\n", "\nprint(results['accuracy'])"
    run = run_python(recipe.replace("\nevaluate_reads", f"\n{head}\nevaluate_reads", 1) + tail)
    assert run.returncode == 0, run.stderr[-2000:]
    pipe = MultiTaskPipeline(model, tokenizer)
    predicted = [row["label_id"] for row in pipe(["a lovely film", "a dull film"], task="sst")]
    assert float(run.stdout.splitlines()[-1]) == np.mean(np.equal(predicted, [3, 1]))


def recipe(beginning: str, **names: Any) -> dict[str, Any]:
    """The names that are there after a recipe of docs/hub.md ran, which has a text in it; some are there before."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/hub.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if beginning in block)
    *lines, last = block.strip().splitlines()
    exec("\n".join([*lines, f"result = {last}"]), names)
    return names


def small_pipeline(tokenizer: Any) -> Callable[..., MultiTaskPipeline]:
    """In place of transformers' `pipeline`, one of a small model, whatever name is asked for."""
    return lambda task, model, **options: MultiTaskPipeline(tiny_model(), tokenizer, **options)


def test_shap_explains_by_the_docs_recipe(tokenizer: Any) -> None:
    shap = pytest.importorskip("shap")
    names = recipe("shap.Explainer(", shap=shap, pipeline=small_pipeline(tokenizer))
    explanation, pipe = names["result"], names["pipe"]
    assert list(explanation.output_names) == pipe.model.config.tasks["sst"].labels
    scores = {row["label_id"]: row["score"] for row in pipe("a lovely film", task="sst")}
    # What the words add to the prediction without any word.
    (values,), (start,) = explanation.values, explanation.base_values
    assert start + values.sum(0) == pytest.approx([scores[label] for label in range(5)], abs=1e-5)
    assert np.abs(values).max() > 0.01


def test_lime_explains_by_the_docs_recipe(tokenizer: Any) -> None:
    lime_text = pytest.importorskip("lime.lime_text")
    pipe = small_pipeline(tokenizer)("multi-task", "any")
    names = recipe("LimeTextExplainer()", np=np, pipe=pipe, LimeTextExplainer=lime_text.LimeTextExplainer)
    explanation, probabilities = names["result"], names["probabilities"]
    scores = {row["label_id"]: row["score"] for row in pipe("a lovely film", task="sst", top_k=None)}
    assert explanation.predict_proba == pytest.approx([scores[label] for label in range(5)], abs=1e-5)
    # LIME's weight of a word has the sign of what the probability loses without it.
    (without,) = probabilities(["a film"])
    loss = explanation.predict_proba[1] - without[1]
    weights = dict(explanation.as_list(label=1))
    assert np.sign(weights["lovely"]) == np.sign(loss)


def test_peft_trains_and_saves_the_heads_of_tasks_by_name(tokenizer: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    inputs = tokenizer(["a lovely film"], return_tensors="pt")
    config = peft.LoraConfig(target_modules=["query", "value"], modules_to_save=["sst", "quora"])
    model = peft.get_peft_model(tiny_model(), config)
    trained = {
        name.split(".heads.")[1].split(".")[0]
        for name, p in model.named_parameters()
        if p.requires_grad and ".heads." in name
    }
    assert trained == {"sst", "quora"}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter").eval()
    expected = model(task="sst", **inputs).logits
    torch.testing.assert_close(loaded(task="sst", **inputs).logits, expected)
    torch.testing.assert_close(loaded.merge_and_unload()(task="sst", **inputs).logits, expected)
    assert not torch.allclose(tiny_model()(task="sst", **inputs).logits, expected)
