"""transformers' pipeline over all tasks of a model: a text goes through the encoder once, however many tasks read it.

    from transformers import pipeline
    pipe = pipeline("multi-task", model="user/mtbert-smart")
    pipe("a lovely film", task="sst")

The file travels with a checkpoint, for those who load it by `trust_remote_code=True`.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import Pipeline

from .configuration_mtbert import TaskConfig
from .packing import lay_out, use_packing
from .pipeline_inputs import Row, as_list, check_sizes, check_vocabulary, checked, read_row, unreadable, wanted
from .pipeline_reading import Reader, TokenHead
from .plan import ABSENT
from .pooling import pool
from .rows import Tokens, encode

_BATCH_SIZE = 64
# So many batches' inputs are sorted by their length together.
_WINDOW = 32


class MultiTaskPipeline(Pipeline):
    """Predicts the tasks of a [`MultiTaskBertModel`] for texts and pairs of texts.

    Call it with a text, a pair (a tuple of two texts, or a mapping with `text` and `text_pair`), or with many of them:
    a list, a column of a `datasets` dataset, a numpy array, a pandas series, a generator, a `torch` dataset. So
    `("a", "b")` is one pair, `["a", "b"]` two texts, and `[("a", "b"), ("c", "d")]` two pairs; a text whose words are
    known is a mapping with `tokens`, their list. A text may be blank: the encoder then reads its special tokens alone,
    and what is predicted says what the model makes of nothing. Further arguments are

    - `task`: A task's name, or several; by default, all that read what is given. A task of one text is then applied
      to both texts of a pair.
    - `top_k`: For classifications, how many of the likeliest classes to give; None: all of them.
    - `max_length`: In tokens; by default, the longest that the model takes. Longer inputs are cut.
    - `batch_size`: Texts that the encoder reads at a time, 64 unless told otherwise.

    For each input it gives, for one `task`, a prediction, and otherwise predictions by task. A prediction is, of a
    classification, `label` (its name), `label_id` and `score`, its probability from 0 to 1 (a list of such, likeliest
    first, if `top_k` is not 1); where a text has several labels or none, always a list of such, by default of those
    that reach their thresholds; of a regression, `score`, within the task's range; of a token classification, a list of
    entities, each with `entity_group`, `score`, `word`, and `start` and `end` in characters, as transformers gives them
    with `aggregation_strategy="simple"`; of a choice, from `(text, [choices])`, `choice` (its text), `choice_id` and
    `score`. A generator, a `torch` dataset, or what has no length gives an iterator.

    Raises:
        ValueError: A model without tasks, an unknown task, or an input that a task cannot read; the message gives its
            number, from 1.

    Example:
        >>> pipe(["a lovely film", "a dull film"], task="sst")  # doctest: +SKIP
        [{'label': 'positive', 'label_id': 3, 'score': 0.71}, {'label': 'negative', 'label_id': 1, 'score': 0.64}]
        >>> pipe(("a cat sat", "a cat was sitting"))  # doctest: +SKIP
        {'sst': [{...}, {...}], 'quora': {'label': 'duplicate', 'label_id': 1, 'score': 0.93}, 'sts': {'score': 4.4}}
    """

    model: Any
    tokenizer: Any
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(model.config, "tasks", None) is None:
            raise ValueError(
                f"{model.name_or_path!r} is a {model.config.model_type} model without tasks, not one of ours."
            )
        super().__init__(model, *args, **kwargs)

    def for_task(self, name: str) -> "MultiTaskPipeline":
        """This pipeline with a task that it predicts unless told otherwise.

        Of a classification, it is what transformers calls a text-classification pipeline, and `evaluate`'s evaluator
        of that name takes it (docs/hub.md says how). `model.config.id2label` and `label2id` of what is given are those
        of the task, for clients such as shap that read them; the weights are shared, and this pipeline's model and
        config stay as they are.

        Raises:
            ValueError: There is no such task.
        """
        task: TaskConfig = self.model.config.task(name)
        bound = copy.copy(self)
        bound._preprocess_params = {**self._preprocess_params, "task": name}
        bound.model = copy.copy(self.model)
        bound.model.config = copy.copy(self.model.config)
        # transformers' convention is a single "label" for a regression.
        labels = task.label_names or [name]
        bound.model.config.id2label = dict(enumerate(labels))
        bound.model.config.label2id = {label: label_id for label_id, label in enumerate(labels)}
        bound.task = task.PIPELINE_TASK or bound.task
        return bound

    def embed(self, texts: Any, batch_size: int | None = None, max_length: int | None = None) -> np.ndarray:
        """Embeddings of texts, pooled as the model's config says.

        Args:
            texts: Texts, in whatever holds several of them, or one.
            batch_size, max_length: As for a call.

        Returns:
            [number of texts, hidden size], float32, in the order of the texts; of one text, a single row.

        Raises:
            ValueError: Something else than a text; the message gives its number, from 1.
        """
        several = as_list(texts)
        if not isinstance(several, (list, tuple, GeneratorType, Dataset)):
            several = [several]
        read: list[str] = []
        for number, text in enumerate(several, 1):
            if not isinstance(text, str):
                raise ValueError(f"input {number}: embed takes texts, not {text!r:.100}.")
            read += checked((text,), number)
        if not read:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        check_sizes(self.tokenizer, max_length=max_length, batch_size=batch_size)
        rows = encode(self.tokenizer, self._length(max_length), read)
        sequences = [{"input_ids": ids} for ids in rows["input_ids"]]
        inputs = self._lay_out(sequences, batch_size or self._batch_size or _BATCH_SIZE, truncation=True)
        embeddings = self.forward({**inputs, "plan": {}, "rows": {}})["embeddings"]
        return embeddings.float().numpy()

    # ---- What transformers' pipelines are made of ----

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = ("task", "max_length", "truncation", "top_k")
        for key in kwargs:
            if key not in known:
                raise ValueError(f"unknown argument {key!r}; known: {', '.join(known)}, batch_size.")
        check_sizes(self.tokenizer, max_length=kwargs.get("max_length"), top_k=kwargs.get("top_k"))
        if (task := kwargs.get("task")) is not None and not isinstance(task, str) and not list(task):
            raise ValueError("task must be a name or several, not none; leave it out for all tasks.")
        after = {"top_k": kwargs.pop("top_k")} if "top_k" in kwargs else {}
        return kwargs, {}, after

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        if args:
            raise ValueError("give one argument: two texts that belong together are a pair, pipe((text, text)).")
        check_sizes(self.tokenizer, batch_size=kwargs.get("batch_size"))
        inputs = as_list(inputs)
        # transformers looks at the first of a list's inputs, and of a tuple's.
        if isinstance(inputs, list) and len(inputs) == 0:
            return []
        # The parent's default is 1.
        kwargs["batch_size"] = kwargs.get("batch_size") or self._batch_size or _BATCH_SIZE
        if isinstance(inputs, tuple):
            return super().__call__([inputs], **kwargs)[0]
        return super().__call__(inputs, **kwargs)

    def run_single(self, inputs: Any, preprocess_params: Any, forward_params: Any, postprocess_params: Any) -> Any:
        """One input, as the only one of a list."""
        return super().run_single([inputs], preprocess_params, forward_params, postprocess_params)[0]

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Many inputs, window by window; the parent would pad them, one forward for each input or batch of them.

        Args:
            num_workers: Ignored: tokenizers have threads of their own.
        """
        rest, first = iter(inputs), 1
        while window := list(islice(rest, _WINDOW * batch_size)):
            params = {**preprocess_params, "batch_size": batch_size, "first": first}
            yield from super().run_single(window, params, forward_params, postprocess_params)
            first += len(window)

    def preprocess(
        self,
        inputs: list[Any],
        task: str | Sequence[str] | None = None,
        max_length: int | None = None,
        truncation: bool = True,
        batch_size: int = _BATCH_SIZE,
        first: int = 1,
    ) -> dict[str, Any]:
        """The encoder's inputs, each text once, and which task reads which of them for which row.

        Returns:
            `batches` and `order` from `_lay_out`; `plan`, by task, the numbers of the sequences that each of its
            predictions reads [B, N], -1 for none; `rows`, by task, the texts of each prediction and what its kind's
            `tokenize` made of them; `places`, by task, the row and the place in it of each prediction, the place None
            where a task has one for a row; `count` of rows; and `only`, whether a row is one prediction.
        """
        reader = Reader(self.tokenizer, self._length(max_length), truncation)
        asked: dict[str, list[int]] = {}
        places: dict[str, list[tuple[int, int | None]]] = {}
        for row, value in enumerate(inputs):
            read = read_row(value, first + row)
            try:
                for name, place, columns in self._readings(read, task):
                    asked.setdefault(name, []).append(reader.add(self.model.config.tasks[name], columns))
                    places.setdefault(name, []).append((row, place))
            except ValueError as error:
                raise ValueError(f"input {first + row}: {error}") from error
        rows = reader.read()
        # In the order of the model's tasks.
        by_task = {name: [rows[number] for number in asked[name]] for name in self.model.config.tasks if name in asked}
        sequences = [sequence for row in rows for sequence in row["sequences"]]
        starts = np.cumsum([0, *(len(row["sequences"]) for row in rows)])
        plan = {}
        for name in by_task:
            numbers = [torch.arange(starts[number], starts[number + 1]) for number in asked[name]]
            plan[name] = pad_sequence(numbers, batch_first=True, padding_value=ABSENT)
        return {
            **self._lay_out(sequences, batch_size, truncation),
            "plan": plan,
            "rows": by_task,
            "places": places,
            "count": len(inputs),
            "only": isinstance(task, str),
        }

    def _readings(self, row: Row, task: str | Sequence[str] | None) -> Iterator[tuple[str, int | None, dict[str, Any]]]:
        """Each prediction for a row: its task, its place among the task's for that row, and its texts by column."""
        table = self.model.config.tasks
        names = list(table) if task is None else [task] if isinstance(task, str) else list(task)
        found, refused = False, list[str]()
        for name in names:
            readings = row.readings(self.model.config.task(name))
            # A task of one text that is asked for alone is given one.
            if not readings or (task == name and len(readings) > 1):
                if task is None:
                    continue
                raise ValueError(f"task {name!r} reads {wanted(table[name])}")
            if problem := unreadable(table[name], readings):
                refused.append(f"task {name!r}: {problem}")
                if task is None:
                    # Another may read it.
                    continue
                raise ValueError(refused[-1])
            found = True
            is_one = len(readings) == 1
            yield from ((name, None if is_one else place, columns) for place, columns in enumerate(readings))
        if not found and refused:
            raise ValueError(refused[0])
        if not found:
            known = "; ".join(f"task {name!r} reads {wanted(config)}" for name, config in table.items())
            raise ValueError(f"no task reads this; {known or 'the model has none.'}")

    def _length(self, max_length: int | None) -> int:
        longest = self.model.config.longest_input(self.tokenizer)
        return min(max_length or longest, longest)

    def _lay_out(self, sequences: list[Tokens], batch_size: int, truncation: bool) -> dict[str, Any]:
        """Batches of sequences of like length, those with the same tokens once.

        Returns:
            `batches`; and `order`, the place of each sequence among those of all batches.
        """
        numbers: dict[tuple[Any, ...], int] = {}
        of_sequence = [numbers.setdefault(tuple(map(tuple, one.values())), len(numbers)) for one in sequences]
        distinct = [self._checked(sequences[i], truncation) for i in np.unique(of_sequence, return_index=True)[1]]
        order = np.argsort([len(one["input_ids"]) for one in distinct], kind="stable")
        packed = use_packing(self.model, "auto")
        starts = range(0, len(order), batch_size)
        chosen = [[distinct[number] for number in order[start : start + batch_size]] for start in starts]
        batches = [lay_out(batch, self.tokenizer, packed) for batch in chosen]
        check_vocabulary(self.model.config.encoder_config, batches)
        return {"batches": batches, "order": torch.from_numpy(order.argsort()[of_sequence])}

    def _checked(self, sequence: Tokens, truncation: bool) -> Tokens:
        """A sequence that the model takes, never one without tokens."""
        longest = self.model.config.longest_input(self.tokenizer)
        if not truncation and len(sequence["input_ids"]) > longest:
            raise ValueError(
                f"a text has {len(sequence['input_ids'])} tokens, and the model takes {longest}: leave out "
                "truncation, or cut the text."
            )
        if not sequence["input_ids"]:
            return {key: [0] for key in sequence} | {"input_ids": [self._stand_in()]}
        return sequence

    def _stand_in(self) -> int:
        """The token that is read in place of a blank text by tokenizers that add no special ones, such as GPT-2's."""
        tokenizer = self.tokenizer
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id)
        return next((token_id for token_id in ids if token_id is not None), 0)

    def get_inference_context(self) -> Any:
        """The quicker of torch's two."""
        return torch.inference_mode

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.model.eval()
        config, order = self.model.config, inputs["order"]
        plan = {
            name: torch.where(numbers == ABSENT, ABSENT, order[numbers.clamp(min=0)])
            for name, numbers in inputs["plan"].items()
        }
        poolings = {config.pooling, *(config.pooling_of(name) for name in plan)}
        parts: dict[str, list[Tensor]] = {pooling: [] for pooling in poolings}
        of_tokens = {
            name: TokenHead(self.model, name, plan[name], inputs["rows"][name])
            for name in plan
            if config.tasks[name].READS_TOKENS
        }
        for batch in inputs["batches"]:
            output = self.model(**batch, return_dict=True)
            mask = batch["packing"]["mask"] if "packing" in batch else batch["attention_mask"]
            for pooling in poolings:
                own = pooling == config.pooling
                parts[pooling].append(output.pooler_output if own else pool(output.last_hidden_state, mask, pooling))
            for head in of_tokens.values():
                head.read(output.last_hidden_state, mask)
        embeddings = {pooling: torch.cat(part) for pooling, part in parts.items()}
        logits: dict[str, Tensor] = {}
        for name, numbers in plan.items():
            if name in of_tokens:
                logits[name] = of_tokens[name].outputs()
                continue
            pooled = embeddings[config.pooling_of(name)]
            told = config.tasks[name].head_inputs(inputs["rows"][name])
            told = {key: value.to(pooled.device) for key, value in told.items()}
            logits[name] = self.model.apply_head(name, numbers.to(pooled.device), pooled, None, told)
        output = {key: inputs[key] for key in ("places", "count", "only", "rows") if key in inputs}
        return {**output, "logits": logits, "embeddings": embeddings[config.pooling][order]}

    def postprocess(self, outputs: dict[str, Any], top_k: int | None = 1) -> list[Any]:
        """Predictions for each row."""
        rows: list[dict[str, Any]] = [{} for _ in range(outputs["count"])]
        for name, logits in outputs["logits"].items():
            task: TaskConfig = self.model.config.tasks[name]
            beside = {"tokenizer": self.tokenizer} if task.READS_VOCABULARY else {}
            predicted = task.predictions_for(outputs["rows"][name], logits, top_k, **beside)
            for (row, place), prediction in zip(outputs["places"][name], predicted, strict=True):
                if place is None:
                    rows[row][name] = prediction
                else:
                    rows[row].setdefault(name, []).append(prediction)
        return [next(iter(row.values())) for row in rows] if outputs["only"] else rows
