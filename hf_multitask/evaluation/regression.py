"""How scores are scored and reported (paper sections 5.2 and 6.3)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_multitask.evaluation.metrics import PEARSON, RMSE
from hf_multitask.evaluation.score_metrics import SCORE_METRICS
from hf_multitask.evaluation.task_evaluation import TaskEvaluation, TaskPredictions, register_evaluation
from hf_multitask.model.regression import Regression

if TYPE_CHECKING:
    from hf_multitask.evaluation.blocks import Block


@register_evaluation("regression")
class RegressionEvaluation(TaskEvaluation):
    """Pearson's r, the root mean squared error and their like, against those of the training set's mean score."""

    task: Regression
    metrics = {"pearson": PEARSON, "rmse": RMSE}
    more_metrics = SCORE_METRICS
    counts = "pearson"
    trivial_name = "mean score"
    is_probed = True

    @property
    def hub_task(self) -> str:  # type: ignore[override]
        """Of two texts, it is their similarity."""
        return "sentence-similarity" if self.task.texts == 2 else "text-classification"

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Scores, [B] float64."""
        return np.asarray(outputs, dtype=np.float64)

    def constant(self, train_labels: Any) -> float:
        return float(np.mean(train_labels))

    def errors(self, rows: TaskPredictions) -> np.ndarray:
        """How far a score is from its label."""
        return np.abs(rows.predicted - rows.labels)

    def error_cells(self, rows: TaskPredictions, row: int) -> list[str]:
        return [f"{rows.labels[row]:.2f}", f"{rows.predicted[row]:.2f}"]

    def symptom(self, rows: TaskPredictions) -> str:
        return f"all {len(rows.predicted):,} predictions are the same" if np.ptp(rows.predicted) == 0 else ""

    def report(self, name: str, rows: TaskPredictions) -> Iterator["Block"]:
        # Here, since the libraries that draw take a second to import.
        from hf_multitask.evaluation import figures
        from hf_multitask.evaluation.analysis import analyse_regression
        from hf_multitask.evaluation.blocks import Block
        from hf_multitask.evaluation.summary import number

        bounds = self.task.score_range or [float(np.min(rows.labels)), float(np.max(rows.labels))]
        analysis = analyse_regression(bounds, rows.predicted, rows.labels)
        yield Block(
            "table",
            header=["label", "rows", "mean error", "mean absolute error"],
            rows=[
                [str(band), str(int(row["rows"])), f"{row['mean_error']:+.3f}", number(row["mean_absolute_error"])]
                for band, row in analysis.by_band.iterrows()
            ],
        )
        scatter = figures.scatter_figure(rows.predicted, rows.labels, analysis, bounds)
        yield Block("figure", f"{name}: predictions by label.", name=f"{name}-scatter", figure=scatter)
        if np.isfinite(analysis.slope):
            residuals = figures.residual_figure(rows.predicted, rows.labels, analysis)
            caption = f"{name}: what the regression line leaves."
            yield Block("figure", caption, name=f"{name}-residuals", figure=residuals)
        yield Block("figure", f"{name}: error by label.", name=f"{name}-bands", figure=figures.band_figure(analysis))

    def probed(self, outputs: np.ndarray) -> np.ndarray:
        """The score."""
        return self.predicted(outputs)
