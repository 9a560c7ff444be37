"""What a task's predictions say beyond their score: confusions, calibration, errors by score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import linregress
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

# Of a calibration curve, as in Guo et al. 2017 with fewer: a thousand rows do not fill fifteen.
_BINS = 10
# Of a regression's score range: one to a point of the paper's 0 to 5.
_BANDS = 5


@dataclass(frozen=True)
class ClassificationAnalysis:
    """How a classifier errs (paper section 6.1 and Table 7).

    Args:
        confusion: Rows by label and prediction, [C, C].
        by_class: `precision`, `recall`, `f1` and `rows` of each class, and their unweighted means, `macro`, over the
            classes that have them: what is divided by 0 rows is NaN.
        adjacent_errors: Share of the errors that are off by one class, where the classes are in an order; NaN without
            errors.
        calibration: Of the bins of confidence that have rows: mean `confidence`, `accuracy`, and `rows`.
        calibration_error: The expected calibration error: the mean distance of the two over rows (Guo et al. 2017).
    """

    confusion: np.ndarray
    by_class: pd.DataFrame
    adjacent_errors: float
    calibration: pd.DataFrame
    calibration_error: float


@dataclass(frozen=True)
class EntityAnalysis:
    """How a finder of entities errs.

    Args:
        confusion: Entities by type and predicted type, [K + 1, K + 1], of those with the same borders; in the last row
            and column, those that only the predictions have, and only the labels.
        by_class: As of [`ClassificationAnalysis`], by type; `rows` are entities.
    """

    confusion: np.ndarray
    by_class: pd.DataFrame


@dataclass(frozen=True)
class RegressionAnalysis:
    """How a regression errs (paper section 6.3).

    Args:
        slope, intercept: Of the least-squares line from label to prediction; NaN where the labels are constant.
        by_band: In equal bands of the label's range that have rows: `rows`, the `mean_error` (prediction less label)
            and the `mean_absolute_error`.
    """

    slope: float
    intercept: float
    by_band: pd.DataFrame


def analyse_classification(
    names: Sequence[str], probabilities: np.ndarray, labels: np.ndarray
) -> ClassificationAnalysis:
    """Analyses a classifier.

    Args:
        names: Of the classes.
        probabilities: [B, C].
        labels: Class ids, [B].
    """
    predicted, ids = probabilities.argmax(axis=-1), range(len(names))
    confusion = confusion_matrix(labels, predicted, labels=ids)
    precision, recall, f1, rows = precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=np.nan)
    by_class = pd.DataFrame({"precision": precision, "recall": recall, "f1": f1, "rows": rows}, index=list(names))
    by_class.loc["macro"] = [*by_class[["precision", "recall", "f1"]].mean(skipna=True), rows.sum()]
    distances = np.abs(predicted - labels)
    errors = distances[distances > 0]
    calibration = calibration_curve(probabilities.max(axis=-1), predicted == labels)
    gaps = (calibration["confidence"] - calibration["accuracy"]).abs()
    return ClassificationAnalysis(
        confusion=confusion,
        by_class=by_class.astype({"rows": int}),
        adjacent_errors=float((errors == 1).mean()) if len(errors) else np.nan,
        calibration=calibration,
        calibration_error=float(np.average(gaps, weights=calibration["rows"])),
    )


def analyse_labels(names: Sequence[str], predicted: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """`precision`, `recall`, `f1` and `rows` of each label of rows that have several; what is divided by 0 is NaN.

    Args:
        names: Of the labels.
        predicted, labels: 1 where a row has the label, and else 0, [B, C].
    """
    precision, recall, f1, rows = precision_recall_fscore_support(labels, predicted, zero_division=np.nan)
    return pd.DataFrame({"precision": precision, "recall": recall, "f1": f1, "rows": rows}, index=list(names))


def analyse_entities(
    types: Sequence[str],
    true: Sequence[set[tuple[str, int, int]]],
    said: Sequence[set[tuple[str, int, int]]],
) -> EntityAnalysis:
    """Analyses a finder of entities, each a type and two borders.

    Args:
        types: Of entities.
        true, said: By row, the entities that are there, and those that are predicted.
    """
    numbers = {kind: number for number, kind in enumerate(types)}
    confusion = np.zeros((len(types) + 1, len(types) + 1), dtype=np.int64)
    for there, found in zip(true, said, strict=True):
        # No two entities of a row have the same borders.
        sides = [{(first, end): numbers[kind] for kind, first, end in side} for side in (there, found)]
        for borders in {**sides[0], **sides[1]}:
            confusion[sides[0].get(borders, -1), sides[1].get(borders, -1)] += 1
    right, rows, columns = confusion.diagonal()[:-1], confusion.sum(1)[:-1], confusion.sum(0)[:-1]
    with np.errstate(invalid="ignore"):
        shares = {"precision": right / columns, "recall": right / rows, "f1": 2 * right / (rows + columns)}
    by_class = pd.DataFrame({**shares, "rows": rows}, index=list(types))
    by_class.loc["macro"] = [*by_class[list(shares)].mean(skipna=True), rows.sum()]
    return EntityAnalysis(confusion, by_class.astype({"rows": int}))


def calibration_curve(confidence: np.ndarray, is_right: np.ndarray) -> pd.DataFrame:
    """How often predictions are right that are as sure, in ten equal bins from 0 to 1.

    Args:
        confidence: The probability of the predicted class, [B].
        is_right: Whether it is the label, [B].
    """
    rows = pd.DataFrame({"confidence": confidence, "accuracy": is_right.astype(float)})
    bins = rows.groupby(np.minimum((confidence * _BINS).astype(int), _BINS - 1))
    return bins.mean().assign(rows=bins.size()).reset_index(drop=True)


def analyse_regression(bounds: Sequence[float], predicted: np.ndarray, labels: np.ndarray) -> RegressionAnalysis:
    """Analyses a regression.

    Args:
        bounds: The lowest and the highest score.
        predicted, labels: Scores, [B].
    """
    low, high = bounds
    slope = intercept = np.nan
    if np.ptp(labels) > 0:
        line = linregress(labels, predicted)
        slope, intercept = float(line.slope), float(line.intercept)
    edges = np.linspace(low, high, _BANDS + 1)
    band = np.clip(np.searchsorted(edges, labels, side="right") - 1, 0, _BANDS - 1)
    error = pd.DataFrame({"mean_error": predicted - labels, "mean_absolute_error": np.abs(predicted - labels)})
    bands = error.groupby(band)
    by_band = bands.mean()
    by_band.insert(0, "rows", bands.size())
    by_band.index = pd.Index([f"{edges[i]:g} to {edges[i + 1]:g}" for i in by_band.index], name="label")
    return RegressionAnalysis(slope, intercept, by_band)
