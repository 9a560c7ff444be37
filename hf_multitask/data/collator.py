"""From the rows of a step to the one batch that holds them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_multitask.model.configuration_mtbert import TaskConfig
from hf_multitask.model.packing import lay_out
from hf_multitask.model.plan import in_sides, numbered
from hf_multitask.model.rows import sequences_of


@dataclass
class MultiTaskCollator:
    """Lays the rows of several tasks out as `MultiTaskBertModel.forward` reads them.

    Args:
        tokenizer: Pads, and says which inputs the encoder takes.
        task_configs: The table of tasks.
        packing: Whether sequences are laid end to end in one row, [1, T], with `packing` saying where, or padded to
            the longest, [S, L], with an `attention_mask`.
        with_rows: Whether a batch says, under `rows`, which rows of its dataset each task's are (a list of numbers
            from 1). The model does not take that: the trainer keeps it.

    A batch has `labels` (a tensor [B, ...] per task, where rows have labels), `tasks` (rows per task, in the order of
    the sequences; or, where rows of one of them have any number of sequences, a plan of each: which its rows read),
    `head_inputs` by task, where a kind has any, and `input_ids`, `attention_mask` and, where an input has two segments,
    `token_type_ids`, each [S, L]. A task's first texts come before its second ones. `labels` comes first: what infers a
    batch's size from its first tensor (accelerate, the evaluation loop) then counts rows and not sequences.
    """

    tokenizer: PreTrainedTokenizerBase
    task_configs: Mapping[str, TaskConfig] = field(default_factory=dict)
    packing: bool = False
    with_rows: bool = False

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        given: dict[str, list[dict[str, Any]]] = {}
        for row in features:
            given.setdefault(row["task"], []).append(row)
        by_task: dict[str, Sequence[dict[str, Any]]] = {
            name: self.task_configs[name].batch_rows(rows, self.tokenizer) for name, rows in given.items()
        }
        sequences: list[dict[str, Any]] = []
        tasks: dict[str, int | Tensor] = {}
        are_planned = any(self.task_configs[name].SEQUENCES_VARY for name in by_task)
        for name, rows in by_task.items():
            of_rows = [sequences_of(row) for row in rows]
            if self.task_configs[name].SEQUENCES_VARY:
                tasks[name] = numbered([len(row) for row in of_rows], first=len(sequences))
                sequences += chain.from_iterable(of_rows)
            else:
                tasks[name] = in_sides(len(rows), len(of_rows[0]), len(sequences)) if are_planned else len(rows)
                sequences += chain.from_iterable(zip(*of_rows, strict=True))

        batch = lay_out(sequences, self.tokenizer, self.packing)
        labels = {
            name: self.task_configs[name].collate([row["label"] for row in rows])
            for name, rows in by_task.items()
            if "label" in rows[0]
        }
        inputs = {name: self.task_configs[name].head_inputs(rows) for name, rows in by_task.items()}
        inputs = {name: tensors for name, tensors in inputs.items() if tensors}
        output = {**({"labels": labels} if labels else {}), "tasks": tasks, **batch}
        if inputs:
            output["head_inputs"] = inputs
        if self.with_rows:
            output["rows"] = {name: [row["row"] for row in rows] for name, rows in given.items()}
        return output
