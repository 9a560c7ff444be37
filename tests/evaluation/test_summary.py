import math

from hf_multitask import TaskConfig
from hf_multitask.evaluation.summary import results_table


def test_every_task_stands_beside_its_trivial_predictor() -> None:
    tasks = {"sst": TaskConfig("single_label_classification", num_labels=5), "sts": TaskConfig("pair_regression")}
    metrics = {"eval_sst_accuracy": 0.5, "eval_sts_pearson": 0.8, "eval_sts_rmse": 1.0, "eval_final_score": 0.7}
    trivial = {"sst": {"accuracy": 0.25}, "sts": {"pearson": math.nan, "rmse": 1.5}}
    lines = results_table(tasks, metrics, trivial).splitlines()
    assert lines[2:] == [
        "| sst | accuracy | 0.500 | 0.250 (majority class) |",
        "| sts | pearson | 0.800 | undefined |",
        "| sts | rmse | 1.000 | 1.500 (mean score) |",
        "| all | final score | 0.700 | |",
    ]
