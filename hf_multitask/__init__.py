"""Fine-tune one encoder on several tasks at once. Importing this package registers its model with `AutoModel`."""

from transformers import AutoConfig, AutoModel

from hf_multitask.data.collator import MultiTaskCollator
from hf_multitask.data.schedule import AdaptiveSampling, AnnealedSampling, Phases, RoundRobin, Schedule, SizeSampling
from hf_multitask.model.configuration_mtbert import MultiTaskBertConfig, TaskConfig
from hf_multitask.model.modeling_mtbert import MultiTaskBertModel, MultiTaskOutput, TaskOutput
from hf_multitask.training.arguments import MultiTaskTrainingArguments
from hf_multitask.training.proximal import ProximalArguments
from hf_multitask.training.smart import SmartArguments
from hf_multitask.training.trainer import MultiTaskTrainer

AutoConfig.register(MultiTaskBertConfig.model_type, MultiTaskBertConfig)
AutoModel.register(MultiTaskBertConfig, MultiTaskBertModel)

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSampling",
    "AnnealedSampling",
    "MultiTaskBertConfig",
    "MultiTaskBertModel",
    "MultiTaskCollator",
    "MultiTaskOutput",
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
]
