"""The report: what it says, that it is whole by itself, and that it opens."""

import html
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from hf_multitask.evaluation.analysis import analyse_classification
from hf_multitask.evaluation.figures import confusion_figure, encoded
from hf_multitask.evaluation.metrics import mean_of_shares
from hf_multitask.evaluation.report import Report, build_report
from hf_multitask.evaluation.task_evaluations import TaskPredictions
from hf_multitask.evaluation.uncertainty import Interval, all_intervals
from hf_multitask.model.configuration_mtbert import TaskConfig

TASKS = {
    "sst": TaskConfig("single_label_classification", labels=["bad", "so-so", "good"]),
    "quora": TaskConfig("pair_classification", labels=["different", "same"]),
    "sts": TaskConfig("pair_regression"),
}
EVIL = 'a | b <script>alert("x")</script> \ud800'
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


def predictions() -> dict[str, TaskPredictions]:
    draw = np.random.default_rng(0)
    labels = {"sst": draw.integers(3, size=60), "quora": draw.integers(2, size=60), "sts": draw.uniform(0, 5, 60)}
    outputs = {"sst": draw.normal(size=(60, 3)), "quora": draw.normal(size=60), "sts": labels["sts"] * 0.5 + 1}
    # The surest error of all.
    outputs["sst"][7], labels["sst"][7] = [9.0, 0.0, 0.0], 2
    texts = [(f"text {row}" if row != 7 else EVIL,) for row in range(60)]
    pairs = [(f"first {row}", f"second {row}") for row in range(60)]
    return {
        name: TaskPredictions(task, outputs[name], labels[name], pairs if task.texts == 2 else texts)
        for name, task in TASKS.items()
    }


HISTORY = [
    {"loss_sst": 1.2, "loss_sts": 2.0, "learning_rate": 1e-5, "smart_sst": 0.1, "smart_cosine": 0.5, "step": 1},
    {"loss_sst": 1.1, "loss_sts": 1.5, "learning_rate": 2e-5, "smart_sst": 0.2, "smart_cosine": 0.6, "step": 2},
    {"eval_sst_accuracy": 0.3, "eval_final_score": 0.4, "step": 2},
    {"eval_sst_accuracy": 0.4, "eval_final_score": 0.5, "gradient_cosine_sst_sts": 0.1, "step": 3},
]
BIAS = pd.DataFrame(
    [("sst", "gender", "women", "men", 0.1, 0.05, 0.15, 0.2)],
    columns=["task", "attribute", "first", "second", "value", "low", "high", "absolute"],
)


def build(**overrides: Any) -> Report:
    rows = predictions()
    scores = {name: part.evaluation.score(part.predicted, part.labels) for name, part in rows.items()}
    metrics = {f"eval_{name}_{metric}": value for name, by in scores.items() for metric, value in by.items()}
    intervals = all_intervals(
        TASKS,
        {name: part.predicted for name, part in rows.items()},
        {name: part.labels for name, part in rows.items()},
        resamples=100,
    )
    trivial = {name: part.evaluation.trivial(part.labels, part.labels) for name, part in rows.items()}
    options = {"history": HISTORY, "bias": BIAS, "examples": 3, **overrides}
    return build_report(
        "a run",
        rows,
        metrics
        | {
            "eval_final_score": mean_of_shares(
                {name: rows[name].evaluation.share(each) for name, each in scores.items()}
            )
        },
        trivial,
        intervals,
        **options,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "old-confusion.png").write_bytes(b"")
    (folder / "report.md").write_text("![Of a task that is gone.](old-confusion.png)\n")
    build().save(folder)
    return folder


def test_every_figure_is_there_as_png_and_svg_and_nothing_of_an_older_report(saved: Path) -> None:
    figures = ["sst-confusion", "sst-calibration", "quora-confusion", "quora-calibration", "sst-bias"]
    figures += ["sts-scatter", "sts-residuals", "sts-bands"]
    figures += [f"training-{name}" for name in ("losses", "scores", "learning-rates", "smart", "smart-perturbation")]
    assert {path.stem for path in saved.glob("*.png")} == set(figures)
    for figure in figures:
        picture = imread(saved / f"{figure}.png")
        assert picture.min() < picture.max()
        # To be read in black and white, nothing may be told by its colour.
        assert np.ptp(picture[..., :3], axis=-1).max() < 0.02
        assert ET.parse(saved / f"{figure}.svg").getroot().tag.endswith("svg")


def test_the_page_needs_nothing_beside_it(saved: Path) -> None:
    page = (saved / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
    assert "url(" not in page
    assert page.count("<img") == 13
    assert "<figcaption>sst: rows by label and prediction.</figcaption>" in page
    assert 'alt="sts: predictions by label."' in page


def test_markdown_and_page_have_the_same_tables(saved: Path) -> None:
    page, markdown = (saved / "index.html").read_text(), (saved / "report.md").read_text()
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    lines = [line for line in markdown.splitlines() if line.startswith("|") and "---" not in line]
    for cell in cells:
        if EVIL[:3] not in cell:
            assert any(f" {cell} " in line for line in lines) or not cell
    assert [image for image in re.findall(r"\]\((.*?)\)", markdown) if not (saved / image).is_file()] == []


def test_texts_of_the_data_break_nothing_and_stay_out_of_the_card(saved: Path) -> None:
    assert "<script>" not in (saved / "index.html").read_text()
    markdown = (saved / "report.md").read_text()
    (line,) = [line for line in markdown.splitlines() if "alert" in line]
    assert line.startswith(r"| a \| b &lt;script>")
    assert len(re.findall(r"(?<!\\)\|", line)) == 5
    card = build().card_section()
    assert "alert" not in card
    assert "first 1" not in card
    assert "](report/sst-confusion.png)" in card
    assert "### Task sst" in card
    assert "alert" not in build(examples=0).to_markdown()


def test_pictures_that_are_no_reports_stay(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"mine")
    build().save(tmp_path)
    build(bias=None).save(tmp_path)
    assert (tmp_path / "holiday.png").read_bytes() == b"mine"
    assert not (tmp_path / "sst-bias.png").exists()


@pytest.mark.slow
def test_labels_may_have_dollars_and_be_many() -> None:
    for labels in (["$5_$6", "b"], [f"class {number}" for number in range(200)]):
        task = TaskConfig("single_label_classification", labels=labels)
        logits = np.eye(len(labels))
        analysis = analyse_classification(task.label_names, logits, np.arange(len(labels)))
        figure = confusion_figure(analysis, labels)
        assert encoded(figure, "png")
        assert max(figure.get_size_inches()) < 20


def test_the_last_step_of_a_curve_is_that_of_the_training() -> None:
    history = [{"eval_final_score": value, "step": step} for step, value in ((1, 0.8), (2, 0.6), (2, 0.8))]
    report = build(history=history)
    (block,) = [block for block in report.blocks if block.name == "training-scores"]
    assert block.figure.axes[0].lines[0].get_ydata().tolist() == [0.8, 0.6]


def test_what_was_not_measured_has_no_section() -> None:
    plain = build(history=[], bias=None)
    assert not plain.probed
    assert "Training" not in plain.to_markdown()
    assert "Bias" not in plain.to_markdown()
    assert build().probed


def test_the_same_report_is_the_same_file(saved: Path, tmp_path: Path) -> None:
    build().save(tmp_path)
    assert (tmp_path / "index.html").read_bytes() == (saved / "index.html").read_bytes()


def test_constant_labels_and_single_rows_are_reported_and_said_to_be_undefined() -> None:
    rows = {
        "sts": TaskPredictions(TASKS["sts"], np.array([1.0, 2.0]), np.array([3.0, 3.0])),
        "sst": TaskPredictions(TASKS["sst"], np.array([[1.0, 0.0, 0.0]]), np.array([0])),
    }
    labels = {name: part.labels for name, part in rows.items()}
    tasks = {name: TASKS[name] for name in rows}
    intervals = all_intervals(tasks, {name: part.predicted for name, part in rows.items()}, labels)
    metrics = {"eval_sts_pearson": np.nan, "eval_sts_rmse": 1.58, "eval_sst_accuracy": 1.0, "eval_final_score": np.nan}
    markdown = build_report("few", rows, metrics, {}, intervals).to_markdown()
    assert "| sts | pearson | undefined | undefined | not measured |" in markdown
    assert "0 of 1 rows are wrong." in markdown


@pytest.mark.slow
def test_the_page_opens_from_disk_without_a_network_and_without_errors(saved: Path, tmp_path: Path) -> None:
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium")
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={tmp_path}", "--enable-logging=stderr"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom"]
    page, probe = saved / "index.html", tmp_path / "probe.html"
    # The same page with a script, which shows that images are looked at and that errors would be seen.
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    script = f"onload = () => {{ document.title = 'broken: ' + {broken}; console.error('seen') }}"
    probe.write_text(page.read_text() + f"<script>{script}</script>")
    run = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120)
    assert "<title>broken: 0</title>" in run.stdout
    assert "CONSOLE" in run.stderr
    run = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "Worst errors" in run.stdout
    assert "CONSOLE" not in run.stderr


def test_labels_break_neither_the_markdown_nor_the_page() -> None:
    labels = ["a|b", "<script>x</script>", "\ue000", "[c](d)"]
    task = TaskConfig("single_label_classification", labels=labels)
    rows = {"odd": TaskPredictions(task, np.eye(4), np.arange(4))}
    report = build_report("odd", rows, {"eval_odd_accuracy": 1.0}, {}, {"odd_accuracy": Interval(1.0, 1.0, 1.0)})
    markdown, page = report.to_markdown(), report.to_html()
    assert "| a\\|b | 1.000 | 1.000 | 1.000 | 1 |" in markdown
    assert "<script>" not in markdown + page
    assert (
        "Labels: 1 is a\\|b, 2 is &lt;script>x&lt;/script>, 3 is \ue000, 4 is \\[c\\](d).](odd-confusion.png)"
        in markdown
    )


def test_columns_stand_alike_and_figures_lie_beside_each_other() -> None:
    page = build().to_html()
    trivial = [cell for row in re.findall(r"<tr>(.*?)</tr>", page)[:6] for cell in re.findall(r"<t[hd].*?>", row)[4:5]]
    assert trivial == ['<th class="number">', *['<td class="number">'] * 5]
    assert page.count("<table>") == page.count('<div class="wide" tabindex="0"><table>') > 0
    assert page.count('<div class="figures">') == 5
    assert page.count("<div") == page.count("</div>")


def test_the_curves_are_those_of_the_metrics_that_count() -> None:
    task = TaskConfig("single_label_classification", num_labels=2, metrics=["accuracy", "mcc"], counts="mcc")
    rows = {"x": TaskPredictions(task, np.eye(2)[[0, 1, 1]], np.array([0, 1, 0]))}
    history = [{"eval_x_accuracy": 0.5, "eval_x_mcc": value, "step": step} for step, value in enumerate((0.1, 0.2))]
    report = build_report("x", rows, {}, {}, {}, history)
    (scores,) = (block.figure for block in report.blocks if block.name == "training-scores")
    assert [line.get_label() for line in scores.axes[0].get_lines()] == ["x, matthews correlation"]


def test_legends_have_words_and_a_run_without_curves_says_why() -> None:
    rates = [{"head_learning_rate": 1e-3, "learning_rate": 1e-5, "gradient_cosine_sst_sts": 0.5}] * 2
    history = [*HISTORY, *({**entry, "step": step} for step, entry in enumerate(rates, 4))]
    shown = {
        block.name: [text.get_text() for text in block.figure.axes[0].get_legend().get_texts()]
        for block in build(history=history).blocks
        if block.name.startswith("training")
    }
    assert shown["training-scores"] == ["sst, accuracy", "final score"]
    assert shown["training-learning-rates"] == ["learning rate", "heads' learning rate"]
    assert shown["training-gradient-cosines"] == ["sst and sts"]
    assert shown["training-smart-perturbation"] == ["cosine"]
    for short in (
        [{"train_loss": 1.0, "step": 2}],
        [{"loss_sst": 1.0, "step": 2}],
        [{"eval_final_score": 1, "step": 1}],
    ):
        assert "## Training\n\nThere are no curves" in build(history=short).to_markdown()


def test_labels_of_the_bias_figure_are_lines_of_their_own() -> None:
    (figure,) = [block.figure for block in build().blocks if block.name == "sst-bias"]
    assert [label.get_text() for label in figure.axes[0].texts] == ["women less men"]


def test_a_figure_that_half_a_page_has_no_room_for_gets_the_whole() -> None:
    shares = np.eye(12)
    for labels, is_wide in ((["a", "b"], False), ([f"class {n}" for n in range(12)], True)):
        task = TaskConfig("single_label_classification", labels=labels)
        rows = {"mood": TaskPredictions(task, shares[: len(labels), : len(labels)], np.arange(len(labels)))}
        report = build_report("a", rows, {}, {}, {})
        assert [block.is_wide for block in report.blocks if block.kind == "figure"] == [is_wide, False]
        assert ('class="whole"' in report.to_html()) == is_wide


def test_cells_of_many_words_are_no_narrow_columns() -> None:
    page = build().to_html()
    assert page.count('class="long"') == 1
    assert '<td class="long">a | b &lt;script&gt;' in page


def test_terms_that_were_not_probed_are_said() -> None:
    bias = BIAS.copy()
    bias.attrs["left_out"] = [("Eve", "Adam"), ("she", "he")]
    said = "in single letters or not at all: Eve and Adam; she and he."
    assert said in build(bias=bias).to_markdown()
    nothing = bias.iloc[:0]
    nothing.attrs["left_out"] = bias.attrs["left_out"]
    report = build(bias=nothing)
    assert "No terms could be probed, since" in report.to_markdown()
    assert not report.probed
    assert "Student" not in report.to_markdown()
