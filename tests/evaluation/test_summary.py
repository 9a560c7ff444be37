import math

from hf_multitask import TaskConfig
from hf_multitask.evaluation.summary import Markdown, comparison_table, markdown_table, results_table
from hf_multitask.evaluation.uncertainty import Comparison, Interval


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


def test_intervals_have_a_column_and_what_is_not_known_is_said() -> None:
    tasks = {"sst": TaskConfig("single_label_classification", num_labels=5), "sts": TaskConfig("pair_regression")}
    metrics = {"eval_sst_accuracy": 0.5, "eval_sts_pearson": math.nan, "eval_final_score": math.nan}
    nothing = Interval(math.nan, math.nan, math.nan)
    intervals = {"sst_accuracy": Interval(0.5, 0.4, 0.61), "sts_pearson": nothing, "final_score": nothing}
    lines = results_table(tasks, metrics, {"sst": {"accuracy": 0.25}}, intervals).splitlines()
    assert lines[2:] == [
        "| sst | accuracy | 0.500 | 0.400 to 0.610 | 0.250 (majority class) |",
        "| sts | pearson | undefined | undefined | not measured |",
        "| all | final score | undefined | undefined | |",
    ]
    assert {line.count("|") for line in lines} == {6}


def test_a_comparison_shows_both_scores_and_what_tells_them_apart() -> None:
    first = {"eval_sst_accuracy": 0.5, "eval_sts_pearson": 0.8}
    second = {"eval_sst_accuracy": 0.55, "eval_sts_pearson": 0.7}
    comparisons = {
        "sst": {"accuracy": Comparison(Interval(0.05, -0.01, 0.11), 0.04)},
        "sts": {"pearson": Comparison(Interval(-0.1, -0.2, -0.05), 0.001)},
    }
    lines = comparison_table(first, second, comparisons).splitlines()
    assert lines[2:] == [
        "| sst | accuracy | 0.500 | 0.550 | +0.050 | -0.010 to +0.110 | 0.040 | 0.040 |",
        "| sts | pearson | 0.800 | 0.700 | -0.100 | -0.200 to -0.050 | 0.001 | 0.002 |",
    ]


def test_no_cell_of_a_markdown_table_breaks_it_or_is_read_as_html() -> None:
    cells = ["a|b", "<b>bold</b>", "好 & bad", "two\nlines", "`code`", "back\\slash", "&lt;", "\\|"]
    (*_, line) = markdown_table(["name|", *cells[1:]], [cells], len(cells)).splitlines()
    shown = [r"a\|b", "&lt;b>bold&lt;/b>", "好 & bad", "two lines", r"\`code\`", r"back\\slash", "&amp;lt;", r"\\\|"]
    assert line == f"| {' | '.join(shown)} |"
    # Emphasis, links and what is struck out; an underscore within a name stays, for those who read the text as it is.
    cells = ["*star*", "[c](d)", "_x_ a_b _", "__d__", "~~no~~", Markdown("**1**")]
    (*_, line) = markdown_table(cells, [cells], 1).splitlines()
    assert line == r"| \*star\* | \[c\](d) | \_x\_ a_b \_ | \_\_d\_\_ | \~\~no\~\~ | **1** |"
    assert markdown_table(["name|"], [], 1).splitlines()[0] == r"| name\| |"
