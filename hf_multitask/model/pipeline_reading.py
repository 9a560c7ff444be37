"""What the pipeline reads once, however many tasks read it: texts become tokens, and tokens become outputs.

Shape legend:
    - S, L: sequences of a batch, and the tokens of the longest
    - B, N: predictions of a task, and the sequences of the one that reads most
    - H: hidden size
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .plan import ABSENT
from .rows import PADDING, sequences_of
from .task_config import TaskConfig


class Reader:
    """Tokenizes the texts that tasks read, those of tasks that read alike once.

    Args:
        tokenizer: The model's.
        max_length, truncation: As for `TaskConfig.tokenize`.
    """

    def __init__(self, tokenizer: Any, max_length: int, truncation: bool) -> None:
        self._tokenizer, self._max_length, self._truncation = tokenizer, max_length, truncation
        self._numbers: dict[tuple[Any, ...], int] = {}
        # By what tells kinds apart that read texts each in its way: a task, and the numbers and texts of its rows.
        self._asked: dict[tuple[Any, ...], tuple[TaskConfig, dict[int, dict[str, Any]]]] = {}

    def add(self, task: TaskConfig, columns: dict[str, Any]) -> int:
        """The number that a row of a task has among all that are read; its texts are given by column."""
        way = (type(task).tokenize, *(getattr(task, key) for key in task.TOKENIZING_KEYS))
        texts = (tuple(text) if isinstance(text, list) else text for text in columns.values())
        number = self._numbers.setdefault((*way, *texts), len(self._numbers))
        self._asked.setdefault(way, (task, {}))[1].setdefault(number, columns)
        return number

    def read(self) -> list[dict[str, Any]]:
        """By number, a row's texts, what its kind's `tokenize` made of them, and its `sequences`."""
        rows: list[dict[str, Any]] = [{} for _ in self._numbers]
        for task, asked in self._asked.values():
            columns = {column: [row[column] for row in asked.values()] for column in next(iter(asked.values()))}
            tokens = task.tokenize(self._tokenizer, columns, self._max_length, self._truncation)
            tokenized = (dict(zip(tokens, values, strict=True)) for values in zip(*tokens.values(), strict=True))
            for (number, texts), row in zip(asked.items(), tokenized, strict=True):
                rows[number] = {**texts, **row, "sequences": sequences_of(row)}
        return rows


class TokenHead:
    """The outputs of a task whose head reads the states of tokens, which are kept no longer than need be.

    Args:
        model: The model.
        name: The task's.
        plan: Which sequence, in the order in which they are read, each prediction reads, [B, N]; -1 for none.
        rows: The texts and tokens of each.
    """

    def __init__(self, model: Any, name: str, plan: Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        self._model, self._name, self._plan, self._rows = model, name, plan, rows
        self._last = plan.amax(1)
        self._first = 0
        # Of predictions that read sequences of batches yet to come: the states of those that were read.
        self._kept: dict[int, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}

    def read(self, states: Tensor, mask: Tensor) -> None:
        """Takes the next batch, [S, L, H] and [S, L]."""
        first, end = self._first, self._first + len(mask)
        self._first = end
        complete = ((self._last >= first) & (self._last < end)).nonzero().flatten()
        numbers = self._plan[complete]
        if self._plan.shape[1] == 1:
            self._apply(complete, numbers - first, states, mask)
            return
        for number in self._plan[(self._plan >= first) & (self._plan < end)].unique().tolist():
            self._kept[number] = states[number - first][mask[number - first].bool()]
        self._apply(complete, *self._gathered(numbers))

    def _gathered(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The plan of predictions among the sequences that they read, and the states and mask of these."""
        wanted = numbers[numbers != ABSENT].unique()
        places = torch.searchsorted(wanted, numbers).masked_fill(numbers == ABSENT, ABSENT)
        kept = [self._kept[number] for number in wanted.tolist()]
        later = self._plan[self._last >= self._first]
        self._kept = {number: states for number, states in self._kept.items() if (later == number).any()}
        if not kept:
            return places, torch.empty(0), torch.empty(0)
        masks = [states.new_ones(len(states), dtype=torch.int64) for states in kept]
        return places, pad_sequence(kept, batch_first=True), pad_sequence(masks, batch_first=True)

    def _apply(self, predictions: Tensor, plan: Tensor, states: Tensor, mask: Tensor) -> None:
        chosen = predictions.tolist()
        if not chosen:
            return
        told = self._model.config.tasks[self._name].head_inputs([self._rows[number] for number in chosen])
        told = {key: value.to(states.device) for key, value in told.items()}
        outputs = self._model.apply_head(self._name, plan.to(states.device), states, mask, told)
        self._outputs |= zip(chosen, outputs, strict=True)

    def outputs(self) -> Tensor:
        """Of all predictions, [B, ...], once all batches are read."""
        return pad_sequence([self._outputs[number] for number in range(len(self._rows))], True, PADDING)
