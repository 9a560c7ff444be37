"""The figures of a report. All of them can be told apart without colours: by line, marker and shade."""

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from hf_multitask.evaluation.analysis import ClassificationAnalysis, EntityAnalysis, RegressionAnalysis

Format = Literal["png", "svg"]
FORMATS: tuple[Format, ...] = ("png", "svg")

# Installed fonts with the signs that matplotlib's own lacks; it looks into each in turn.
_WIDE = r"CJK|WenQuanYi|Droid Sans Fallback|Arial Unicode|PingFang|Hiragino|YaHei|SimHei|Malgun|Noto Sans [A-Z]\w+$"
# A font that has no normal weight is taken in another, which matplotlib would say again and again.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
_FONTS = ["DejaVu Sans", *sorted({font.name for font in fontManager.ttflist if re.search(_WIDE, font.name)})]

_STYLE = {
    **sns.axes_style("whitegrid"),
    "font.family": _FONTS,
    "font.size": 9,
    "figure.dpi": 150,
    # Text stays text in SVG, and two runs give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_multitask",
    # A dollar in a label's name is a dollar.
    "text.parse_math": False,
}
_DASHES: Sequence[Any] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "osv^Dxp*"
# Traces are logged for every step of many thousands: a figure shows no more points than it has room for.
_POINTS = 200
# Of more, a confusion matrix has shades alone.
_CLASSES = 20
# The accuracy of fewer rows is chance for the most part.
FEW_ROWS = 10
# Longer names are cut in their middle: they would leave the axes no room.
_NAME = 24


@contextmanager
def _axes(width: float = 4.5, height: float = 3.4) -> Iterator[tuple[Figure, Axes]]:
    """A figure that needs no window system, and its axes."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def encoded(figure: Figure, kind: Format) -> bytes:
    """A figure's file; the same figure gives the same bytes."""
    content = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def axis_names(labels: Sequence[str], most: int = _CLASSES) -> tuple[list[str], list[str]]:
    """What axes call some labels, and the sentence of the caption that this needs, if any.

    Long names are cut. Where two would look alike, no installed font has a sign, or there are more than `most`, labels
    are numbered from 1.
    """
    shown, numbers = [_cut(" ".join(label.split())) for label in labels], [str(n + 1) for n in range(len(labels))]
    if len(labels) > most:
        return numbers, ["Labels are numbered from 1, in the order of the table."]
    if len(set(shown)) == len(labels) and all(map(_drawable, shown)):
        return shown, []
    legend = ", ".join(f"{number} is {label}" for number, label in zip(numbers, labels, strict=True))
    return numbers, [f"Labels: {legend}."]


def _cut(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[-(_NAME // 2 - 1) :]}"


def _drawable(text: str) -> bool:
    return all(char.isspace() or any(ord(char) in signs for signs in _signs()) for char in text)


@cache
def _signs() -> list[set[int]]:
    """The signs that each font has."""
    return [set(get_font(findfont(FontProperties(family=[font]))).get_charmap()) for font in _FONTS]


def confusion_figure(analysis: ClassificationAnalysis | EntityAnalysis, labels: Sequence[str]) -> Figure:
    """The confusion matrix: counts, and shares of each row, which are its shades (paper's Figures 2a and 2b)."""
    names, counts = axis_names(labels)[0], analysis.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = np.array([f"{n}\n{share:.0%}" for n, share in zip(counts.flat, shares.flat, strict=True)])
    has_cells = len(labels) <= _CLASSES
    size = 1.6 + 0.6 * len(labels) if has_cells else 6.0
    # Names are beside the axes: they take no room from them.
    longest = max(map(len, names))
    room = 0.07 * longest
    with _axes(size + 1.0 + room, size + room) as (figure, axes):
        sns.heatmap(
            # A table with names, of which the axes leave some out where they have no room for all.
            pd.DataFrame(shares, index=names, columns=names),
            annot=cells.reshape(counts.shape) if has_cells else None,
            fmt="",
            cmap="Greys",
            vmin=0,
            vmax=1,
            square=True,
            linewidths=0.5 if has_cells else 0.0,
            linecolor="0.6",
            xticklabels=True if has_cells else "auto",
            yticklabels=True if has_cells else "auto",
            # As high as the square, which is lower than its place.
            cbar_ax=axes.inset_axes((1.03, 0, 0.04, 1)),
            cbar_kws={"label": "share of the label's rows"},
            ax=axes,
        )
        axes.set(xlabel="predicted", ylabel="label")
        axes.tick_params("x", rotation=45 if longest > 3 else 0)
        axes.tick_params("y", rotation=0)
        return figure


def calibration_figure(analysis: ClassificationAnalysis) -> Figure:
    """Accuracy by confidence; each point's size is its share of the rows, and those of few rows are hollow."""
    curve = analysis.calibration
    with _axes(3.8, 3.4) as (figure, axes):
        axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", label="calibrated")
        is_few = curve["rows"] < FEW_ROWS
        # A line through bins of a few rows would go up and down by chance.
        enough, sizes = curve[~is_few], 10 + 150 * curve["rows"] / curve["rows"].sum()
        axes.plot(enough["confidence"], enough["accuracy"], "o-", color="black", markersize=3, label="model")
        faces = np.where(is_few, "white", "black")
        # Points on the edge are whole.
        axes.scatter(
            curve["confidence"], curve["accuracy"], s=sizes, c=faces, edgecolors="black", clip_on=False, zorder=3
        )
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")
        return figure


def scatter_figure(
    predicted: np.ndarray, labels: np.ndarray, analysis: RegressionAnalysis, score_range: Sequence[float]
) -> Figure:
    """Predictions by label with their regression line (paper's Figure 2c)."""
    ends = np.array(score_range)
    with _axes() as (figure, axes):
        _points(axes, labels, predicted)
        axes.plot(ends, ends, color="0.5", linestyle="--", label="prediction = label")
        if np.isfinite(analysis.slope):
            sign = "−" if analysis.intercept < 0 else "+"
            label = f"{analysis.slope:.2f} · label {sign} {abs(analysis.intercept):.2f}"
            axes.plot(ends, analysis.slope * ends + analysis.intercept, color="black", linewidth=2, label=label)
        axes.set(xlabel="label", ylabel="predicted")
        axes.legend(loc="upper left")
        return figure


def residual_figure(predicted: np.ndarray, labels: np.ndarray, analysis: RegressionAnalysis) -> Figure:
    """What the regression line of [`scatter_figure`] leaves, by label (paper's Figure 2d)."""
    with _axes() as (figure, axes):
        _points(axes, labels, predicted - (analysis.slope * labels + analysis.intercept))
        axes.axhline(0, color="black")
        axes.set(xlabel="label", ylabel="residual")
        return figure


def band_figure(analysis: RegressionAnalysis) -> Figure:
    """The mean absolute error, and the mean error as points, by the label's band."""
    bands = analysis.by_band
    with _axes() as (figure, axes):
        names = list(bands.index)
        axes.bar(names, bands["mean_absolute_error"], color="0.75", edgecolor="black", label="mean absolute error")
        axes.plot(names, bands["mean_error"], "D", color="black", label="mean error")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xlabel="label", ylabel="error")
        axes.legend()
        return figure


def label_figure(by_label: pd.DataFrame) -> Figure:
    """F1 of each label as a bar, with its precision and its recall as marks.

    Args:
        by_label: `f1`, `precision` and `recall`, with the labels' names as the index; what is NaN is not drawn.
    """
    with _axes(5.5, 1.2 + 0.22 * len(by_label)) as (figure, axes):
        # The first label is at the top.
        places = np.arange(len(by_label))[::-1]
        axes.barh(places, by_label["f1"].fillna(0), color="0.8", edgecolor="black", label="F1")
        axes.plot(by_label["precision"], places, "o", color="black", markerfacecolor="white", label="precision")
        axes.plot(by_label["recall"], places, "D", color="black", markersize=4, label="recall")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(by_label) - 0.3), yticks=places, yticklabels=list(by_label.index))
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25 / (1.2 + 0.22 * len(by_label)) - 0.02), ncols=3)
        return figure


def trace_figure(
    traces: Mapping[str, pd.Series], ylabel: str, logarithmic: bool = False, xlabel: str = "step"
) -> Figure:
    """Values by step, or by what else `xlabel` says, each a line.

    Args:
        traces: By name, values with the steps as their index.
        ylabel: What they are.
        logarithmic: Whether their scale is, where all are above 0.
    """
    # Long names would leave the axes no room beside them: they stand below, and beside each other if they are short.
    columns = 2 if max(map(len, traces)) <= _NAME and len(traces) > 1 else 1
    with _axes(4.5, 3.0 + 0.17 * -(-len(traces) // columns)) as (figure, axes):
        for number, (name, values) in enumerate(traces.items()):
            values = values.iloc[:: -(-len(values) // _POINTS)]
            axes.plot(
                values.index,
                values,
                color=str(0.55 * number / len(traces)),
                linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markevery=max(1, len(values) // 8),
                markersize=4,
                label=name,
            )
        if logarithmic and all((values > 0).all() for values in traces.values()):
            axes.set_yscale("log")
            # Matplotlib's own formatters write mathematics, which is not read here.
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            if np.log10(np.divide(*axes.get_ylim()[::-1])) > 1:
                axes.yaxis.set_minor_formatter(NullFormatter())
            else:
                axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)
        return figure


def histogram_figure(shares: np.ndarray, xlabel: str, ylabel: str) -> Figure:
    """How values from 0 to 1 are spread, in 20 bars whose heights sum to 1."""
    with _axes() as (figure, axes):
        weights = np.full(len(shares), 1 / max(len(shares), 1))
        axes.hist(shares, bins=20, range=(0, 1), weights=weights, color="0.75", edgecolor="black")
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1))
        return figure


def interval_figure(table: pd.DataFrame, xlabel: str) -> Figure:
    """Values with their intervals, a line each, below its name.

    Args:
        table: `value`, `low` and `high`, with the lines' names as the index.
        xlabel: What the values are.
    """
    with _axes(4.5, 0.9 + 0.5 * len(table)) as (figure, axes):
        places = np.arange(len(table))[::-1]
        spread = [table["value"] - table["low"], table["high"] - table["value"]]
        axes.errorbar(table["value"], places, xerr=spread, fmt="o", color="black", capsize=3)
        axes.axvline(0, color="0.5", linestyle="--")
        for place, name in zip(places, table.index, strict=True):
            # Beside the axes, long names would leave them no room.
            where: Any = {"transform": axes.get_yaxis_transform(), "verticalalignment": "bottom"}
            axes.text(0.02, place + 0.25, name, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, **where)
        axes.set(xlabel=xlabel, ylim=(-0.5, len(table) - 0.2), yticks=[])
        return figure


def importance_figure(importances: Mapping[str, float]) -> Figure:
    """Shares of a score's variance by hyperparameter, the largest first."""
    names, shares = list(importances)[::-1], list(importances.values())[::-1]
    with _axes(5.5, 0.9 + 0.3 * len(names)) as (figure, axes):
        axes.barh(names, shares, color="0.75", edgecolor="black")
        axes.set(xlabel="importance (share of the variance, fANOVA)", xlim=(0, 1))
        return figure


def _points(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    # As an image within the SVG, which would hold an element for each of them.
    axes.scatter(x, y, s=8, color="black", alpha=0.25, linewidths=0, rasterized=True)
