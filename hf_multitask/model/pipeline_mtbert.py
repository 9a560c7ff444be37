"""transformers' pipeline over all tasks of a model: a text goes through the encoder once, however many tasks read it.

    from transformers import pipeline
    pipe = pipeline("multi-task", model="user/mtbert-smart")
    pipe("a lovely film", task="sst")

The file travels with a checkpoint, for those who load it by `trust_remote_code=True`.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Pipeline

from .configuration_mtbert import TaskConfig
from .messages import check_characters
from .packing import lay_out, use_packing
from .pooling import pool
from .positions import embedding_sizes

# One text, or two that are read as one input.
Texts = tuple[str, ...]

_BATCH_SIZE = 64
# So many batches' inputs are sorted by their length together.
_WINDOW = 32
_READS_PAIRS = "a pair of texts: (text, text); a list, [text, text], is two inputs of one text each."
_READS_TEXTS = "one text, not a pair; many texts are a list, [text, text], where a tuple, (text, text), is one pair."


class MultiTaskPipeline(Pipeline):
    """Predicts the tasks of a [`MultiTaskBertModel`] for texts and pairs of texts.

    Call it with a text, a pair (a tuple of two texts, or a mapping with `text` and `text_pair`), or with many of them:
    a list, a column of a `datasets` dataset, a numpy array, a pandas series, a generator, a `torch` dataset. So
    `("a", "b")` is one pair, `["a", "b"]` two texts, and `[("a", "b"), ("c", "d")]` two pairs. A text may be blank: the
    encoder then reads its special tokens alone, and what is predicted says what the model makes of nothing. Further
    arguments are

    - `task`: A task's name, or several; by default, all that read what is given. A task of one text is then applied
      to both texts of a pair.
    - `top_k`: For classifications, how many of the likeliest classes to give; None: all of them.
    - `max_length`: In tokens; by default, the longest that the model takes. Longer inputs are cut.
    - `batch_size`: Texts that the encoder reads at a time, 64 unless told otherwise.

    For each input it gives, for one `task`, a prediction, and otherwise predictions by task. A prediction is, of a
    classification, `label` (its name), `label_id` and `score`, its probability from 0 to 1 (a list of such, likeliest
    first, if `top_k` is not 1); where a text has several labels or none, always a list of such, by default of those
    that reach their thresholds; of a regression, `score`, within the task's range. A generator, a `torch` dataset, or
    what has no length gives an iterator.

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
        if task.label_names:
            bound.task = "text-classification"
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
        several = _as_list(texts)
        if not isinstance(several, (list, tuple, GeneratorType, Dataset)):
            several = [several]
        keys: list[Texts] = []
        for number, text in enumerate(several, 1):
            if not isinstance(text, str):
                raise ValueError(f"input {number}: embed takes texts, not {text!r:.100}.")
            keys.append(_checked((text,), number))
        if not keys:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        self._check_sizes(max_length=max_length, batch_size=batch_size)
        inputs = self._lay_out(keys, batch_size or self._batch_size or _BATCH_SIZE, max_length, truncation=True)
        embeddings = self.forward({**inputs, "plan": {}})["embeddings"]
        return embeddings.float().numpy()

    # ---- What transformers' pipelines are made of ----

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = ("task", "max_length", "truncation", "top_k")
        for key in kwargs:
            if key not in known:
                raise ValueError(f"unknown argument {key!r}; known: {', '.join(known)}, batch_size.")
        self._check_sizes(max_length=kwargs.get("max_length"), top_k=kwargs.get("top_k"))
        if (task := kwargs.get("task")) is not None and not isinstance(task, str) and not list(task):
            raise ValueError("task must be a name or several, not none; leave it out for all tasks.")
        after = {"top_k": kwargs.pop("top_k")} if "top_k" in kwargs else {}
        return kwargs, {}, after

    def _check_sizes(self, **sizes: Any) -> None:
        """Refuses numbers that are none, or that leave nothing of a text.

        Raises:
            ValueError: One is such; the message names it.
        """
        for name, size in sizes.items():
            least = 1 if name != "max_length" else self.tokenizer.num_special_tokens_to_add(pair=True) + 1
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < least):
                raise ValueError(f"{name} must be a whole number from {least} on, not {size!r}.")

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        if args:
            raise ValueError("give one argument: two texts that belong together are a pair, pipe((text, text)).")
        self._check_sizes(batch_size=kwargs.get("batch_size"))
        inputs = _as_list(inputs)
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
            `batches` and `order` from `_lay_out`; `plan`, by task, the numbers of the texts that each of its
            predictions reads [B, 1 or 2]; `places`, by task, the row and the place in it of each prediction, the
            place None where a task has one for a row; `count` of rows; and `only`, whether a row is one prediction.
        """
        numbers: dict[Texts, int] = {}
        plan: dict[str, list[list[int]]] = {}
        places: dict[str, list[tuple[int, int | None]]] = {}
        for row, value in enumerate(inputs):
            texts = _texts(value, first + row)
            try:
                for name, place, keys in self._readings(texts, task):
                    plan.setdefault(name, []).append([numbers.setdefault(key, len(numbers)) for key in keys])
                    places.setdefault(name, []).append((row, place))
            except ValueError as error:
                raise ValueError(f"input {first + row}: {error}") from error
        laid_out = self._lay_out(list(numbers), batch_size, max_length, truncation)
        # In the order of the model's tasks.
        numbered = {name: torch.tensor(plan[name]) for name in self.model.config.tasks if name in plan}
        return {**laid_out, "plan": numbered, "places": places, "count": len(inputs), "only": isinstance(task, str)}

    def _readings(
        self, texts: Texts, task: str | Sequence[str] | None
    ) -> Iterator[tuple[str, int | None, Sequence[Texts]]]:
        """Each prediction for a row: its task, its place among the task's for that row, and the inputs it reads."""
        table = self.model.config.tasks
        names = list(table) if task is None else [task] if isinstance(task, str) else list(task)
        is_pair, found = len(texts) == 2, False
        for name in names:
            config: TaskConfig = self.model.config.task(name)
            reads_pairs = config.texts == 2
            if reads_pairs != is_pair and (reads_pairs or task == name):
                if task is None:
                    continue
                raise ValueError(f"task {name!r} reads {_READS_PAIRS if reads_pairs else _READS_TEXTS}")
            found = True
            if reads_pairs:
                yield name, None, [(text,) for text in texts] if config.sequences_per_row == 2 else [texts]
            elif is_pair:
                yield from ((name, place, [(text,)]) for place, text in enumerate(texts))
            else:
                yield name, None, [texts]
        if not found:
            raise ValueError(f"no task reads one text; give pairs, (text, text), to {', '.join(table) or 'none'}.")

    def _lay_out(self, keys: list[Texts], batch_size: int, max_length: int | None, truncation: bool) -> dict[str, Any]:
        """Batches of inputs of like length, and the place of each batch's inputs among all of them."""
        longest = self.model.config.longest_input(self.tokenizer)
        options = {"truncation": truncation, "max_length": min(max_length or longest, longest)}
        sequences: list[dict[str, Any]] = [{} for _ in keys]
        for size in (1, 2):
            members = [number for number, key in enumerate(keys) if len(key) == size]
            if members:
                sides = map(list, zip(*(keys[number] for number in members), strict=True))
                encoded = self.tokenizer(*sides, return_attention_mask=False, **options)
                wanted = [key for key in ("input_ids", "token_type_ids")[:size] if key in encoded]
                for place, number in enumerate(members):
                    sequences[number] = {key: encoded[key][place] for key in wanted}
                    if not truncation and len(sequences[number]["input_ids"]) > longest:
                        raise ValueError(
                            f"a text has {len(sequences[number]['input_ids'])} tokens, and the model takes {longest}: "
                            "leave out truncation, or cut the text."
                        )
                    if not sequences[number]["input_ids"]:
                        sequences[number] = {key: [0] for key in wanted} | {"input_ids": [self._stand_in()]}
        order = np.argsort([len(sequence["input_ids"]) for sequence in sequences], kind="stable")
        packed = use_packing(self.model, "auto")
        starts = range(0, len(order), batch_size)
        chosen = [[sequences[number] for number in order[start : start + batch_size]] for start in starts]
        batches = [lay_out(batch, self.tokenizer, packed) for batch in chosen]
        words = embedding_sizes(self.model.config.encoder_config).get("input_ids")
        if words is not None and any(int(batch["input_ids"].max()) >= words for batch in batches):
            raise ValueError(
                f"the tokenizer gives tokens beyond the model's vocabulary of {words}: give the one that the model was "
                "trained with, or train after model.resize_token_embeddings(len(tokenizer))."
            )
        return {"batches": batches, "order": torch.from_numpy(order)}

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
        config = self.model.config
        poolings = {config.pooling, *(config.pooling_of(name) for name in inputs["plan"])}
        parts: dict[str, list[Tensor]] = {pooling: [] for pooling in poolings}
        for batch in inputs["batches"]:
            output = self.model(**batch, return_dict=True)
            mask = batch["packing"]["mask"] if "packing" in batch else batch["attention_mask"]
            for pooling in poolings:
                own = pooling == config.pooling
                parts[pooling].append(output.pooler_output if own else pool(output.last_hidden_state, mask, pooling))
        back = inputs["order"].argsort()
        embeddings = {pooling: torch.cat(part)[back] for pooling, part in parts.items()}
        logits: dict[str, Tensor] = {}
        for name, numbers in inputs["plan"].items():
            pooled = embeddings[config.pooling_of(name)]
            logits[name] = self.model.heads[name](*(pooled[side] for side in numbers.unbind(1)))
        output = {key: inputs[key] for key in ("places", "count", "only") if key in inputs}
        return {**output, "logits": logits, "embeddings": embeddings[config.pooling]}

    def postprocess(self, outputs: dict[str, Any], top_k: int | None = 1) -> list[Any]:
        """Predictions for each row."""
        rows: list[dict[str, Any]] = [{} for _ in range(outputs["count"])]
        for name, logits in outputs["logits"].items():
            predicted = self.model.config.tasks[name].predictions(logits, top_k)
            for (row, place), prediction in zip(outputs["places"][name], predicted, strict=True):
                if place is None:
                    rows[row][name] = prediction
                else:
                    rows[row].setdefault(name, []).append(prediction)
        return [next(iter(row.values())) for row in rows] if outputs["only"] else rows


def _as_list(inputs: Any) -> Any:
    """Many inputs as a list, generator or `torch` dataset, which transformers knows, and one input as it is.

    What has no length is read as it goes. Of a table, iterating would give the columns: it is left as it is, and
    refused.
    """
    if isinstance(inputs, (str, bytes, tuple, list, Mapping, GeneratorType, Dataset)):
        return inputs
    for as_list in ("to_pylist", "tolist"):
        # pyarrow's name for it, and numpy's and pandas', which give plain strings.
        if hasattr(inputs, as_list):
            return getattr(inputs, as_list)()
    if not isinstance(inputs, Iterable) or hasattr(inputs, "columns"):
        return inputs
    return list(inputs) if isinstance(inputs, Sized) else (value for value in inputs)


def _texts(value: Any, number: int) -> Texts:
    """The text, or the two texts, of an input.

    Raises:
        ValueError: It is neither; the message gives the input's number.
    """
    if isinstance(value, dict) and "text" in value and value.keys() <= {"text", "text_pair"}:
        value = (value["text"], value["text_pair"]) if value.get("text_pair") is not None else value["text"]
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if all(isinstance(text, str) for text in texts) and len(texts) in (1, 2):
        return _checked(texts, number)
    forms = "a text, a pair (text, text), or a mapping with text and text_pair"
    if texts and all(isinstance(text, str) for text in texts):
        raise ValueError(f"input {number}: give {forms}, not {len(texts)} texts; many texts are a list, [text, text].")
    raise ValueError(f"input {number}: give {forms}, not {value!r:.100}.")


def _checked(texts: Texts, number: int) -> Texts:
    for text in texts:
        try:
            check_characters(text)
        except ValueError as error:
            raise ValueError(f"input {number}: a text {error}") from error
    return texts
