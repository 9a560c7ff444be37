"""Every registered kind of task with its recipe of `recipes/tasks/`, on a few of its rows and a tiny encoder.

Nothing here or in the tests beside it names a kind: one that is registered, and has its recipe, is tested by them.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from transformers import AutoTokenizer

from hf_multitask import MultiTaskBertModel, MultiTaskTrainer, MultiTaskTrainingArguments, TaskConfig
from hf_multitask.data.preparation import PreparedData, prepare
from hf_multitask.data.sources import Source
from hf_multitask.model.kinds import task_type_names
from hf_multitask.recipe import RecipeParser
from hf_multitask.scoring import Scored, score
from tests.conftest import ROOT, tiny_model, without_dropout

NAMES = task_type_names()
every_kind = pytest.mark.parametrize("kind", NAMES, indirect=True)
# With a task of another kind beside its own.
every_kind_mixed = pytest.mark.parametrize("mixed", NAMES, indirect=True)
MAX_LENGTH = 64
# Rows of each task in training, in evaluation, and in a batch.
TRAINED, EVALUATED, BATCH = 12, 8, 4
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": EVALUATED,
    "learning_rate": 1e-3,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
}
# SMART, by which a tiny encoder's outputs change visibly.
PERTURBED: dict[str, Any] = {"weight": 0.5, "epsilon": 0.2, "sigma": 0.1, "eta": 0.3}


@dataclass
class Kind:
    """The tasks of one kind, or of several, with rows of theirs.

    Args:
        tasks, sources: Of the recipe, by name.
        data: The first rows of each task, tokenized and as texts.
        tokenizer: The recipe's.
    """

    tasks: dict[str, TaskConfig]
    sources: dict[str, Source]
    data: PreparedData
    tokenizer: Any

    def only(self, name: str) -> "Kind":
        """One of the tasks, by itself."""
        rows, texts = (
            {split: {name: by_task[name]} for split, by_task in parts.items()}
            for parts in (self.data.rows, self.data.texts)
        )
        return Kind({name: self.tasks[name]}, {name: self.sources[name]}, PreparedData(rows, texts), self.tokenizer)

    def variants(self) -> Iterator["Kind"]:
        """Each task by itself with each choice that its keys have and it takes, its rows not yet tokenized."""
        for name, task in self.tasks.items():
            one = self.only(name)
            for choice in choices(type(task)):
                # Of those, some say how labels are read, which these rows settle.
                if choice.keys() & set(task.CHANGEABLE_KEYS):
                    continue
                # A kind may refuse some: its own tests say which.
                try:
                    chosen = replace(task, **choice)
                except ValueError:
                    continue
                yield replace(one, tasks={name: chosen}, data=PreparedData(one.data.texts))

    def model(self, dropout: bool = True) -> MultiTaskBertModel:
        """A tiny model of the tasks, in evaluation mode, whose weights are always the same."""
        size = {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
        model = tiny_model(copy.deepcopy(self.tasks), encoder={**size, "max_position_embeddings": MAX_LENGTH})
        return model if dropout else without_dropout(model)

    def trainer(
        self, folder: Path, model: MultiTaskBertModel | None = None, callbacks: Any = None, **args: Any
    ) -> MultiTaskTrainer:
        """A trainer on the rows; keyword arguments go to the training arguments."""
        return MultiTaskTrainer(
            model or self.model(),
            MultiTaskTrainingArguments(str(folder), **{**TRAINING, **args}),
            self.data.rows["train"],
            self.data.rows["validation"],
            processing_class=self.tokenizer,
            callbacks=callbacks,
        )

    def batch(self, folder: Path, packing: Literal["on", "off"] = "off") -> dict[str, Any]:
        """The first batch of a training."""
        (batch, *_) = self.trainer(folder, packing=packing).get_train_dataloader()
        return {key: value for key, value in batch.items() if key != "rows"}

    def counts_rows(self, folder: Path) -> bool:
        """Whether each row, and not each of several labels that it has, counts as one in the loss."""
        batch, model = self.batch(folder), self.model()
        logits = model(**batch).logits
        return all(task.label_counts(logits[name], batch["labels"][name]) is None for name, task in self.tasks.items())

    @cached_property
    def scored(self) -> Scored:
        """What the model says of the evaluated rows, and how good that is."""
        with TemporaryDirectory() as folder:
            return score(self.trainer(Path(folder)), self.data, "validation")

    @property
    def diverging(self) -> list[str]:
        """The tasks whose divergence has a meaning."""
        return [name for name, task in self.tasks.items() if task.HAS_DIVERGENCE]

    def inputs(self, name: str) -> list[Any]:
        """The evaluated rows of a task as a pipeline takes them."""
        return [_as_input(self.tasks[name], *row.values()) for row in self.texts(name)]

    def texts(self, name: str) -> list[dict[str, Any]]:
        """Those rows' texts, by column."""
        rows = self.data.texts["validation"][name]
        return rows.select_columns([key for key in self.tasks[name].text_columns if key in rows.column_names]).to_list()


def _as_input(task: TaskConfig, first: Any, *others: Any) -> Any:
    if "texts" in task.text_columns.values():
        return first, [text for other in others for text in ([other] if isinstance(other, str) else other or [])]
    # A list would be many texts: words that come apart are told by their name.
    return (first, *others) if others else {"tokens": first} if isinstance(first, list) else first


@cache
def kind_of(name: str) -> Kind:
    """The tasks of a kind that its recipe has."""
    path = ROOT / "recipes" / "tasks" / f"{name}.yaml"
    recipe = RecipeParser(path).parse_recipe(["--output_dir", "unwritten"])
    tasks = {task: config for task, config in recipe.tasks.items() if config.type == name}
    tokenizer: Any = AutoTokenizer.from_pretrained(recipe.model.backbone)
    sources = {task: recipe.sources[task] for task in tasks}
    data = prepare(tasks, sources, ["train", "validation"], tokenizer, MAX_LENGTH)
    few = {
        split: {name: rows.select(range(count)) for name, rows in data.rows[split].items()}
        for split, count in (("train", TRAINED), ("validation", EVALUATED))
    }
    texts = {
        split: {name: rows.select(range(len(few[split][name]))) for name, rows in by_task.items()}
        for split, by_task in data.texts.items()
    }
    return Kind(tasks, sources, replace(data, rows=few, texts=texts), tokenizer)


@cache
def with_another(name: str) -> Kind:
    """A kind's tasks, and after them one of the next kind."""
    other = kind_of(another(name))
    return joined(kind_of(name), other.only(next(iter(other.tasks))))


def joined(*kinds: Kind) -> Kind:
    """The tasks of several kinds."""

    def by_task(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        return {name: value for part in parts for name, value in part.items()}

    def by_split(parts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
        return {split: by_task(part[split] for part in parts) for split in parts[0]}

    return Kind(
        by_task(kind.tasks for kind in kinds),
        by_task(kind.sources for kind in kinds),
        PreparedData(by_split([kind.data.rows for kind in kinds]), by_split([kind.data.texts for kind in kinds])),
        kinds[0].tokenizer,
    )


def another(name: str) -> str:
    """The kind after one, in a circle."""
    return NAMES[(NAMES.index(name) + 1) % len(NAMES)]


def keeps_outputs(task: TaskConfig) -> bool:
    """Whether an evaluation keeps the outputs for the texts as they are."""
    return task.HAS_LABELS and type(task).evaluated is TaskConfig.evaluated


def choices(arguments: type) -> Iterator[dict[str, str]]:
    """Each value of each field of a dataclass that has a list of them, as keyword arguments."""
    for key, hint in get_type_hints(arguments).items():
        for option in [hint, *get_args(hint)]:
            if get_origin(option) is Literal:
                yield from ({key: value} for value in get_args(option))


def as_id(settings: Any) -> str:
    """What a test calls some settings."""
    return "-".join(map(str, settings.values())) if isinstance(settings, dict) else str(settings)


def flat(said: Any) -> list[Any]:
    """Whatever is said, value by value; numbers are compared to a tolerance."""
    if isinstance(said, dict):
        return [value for key in sorted(said) for value in [key, *flat(said[key])]]
    if isinstance(said, list):
        return [value for part in said for value in flat(part)]
    return [pytest.approx(said, rel=1e-3, abs=1e-4) if isinstance(said, float) else said]
