"""Reading a batch that the collator laid out: which tokens are whose, and the part that holds some of its rows."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.packing import pack


def rows_of_tokens(batch: Mapping[str, Any], task_configs: Mapping[str, TaskConfig]) -> tuple[Tensor, int]:
    """Which row of the batch each token belongs to; both texts of a pair belong to one row.

    Returns:
        Int64 of the shape of `input_ids`, and the number of rows R, counted over the tasks in their order. Padding
        and filling have the number R.
    """
    device = batch["input_ids"].device
    numbers, count = [], 0
    for name, rows in batch["tasks"].items():
        numbers.append(torch.arange(count, count + rows, device=device).repeat(task_configs[name].sequences_per_row))
        count += rows
    sequences = torch.cat(numbers)
    owners = torch.full_like(batch["input_ids"], count)
    if "packing" in batch:
        packing = batch["packing"]
        real = packing["mask"]
        owners[0, packing["padded"][real]] = sequences.unsqueeze(1).expand_as(real)[real]
    else:
        real = batch["attention_mask"].bool()
        owners[real] = sequences.unsqueeze(1).expand_as(real)[real]
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
    chosen, start = [], 0
    for name, count in batch["tasks"].items():
        for _ in range(task_configs[name].sequences_per_row):
            if name in rows:
                chosen.append(start + rows[name])
            start += count
    sequences = torch.cat(chosen)
    part: dict[str, Any] = {
        "tasks": {name: len(rows[name]) for name in batch["tasks"] if name in rows and len(rows[name])}
    }
    if "labels" in batch:
        part["labels"] = {name: batch["labels"][name][rows[name]] for name in part["tasks"]}
    if "head_inputs" in batch:
        inputs = {name: batch["head_inputs"][name] for name in part["tasks"] if name in batch["head_inputs"]}
        part["head_inputs"] = {
            name: {key: value[rows[name]] for key, value in tensors.items()} for name, tensors in inputs.items()
        }
    if "rows" in batch:
        part["rows"] = {name: [batch["rows"][name][i] for i in rows[name].tolist()] for name in part["tasks"]}
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
