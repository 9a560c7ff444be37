"""Reading a batch that the collator laid out: which tokens are whose, and the part that holds some of its rows."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.packing import pack
from hf_multitask.model.plan import ABSENT, in_sides, read_plan


def rows_of_tokens(batch: Mapping[str, Any], task_configs: Mapping[str, TaskConfig]) -> tuple[Tensor, int]:
    """Which row of the batch each token belongs to; all sequences of a row belong to it, and no two rows share one.

    Returns:
        Int64 of the shape of `input_ids`, and the number of rows R, counted over the tasks in their order. Padding
        and filling have the number R.
    """
    real = batch["packing"]["mask"] if "packing" in batch else batch["attention_mask"].bool()
    plan = read_plan(batch["tasks"], task_configs, len(real), real.device)
    # One place more, which takes what absent sequences would have.
    owners_of = torch.zeros(len(real) + 1, dtype=torch.int64, device=real.device)
    count = 0
    for numbers in plan.values():
        rows = torch.arange(count, count + len(numbers), device=real.device)
        places = torch.where(numbers == ABSENT, len(real), numbers)
        owners_of.scatter_(0, places.flatten(), rows.repeat_interleave(numbers.shape[1]))
        count += len(numbers)
    owners = torch.full_like(batch["input_ids"], count)
    each = owners_of[:-1].unsqueeze(1).expand_as(real)[real]
    if "packing" in batch:
        owners[0, batch["packing"]["padded"][real]] = each
    else:
        owners[real] = each
    return owners, count


def select_rows(
    batch: Mapping[str, Any], rows: Mapping[str, Tensor], task_configs: Mapping[str, TaskConfig]
) -> dict[str, Any]:
    """The part of a batch that holds some rows of some tasks, laid out as the collator would.

    Args:
        batch: As the collator makes it, on any device.
        rows: By task, the numbers of its rows to keep, int64 [B'], on the batch's device; tasks that are absent or
            have none are left out.
    """
    real = batch["packing"]["mask"] if "packing" in batch else batch["attention_mask"]
    plan = read_plan(batch["tasks"], task_configs, len(real), real.device)
    kept = {name: plan[name][rows[name]] for name in batch["tasks"] if name in rows and len(rows[name])}
    tasks: dict[str, int | Tensor] = {}
    are_planned = any(task_configs[name].SEQUENCES_VARY for name in kept)
    chosen, start = [], 0
    for name, numbers in kept.items():
        are_there = numbers != ABSENT
        if task_configs[name].SEQUENCES_VARY:
            order = (are_there.flatten().cumsum(0) - 1 + start).view(numbers.shape)
            tasks[name] = order.masked_fill(~are_there, ABSENT)
            chosen.append(numbers[are_there])
        else:
            count, sides = numbers.shape
            tasks[name] = in_sides(count, sides, start, numbers.device) if are_planned else count
            chosen.append(numbers.T.flatten())
        start += len(chosen[-1])
    sequences = torch.cat(chosen)
    part: dict[str, Any] = {"tasks": tasks}
    if "labels" in batch:
        part["labels"] = {name: batch["labels"][name][rows[name]] for name in tasks if name in batch["labels"]}
    if "head_inputs" in batch:
        inputs = {name: batch["head_inputs"][name] for name in tasks if name in batch["head_inputs"]}
        part["head_inputs"] = {
            name: {key: value[rows[name]] for key, value in tensors.items()} for name, tensors in inputs.items()
        }
    if "rows" in batch:
        part["rows"] = {name: [batch["rows"][name][i] for i in rows[name].tolist()] for name in tasks}
    inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask") if key in batch}
    if "packing" not in batch:
        return part | {key: value[sequences] for key, value in inputs.items()}
    real = batch["packing"]["mask"][sequences]
    places = batch["packing"]["padded"][sequences][real]
    packing = pack(real.sum(1).tolist())
    # Nothing reads the filling: any token will do.
    filling = places[:1].expand(packing["position_ids"].shape[1] - len(places))
    places = torch.cat([places, filling])
    part |= {key: value[:, places] for key, value in inputs.items()}
    return part | {"packing": send_to_device(packing, places.device)}
