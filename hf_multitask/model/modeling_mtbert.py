"""One shared encoder, one head per task (paper section 4, figure 1)."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .configuration_mtbert import MultiTaskBertConfig, TaskConfig, read_backbone_config
from .encoder import EncoderArguments, encoder_class, new_head, word_table
from .outputs import MultiTaskOutput, TaskOutput
from .own_types import save_own_types
from .packing import can_pack, encode_packed, pad, unpack
from .plan import read_plan
from .pooling import pool
from .weights import LAYER, check_loaded, check_tasks, refused_keyword, refused_weights, without_report

logger = logging.get_logger(__name__)

# Of torch's allocations on a CPU, in bytes.
_ALIGNMENT = 64


class MultiTaskBertModel(PreTrainedModel):
    """A shared encoder with a head per task.

    Args:
        config: The encoder's configuration and the table of tasks.
        backbone: An encoder with its weights; without one, a new encoder is built and initialised.

    Example:
        >>> model = MultiTaskBertModel.from_backbone(
        ...     "google-bert/bert-base-uncased",
        ...     tasks={"sst": {"type": "single_label_classification", "num_labels": 5}},
        ... )  # doctest: +SKIP
    """

    config: MultiTaskBertConfig
    config_class = MultiTaskBertConfig
    base_model_prefix = "backbone"
    # Encoders are built without a pooler, and many checkpoints have one.
    _keys_to_ignore_on_load_unexpected = [r"backbone\.pooler\."]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # `forward` has **kwargs for the encoder, not for a count of items to divide the loss by.
    accepts_loss_kwargs = False
    # What `from_backbone` was given: whoever loads an adapter of PEFT begins there too.
    started_from: str | None = None

    def __init__(self, config: MultiTaskBertConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            # The one common setting that only the encoder's layers read.
            if config.chunk_size_feed_forward:
                config.encoder_config.chunk_size_feed_forward = config.chunk_size_feed_forward
            auto, options = encoder_class(config.encoder_config)
            backbone = auto.from_config(config.encoder_config, **options)
        self.backbone = backbone
        self._arguments = EncoderArguments(backbone, own=list(signature(MultiTaskBertModel.forward).parameters)[1:-1])
        self.heads = nn.ModuleDict(
            {name: new_head(name, task, config.hidden_size, backbone) for name, task in config.tasks.items()}
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Heads start as torch's own layers do.

        BERT's narrower normal distribution is made for layers between LayerNorms; under a head's high learning rate
        it leaves so small a layer that the first updates overwrite it.
        """
        if isinstance(module, nn.Linear) and any(module is layer for layer in self.heads.modules()):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        *,
        tasks: Mapping[str, TaskConfig | dict[str, Any]] | None = None,
        pooling: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        **kwargs: Any,
    ) -> "MultiTaskBertModel":
        """Starts from a pretrained encoder with new heads, or goes on from a model of ours with those that it has.

        Args:
            name_or_path: A model id on the Hub or a folder: any type that `AutoModel` builds an encoder of, or ours.
            tasks: The table of tasks, by name. A model of ours keeps the heads of tasks that read and say the same
                as before; others are new, and heads that are not in the table are left out; both are logged. None:
                its own table.
            pooling: `mean`, `cls` or `max`; None: as the model of ours has it, or `mean`.
            dtype: Of the weights; fp32 whatever the checkpoint has, since mixed precision wants fp32 weights.
            kwargs: For `from_pretrained`: `revision`, `token`, `attn_implementation`, ...

        Raises:
            ValueError: A task or pooling that is not valid, or a model that is not an encoder.
            OSError: There is no such model, or its weights are not safetensors, damaged, not all there, or of other
                shapes than the config says.
        """
        # Built first: a mistake in the tasks is reported before weights are fetched.
        start = read_backbone_config(name_or_path, **kwargs)
        config = MultiTaskBertConfig.on_backbone(start, tasks=tasks, pooling=pooling)
        if isinstance(start, MultiTaskBertConfig):
            return cls._going_on(config, cls.from_pretrained(name_or_path, dtype=dtype, **kwargs))
        auto, options = encoder_class(config.encoder_config)
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        with refused_weights(name_or_path), without_report():
            backbone, info = auto.from_pretrained(name_or_path, dtype=dtype, **options, **kwargs)
        check_loaded(name_or_path, info, may_lack=())
        if layers := sorted(key for key in info["unexpected_keys"] if LAYER.search(key)):
            logger.warning("%s: %d weights of layers are not used, the first %s.", name_or_path, len(layers), layers[0])
        config.encoder_config = backbone.config
        model = cls(config, backbone=backbone).to(backbone.dtype)
        model.started_from = str(name_or_path)
        return model

    @classmethod
    def _going_on(cls, config: MultiTaskBertConfig, old: "MultiTaskBertModel") -> "MultiTaskBertModel":
        """A model with the tasks of a config, and of another model the backbone and the heads that fit."""
        config.encoder_config = old.backbone.config
        model: Any = cls(config, backbone=old.backbone)
        model.to(old.dtype)
        model.started_from = old.name_or_path
        for name, task in config.tasks.items():
            if name in old.config.tasks and not task.differences(old.config.tasks[name]):
                model.heads[name].load_state_dict(old.heads[name].state_dict())
            else:
                logger.warning("task %r: the head is new.", name)
        for name in old.config.tasks:
            if name not in config.tasks:
                logger.warning("task %r: the head is left out.", name)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but safetensors only; what is loaded computes to the last bit what was saved.

        Loaded weights lie in the file's memory map, wherever the file has them. The matrix-vector kernels that a
        head uses for a single row sum in another order when their operand is not aligned as torch's own
        allocations are, so the heads' weights, which are small, are moved to memory of their own.

        Raises:
            OSError: The weights are pickled, damaged, of other shapes than the config says, or not all there. On a
                plain encoder, whose weights have no heads, those of a given config are new.
            ValueError: A value for the config is not valid, or its tasks are not those of the weights.
            TypeError: A keyword is unknown.
        """
        name, wants_info = str(pretrained_model_name_or_path), kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        is_ours = check_tasks(name, kwargs)
        with refused_weights(name), refused_keyword():
            loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = loaded
        check_loaded(name, info, may_lack=() if is_ours else ("heads.",))
        for parameter in model.heads.parameters():
            if parameter.device.type == "cpu" and parameter.data_ptr() % _ALIGNMENT:
                parameter.data = parameter.data.clone()
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the code goes with the weights, the pipeline's too, for `trust_remote_code=True`."""
        # FSDP2 gives the model a class of its own, whose code is torch's.
        current = type(self)
        self.__class__ = next(base for base in current.__mro__ if not base.__module__.startswith("torch."))
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = current
        if kwargs.get("is_main_process", True):
            from .pipeline_mtbert import MultiTaskPipeline

            custom_object_save(MultiTaskPipeline, save_directory)
            save_own_types(self.config.tasks, save_directory)

    def add_task(self, name: str, task: TaskConfig | dict[str, Any]) -> None:
        """Adds a task with a new head; everything else stays as it is.

        Raises:
            ValueError: The name or the task is not valid, the name is there already, or the encoder lacks what the head
                reads.
        """
        self.config.add_task(name, task)
        try:
            head = new_head(name, self.config.tasks[name], self.config.hidden_size, self.backbone)
        except ValueError:
            del self.config.tasks[name]
            raise
        self.heads[name] = head.to(self.device, self.dtype).train(self.training)

    def drop_task(self, name: str) -> None:
        """Removes a task and its head; everything else stays as it is.

        Raises:
            ValueError: There is no such task.
        """
        self.config.task(name)
        del self.config.tasks[name], self.heads[name]

    @property
    def can_pack(self) -> bool:
        """Whether the backbone can read sequences packed into one row, without padding."""
        return can_pack(self.backbone)

    def freeze_backbone(self) -> None:
        """Leaves only the heads to train: the paper's "last layers" setting (section 4.5)."""
        self.backbone.requires_grad_(False)

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, whose own refusal names this class and not the encoder that it is about.

        Raises:
            ValueError: The encoder's layers are none that transformers recomputes.
        """
        if not any(hasattr(module, "gradient_checkpointing") for module in self.backbone.modules()):
            raise ValueError(
                f"a {self.backbone.config.model_type} backbone has no layers that can be recomputed: leave "
                "checkpointing of activations out, or choose another encoder."
            )
        super()._set_gradient_checkpointing(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        task: str | None = None,
        tasks: Mapping[str, int | Tensor] | None = None,
        labels: Tensor | Mapping[str, Tensor] | None = None,
        head_inputs: Mapping[str, Any] | None = None,
        packing: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | TaskOutput | MultiTaskOutput:
        """Encodes sequences once and applies the heads of the tasks that read them.

        Args:
            input_ids: Token ids, [S, L]. Rows stand together by task; a task that encodes its two texts apart has
                all first texts, then all second ones, so that `tokenizer(firsts + seconds)` is its input.
            attention_mask: 1 at real tokens, [S, L]; without one, every token is real.
            token_type_ids, position_ids: [S, L], for encoders that take them.
            inputs_embeds: Word embeddings in place of `input_ids`, [S, L, H].
            task: The name of the one task that all sequences belong to.
            tasks: Or, of several tasks, the number of rows of each, in the order of the sequences; or which sequences
                each row reads, [B, N], with -1 where a row reads fewer than N: several tasks then may read the same.
            labels: For `task`, [B, ...], as its kind collates them: class ids (int64), scores (float), ...; for
                `tasks`, such a tensor by name, of those tasks that have any.
            head_inputs: What heads take beside the encoder's states, as their kinds say: for `task`, tensors [B, ...]
                by keyword; for `tasks`, such a mapping by name.
            packing: From [`pack`], if all sequences stand in one row, [1, T] in place of [S, L]. Outputs are the same.
            kwargs: For the encoder, whatever its forward takes: `output_hidden_states`, `output_attentions`, ... Those
                two and `return_dict` are by default what the config says.

        Returns:
            Without a task, the encoder's output with `pooler_output` = the pooled embeddings, [S, H]. For `task`, a
            [`TaskOutput`]; for `tasks`, a [`MultiTaskOutput`]. With `return_dict=False`, a tuple of what is there.

        Raises:
            ValueError: An unknown task, sequences that do not fit the tasks' rows, labels without a task, or an input
                that the encoder does not read.
            TypeError: A keyword that neither the model nor its encoder takes.
        """
        keywords = self._arguments.keywords(kwargs, self.config)
        if task is not None and tasks is not None:
            raise ValueError("give task (one name) or tasks (rows by name), not both.")
        if labels is not None and task is None and tasks is None:
            raise ValueError("labels need a task (one name) or tasks (rows by name).")
        optional = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        given = self._arguments.inputs({name: value for name, value in optional.items() if value is not None})
        if packing is not None and keywords.get("output_attentions"):
            # Weights of packed attention are computed nowhere: the row is read as padded sequences.
            fill = {"input_ids": self.config.encoder_config.pad_token_id}
            given = {name: pad(value, packing, fill.get(name)) for name, value in given.items()}
            input_ids = None if input_ids is None else pad(input_ids, packing, fill["input_ids"])
            given["attention_mask"], packing = packing["mask"].long(), None
            attention_mask = given["attention_mask"]
        if packing is not None:
            encoded = encode_packed(self.backbone, packing, input_ids=input_ids, **given, **keywords)
            hidden, attention_mask = unpack(encoded.last_hidden_state, packing), packing["mask"]
        else:
            encoded = self.backbone(input_ids, **given, **keywords)
            hidden = encoded.get("last_hidden_state")
            if hidden is None:
                raise ValueError(f"a {self.backbone.config.model_type} backbone gives no states of tokens.")
        if attention_mask is None:
            attention_mask = hidden.new_ones(hidden.shape[:2], dtype=torch.long)
        states = encoded.get("hidden_states")
        if packing is not None and states is not None:
            # Of layers that the caller did not choose, transformers gives None.
            states = tuple(None if state is None else unpack(state, packing) for state in states)
        extra = {"hidden_states": states, "attentions": encoded.get("attentions")}

        if tasks is not None:
            output = self._apply_heads(hidden, attention_mask, tasks, labels, head_inputs or {})
            return MultiTaskOutput(**output, **extra)
        if task is not None:
            rows = {task: hidden.shape[0] // self.config.task(task).sequences_per_row}
            by_task = None if labels is None else {task: labels}
            output = self._apply_heads(hidden, attention_mask, rows, by_task, {task: head_inputs or {}})
            return TaskOutput(output["loss"], output["logits"][task], output["embeddings"], **extra)
        pooled = pool(hidden, attention_mask, self.config.pooling)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled, **extra)

    def _apply_heads(
        self,
        hidden: Tensor,
        mask: Tensor,
        tasks: Mapping[str, int | Tensor],
        labels: Any,
        head_inputs: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What a [`MultiTaskOutput`] says of the heads."""
        table = {name: self.config.task(name) for name in tasks}
        plan = read_plan(tasks, table, hidden.shape[0], hidden.device)
        # As the only task pools them, or as the model does.
        own = self.config.pooling_of(next(iter(table))) if len(table) == 1 else self.config.pooling
        poolings = {own, *(self.config.pooling_of(name) for name, task in table.items() if not task.READS_TOKENS)}
        pooled = {pooling: pool(hidden, mask, pooling) for pooling in poolings}
        labels = labels or {}
        if extra := [name for name in labels if name not in table]:
            raise ValueError(f"labels are of task {extra[0]!r}, which has no rows in the batch.")
        losses: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        for name, task in table.items():
            states = hidden if task.READS_TOKENS else pooled[self.config.pooling_of(name)]
            real = mask if task.READS_TOKENS else None
            logits[name] = self.apply_head(name, plan[name], states, real, head_inputs.get(name, {}))
            if name in labels:
                losses[name] = _mean_loss(task, logits[name], labels[name])
        loss = sum(table[name].weight * value for name, value in losses.items()) if losses else None
        return {"loss": loss, "losses": losses or None, "logits": logits, "embeddings": pooled[own]}

    def apply_head(
        self, name: str, sequences: Tensor, states: Tensor, mask: Tensor | None, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """The outputs of a task, [B, ...].

        Args:
            name: The task's.
            sequences: Which of the S sequences each row reads, [B, N]; -1 for none.
            states: Embeddings of the sequences, [S, H]; of a kind that reads tokens, their states, [S, L, H].
            mask: Of the latter, [S, L].
            inputs: What the head takes beside them.
        """
        task = self.config.tasks[name]
        if task.READS_VOCABULARY:
            inputs = {**inputs, "vocabulary": word_table(self.get_input_embeddings())}

        def read(values: Tensor, numbers: Tensor) -> Tensor:
            # By index_select and not by brackets, whose gradient is many times slower.
            return values.index_select(0, numbers.flatten()).unflatten(0, numbers.shape)

        if task.SEQUENCES_VARY:
            are_there, numbers = sequences >= 0, sequences.clamp(min=0)
            are_read = are_there if mask is None else read(mask, numbers) * are_there.unsqueeze(-1)
            return self.heads[name](read(states, numbers), are_read, **inputs)
        if mask is not None:
            return self.heads[name](read(states, sequences[:, 0]), read(mask, sequences[:, 0]), **inputs)
        return self.heads[name](*(read(states, side) for side in sequences.unbind(1)), **inputs)


def _mean_loss(task: TaskConfig, outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean over the labels of a task's rows.

    Raises:
        ValueError: Rows of outputs and labels differ in number or shape (a broadcast would hide it).
    """
    losses = task.losses(outputs, labels) if len(labels) == len(outputs) else None
    if losses is None or losses.shape != outputs.shape[:1]:
        raise ValueError(f"outputs {tuple(outputs.shape)} of a {task.type} do not fit labels {tuple(labels.shape)}.")
    counts = task.label_counts(outputs, labels)
    return losses.mean() if counts is None else (losses * counts).sum() / counts.sum().clamp(min=1)


MultiTaskBertModel.register_for_auto_class("AutoModel")

__all__ = ["MultiTaskBertModel", "MultiTaskOutput", "TaskOutput"]
