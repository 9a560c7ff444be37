import pytest

from hf_multitask.model.messages import nearest


@pytest.mark.parametrize(
    ("word", "known", "end"),
    [
        ("class_weights", ["type", "weight"], "known: type, weight."),
        ("token_classification", ["pair_classification", "pair_regression"], "known: pair_classification, pair_regr"),
        ("max_eval_rows", ["max_length", "eval_steps"], "known: max_length, eval_steps."),
        ("num_epochs", [*map(str, range(30)), "num_train_epochs"], "known: num_train_epochs, 0, 1,"),
        ("--class_weights", ["--loss_weighting", "--seed"], "known: --loss_weighting, --seed."),
        ("valid", ["train", "validation"], "did you mean 'validation'?"),
        ("wieght", ["type", "weight"], "did you mean 'weight'?"),
        ("weigth", ["type", "weight"], "did you mean 'weight'?"),
        ("pair-regresion", ["pair_classification", "pair_regression"], "did you mean 'pair_regression'?"),
        ("SST", ["sts", "sst"], "did you mean 'sst'?"),
        ("anything", [], "known: none."),
    ],
)
def test_a_word_that_means_something_else_is_no_misspelling(word: str, known: list[str], end: str) -> None:
    assert nearest(word, known).startswith(end)
