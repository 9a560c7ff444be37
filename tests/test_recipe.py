import re
import sys
from pathlib import Path

import pytest

from hf_multitask.data.sources import FileSource, HubSource
from hf_multitask.recipe import Recipe, RecipeParser
from hf_multitask.training.proximal import ProximalArguments
from hf_multitask.training.smart import SmartArguments
from hf_multitask_cli.command_line import as_flags

ROOT = Path(__file__).parents[1]
# Not what recipes/sweep.py and recipes/tune.py read, which is tested with them, nor what recipes merely share.
RECIPES = [
    path
    for path in sorted(ROOT.glob("recipes/**/*.yaml"))
    if re.search(r"^(tasks|extends):", path.read_text(), re.MULTILINE)
]
BASE = """
backbone: some/encoder
learning_rate: 5e-5
tasks:
  sst:
    type: single_label_classification
    num_labels: 5
    files: {train: sst.csv, text: sentence}
  sts:
    type: pair_regression
    hub: {path: nyu-mll/glue, name: stsb, text: [sentence1, sentence2]}
    files: {train: sts.csv, text: [a, b]}
"""


@pytest.fixture
def parse(tmp_path: Path):
    """Parses a recipe with the given text and flags."""

    def run(text: str = BASE, *flags: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return RecipeParser("unused.yaml").parse_recipe(["--config", str(path), "--output_dir", str(tmp_path), *flags])

    return run


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_valid(path: Path, tmp_path: Path) -> None:
    recipe = RecipeParser("unused.yaml").parse_recipe(["--config", str(path), "--output_dir", str(tmp_path)])
    assert 1 <= len(recipe.tasks) <= 9


def test_a_recipe_is_read_into_arguments_tasks_and_sources(parse, tmp_path: Path) -> None:
    recipe = parse()
    assert recipe.model.backbone == "some/encoder"
    assert recipe.training.learning_rate == 5e-5
    assert list(recipe.tasks) == ["sst", "sts"]
    assert recipe.tasks["sst"].num_labels == 5
    assert recipe.sources["sst"].describe("train") == str(tmp_path / "sst.csv")


def test_a_recipe_may_extend_several_of_which_the_later_go_first(parse, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE)
    (tmp_path / "b.yaml").write_text("learning_rate: 2e-5\ntasks: {sst: {num_labels: 3}}\n")
    recipe = parse("extends: [a.yaml, b.yaml]\ntasks: {sst: {pooling: max}}\n")
    assert recipe.training.learning_rate == 2e-5
    assert (recipe.tasks["sst"].num_labels, recipe.tasks["sst"].pooling) == (3, "max")
    assert list(recipe.tasks) == ["sst", "sts"]


def test_nothing_of_the_data_is_quoted_in_what_is_pushed_unless_that_is_asked_for(parse) -> None:
    assert [parse().report.examples(is_pushed=pushed) for pushed in (False, True)] == [10, 0]
    asked = parse(BASE, "--report_examples", "3").report
    assert [asked.examples(is_pushed=pushed) for pushed in (False, True)] == [3, 3]
    with pytest.raises(ValueError, match="report_examples must be at least 0, not -1"):
        parse(BASE, "--report_examples", "-1")


def test_flags_go_over_the_file_in_both_spellings(parse) -> None:
    recipe = parse(
        BASE, "--learning_rate", "1e-3", "--per-device-train-batch-size=4", "--bf16", "--use_cpu", "--pooling", "max"
    )
    assert recipe.training.learning_rate == 1e-3
    assert recipe.training.per_device_train_batch_size == 4
    assert recipe.training.bf16
    assert recipe.model.pooling == "max"


def test_groups_are_read_from_files_and_flags(parse) -> None:
    recipe = parse(BASE + "smart: {weight: 1, epsilon: 1e-6}", "--smart.norm", "2", "--proximal.weight=0.5")
    assert recipe.training.smart == SmartArguments(weight=1.0, epsilon=1e-6, norm="2")
    assert recipe.training.proximal == ProximalArguments(weight=0.5)
    assert parse(BASE).training.smart is None
    assert parse(BASE, "--smart", "{}").training.smart == SmartArguments()


def test_flags_reach_into_tasks(parse) -> None:
    flags = ["--tasks.sst.pooling", "cls", "--tasks.sst.files.train=other.csv", "--tasks.sst.labels", "[a, b, c, d, e]"]
    recipe = parse(BASE, *flags)
    assert recipe.tasks["sst"].pooling == "cls"
    assert recipe.tasks["sst"].labels == ["a", "b", "c", "d", "e"]
    assert recipe.sources["sst"].train == "other.csv"


def test_nested_values_and_lists_are_kept(parse) -> None:
    recipe = parse(BASE + "lr_scheduler_kwargs: {num_decay_steps: 10}\nreport_to: [none]\n")
    assert recipe.training.lr_scheduler_kwargs == {"num_decay_steps": 10}


def test_files_are_taken_with_a_data_dir_and_the_hub_without(parse) -> None:
    assert isinstance(parse().sources["sts"], HubSource)
    source = parse(BASE, "--data_dir", "somewhere").sources["sts"]
    assert isinstance(source, FileSource)
    assert source.describe("train") == str(Path("somewhere") / "sts.csv")


def test_a_recipe_extends_another_and_changes_what_it_names(parse, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    recipe = parse("extends: base.yaml\nlearning_rate: 1.0e-4\ntasks: {sts: {score_range: [1, 3]}}\n")
    assert recipe.training.learning_rate == 1e-4
    assert recipe.tasks["sts"].score_range == [1.0, 3.0]
    assert recipe.tasks["sst"].num_labels == 5


def test_a_folder_beside_the_recipe_is_the_backbone(parse, tmp_path: Path) -> None:
    (tmp_path / "some" / "encoder").mkdir(parents=True)
    assert parse().model.backbone == str(tmp_path / "some" / "encoder")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (BASE + "learning_rat: 1\n", (), "unknown argument '--learning_rat'; did you mean '--learning_rate'"),
        (BASE, ("--learning_rat", "1"), "unknown argument '--learning_rat'; did you mean '--learning_rate'"),
        (BASE, ("--learning_rate", "fast"), "invalid float value: 'fast'"),
        (BASE + "bf16: perhaps\n", (), "recipe.yaml: argument --bf16"),
        (BASE, ("--pooling", "meen"), "invalid choice: 'meen'"),
        (BASE, ("--tasks.stss.pooling", "cls"), "task 'stss' is unknown; did you mean 'sts'"),
        (BASE, ("--tasks.sst", "cls"), "name a key of the task"),
        (BASE, ("--smrt.weight", "1"), "unknown argument '--smrt'; did you mean '--smart'"),
        (BASE, ("--smart.wight", "1"), "smart: unknown key 'wight'; did you mean 'weight'"),
        (BASE + "smart: {epsilon: tiny}", (), "smart: epsilon must be a number, not 'tiny'"),
        (BASE + "smart: 1", (), "smart must be a mapping"),
        (BASE, ("--tasks.sst.pooling",), "--tasks.sst.pooling needs a value"),
        (BASE, ("--tasks.sst.type.x", "1"), "a value where keys would have to be"),
        (BASE, ("--tasks.sst.pooling", "meen"), "task 'sst': pooling 'meen' is unknown; did you mean 'mean'"),
        (BASE, ("--tasks.sst.poolin", "cls"), "task 'sst': unknown key 'poolin'; did you mean 'pooling'"),
        (BASE, ("--tasks.sst.files.txt", "x"), "task 'sst': files: unknown key 'txt'; did you mean 'text'"),
        (BASE, ("--tasks.sst.files", "null"), "task 'sst': names no data; give files or hub"),
        ("tasks: {}\nbackbone: x\n", (), "tasks is missing"),
        ("tasks: [a]\nbackbone: x\n", (), "tasks must be a mapping by name"),
        ("tasks: {a: b}\nbackbone: x\n", (), "task 'a': must be a mapping"),
        ("tasks: {a: {type: pair_regression}}\n", (), "backbone is missing"),
        ("backbone: x\nbackbone: y\n", (), "key 'backbone' is there twice"),
        ("tasks:\n  a: {}\n  a: {}\n", (), "key 'a' is there twice"),
        ("backbone: [\n", (), "is not valid YAML"),
        ("- a\n", (), "must be a mapping"),
        ("!!python/object/apply:os.getcwd []\n", (), "is not valid YAML"),
        ("extends: none.yaml\n", (), "none.yaml is not there"),
        (BASE + "label_smoothing_factor: 0.1\n", (), "label_smoothing_factor must be 0"),
    ],
)
def test_mistakes_are_refused_by_a_sentence(parse, text: str, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text, *flags)


def test_a_missing_recipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no.yaml", "is not there"), (tmp_path, "is a folder, not a file")):
        with pytest.raises(ValueError, match=message):
            RecipeParser("unused.yaml").parse_recipe(["--config", str(path)])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("flags", [[], ["--data_dir", "somewhere"]], ids=["hub", "files"])
def test_every_recipe_of_the_repository_parses(path: Path, flags: list[str], tmp_path: Path) -> None:
    recipe = RecipeParser(path).parse_recipe(["--output_dir", str(tmp_path), *flags])
    assert 1 <= len(recipe.tasks) <= 9


def test_a_task_of_an_extended_recipe_is_left_out_by_null(parse, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    assert list(parse("extends: base.yaml\ntasks: {sts: null}\n").tasks) == ["sst"]
    assert list(parse("extends: base.yaml\ntasks: {sts: ~, sst: {weight: 2}}\n").tasks) == ["sst"]
    with pytest.raises(ValueError, match="tasks is missing"):
        parse("extends: base.yaml\ntasks: {sst: null, sts: null}\n")
    with pytest.raises(ValueError, match="task 'u': must be a mapping"):
        parse("extends: base.yaml\ntasks: {u: null}\n")


def test_paths_may_begin_at_home(parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = str(tmp_path / "home")
    recipe = parse(BASE.replace("sst.csv", "~/sst.csv").replace("some/encoder", "~/encoder"), "--output_dir", "~/out")
    assert recipe.model.backbone == f"{home}/encoder"
    assert recipe.training.output_dir == f"{home}/out"
    assert recipe.sources["sst"].describe("train") == f"{home}/sst.csv"
    assert parse(BASE, "--data_dir", "~/data").sources["sst"].describe("train") == f"{home}/data/sst.csv"
    own = parse(BASE.replace("sst.csv", "sst.csv, data_dir: ~/data"))
    assert own.sources["sst"].describe("train") == f"{home}/data/sst.csv"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "own.yaml").write_text(BASE)
    there = RecipeParser("unused.yaml").parse_recipe(["--config", "~/own.yaml", "--use_cpu"])
    assert there.sources["sst"].describe("train") == f"{home}/sst.csv"


def test_there_may_be_several_reporters(parse) -> None:
    for text, flags in (("report_to: [wandb, mlflow]\n", ()), ("", ("--report_to", "wandb", "mlflow"))):
        assert parse(BASE + text, *flags).training.report_to == ["wandb", "mlflow"]
    for word in ("none", "[none]", "[]"):
        assert parse(BASE + f"report_to: {word}\n").training.report_to == []


@pytest.mark.parametrize("line", ["seed: [1, 2]", "weight_decay: [1e-5, 2e-5]", "pooling: [cls, mean]"])
def test_a_list_where_one_value_is_meant_is_said_to_be_one(parse, line: str) -> None:
    with pytest.raises(ValueError, match=rf"{line.partition(':')[0]} takes one value, not \[.*sweep.py"):
        parse(BASE + line + "\n")


def test_what_is_known_is_said_once(parse) -> None:
    with pytest.raises(ValueError, match=r"unknown argument '--lr'; known: (?!.*(--help|--from-scratch))"):
        parse(BASE + "lr: 1.0\n")
    with pytest.raises(ValueError, match="unknown argument '--class_weights'; known: "):
        parse(BASE + "class_weights: [1.0, 2.0]\n")


@pytest.mark.parametrize("word", ["true", "yes", "on", "True", "'yes'", "On"])
def test_words_for_true_are_true_where_a_boolean_is_wanted(parse, word: str) -> None:
    text = BASE.replace("some/encoder", f"some/encoder\nfreeze_backbone: {word}\nproximal: {{use_average: {word}}}")
    recipe = parse(text.replace("sst.csv", f"sst.csv, streaming: {word}"))
    assert recipe.model.freeze_backbone is True
    assert recipe.training.proximal.use_average is True
    assert recipe.sources["sst"].streaming is True


def test_and_words_everywhere_else(parse) -> None:
    text = BASE + "eval_strategy: no\nsave_strategy: no\nlanguage: no\npacking: off\nresume_from_checkpoint: no\n"
    recipe = parse(text.replace("num_labels: 5", "labels: [no, yes, on, off]"))
    assert recipe.card.language == ["no"]
    assert str(recipe.training.eval_strategy) == str(recipe.training.save_strategy) == "IntervalStrategy.NO" or (
        recipe.training.eval_strategy == recipe.training.save_strategy == "no"
    )
    assert recipe.training.packing == "off"
    assert recipe.training.resume_from_checkpoint is None
    assert recipe.tasks["sst"].labels == ["no", "yes", "on", "off"]


@pytest.mark.parametrize("word", ["false", "no", "off", "False"])
def test_not_to_resume_can_be_said(parse, word: str) -> None:
    assert parse(BASE + f"resume_from_checkpoint: {word}\n").training.resume_from_checkpoint is None
    assert parse(BASE, "--resume_from_checkpoint", word).training.resume_from_checkpoint is None


def test_numbers_need_no_dot_anywhere(parse) -> None:
    task = parse(BASE.replace("num_labels: 5", "num_labels: 5\n    weight: 1e-1\n    dropout: 1e-5")).tasks["sst"]
    assert (task.weight, task.dropout) == (0.1, 1e-5)
    assert parse(BASE, "--tasks.sst.weight", "2e3").tasks["sst"].weight == 2000


def test_an_empty_list_is_said_as_such(parse) -> None:
    assert parse(BASE + "report_to: []\nlanguage: []\n").training.report_to == []
    flags = as_flags({"report_to": [], "language": []})
    assert parse(BASE + "report_to: wandb\nlanguage: en\n", *flags, "--seed", "3").training.report_to == []
    assert parse(BASE + "report_to: wandb\nlanguage: en\n", *flags).card.language == []
    with pytest.raises(ValueError, match="unknown"):
        parse(BASE + "tags: []\n")


@pytest.mark.parametrize("key", ["max_length", "max_eval_rows"])
@pytest.mark.parametrize("value", ["0", "-3"])
def test_a_number_of_rows_or_tokens_is_at_least_one(parse, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key} must be at least 1, not {value}"):
        parse(BASE, f"--{key}", value)
    assert getattr(parse(BASE, f"--{key}", "1").data, key) == 1


@pytest.mark.parametrize(("key", "value"), [("run_name", "1e5"), ("hub_revision", "1.10"), ("hub_model_id", "2.0")])
def test_a_text_that_looks_like_a_fraction_needs_quotes(parse, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} is text, and is read as the number \S+: put it in quotes"):
        parse(f"{BASE}{key}: {value}\n")
    assert getattr(parse(f"{BASE}{key}: '{value}'\n").training, key) == value


@pytest.mark.parametrize("key", ["logging_steps", "run_name", "bf16", "smart"])
def test_an_empty_list_is_no_value_where_one_is_wanted(parse, key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} takes one value, not \[\]"):
        parse(f"{BASE}{key}: []\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks.sst.metrics", "[f1_macor]"], "task 'sst': metric 'f1_macor' is unknown; did you mean 'f1_macro'"),
        (["--tasks.sts.metrics", "[mcc]"], "task 'sts': metric 'mcc' is one of single_label_classification, not of"),
        (["--tasks.sts.counts", "mae"], "task 'sts': counts 'mae' cannot enter the final score"),
        (["--tasks.sst.metrics", "[nowhere:cost]"], "task 'sst': nowhere:cost: there is no module 'nowhere' beside"),
        (
            ["--tasks.sst.metrics", "mcc"],
            r"task 'sst': metrics 'mcc' must be a list of names, such as \[accuracy, mcc\]",
        ),
    ],
)
def test_metrics_that_are_none_are_refused_with_the_recipe(parse, flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(BASE, *flags)


def test_a_function_of_ones_own_is_found_beside_the_recipe_or_in_its_modules_dir(
    parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    for folder, name in ((tmp_path, "beside_it"), (tmp_path / "code", "further_away")):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text("def cost(predictions, references):\n    return 1.0\n")
    recipe = parse(BASE, "--tasks.sst.metrics", "[beside_it:cost, mcc]", "--tasks.sst.counts", "mcc")
    assert recipe.tasks["sst"].metrics == ["beside_it:cost", "mcc"]
    assert recipe.report.modules_dir == str(tmp_path)
    assert parse().report.modules_dir is None
    recipe = parse(BASE, "--tasks.sst.metrics", "[further_away:cost]", "--modules_dir", "code")
    assert recipe.report.modules_dir == str(tmp_path / "code")
