"""Fine-tune one encoder on several tasks at once. Importing this package registers its model and its pipeline."""

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from hf_multitask.data.collator import MultiTaskCollator
from hf_multitask.data.schedule import AdaptiveSampling, AnnealedSampling, Phases, RoundRobin, Schedule, SizeSampling
from hf_multitask.hub.export import export_sentence_transformer
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig, TaskConfig
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel, MultiTaskOutput, TaskOutput
from hf_multitask.model.pipeline_mtbert import MultiTaskPipeline
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.proximal import ProximalArguments
from hf_multitask.training.smart import SmartArguments

if TYPE_CHECKING:
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

AutoConfig.register(MultiTaskBertConfig.model_type, MultiTaskBertConfig, exist_ok=True)
AutoModel.register(MultiTaskBertConfig, MultiTaskBertModel, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline("multi-task", pipeline_class=MultiTaskPipeline, pt_model=AutoModel, type="text")


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: with it come datasets and evaluate, which take a second more, and of which loading
    # a model needs nothing.
    if name == "MultiTaskTrainer":
        from hf_multitask.training.trainer import MultiTaskTrainer

        return MultiTaskTrainer
    raise AttributeError(f"module 'hf_multitask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
