"""The encoder for those who want embeddings alone: a plain sentence-transformers folder."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_multitask.model.modeling_mtbert import MultiTaskBertModel

# As every version of sentence-transformers since 2.0 reads them.
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
_POOLING_KEYS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}


def export_sentence_transformer(
    model: MultiTaskBertModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    task: str | None = None,
) -> None:
    """Writes a model's encoder and pooling as a folder that `SentenceTransformer(folder)` loads without this package.

    Its embeddings are the `pooler_output` of the model, without a task or with its pooling; the heads are left out.
    Of a `ranking`, whose head has no weights, their cosine similarities are what the task learnt.

    Args:
        model: The model.
        folder: Where to write; made if need be.
        tokenizer: The model's; by default, the one that lies where the model was loaded from.
        task: Whose pooling is taken, where tasks have their own; None: the model's.

    Raises:
        ValueError: There is no such task, or the model has an adapter of PEFT, which is not merged into its weights.
        OSError: No tokenizer is given, and there is none.
    """
    if task is not None:
        model.config.task(task)
    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter beside its weights: export model.merge_and_unload().")
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        except (OSError, ValueError) as error:
            raise OSError(f"{model.name_or_path or 'the model'!r} has no tokenizer beside it: give one.") from error
    folder = Path(folder)
    model.backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modes = {key: name == model.config.pooling_of(task) for name, key in _POOLING_KEYS.items()}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    files = {
        "modules.json": _MODULES,
        "sentence_bert_config.json": {
            "max_seq_length": model.config.longest_input(tokenizer),
            "do_lower_case": False,
        },
        "1_Pooling/config.json": {"word_embedding_dimension": model.config.hidden_size, **modes},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2))
