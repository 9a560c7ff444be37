"""Small encoders, a small tokenizer and small tasks, all made here: the tests need no network."""

import os
import tempfile
from pathlib import Path

from tests.hub.server import OWNER_TOKEN, LoopbackHub

_FOLDER = tempfile.TemporaryDirectory()
HUB = LoopbackHub(Path(_FOLDER.name))

# Set before anything of Hugging Face's is imported. Tests of the Hub go online, to the loopback one.
os.environ["HF_ENDPOINT"] = HUB.endpoint
os.environ["HF_HOME"] = str(Path(_FOLDER.name) / "home")
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each core has a process of its own already.
    os.environ["OMP_NUM_THREADS"] = "1"

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    set_seed,
)

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel

# Transformers before 5.21, the last for Python 3.10, has the older name.
CHECKPOINTING = (
    f"{'activation' if hasattr(PreTrainedModel, 'activation_checkpointing_enable') else 'gradient'}_checkpointing"
)
WORDS = "a the film was good bad dull lovely cat dog sat ran on mat hill and not very plot ending big small".split()
ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

TASKS: dict[str, dict[str, Any]] = {
    "sst": {"type": "single_label_classification", "num_labels": 5},
    "quora": {"type": "pair_classification", "pair_features": "u,v,|u-v|"},
    "sts": {"type": "pair_regression", "score_activation": "leaky_relu"},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _frozen_imports() -> None:
    """What is imported is out of the garbage collector's sight: every training ends with a full collection, which
    otherwise takes most of a short training's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches of datasets are the tests' own, so that no earlier run can help or hurt."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The loopback Hub, empty; this process is online and its owner's."""
    HUB.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    return HUB


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new process with empty caches, online; it ends with `result`, which is printed."""

    def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": OWNER_TOKEN,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path)

    return run


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with BERT's special tokens and token types."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )


def encoder_config(kind: str = "bert", **overrides: Any) -> PreTrainedConfig:
    """A tiny random encoder's configuration."""
    size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"intermediate_size": 32, "max_position_embeddings": 70, "pad_token_id": 0}
    if kind == "distilbert":
        size = {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "pad_token_id": 0}
    if kind == "modernbert":
        size |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    kinds = {
        "bert": BertConfig,
        "roberta": RobertaConfig,
        "distilbert": DistilBertConfig,
        "modernbert": ModernBertConfig,
    }
    return kinds[kind](**{**size, **overrides})


def tiny_model(tasks: dict[str, Any] | None = None, kind: str = "bert", **config: Any) -> MultiTaskBertModel:
    """A model with random weights, wide enough that its outputs differ visibly, in evaluation mode."""
    torch.manual_seed(0)
    encoder = encoder_config(kind, **config.pop("encoder", {}))
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=encoder, tasks=tasks or TASKS, **config))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def without_dropout(model: MultiTaskBertModel) -> MultiTaskBertModel:
    """Sets the rate of every dropout to 0, so that training mode is deterministic."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def sentences(count: int, seed: int = 0) -> list[str]:
    """Random sentences of 1 to 9 known words."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10, (count,), generator=draw).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=draw).tolist()) for n in lengths]


def task_rows(count: int, seed: int = 0) -> dict[str, Dataset]:
    """Random rows for `TASKS`, under the standard column names; tasks have count, 2 count and count + 3 rows."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {"sst": count, "quora": 2 * count, "sts": count + 3}
    labels = {
        "sst": torch.randint(5, (sizes["sst"],), generator=draw).tolist(),
        "quora": torch.randint(2, (sizes["quora"],), generator=draw).tolist(),
        "sts": (5 * torch.rand(sizes["sts"], generator=draw)).tolist(),
    }
    rows = {}
    for number, (name, size) in enumerate(sizes.items()):
        texts = {"sentence": sentences(size, seed + 10)}
        if name != "sst":
            texts = {f"sentence{side}": sentences(size, seed + 10 * number + side) for side in (1, 2)}
        rows[name] = Dataset.from_dict({**texts, "label": labels[name]})
    return rows
