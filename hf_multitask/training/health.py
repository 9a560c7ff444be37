"""Numbers that go wrong in training: losses that are not finite, that jump, and heads whose output no longer varies."""

import json
import logging
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback

from hf_multitask.data.batch import rows_of_tokens
from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.plan import row_counts

logger = logging.getLogger(__name__)

# Names with an underscore are not pushed: rows of the data are nobody else's business.
NONFINITE_NAME = "_nonfinite_losses.jsonl"
# A spike is this many times the median of the last logs, and this many of their (normal) standard deviations above it.
_SPIKE_RATIO, _SPIKE_DEVIATIONS, _SPIKE_LOGS, _SPIKE_WINDOW = 3.0, 6.0, 5, 20
# Outputs that differ by less than this share of the largest are one output.
_DEAD_SHARE, DEAD_ROWS = 1e-6, 8


class NonFiniteGuard(TrainerCallback):
    """Leaves out updates that would ruin the weights, and ends a training that has come to nothing but those.

    An update is left out if one of its losses or its gradient's norm is NaN or infinite, in any process. What made it
    is appended to `_nonfinite_losses.jsonl` in the run's folder: step, tasks, their losses, and the rows, by number and
    as the model read them. Under fp16 the gradient scaler leaves updates out itself, and the norms of those that it
    tries its scale on say nothing: there, only losses count. DeepSpeed has made an update before it can be left out, so
    that with it the first bad one ends the training.

    Args:
        accelerator: The trainer's.
        patience: How many updates in a row may be left out.
        output_dir: The run's folder.
        tasks: The table of tasks.
        tokenizer: Decodes the rows; without one they are there by number alone.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        patience: int,
        output_dir: str,
        tasks: Mapping[str, TaskConfig],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self._accelerator, self._patience = accelerator, patience
        self._path = Path(output_dir) / NONFINITE_NAME
        self._tasks, self._tokenizer = tasks, tokenizer
        # Of each: the batch, its losses, and of each row a number that is finite where all of its outputs are.
        self._batches: list[tuple[Mapping[str, Any], Mapping[str, Tensor], Mapping[str, Tensor]]] = []
        self._norm = 0.0
        self._in_a_row = 0

    def add(self, inputs: Mapping[str, Any], losses: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        """Keeps a batch until its update; `losses` are whole ones, with their regularisers, by task."""
        detached = {name: loss.detach() for name, loss in losses.items()}
        self._batches.append((inputs, detached, {name: _row_sums(logits[name].detach()) for name in losses}))

    def set_gradient_norm(self, norm: Any) -> None:
        """Takes the norm of the gradients that the next update has, a number or a tensor."""
        self._norm = float(norm)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._batches.clear()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._in_a_row = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        has_bad_loss = self._anywhere(
            any(not loss.isfinite() for _, losses, _ in self._batches for loss in losses.values())
        )
        if not has_bad_loss and (self._accelerator.scaler is not None or math.isfinite(self._norm)):
            self._in_a_row = 0
            return
        step = state.global_step + 1
        records = gather_object(
            [record for batch in self._batches for record in self._records(step, *batch, only_bad=has_bad_loss)]
        )
        self._write(records)
        losses = ", ".join(f"of task {record['task']!r} {record['loss']}" for record in records)
        what = f"step {step}: the loss is {losses}"
        if not has_bad_loss:
            what = f"step {step}: the gradient's norm is {self._norm}, with finite losses ({losses})"
        self._in_a_row += 1
        if self._accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise FloatingPointError(f"{what}, and DeepSpeed has made the update. Its rows are in {self._path}.")
        if self._in_a_row > self._patience:
            raise FloatingPointError(
                f"{what}; {self._in_a_row} updates in a row could not be made (nonfinite_patience {self._patience}). "
                f"Their rows are in {self._path}. Try a lower learning rate, or bf16 in place of fp16."
            )
        logger.warning("%s. The update is left out; its rows are in %s.", what, self._path)
        if self._accelerator.scaler is None and optimizer is not None:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _anywhere(self, here: bool) -> bool:
        """Whether something is so in any process."""
        if self._accelerator.num_processes == 1:
            return here
        return bool(self._accelerator.reduce(torch.tensor(float(here), device=self._accelerator.device)) > 0)

    def _write(self, records: list[dict[str, Any]]) -> None:
        if self._accelerator.is_main_process:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    def _records(
        self,
        step: int,
        inputs: Mapping[str, Any],
        losses: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        only_bad: bool,
    ) -> list[dict[str, Any]]:
        """Of a batch's tasks, or those with a bad loss: the rows whose outputs are not finite, or if none is, all."""
        texts = self._texts(inputs)
        records, start = [], 0
        for name, count in row_counts(inputs["tasks"]).items():
            numbers = inputs.get("rows", {}).get(name, [None] * count)
            if not (only_bad and losses[name].isfinite()):
                wrong = (~sums[name].isfinite()).nonzero().flatten().tolist()
                rows = [
                    {"row": numbers[i], "label": inputs["labels"][name][i].tolist(), "text": texts[start + i]}
                    for i in wrong or range(count)
                ]
                place = {"step": step, "process": self._accelerator.process_index, "task": name}
                # JSON has no NaN.
                records.append({**place, "loss": f"{losses[name].item():.6g}", "rows": rows})
            start += count
        return records

    def _texts(self, inputs: Mapping[str, Any]) -> list[str | None]:
        owners, count = rows_of_tokens(inputs, self._tasks)
        if self._tokenizer is None:
            return [None] * count
        return [str(self._tokenizer.decode(inputs["input_ids"][owners == row].tolist())) for row in range(count)]


def _row_sums(outputs: Tensor) -> Tensor:
    """The sum of each row's outputs, [B], in fp32: outputs themselves may be those of a whole vocabulary."""
    return outputs.unsqueeze(-1).flatten(1).sum(1, dtype=torch.float32)


class HealthWarnings(TrainerCallback):
    """Warns, at logs, of a task's loss that jumped and of a head whose output is the same for all rows.

    A head is dead when its outputs no longer depend on what it reads, as ReLU(cos) × 5 is once all its cosines are
    negative (paper section 4.2): it then has no gradient, and never comes back.

    Args:
        tasks: The table of tasks.
    """

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        self._tasks = tasks
        self._losses: dict[str, deque[float]] = {}
        # By task: how many rows, and the least and the greatest of their outputs.
        self._ranges: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._dead: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.__init__(self._tasks)  # type: ignore[misc]

    def add(self, logits: Mapping[str, Tensor]) -> None:
        """Counts the outputs of a training batch, [B, ...] by task."""
        for name, output in logits.items():
            # First, since a kind may take a part of them.
            each = self._tasks[name].each_output(output.detach()).float()
            if not len(each):
                continue
            low, high = each.aminmax(dim=0)
            rows = len(output)
            if name in self._ranges:
                before, least, greatest = self._ranges[name]
                rows, low, high = rows + before, low.minimum(least), high.maximum(greatest)
            self._ranges[name] = (rows, low, high)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "loss" not in logs:
            return
        for key, loss in logs.items():
            if key.startswith("loss_"):
                self._check_spike(key.removeprefix("loss_"), loss, state.global_step)
        for name, (rows, low, high) in list(self._ranges.items()):
            # Of a few rows, the next logs will tell.
            if rows >= DEAD_ROWS:
                self._check_dead(name, rows, low, high, state.global_step)
                del self._ranges[name]

    def _check_spike(self, name: str, loss: float, step: int) -> None:
        past = self._losses.setdefault(name, deque(maxlen=_SPIKE_WINDOW))
        if len(past) >= _SPIKE_LOGS:
            middle = median(past)
            # 1.4826 median absolute deviations are a normal variable's standard deviation.
            deviation = 1.4826 * median(abs(value - middle) for value in past)
            if loss > max(_SPIKE_RATIO * middle, middle + _SPIKE_DEVIATIONS * deviation):
                logger.warning(
                    "step %d: the loss of task %r jumped to %.3g; the median of the last %d logs is %.3g.",
                    *(step, name, loss, len(past), middle),
                )
        if math.isfinite(loss):
            past.append(loss)

    def _check_dead(self, name: str, rows: int, low: Tensor, high: Tensor, step: int) -> None:
        if not is_constant(low, high):
            self._dead.discard(name)
        elif name not in self._dead:
            self._dead.add(name)
            logger.warning(
                "step %d: task %r: the head's output was the same for all of the last %d rows: it no longer learns.",
                *(step, name, rows),
            )


def is_constant(low: Any, high: Any) -> bool:
    """Whether outputs, of which these are the least and the greatest (tensors or arrays), do not vary."""
    size = max(float(abs(low).max()), float(abs(high).max()), 1.0)
    return float((high - low).max()) <= _DEAD_SHARE * size
