"""What figures show of names and of few rows."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hf_multitask.evaluation import figures
from hf_multitask.evaluation.analysis import analyse_classification
from hf_multitask.evaluation.figures import (
    axis_names,
    calibration_figure,
    confusion_figure,
    encoded,
    interval_figure,
    label_figure,
    trace_figure,
)
from hf_multitask.model.configuration_mtbert import TaskConfig

LONG = "a label whose name is a whole sentence of many words, number "


def confusion(labels: list[str]) -> Any:
    task = TaskConfig("single_label_classification", labels=labels)
    return confusion_figure(
        analyse_classification(task.label_names, np.eye(len(labels)), np.arange(len(labels))), labels
    )


@pytest.mark.parametrize("labels", [["好", "坏"], ["<b>", "a|b"], [f"{LONG}{n}" for n in range(3)], ["𓀀", "\ue000"]])
def test_no_label_is_drawn_as_an_empty_box_or_leaves_the_axes_no_room(labels: list[str]) -> None:
    figure = confusion(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(figure, "png")
    width, height = figure.axes[0].get_position().size * figure.get_size_inches()
    assert min(width, height) > 0.5 * min(figure.get_size_inches())


def test_names_are_numbered_where_they_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert axis_names(["bad", "a  <b>"]) == (["bad", "a <b>"], [])
    shown, legend = axis_names([f"{LONG}{n}" for n in range(3)])
    assert (shown[1], legend) == ("a label whos…s, number 1", [])
    alike = [f"{'x' * 20}{n}{'y' * 20}" for n in range(2)]
    assert axis_names(alike) == (["1", "2"], [f"Labels: 1 is {alike[0]}, 2 is {alike[1]}."])
    monkeypatch.setattr(figures, "_signs", lambda: [set(map(ord, "abc"))])
    assert axis_names(["好", "a b"]) == (["1", "2"], ["Labels: 1 is 好, 2 is a b."])


def test_the_calibration_plot_cuts_no_point_and_joins_none_of_a_few_rows() -> None:
    confidence = np.repeat([0.55, 0.65, 0.85, 1.0], [3, 20, 9, 500])
    analysis = analyse_classification(["a", "b"], np.stack([confidence, 1 - confidence], 1), np.zeros(532, dtype=int))
    axes = calibration_figure(analysis).axes[0]
    assert axes.lines[1].get_xdata().tolist() == pytest.approx([0.65, 1.0])
    # The legend's line has a point, which is all that there is of a model with one such bin.
    assert axes.lines[1].get_marker() == "o"
    (points,) = axes.collections
    assert not points.get_clip_on()
    assert points.get_facecolors()[:, 0].tolist() == [1, 0, 1, 0]


def test_very_many_labels_are_numbered_as_the_table_lists_them() -> None:
    labels = [f"class {number:02d}" for number in range(30)]
    assert axis_names(labels[:20]) == (labels[:20], [])
    shown, legend = axis_names(labels)
    assert (shown[0], shown[-1], legend) == ("1", "30", ["Labels are numbered from 1, in the order of the table."])
    figure = confusion(labels)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "1"
    assert max(confusion([f"class {number}" for number in range(300)]).get_size_inches()) < 10


def drawn_size(figure: Any) -> Any:
    """The share of the figure's width that its axes have, as drawn."""
    encoded(figure, "png")
    return figure.axes[0].get_position().width


def test_the_bar_of_shades_is_as_high_as_the_matrix() -> None:
    figure = confusion([f"a rather long name, {number}" for number in range(12)])
    encoded(figure, "png")
    (bar,) = figure.axes[0].child_axes
    assert bar.get_window_extent().height == pytest.approx(figure.axes[0].get_window_extent().height, rel=0.01)


def test_long_names_leave_curves_and_intervals_their_room() -> None:
    curve = pd.Series([1.0, 0.5], index=[1, 2])
    assert drawn_size(trace_figure({f"a_task_with_a_rather_long_name, {n}": curve for n in range(4)}, "loss")) > 0.75
    names = [f"names of one group of people less names of another, {n}" for n in range(3)]
    table = pd.DataFrame({"value": 0.1, "low": 0.0, "high": 0.2}, index=names)
    figure = interval_figure(table, "difference")
    assert drawn_size(figure) > 0.85
    assert [text.get_text() for text in figure.axes[0].texts] == names


@pytest.mark.parametrize("values", [[0.1, 0.2], [1e-4, 3.0], [1e-9, 2e-9]])
def test_the_ticks_of_a_logarithmic_scale_are_numbers(values: list[float]) -> None:
    figure = trace_figure({"a": pd.Series(values, index=[1, 2])}, "divergence", logarithmic=True)
    drawing = encoded(figure, "svg").decode()
    assert "mathdefault" not in drawing
    ticks = figure.axes[0].get_yticklabels() + figure.axes[0].get_yticklabels(minor=True)
    low, high = figure.axes[0].get_ylim()
    shown = [
        float(tick.get_text().replace("−", "-"))
        for tick in ticks
        if tick.get_text() and low <= tick.get_position()[1] <= high
    ]
    assert len(shown) >= 2


@pytest.mark.parametrize("count", [2, 40])
def test_the_bars_of_labels_keep_their_names_and_differ_by_more_than_colour(count: int) -> None:
    names = [f"label {number}" for number in range(count)]
    assert axis_names(names, most=count) == (names, [])
    f1 = np.linspace(0, 1, count)
    table = pd.DataFrame({"f1": f1, "precision": f1, "recall": 1 - f1}, index=names)
    # Of a label that no row has there is nothing to draw.
    table.loc[names[0], ["f1", "precision"]] = np.nan
    figure = label_figure(table)
    encoded(figure, "png")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert axes.patches[1].get_y() < axes.patches[0].get_y()
    assert [bar.get_width() for bar in axes.patches] == [0, *f1[1:]]
    assert len({line.get_marker() for line in axes.lines}) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["precision", "recall", "F1"]
