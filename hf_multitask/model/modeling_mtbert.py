"""One shared encoder, one head per task (paper section 4, figure 1)."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput

from .configuration_mtbert import MultiTaskBertConfig, TaskConfig, nearest
from .heads import build_head, task_loss
from .packing import can_pack, encode_packed, unpack
from .pooling import pool


@dataclass
class TaskOutput(ModelOutput):
    """Output for one task.

    Args:
        loss: The task's loss times its weight, a scalar, if labels were given.
        logits: [B, C] class logits, or [B]: one binary logit, or one score within the range, per row.
        embeddings: Pooled embeddings, [S, H], in the order of the sequences.
        hidden_states, attentions: The encoder's, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MultiTaskOutput(ModelOutput):
    """Output for a batch of several tasks.

    Args:
        loss: Sum over the tasks of weight times loss, a scalar, if labels were given (section 4.2).
        losses: Each task's own mean loss, unweighted, by name.
        logits: Each task's logits or scores, by name, shaped as in [`TaskOutput`].
        embeddings: Pooled embeddings, [S, H], in the order of the sequences.
        hidden_states, attentions: The encoder's, if asked for.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


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

    def __init__(self, config: MultiTaskBertConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = AutoModel.from_config(config.encoder_config, **_without_pooler(config.encoder_config))
        self.backbone = backbone
        self.heads = nn.ModuleDict({name: build_head(config.hidden_size, task) for name, task in config.tasks.items()})
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
        tasks: Mapping[str, TaskConfig | dict[str, Any]],
        pooling: str = "mean",
        dtype: torch.dtype | str = torch.float32,
        **kwargs: Any,
    ) -> "MultiTaskBertModel":
        """Starts from a pretrained encoder, with new heads.

        Args:
            name_or_path: A model id on the Hub or a folder, of any type that `AutoModel` builds an encoder of.
            tasks: The table of tasks, by name.
            pooling: `mean`, `cls` or `max`.
            dtype: Of the weights; fp32 whatever the checkpoint has, since mixed precision wants fp32 weights.
            kwargs: For `AutoModel.from_pretrained`: `revision`, `token`, `attn_implementation`, ...

        Raises:
            ValueError: A task or pooling that is not valid, or a model that is not an encoder.
            OSError: There is no such model.
        """
        # Built first: a mistake in the tasks is reported before weights are fetched.
        config = MultiTaskBertConfig.from_backbone(name_or_path, tasks=tasks, pooling=pooling, **kwargs)
        without_pooler = _without_pooler(config.encoder_config)
        backbone = AutoModel.from_pretrained(name_or_path, dtype=dtype, **without_pooler, **kwargs)
        config.encoder_config = backbone.config
        return cls(config, backbone=backbone).to(backbone.dtype)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "MultiTaskBertModel":
        """As in transformers; what is loaded computes to the last bit what was saved.

        Loaded weights lie in the file's memory map, wherever the file has them. The matrix-vector kernels that a
        head uses for a single row sum in another order when their operand is not aligned as torch's own
        allocations are, so the heads' weights, which are small, are moved to memory of their own.
        """
        loaded: Any = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        for parameter in model.heads.parameters():
            if parameter.device.type == "cpu" and parameter.data_ptr() % _ALIGNMENT:
                parameter.data = parameter.data.clone()
        return loaded

    @property
    def can_pack(self) -> bool:
        """Whether the backbone can read sequences packed into one row, without padding."""
        return can_pack(self.backbone)

    def freeze_backbone(self) -> None:
        """Leaves only the heads to train: the paper's "last layers" setting (section 4.5)."""
        self.backbone.requires_grad_(False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        task: str | None = None,
        tasks: Mapping[str, int] | None = None,
        labels: Tensor | Mapping[str, Tensor] | None = None,
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
            tasks: Or the number of rows of each of several tasks, in the order of the sequences.
            labels: For `task`, [B]; for `tasks`, such a tensor by name. Class ids (int64) or scores (float).
            packing: From [`pack`], if all sequences stand in one row, [1, T] in place of [S, L]. Outputs are the same.
            kwargs: For the encoder: `output_hidden_states`, `output_attentions`.

        Returns:
            Without a task, the encoder's output with `pooler_output` = the pooled embeddings, [S, H]. For `task`, a
            [`TaskOutput`]; for `tasks`, a [`MultiTaskOutput`].

        Raises:
            ValueError: An unknown task, or sequences that do not fit the tasks' rows.
        """
        if task is not None and tasks is not None:
            raise ValueError("give task (one name) or tasks (rows by name), not both.")
        optional = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        # Encoders differ in what they accept (DistilBERT has no token types), so only what is there is passed on.
        given = {name: value for name, value in optional.items() if value is not None}
        if packing is not None:
            encoded = encode_packed(self.backbone, packing, input_ids=input_ids, **given, **kwargs)
            hidden, attention_mask = unpack(encoded.last_hidden_state, packing), packing["mask"]
        else:
            encoded = self.backbone(input_ids, **given, **kwargs)
            hidden = encoded.last_hidden_state
        if attention_mask is None:
            attention_mask = hidden.new_ones(hidden.shape[:2], dtype=torch.long)
        extra = {"hidden_states": encoded.get("hidden_states"), "attentions": encoded.get("attentions")}

        if tasks is not None:
            return MultiTaskOutput(**self._apply_heads(hidden, attention_mask, tasks, labels), **extra)
        if task is not None:
            rows = {task: hidden.shape[0] // self._task(task).sequences_per_row}
            output = self._apply_heads(hidden, attention_mask, rows, None if labels is None else {task: labels})
            return TaskOutput(output["loss"], output["logits"][task], output["embeddings"], **extra)
        pooled = pool(hidden, attention_mask, self.config.pooling)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled, **extra)

    def _apply_heads(self, hidden: Tensor, mask: Tensor, tasks: Mapping[str, int], labels: Any) -> dict[str, Any]:
        """What a [`MultiTaskOutput`] says of the heads."""
        losses: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        embeddings: list[Tensor] = []
        counts = self._sequences(tasks, hidden.shape[0])
        for name, states, real in zip(tasks, hidden.split(counts), mask.split(counts), strict=True):
            pooled = pool(states, real, self.config.pooling_of(name))
            embeddings.append(pooled)
            logits[name] = self.heads[name](*pooled.split(tasks[name]))
            if labels is not None:
                losses[name] = task_loss(self.config.tasks[name], logits[name], labels[name])
        loss = sum(self.config.tasks[name].weight * value for name, value in losses.items()) if losses else None
        return {"loss": loss, "losses": losses or None, "logits": logits, "embeddings": torch.cat(embeddings)}

    def _sequences(self, tasks: Mapping[str, int], total: int) -> list[int]:
        """How many of the sequences belong to each task."""
        counts = {name: rows * self._task(name).sequences_per_row for name, rows in tasks.items()}
        if sum(counts.values()) != total or not all(counts.values()):
            raise ValueError(f"{total} sequences do not fit the tasks' rows {dict(tasks)}, which read {counts}.")
        return list(counts.values())

    def _task(self, name: str) -> TaskConfig:
        if name not in self.config.tasks:
            raise ValueError(f"task {name!r} is unknown; {nearest(name, list(self.config.tasks))}")
        return self.config.tasks[name]


# Of torch's allocations on a CPU, in bytes.
_ALIGNMENT = 64


def _without_pooler(encoder_config: PreTrainedConfig) -> dict[str, bool]:
    """The argument that leaves out the pooler's layer, which nothing here reads, where the encoder has one."""
    model_class: Any = AutoModel._model_mapping.get(type(encoder_config), None)
    takes_it = model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if takes_it else {}


__all__ = ["MultiTaskBertModel", "MultiTaskOutput", "TaskOutput"]
