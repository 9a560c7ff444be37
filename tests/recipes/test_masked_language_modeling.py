"""The recipe of masked words, beside a labelled task."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.recipes.conftest import QUICK

FOLDER = ROOT / "recipes" / "tasks"


def test_no_review_of_training_is_evaluated() -> None:
    files = [FOLDER / "masked_language_modeling" / f"reviews-{split}.csv" for split in ("train", "validation")]
    train, validation = (set(path.read_text().splitlines()[1:]) for path in files)
    assert (len(train), len(validation)) == (1000, 200)
    assert not train & validation


def test_reviews_are_trained_scored_reported_filled_and_compared(run_in_process: Callable, tmp_path: Path) -> None:
    config = FOLDER / "masked_language_modeling.yaml"
    common = ("--use_cpu", "--config", config)
    run = run_in_process("train.py", *common, "--output_dir", tmp_path / "out", "--max_steps", 40, *QUICK)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    # A head that knows nothing has about 331, the number of words.
    assert results["eval_reviews_perplexity"] < 90
    assert results["eval_final_score"] == results["eval_sentiment_accuracy"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "type: fill-mask" in card
    assert "| reviews | masked_language_modeling | one text | tokens of the vocabulary |" in card

    rows = [{"sentence": "The film [MASK] shot in France."}, {"sentence": "No gap."}, {"sentence": ""}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    run = run_in_process("predict.py", "--model", tmp_path / "out", "--task", "reviews", stdin=lines)
    assert run.returncode == 0, run.stderr[-2000:]
    first, second, third = map(json.loads, run.stdout.splitlines())
    (said,) = first["tokens"]
    assert said["sequence"] == f"the film {said['token_str']} shot in france."
    assert second == {"id": 2, "tokens": []}
    assert third == {"id": 3, "tokens": None, "problem": "column 'sentence' is empty."}

    run = run_in_process("evaluate.py", *common, "--model", tmp_path / "out", "--report", tmp_path / "report")
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "report" / "reviews-tokens.png").is_file()
    run = run_in_process("compare.py", *common, tmp_path / "out", tmp_path / "out")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "| reviews | perplexity |" in run.stdout
