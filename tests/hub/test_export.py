from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import BertModel

from hf_multitask import MultiTaskBertModel, MultiTaskPipeline, export_sentence_transformer
from tests.conftest import sentences, tiny_model


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_sentence_transformers_loads_the_folder_and_gives_equal_embeddings(
    pooling: str, kind: str, tokenizer: Any, tmp_path: Path
) -> None:
    if kind != "bert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = tiny_model(kind=kind, pooling=pooling)
    export_sentence_transformer(model, tmp_path / "exported", tokenizer)
    texts = [*sentences(20), " ".join(["a cat"] * 60)]
    theirs = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    ours = MultiTaskPipeline(model, tokenizer, device="cpu").embed(texts)
    assert np.abs(theirs.encode(texts, batch_size=4) - ours).max() <= 1e-6 * np.abs(ours).max()


def test_the_folder_is_a_plain_encoder_with_standard_weights(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    # The tokenizer is the one beside the model.
    export_sentence_transformer(MultiTaskBertModel.from_pretrained(tmp_path / "model"), tmp_path / "exported")
    assert not list((tmp_path / "exported").glob("*.py"))
    encoder, info = BertModel.from_pretrained(tmp_path / "exported", add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert set(encoder.state_dict()) == set(model.backbone.state_dict())


def test_a_model_without_a_tokenizer_beside_it_needs_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="has no tokenizer beside it: give one"):
        export_sentence_transformer(tiny_model(), tmp_path)
