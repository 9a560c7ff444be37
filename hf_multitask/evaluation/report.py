"""A run's report: tables and figures, as one HTML page that needs no network, and in Markdown."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from hf_multitask.evaluation import figures
from hf_multitask.evaluation.analysis import (
    TaskPredictions,
    analyse_classification,
    analyse_regression,
    worst_errors,
)
from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.summary import METRICS, bounds, escaped, markdown_table, number, results_cells
from hf_multitask.evaluation.uncertainty import Interval

_TEMPLATE = Path(__file__).with_name("report.html")
# Inches that half of the page has room for, with some of them to spare.
_HALF = 7.5
_INTERVALS = "Intervals are the bootstrap's, of the rows that were evaluated; they say nothing of other seeds."
_PROBES = (
    "Sentences from templates that differ only in whom they speak of. The difference is the first group's mean less "
    "the second's: of the class's expected place among the classes, from 0 to 1, which means something where they are "
    "in an order; or, beside the same sentence with a neutral term, of the probability of the last class of a pair, or "
    "of the score. The sentences are English, whatever the model's language. The interval (95 %, Student's t) "
    "is over the pairs of terms; the templates are the same. The mean absolute difference is over all sentences: a "
    "model can favour neither group and still waver."
)
_NO_CURVES = (
    "There are no curves, since the run logged no value more than once: it was shorter than two times its "
    "logging_steps and eval_steps."
)
# What figures call keys of the log that are no names of tasks.
_WORDS = {"final_score": "final score", "learning_rate": "learning rate", "head_learning_rate": "heads' learning rate"}
_WORDS |= {"radius": "size"}
# Figures of the log: file, values' name, caption, and the keys that it shows.
_TRACES = (
    ("losses", "loss", "Training loss of each task, mean since the last log.", r"loss_(.+)"),
    ("scores", "score", "Validation scores during training.", r"eval_(.+_(?:accuracy|pearson)|final_score)"),
    ("learning-rates", "learning rate", "Learning rates.", r"((?:head_)?learning_rate)"),
    ("weights", "weight", "What each task's loss was multiplied by.", r"weight_(.+)"),
    (
        "smart",
        "divergence",
        "SMART: divergence that the perturbation causes.",
        r"smart_(?!cosine$|radius$|skipped$)(.+)",
    ),
    ("smart-perturbation", "ratio", "SMART: the perturbation's size and cosine.", r"smart_(cosine|radius)"),
    ("proximal", "divergence", "Proximal point: divergence from the average of earlier weights.", r"proximal_(.+)"),
    ("gradient-cosines", "cosine", "Cosines between the tasks' gradients.", r"gradient_cosine_(.+)"),
)


@dataclass
class Block:
    """A part of a report.

    Args:
        kind: `heading`, `paragraph`, `table` or `figure`.
        text: Of a heading or paragraph; of a figure, its caption.
        level: Of a heading.
        header, rows: Of a table.
        texts: The number of a table's first columns that are texts, and not numbers.
        in_card: Whether the model card has it too. What quotes rows of the data stays out of it: their terms may
            forbid to publish them.
        name: Of a figure, its file without the ending.
        figure: The figure.
    """

    kind: str
    text: str = ""
    level: int = 2
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    texts: int = 1
    in_card: bool = True
    name: str = ""
    figure: Figure | None = None

    def markdown(self, images: str = "", level: int = 0) -> str:
        """The block in Markdown.

        Args:
            images: What goes before the name of a figure's file.
            level: By how much headings are deeper.
        """
        if self.kind == "heading":
            return f"{'#' * (self.level + level)} {self.text}"
        if self.kind == "table":
            return markdown_table(self.header, self.rows, self.texts)
        if self.kind == "figure":
            caption = escaped(self.text)
            return f"![{caption}]({images}{self.name}.png)\n\n*{caption}*"
        return escaped(self.text) if self.kind == "paragraph" else self.text

    @property
    def is_wide(self) -> bool:
        """Whether a figure could not be read in half of a page."""
        return self.figure is not None and self.figure.get_figwidth() > _HALF

    @cached_property
    def svg(self) -> str:
        """A figure's SVG, in base64."""
        assert self.figure is not None
        return base64.b64encode(figures.encoded(self.figure, "svg")).decode()


@dataclass
class Report:
    """A report; [`build_report`] makes one.

    Args:
        title: Of the page.
        blocks: Its parts.
        intervals: From [`all_intervals`].
        probed: Whether biases were probed.
    """

    title: str
    blocks: list[Block]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    probed: bool = False

    def to_markdown(self) -> str:
        """The report in Markdown, for a file beside its figures."""
        return "\n\n".join([f"# {escaped(self.title)}", *(block.markdown() for block in self.blocks)]) + "\n"

    def card_section(self) -> str:
        """What a model card shows of it, in Markdown below a heading of level 2; the figures are in `report/`."""
        return "\n\n".join(block.markdown("report/", level=1) for block in self.blocks if block.in_card)

    def to_html(self) -> str:
        """The report as one HTML page with its figures in it."""
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
            title=self.title, blocks=self.blocks
        )

    def save(self, folder: str | Path) -> None:
        """Writes `index.html`, `report.md`, and each figure as PNG and SVG; an earlier report's figures are removed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        earlier = folder / "report.md"
        # Those that it shows, and nothing else that may lie there.
        shown = re.findall(r"^!\[.*\]\(([\w-]+)\.png\)$", earlier.read_text("utf-8") if earlier.is_file() else "", re.M)
        for name in shown:
            for kind in figures.FORMATS:
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
        for block in self.blocks:
            if block.figure is not None:
                (folder / f"{block.name}.png").write_bytes(figures.encoded(block.figure, "png"))
                (folder / f"{block.name}.svg").write_bytes(base64.b64decode(block.svg))
        (folder / "report.md").write_text(self.to_markdown(), encoding="utf-8", errors="backslashreplace")
        (folder / "index.html").write_text(self.to_html(), encoding="utf-8", errors="backslashreplace")


def build_report(
    title: str,
    predicted: Mapping[str, TaskPredictions],
    metrics: Metrics,
    trivial: Mapping[str, Metrics],
    intervals: Mapping[str, Interval],
    history: Sequence[Mapping[str, Any]] = (),
    bias: pd.DataFrame | None = None,
    examples: int = 10,
    shortfalls: Mapping[str, str] | None = None,
) -> Report:
    """Reports on a model's predictions (paper sections 5.4 and 6) and on its training.

    Args:
        title: Of the report.
        predicted: What the model said of each task's rows.
        metrics: What an evaluation gave for them.
        trivial: Each task's [`trivial_score`], where it is known.
        intervals: From [`all_intervals`].
        history: The trainer's log, for the curves.
        bias: From [`probe_bias`].
        examples: How many of the worst errors to quote for each task.
        shortfalls: By task, what [`shortfalls`] found.
    """
    tasks = {name: rows.task for name, rows in predicted.items()}
    header, cells = results_cells(tasks, metrics, trivial, intervals)
    blocks = [
        Block("heading", "Results", in_card=False),
        Block("paragraph", _INTERVALS, in_card=False),
        Block("table", header=header, rows=cells, texts=2, in_card=False),
        # The card has them among its limits.
        *(Block("paragraph", f"{name}: {said}", in_card=False) for name, said in (shortfalls or {}).items()),
    ]
    for name, rows in predicted.items():
        blocks.append(Block("heading", f"Task {name}"))
        blocks += _regression(name, rows) if rows.task.is_regression else _classification(name, rows)
        blocks += _examples(rows, examples)
    if history:
        blocks += [
            Block("heading", "Training"),
            *(list(_traces(history, list(tasks))) or [Block("paragraph", _NO_CURVES)]),
        ]
    if bias is not None:
        blocks += _bias(bias)
    return Report(title, blocks, intervals, probed=bias is not None and not bias.empty)


def _classification(name: str, rows: TaskPredictions) -> Iterator[Block]:
    analysis = analyse_classification(rows.task, rows.probabilities, rows.labels)
    wrong = int(np.sum(rows.predicted != rows.labels))
    text = f"{wrong} of {len(rows.labels)} rows are wrong"
    if rows.task.num_labels > 2 and wrong:
        text += f", {analysis.adjacent_errors:.1%} of these by one class (where the classes are in an order)"
    yield Block("paragraph", f"{text}. Expected calibration error: {analysis.calibration_error:.3f}.")
    by_class = analysis.by_class
    yield Block(
        "table",
        header=["class", "precision", "recall", "F1", "rows"],
        rows=[
            [str(label), *(number(row[key]) for key in ("precision", "recall", "f1")), str(int(row["rows"]))]
            for label, row in by_class.iterrows()
        ],
    )
    confusion = figures.confusion_figure(analysis, rows.task.labels)
    caption = " ".join([f"{name}: rows by label and prediction.", *figures.axis_names(rows.task.labels)[1]])
    yield Block("figure", caption, name=f"{name}-confusion", figure=confusion)
    calibration = figures.calibration_figure(analysis)
    caption = f"{name}: accuracy by confidence; a point's size is its share of the rows, and one of fewer than "
    caption += f"{figures.FEW_ROWS} is hollow and beside the line."
    yield Block("figure", caption, name=f"{name}-calibration", figure=calibration)


def _regression(name: str, rows: TaskPredictions) -> Iterator[Block]:
    analysis = analyse_regression(rows.task, rows.predicted, rows.labels)
    yield Block(
        "table",
        header=["label", "rows", "mean error", "mean absolute error"],
        rows=[
            [str(band), str(int(row["rows"])), f"{row['mean_error']:+.3f}", number(row["mean_absolute_error"])]
            for band, row in analysis.by_band.iterrows()
        ],
    )
    scatter = figures.scatter_figure(rows.predicted, rows.labels, analysis, rows.task.score_range)
    yield Block("figure", f"{name}: predictions by label.", name=f"{name}-scatter", figure=scatter)
    if np.isfinite(analysis.slope):
        residuals = figures.residual_figure(rows.predicted, rows.labels, analysis)
        caption = f"{name}: what the regression line leaves."
        yield Block("figure", caption, name=f"{name}-residuals", figure=residuals)
    yield Block("figure", f"{name}: error by label.", name=f"{name}-bands", figure=figures.band_figure(analysis))


def _examples(rows: TaskPredictions, count: int) -> Iterator[Block]:
    worst = worst_errors(rows, count) if len(rows.texts) else []
    if not worst:
        return
    task, is_regression = rows.task, rows.task.is_regression
    texts = ["first text", "second text"] if task.is_pair else ["text"]
    lines = []
    for row in worst:
        if is_regression:
            said = [f"{rows.labels[row]:.2f}", f"{rows.predicted[row]:.2f}"]
        else:
            said = [task.labels[rows.labels[row]], task.labels[rows.predicted[row]]]
            said.append(f"{rows.probabilities[row].max():.3f}")
        lines.append([*rows.texts[row], *said])
    yield Block("heading", "Worst errors", level=3, in_card=False)
    header = [*texts, "label", "predicted", *([] if is_regression else ["confidence"])]
    yield Block("table", header=header, rows=lines, texts=len(texts) + (0 if is_regression else 2), in_card=False)


def _words(key: str, file: str, tasks: Sequence[str]) -> str:
    """What a figure calls a key of the log."""
    if file == "scores" and (match := re.fullmatch(r"(.+)_(accuracy|pearson)", key)):
        return f"{match[1]}, {METRICS[match[2] == 'pearson'][match[2]].lower()}"
    if file == "gradient-cosines":
        return next((f"{one} and {two}" for one in tasks for two in tasks if key == f"{one}_{two}"), key)
    return key if key in tasks else _WORDS.get(key, key)


def _traces(history: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Iterator[Block]:
    for file, values, caption, pattern in _TRACES:
        traces: dict[str, dict[int, float]] = {}
        for entry in history:
            for key, value in entry.items():
                if match := re.fullmatch(pattern, key):
                    # The first of a step: at the end the best checkpoint is evaluated once more, under the last step.
                    traces.setdefault(match[1], {}).setdefault(int(entry.get("step", 0)), float(value))
        lines = {name: pd.Series(trace, dtype=float).dropna() for name, trace in traces.items()}
        lines = {_words(name, file, tasks): line for name, line in lines.items() if len(line) > 1}
        if lines:
            yield Block(
                "figure",
                caption,
                name=f"training-{file}",
                figure=figures.trace_figure(lines, values, logarithmic=values == "divergence"),
            )


def _bias(bias: pd.DataFrame) -> Iterator[Block]:
    yield Block("heading", "Bias probes")
    if left_out := bias.attrs.get("left_out"):
        shown = "; ".join(" and ".join(pair) for pair in left_out)
        why = "since the vocabulary has a word of them in single letters or not at all"
        text = f"No terms could be probed, {why}." if bias.empty else f"Left out, {why}: {shown}."
        yield Block("paragraph", text)
    if bias.empty:
        return
    yield Block("paragraph", _PROBES)
    yield Block(
        "table",
        header=["task", "first group", "second group", "difference", "95 % interval", "mean absolute difference"],
        rows=[
            [
                row.task,
                row.first,
                row.second,
                f"{row.value:+.3f}",
                bounds(row, "+"),
                number(row.absolute),
            ]
            for row in bias.itertuples()
        ],
        texts=3,
    )
    for name, rows in bias.groupby("task", sort=False):
        table = rows.set_index(rows["first"] + " less " + rows["second"])
        figure = figures.interval_figure(table, f"difference in {name}")
        yield Block("figure", f"{name}: differences between groups.", name=f"{name}-bias", figure=figure)
