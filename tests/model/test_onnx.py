"""The real exporter and a runtime that is not torch: the logits of every task for sizes that were never exported."""

from typing import Any

import pytest
import torch

from tests.conftest import TASKS, tiny_model
from tests.model.batches import ALL_TASKS, KINDS, OneTask

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


# Rows and tokens; none of them those of an export.
SIZES = [(1, 5), (2, 8), (5, 13), (3, 40)]


def padded(sequences: int, length: int) -> dict[str, torch.Tensor]:
    """Random token ids, the first sequence as long as the batch and the others shorter."""
    lengths = torch.randint(2, length + 1, (sequences, 1))
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": torch.randint(5, 40, (sequences, length)) * mask, "attention_mask": mask}


def session(model: torch.nn.Module, inputs: dict[str, Any], shapes: dict[str, Any], outputs: list[str]) -> Any:
    """A runtime for the exported model."""
    program = torch.onnx.export(
        model.eval(), (), kwargs=inputs, output_names=outputs, dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


def assert_agrees(runtime: Any, expected: Any, inputs: dict[str, torch.Tensor]) -> None:
    found = runtime.run(None, {name: value.numpy() for name, value in inputs.items()})
    for value, name in zip(found, [output.name for output in runtime.get_outputs()], strict=True):
        torch.testing.assert_close(torch.from_numpy(value), expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "task"), [("bert", task) for task in ALL_TASKS] + [(kind, task) for kind in KINDS[1:] for task in TASKS]
)
def test_a_tasks_logits_are_the_models_for_any_number_of_rows_and_tokens(kind: str, task: str) -> None:
    model = tiny_model(ALL_TASKS, kind)
    side = model.config.tasks[task].sequences_per_row
    inputs = padded(3 * side, 8)
    rows = torch.export.Dim("rows", min=1, max=64)
    sizes = {0: side * rows if side > 1 else rows, 1: torch.export.Dim("tokens", min=2, max=64)}
    runtime = session(OneTask(model, task), inputs, dict.fromkeys(inputs, sizes), ["logits"])
    for count, length in SIZES:
        other = padded(count * side, length)
        assert_agrees(runtime, model(**other, task=task), other)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("task", [*TASKS, None])
def test_the_model_itself_is_exported_with_the_task_as_a_keyword(task: str | None, masked: bool) -> None:
    model = tiny_model(ALL_TASKS)
    side = model.config.tasks[task].sequences_per_row if task else 1
    names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    shapes = {**{name: {0: "batch", 1: "tokens"} for name in names}, "task": None}
    # Names are given to all outputs of the call, in their order.
    outputs = ["logits", "embeddings"] if task else ["last_hidden_state", "pooler_output"]
    whole = padded(3 * side, 8)
    runtime = session(model, {**{name: whole[name] for name in names}, "task": task}, shapes, outputs)
    for count, length in SIZES:
        other = {name: value for name, value in padded(count * side, length).items() if name in names}
        assert_agrees(runtime, model(**other, task=task), other)
