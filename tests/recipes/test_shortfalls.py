"""A run that learnt nothing says so, and evaluating its model does."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_run_that_learnt_nothing_says_so_with_its_reasons(
    run_in_process: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    flags = ("--max_steps", 2, "--learning_rate", 1e-6, "--eval_strategy", "no", "--save_strategy", "no")
    flags += ("--load_best_model_at_end", "false", "--use_cpu")
    run = run_in_process("train.py", "--output_dir", out, *flags)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((out / "all_results.json").read_text())
    shares = {"sentiment": 0.390, "paraphrase": 0.580}
    below = [name for name, share in shares.items() if results[f"eval_{name}_accuracy"] <= share]
    assert below
    said = {
        match[1]: match[0] for match in map(re.compile(r"task '(\w+)': no better .*").match, caplog.messages) if match
    }
    for name in below:
        assert (
            f"accuracy {results[f'eval_{name}_accuracy']:.3f}, that of the majority class {shares[name]:.3f}"
            in said[name]
        )
        rows, steps = {"sentiment": ("1,500", 47), "paraphrase": ("3,000", 94)}[name]
        assert f"2 steps read only about 64 of its {rows} rows, and one pass over them takes {steps}" in said[name]
        assert "its head learns at 1e-06" in said[name]
        assert "the backbone began with random weights" in said[name]
        sentence = said[name].removeprefix(f"task '{name}': ")
        assert f"\n{name}: {sentence}\n" in (out / "report" / "report.md").read_text()
        assert f"\n- `{name}`: {sentence}\n" in (out / "README.md").read_text()

    caplog.clear()
    run = run_in_process("evaluate.py", "--output_dir", out, "--report", tmp_path / "there", "--use_cpu")
    assert run.returncode == 0, run.stderr[-2000:]
    assert all(said[name] in caplog.messages for name in below)
    page = (tmp_path / "there" / "report.md").read_text()
    title = "# out, validation: new weights on sentiment, paraphrase, similarity, 2 steps, seed 42\n"
    assert page.startswith(title)
    assert title.replace(", validation", "") in (out / "report" / "report.md").read_text()
    assert "no better than a predictor that ignores the text" in page
