import pytest

from hf_multitask.model.spelling import nearest


@pytest.mark.parametrize(
    ("word", "known", "end"),
    [
        ("class_weights", ["type", "weight"], "known: type, weight."),
        ("token_classification", ["pair_classification", "pair_regression"], "known: pair_classification, pair_regr"),
        ("max_eval_rows", ["max_length", "eval_steps"], "known: max_length, eval_steps."),
        ("num_epochs", [*map(str, range(30)), "num_train_epochs"], "known: num_train_epochs, 0, 1,"),
        ("weigth", ["type", "weight"], "did you mean 'weight'?"),
        ("pair-regresion", ["pair_classification", "pair_regression"], "did you mean 'pair_regression'?"),
        ("SST", ["sts", "sst"], "did you mean 'sst'?"),
        ("anything", [], "known: none."),
    ],
)
def test_a_word_that_means_something_else_is_no_misspelling(word: str, known: list[str], end: str) -> None:
    assert nearest(word, known).startswith(end)


@pytest.mark.parametrize(
    ("encoder", "longest"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 70, "pad_token_id": 5}, 64),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ({"model_type": "longformer", "max_position_embeddings": 4098, "pad_token_id": 1}, 4096),
        ({"model_type": "esm", "max_position_embeddings": 1026, "pad_token_id": 1}, 1024),
        ({"model_type": "esm", "max_position_embeddings": 1026, "position_embedding_type": "rotary"}, 1026),
        ({"model_type": "xlnet"}, 2**31 - 1),
    ],
)
def test_without_a_tokenizers_limit_the_longest_input_is_what_the_positions_hold(
    encoder: dict[str, Any], longest: int, tokenizer: Any
) -> None:
    config = MultiTaskBertConfig(encoder_config=encoder, tasks=TASKS)
    tokenizer.model_max_length = int(1e30)
    assert config.longest_input(tokenizer) == longest
    tokenizer.model_max_length = 64
    assert config.longest_input(tokenizer) == min(64, longest)
    tokenizer("a film", truncation=True, max_length=longest)
