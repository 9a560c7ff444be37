"""What figures show of names and of few rows."""

import warnings
from typing import Any

import numpy as np
import pytest

from hf_multitask.evaluation import figures
from hf_multitask.evaluation.analysis import analyse_classification
from hf_multitask.evaluation.figures import axis_names, calibration_figure, confusion_figure, encoded
from hf_multitask.model.configuration_mtbert import TaskConfig

LONG = "a label whose name is a whole sentence of many words, number "


def confusion(labels: list[str]) -> Any:
    task = TaskConfig("single_label_classification", labels=labels)
    return confusion_figure(analyse_classification(task, np.eye(len(labels)), np.arange(len(labels))), labels)


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
    task = TaskConfig("single_label_classification", labels=["a", "b"])
    confidence = np.repeat([0.55, 0.65, 0.85, 1.0], [3, 20, 9, 500])
    analysis = analyse_classification(task, np.stack([confidence, 1 - confidence], 1), np.zeros(532, dtype=int))
    axes = calibration_figure(analysis).axes[0]
    assert axes.lines[1].get_xdata().tolist() == pytest.approx([0.65, 1.0])
    (points,) = axes.collections
    assert not points.get_clip_on()
    assert points.get_facecolors()[:, 0].tolist() == [1, 0, 1, 0]
