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
from .pipeline_inputs import Key, Row, as_list, check_sizes, check_vocabulary, checked, read_row
from .pooling import pool
from .token_classification import PADDING
from .words import Words, tokenize_words

_BATCH_SIZE = 64
# So many batches' inputs are sorted by their length together.
_WINDOW = 32
_READS_PAIRS = "a pair of texts: (text, text); a list, [text, text], is two inputs of one text each."
_READS_TEXTS = "one text, not a pair; many texts are a list, [text, text], where a tuple, (text, text), is one pair."


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
    with `aggregation_strategy="simple"`. A generator, a `torch` dataset, or what has no length gives an iterator.

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
            bound.task = "token-classification" if task.READS_WORDS else "text-classification"
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
        keys: list[Key] = []
        for number, text in enumerate(several, 1):
            if not isinstance(text, str):
                raise ValueError(f"input {number}: embed takes texts, not {text!r:.100}.")
            keys.append(checked((text,), number))
        if not keys:
            return np.zeros((0, self.model.config.hidden_size), dtype=np.float32)
        check_sizes(self.tokenizer, max_length=max_length, batch_size=batch_size)
        inputs = self._lay_out(keys, batch_size or self._batch_size or _BATCH_SIZE, max_length, truncation=True)
        embeddings = self.forward({**inputs, "plan": {}})["embeddings"]
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
            predictions reads [B, 1 or 2]; `tokens` and `words`, by task that reads words, for each prediction what its
            head is told beside that, and the words; `places`, by task, the row and the place in it of each prediction,
            the place None where a task has one for a row; `count` of rows; and `only`, whether a row is one prediction.
        """
        numbers: dict[Key, int] = {}
        plan: dict[str, list[list[int]]] = {}
        places: dict[str, list[tuple[int, int | None]]] = {}
        for row, value in enumerate(inputs):
            read = read_row(value, first + row)
            try:
                for name, place, keys in self._readings(read, task):
                    plan.setdefault(name, []).append([numbers.setdefault(key, len(numbers)) for key in keys])
                    places.setdefault(name, []).append((row, place))
            except ValueError as error:
                raise ValueError(f"input {first + row}: {error}") from error
        all_keys, table = list(numbers), self.model.config.tasks
        laid_out = self._lay_out(all_keys, batch_size, max_length, truncation)
        tokens = laid_out.pop("tokens")
        # In the order of the model's tasks.
        numbered = {name: torch.tensor(plan[name]) for name in table if name in plan}
        of_words = {name: [row[0] for row in plan[name]] for name in numbered if table[name].READS_WORDS}
        return {
            **laid_out,
            "plan": numbered,
            "tokens": {name: [tokens[number] for number in rows] for name, rows in of_words.items()},
            "words": {name: [all_keys[number] for number in rows] for name, rows in of_words.items()},
            "places": places,
            "count": len(inputs),
            "only": isinstance(task, str),
        }

    def _readings(self, row: Row, task: str | Sequence[str] | None) -> Iterator[tuple[str, int | None, Sequence[Key]]]:
        """Each prediction for a row: its task, its place among the task's for that row, and the inputs it reads."""
        table = self.model.config.tasks
        names = list(table) if task is None else [task] if isinstance(task, str) else list(task)
        is_pair, found = len(row.texts) == 2, False
        for name in names:
            config: TaskConfig = self.model.config.task(name)
            reads_pairs = config.texts == 2
            if reads_pairs != is_pair and (reads_pairs or task == name):
                if task is None:
                    continue
                raise ValueError(f"task {name!r} reads {_READS_PAIRS if reads_pairs else _READS_TEXTS}")
            found = True
            if reads_pairs:
                yield name, None, [(text,) for text in row.texts] if config.sequences_per_row == 2 else [row.texts]
            elif is_pair:
                yield from ((name, place, [row.key(place, config.READS_WORDS)]) for place in (0, 1))
            else:
                yield name, None, [row.key(0, config.READS_WORDS)]
        if not found:
            raise ValueError(f"no task reads one text; give pairs, (text, text), to {', '.join(table) or 'none'}.")

    def _lay_out(self, keys: list[Key], batch_size: int, max_length: int | None, truncation: bool) -> dict[str, Any]:
        """Batches of sequences of like length; a text and its words are read once if their tokens are the same.

        Returns:
            `batches`; `order`, the place of each key's sequence among those of all batches; and `tokens`, for each key
            what heads are told of its sequence.
        """
        sequences, tokens = self._sequences(keys, max_length, truncation)
        # A text and its words mostly have the same tokens.
        texts = [(key.text,) if isinstance(key, Words) else key for key in keys]
        same = [(text, *map(tuple, one.values())) for text, one in zip(texts, sequences, strict=True)]
        numbers: dict[tuple[Any, ...], int] = {}
        of_key = [numbers.setdefault(one, len(numbers)) for one in same]
        distinct = {number: sequences[key] for key, number in reversed(list(enumerate(of_key)))}
        order = np.argsort([len(distinct[number]["input_ids"]) for number in range(len(numbers))], kind="stable")
        packed = use_packing(self.model, "auto")
        starts = range(0, len(order), batch_size)
        chosen = [[distinct[number] for number in order[start : start + batch_size]] for start in starts]
        batches = [lay_out(batch, self.tokenizer, packed) for batch in chosen]
        check_vocabulary(self.model.config.encoder_config, batches)
        return {
            "batches": batches,
            "order": torch.from_numpy(order.argsort()[of_key]),
            "tokens": tokens,
        }

    def _sequences(
        self, keys: list[Key], max_length: int | None, truncation: bool
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """For each key, what the encoder reads, and what heads are told of it."""
        longest = self.model.config.longest_input(self.tokenizer)
        length = min(max_length or longest, longest)
        sequences: list[dict[str, Any]] = [{} for _ in keys]
        tokens: list[dict[str, Any]] = [{} for _ in keys]
        for size in (1, 2):
            members = [number for number, key in enumerate(keys) if isinstance(key, tuple) and len(key) == size]
            if members:
                sides = map(list, zip(*(keys[number] for number in members), strict=True))
                options = {"truncation": truncation, "max_length": length, "return_attention_mask": False}
                encoded = self.tokenizer(*sides, **options)
                wanted = [key for key in ("input_ids", "token_type_ids")[:size] if key in encoded]
                for place, number in enumerate(members):
                    sequences[number] = {key: encoded[key][place] for key in wanted}
        of_words = [number for number, key in enumerate(keys) if isinstance(key, Words)]
        if of_words:
            words = tokenize_words(self.tokenizer, [keys[number].words for number in of_words], length, truncation)
            for place, number in enumerate(of_words):
                sequences[number] = {"input_ids": words["input_ids"][place]}
                tokens[number] = {"word_starts": words["word_starts"][place]}
        for number, sequence in enumerate(sequences):
            if not truncation and len(sequence["input_ids"]) > longest:
                raise ValueError(
                    f"a text has {len(sequence['input_ids'])} tokens, and the model takes {longest}: leave out "
                    "truncation, or cut the text."
                )
            if not sequence["input_ids"]:
                sequences[number] = {key: [0] for key in sequence} | {"input_ids": [self._stand_in()]}
        return sequences, tokens

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
        config, plan = self.model.config, inputs["plan"]
        poolings = {config.pooling, *(config.pooling_of(name) for name in plan)}
        parts: dict[str, list[Tensor]] = {pooling: [] for pooling in poolings}
        read = {name: inputs["order"][numbers] for name, numbers in plan.items()}
        by_token: dict[str, dict[int, Tensor]] = {name: {} for name in plan if config.tasks[name].READS_TOKENS}
        first = 0
        for batch in inputs["batches"]:
            output = self.model(**batch, return_dict=True)
            mask = batch["packing"]["mask"] if "packing" in batch else batch["attention_mask"]
            for pooling in poolings:
                own = pooling == config.pooling
                parts[pooling].append(output.pooler_output if own else pool(output.last_hidden_state, mask, pooling))
            for name, found in by_token.items():
                places = read[name][:, 0] - first
                found |= self._token_logits(name, output.last_hidden_state, mask, places, inputs["tokens"].get(name))
            first += len(mask)
        embeddings = {pooling: torch.cat(part) for pooling, part in parts.items()}
        logits: dict[str, Tensor] = {}
        for name, numbers in read.items():
            if name in by_token:
                logits[name] = pad_sequence([by_token[name][row] for row in range(len(numbers))], True, PADDING)
                continue
            pooled = embeddings[config.pooling_of(name)]
            logits[name] = self.model.heads[name](*(pooled[side] for side in numbers.unbind(1)))
        output = {key: inputs[key] for key in ("places", "count", "only", "words") if key in inputs}
        return {**output, "logits": logits, "embeddings": embeddings[config.pooling][inputs["order"]]}

    def _token_logits(
        self, name: str, states: Tensor, mask: Tensor, places: Tensor, tokens: list[dict[str, Any]] | None
    ) -> dict[int, Tensor]:
        """What the head of a task that reads tokens gives for those of its rows that are in a batch, by row.

        Args:
            name: The task's.
            states, mask: The batch's, [S, L, H] and [S, L].
            places: Where in it each row's sequence is, [B]; outside of it for others.
            tokens: For each row, what the head is told beside that.
        """
        rows = ((places >= 0) & (places < len(mask))).nonzero().flatten()
        if not len(rows):
            return {}
        told = (
            {} if tokens is None else self.model.config.tasks[name].head_inputs([tokens[row] for row in rows.tolist()])
        )
        told = {key: value.to(states.device) for key, value in told.items()}
        logits = self.model.heads[name](states[places[rows]], mask[places[rows]], **told)
        return dict(zip(rows.tolist(), logits, strict=True))

    def postprocess(self, outputs: dict[str, Any], top_k: int | None = 1) -> list[Any]:
        """Predictions for each row."""
        rows: list[dict[str, Any]] = [{} for _ in range(outputs["count"])]
        for name, logits in outputs["logits"].items():
            words = {"words": outputs["words"][name]} if name in outputs["words"] else {}
            predicted = self.model.config.tasks[name].predictions(logits, top_k, **words)
            for (row, place), prediction in zip(outputs["places"][name], predicted, strict=True):
                if place is None:
                    rows[row][name] = prediction
                else:
                    rows[row].setdefault(name, []).append(prediction)
        return [next(iter(row.values())) for row in rows] if outputs["only"] else rows
