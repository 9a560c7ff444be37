"""Fine-tune one encoder on several tasks at once. Importing this package registers its model with `AutoModel`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_multitask.registration import register_when_imported

if TYPE_CHECKING:
    from hf_multitask.data.collator import MultiTaskCollator
    from hf_multitask.data.schedule import (
        AdaptiveSampling,
        AnnealedSampling,
        Phases,
        RoundRobin,
        Schedule,
        SizeSampling,
    )
    from hf_multitask.hub.export import export_sentence_transformer
    from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig, TaskConfig
    from hf_multitask.model.modeling_mtbert import MultiTaskBertModel, MultiTaskOutput, TaskOutput
    from hf_multitask.model.pipeline_mtbert import MultiTaskPipeline
    from hf_multitask.training.arguments import MultiTaskTrainingArguments
    from hf_multitask.training.proximal import ProximalArguments
    from hf_multitask.training.smart import SmartArguments
    from hf_multitask.training.trainer import MultiTaskTrainer

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSampling",
    "AnnealedSampling",
    "MultiTaskBertConfig",
    "MultiTaskBertModel",
    "MultiTaskCollator",
    "MultiTaskOutput",
    "MultiTaskPipeline",
    "MultiTaskTrainer",
    "MultiTaskTrainingArguments",
    "Phases",
    "ProximalArguments",
    "RoundRobin",
    "Schedule",
    "SizeSampling",
    "SmartArguments",
    "TaskConfig",
    "TaskOutput",
    "export_sentence_transformer",
]

# Imported when they are asked for: torch and transformers' models take seconds.
_MODULES = {
    "data.collator": ["MultiTaskCollator"],
    "data.schedule": ["AdaptiveSampling", "AnnealedSampling", "Phases", "RoundRobin", "Schedule", "SizeSampling"],
    "hub.export": ["export_sentence_transformer"],
    "model.configuration_mtbert": ["MultiTaskBertConfig", "TaskConfig"],
    "model.modeling_mtbert": ["MultiTaskBertModel", "MultiTaskOutput", "TaskOutput"],
    "model.pipeline_mtbert": ["MultiTaskPipeline"],
    "training.arguments": ["MultiTaskTrainingArguments"],
    "training.proximal": ["ProximalArguments"],
    "training.smart": ["SmartArguments"],
    "training.trainer": ["MultiTaskTrainer"],
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"hf_multitask.{module}"), name)
    raise AttributeError(f"module 'hf_multitask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_when_imported()
