"""A run's report: tables and figures, as one HTML page that needs no network, and in Markdown."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from hf_multitask.evaluation import figures
from hf_multitask.evaluation.blocks import Block
from hf_multitask.evaluation.metrics import Metrics
from hf_multitask.evaluation.summary import bounds, escaped, number, results_cells
from hf_multitask.evaluation.task_evaluations import TaskPredictions, evaluation_of
from hf_multitask.evaluation.uncertainty import Interval
from hf_multitask.model.configuration_mtbert import TaskConfig

_TEMPLATE = Path(__file__).with_name("report.html")
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
    ("scores", "score", "Validation scores during training.", r"eval_(.+)"),
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
        blocks += rows.evaluation.report(name, rows)
        blocks += _examples(rows, examples)
    if history:
        blocks += [
            Block("heading", "Training"),
            *(list(_traces(history, tasks)) or [Block("paragraph", _NO_CURVES)]),
        ]
    if bias is not None:
        blocks += _bias(bias)
    return Report(title, blocks, intervals, probed=bias is not None and not bias.empty)


def _examples(rows: TaskPredictions, count: int) -> Iterator[Block]:
    worst = rows.worst(count) if len(rows.texts) else []
    if not worst:
        return
    evaluation = rows.evaluation
    texts = evaluation.text_titles()
    yield Block("heading", "Worst errors", level=3, in_card=False)
    yield Block(
        "table",
        header=[*texts, *evaluation.error_columns],
        rows=[[*evaluation.text_cells(rows, row), *evaluation.error_cells(rows, row)] for row in worst],
        texts=len(texts) + evaluation.error_texts,
        in_card=False,
    )


def _words(key: str, file: str, tasks: Mapping[str, TaskConfig]) -> str | None:
    """What a figure calls a key of the log; None: it does not show it."""
    if file == "scores":
        return _scores(tasks).get(key)
    if file == "gradient-cosines":
        return next((f"{one} and {two}" for one in tasks for two in tasks if key == f"{one}_{two}"), key)
    return key if key in tasks else _WORDS.get(key, key)


def _scores(tasks: Mapping[str, TaskConfig]) -> dict[str, str]:
    """The metrics that count in the final score, and that score, in words."""
    scores = {}
    for name, task in tasks.items():
        evaluation = evaluation_of(task)
        if (counts := evaluation.counting) is not None:
            scores[f"{name}_{counts}"] = f"{name}, {evaluation.chosen[counts].title.lower()}"
    return scores | {"final_score": _WORDS["final_score"]}


def _traces(history: Sequence[Mapping[str, Any]], tasks: Mapping[str, TaskConfig]) -> Iterator[Block]:
    for file, values, caption, pattern in _TRACES:
        traces: dict[str, dict[int, float]] = {}
        for entry in history:
            for key, value in entry.items():
                if (match := re.fullmatch(pattern, key)) and _words(match[1], file, tasks) is not None:
                    # The first of a step: at the end the best checkpoint is evaluated once more, under the last step.
                    traces.setdefault(match[1], {}).setdefault(int(entry.get("step", 0)), float(value))
        lines = {name: pd.Series(trace, dtype=float).dropna() for name, trace in traces.items()}
        lines = {str(_words(name, file, tasks)): line for name, line in lines.items() if len(line) > 1}
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
