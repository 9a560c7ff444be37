"""Searches for the hyperparameters of a recipe that give the best score, with Optuna.

    pip install -e ".[tune]"
    python recipes/tune.py recipes/tuning/smart.yaml --output_dir OUT --data_dir DIR --backbone MINILM

The file has the recipe, what every trial changes in it, and what is searched:

    recipe: ../paper/full_finetuning.yaml
    trials: 20
    metric: eval_final_score
    every_trial: {max_steps: 200, eval_strategy: steps, eval_steps: 50, save_strategy: "no"}
    space:
      smart.weight: {low: 0.01, high: 10.0, log: true}
      largest_task_epochs: {low: 1, high: 3}
      schedule: [round_robin, temperature]

Two whole numbers make a range of whole numbers. Flags that are not this script's own go to every trial. A trial whose
evaluations are worse than the median of the earlier ones at the same step is pruned. The study is kept in
`OUT/study.db`: a search that was interrupted goes on, and runs the trial that it was in again (one process at a time).
OUT gets `best.txt`, the flags of the best trial (`xargs python recipes/train.py < OUT/best.txt` trains it),
`trials.csv`, and `importance.png` and `.svg`.
"""

import argparse
import json
import logging
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_multitask_cli.command_line import (
    as_flags,
    check_installed,
    end_quietly_when_interrupted,
    from_one_on,
    raise_when_interrupted,
    refusals,
    writable_folder,
)
from hf_multitask_cli.recipe_yaml import load_yaml

COMMAND_LINE = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
)
COMMAND_LINE.add_argument("search", type=Path, help="The search's YAML file.")
COMMAND_LINE.add_argument("--output_dir", help="Where the study is kept; by default, outputs/<the file's name>.")
COMMAND_LINE.add_argument("--trials", type=from_one_on, help="How many; by default what the file says.")
COMMAND_LINE.add_argument("--sampler_seed", type=int, default=0, help="Of the search; a trial's own is the recipe's.")

if __name__ == "__main__":
    # Before the imports that take seconds.
    end_quietly_when_interrupted()
    with refusals():
        load_yaml(COMMAND_LINE.parse_known_args()[0].search)
        check_installed("optuna", "tune")

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from transformers import TrainerCallback

from hf_multitask.building import build_trainer
from hf_multitask.evaluation.task_evaluations import is_greater_better
from hf_multitask.model.messages import refuse_unknown_keys
from hf_multitask.recipe import RecipeParser

KEYS = ["recipe", "trials", "metric", "every_trial", "space"]
RANGE = ["low", "high", "log", "step"]
# Of a trial: which one it runs again that an interruption ended; and why it failed, if not by an interruption.
AGAIN, ERROR = "again", "error"
# Of a study: what all its trials share.
SETTINGS = "settings"


@dataclass
class Search:
    """What a search's file says.

    Args:
        recipe: The recipe's file.
        trials: How many, pruned and failed ones included.
        metric: The evaluation's value to make as good as may be: as great, or as little where that is better.
        every_trial: Keys of the recipe that every trial changes.
        space: By key, a range (`low`, `high`, `log`, `step`) or a list of choices.
    """

    recipe: Path
    trials: int
    metric: str
    every_trial: dict[str, Any]
    space: dict[str, Any]


def read_search(path: Path) -> Search:
    """Reads a search's file.

    Raises:
        ValueError: A key that is unknown or missing, or a value of the wrong kind.
    """
    values = load_yaml(path)
    try:
        refuse_unknown_keys(values, KEYS)
        space, every_trial, trials = values.get("space"), values.get("every_trial") or {}, values.get("trials", 20)
        if not isinstance(space, dict) or not space:
            raise ValueError("space must be a mapping of the recipe's keys to ranges or lists of choices.")
        if not isinstance(every_trial, dict):
            raise ValueError(f"every_trial must be a mapping of the keys that all trials change, not {every_trial!r}.")
        if not isinstance(trials, int) or trials < 1:
            raise ValueError(f"trials must be a number from 1 on, not {trials!r}.")
        for key, options in space.items():
            _check_options(key, options)
        if "recipe" not in values:
            raise ValueError("recipe is missing: the recipe's file.")
        recipe = (path.parent / Path(str(values["recipe"])).expanduser()).resolve()
        load_yaml(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Search(recipe, trials, str(values.get("metric", "eval_final_score")), every_trial, space)


def _check_options(key: str, options: Any) -> None:
    if isinstance(options, list) and options:
        return
    if not isinstance(options, dict):
        raise ValueError(f"space: {key} must be a list of choices or a range with low and high, not {options!r}.")
    refuse_unknown_keys(options, RANGE)
    low: Any = options.get("low")
    high: Any = options.get("high")
    is_range = isinstance(low, int | float) and isinstance(high, int | float) and low < high
    if not is_range or (options.get("log") and not low > 0):
        raise ValueError(f"space: {key} needs low and high, two numbers, the lower first, above 0 if log is set.")


def _first(space: dict[str, Any]) -> dict[str, Any]:
    """The first choice and the lowest value of each key."""
    return {key: options[0] if isinstance(options, list) else options["low"] for key, options in space.items()}


def suggest(trial: optuna.trial.BaseTrial, space: dict[str, Any]) -> dict[str, Any]:
    """A trial's values of the space's keys."""
    values: dict[str, Any] = {}
    for key, options in space.items():
        if isinstance(options, list):
            values[key] = trial.suggest_categorical(key, options)
        elif isinstance(options["low"], int) and isinstance(options["high"], int):
            values[key] = trial.suggest_int(key, **options)
        else:
            values[key] = trial.suggest_float(key, **options)
    return values


class Pruning(TrainerCallback):
    """Reports a run's evaluations to its trial, and ends it where the trial is to be pruned."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if self.metric not in metrics:
            raise ValueError(f"metric {self.metric!r} is not evaluated; there are {', '.join(sorted(metrics))}.")
        self.trial.report(metrics[self.metric], state.global_step)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def train(trial: optuna.Trial, search: Search, output_dir: Path, flags: list[str]) -> float:
    """Trains one trial and gives its score."""
    changes = search.every_trial | suggest(trial, search.space)
    own = ["--config", str(search.recipe), "--output_dir", str(output_dir / f"trial-{trial.number}")]
    try:
        recipe = RecipeParser(search.recipe).parse_recipe([*own, *as_flags(changes), *flags])
        # What is pushed is what somebody has looked at.
        recipe.training.push_to_hub = False
        trainer, _ = build_trainer(recipe, callbacks=[Pruning(trial, search.metric)])
        trainer.train()
        last = trainer.state.log_history[-2:]
        scores = [entry[search.metric] for entry in last if search.metric in entry]
        if not scores or recipe.training.load_best_model_at_end:
            trainer.remove_callback(Pruning)
            scores = [trainer.evaluate()[search.metric]]
        if scores[-1] != scores[-1]:
            raise ValueError(f"{search.metric} is undefined.")
        return scores[-1]
    except optuna.TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
        raise


def open_study(output_dir: Path, seed: int, least_is_best: bool = False) -> optuna.Study:
    """The study of an output folder; the trials that an interruption ended are to be run again."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{output_dir}/study.db")
    study = optuna.create_study(
        study_name="tune",
        storage=storage,
        direction="minimize" if least_is_best else "maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    again = {trial.user_attrs[AGAIN] for trial in study.trials if AGAIN in trial.user_attrs}
    for trial in study.get_trials(states=[TrialState.FAIL]):
        if not _is_done(trial) and trial.number not in again:
            study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
    # A seed draws anew from its beginning: going on with the same one would draw the first trials' values again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _is_done(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs


def trials_left(study: optuna.Study, trials: int) -> int:
    """How many trials a study lacks; those that an interruption ended do not count."""
    return max(0, trials - sum(map(_is_done, study.trials)))


def write_results(study: optuna.Study, search: Search, output_dir: Path, flags: list[str]) -> None:
    """Writes the trials, the best one's flags and what mattered."""
    # Here, since matplotlib takes a second to import.
    from hf_multitask.evaluation.figures import FORMATS, encoded, importance_figure

    study.trials_dataframe().to_csv(output_dir / "trials.csv", index=False)
    states = [trial.state.name.lower() for trial in study.trials]
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        raise OSError(f"no trial was completed; see {output_dir}/trials.csv and the messages above.")
    best = ["--config", str(search.recipe), *as_flags(search.every_trial | study.best_params), *flags]
    (output_dir / "best.txt").write_text(shlex.join(best) + "\n")
    print(f"best: {search.metric} {study.best_value:.4f}, trial {study.best_trial.number}: {study.best_params}")
    # Of trials that all scored the same, nothing made a difference.
    if len({trial.value for trial in complete}) > 1:
        importances = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        figure = importance_figure(importances)
        for kind in FORMATS:
            (output_dir / f"importance.{kind}").write_bytes(encoded(figure, kind))
        print("importance: " + ", ".join(f"{key} {share:.2f}" for key, share in importances.items()))
    print(f"Train the best by: xargs python recipes/train.py < {output_dir}/best.txt")


def main() -> None:
    args, flags = COMMAND_LINE.parse_known_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with refusals():
        search = read_search(args.search)
        output_dir = writable_folder(args.output_dir or f"outputs/{args.search.stem}")
        # A mistake in what all trials share is found before the first.
        own = ["--config", str(search.recipe), "--output_dir", str(output_dir)]
        some = suggest(optuna.trial.FixedTrial(_first(search.space)), search.space)
        recipe = RecipeParser(search.recipe).parse_recipe([*own, *as_flags(search.every_trial | some), *flags])
        least_is_best = is_greater_better(recipe.tasks, search.metric) is False
        study = open_study(output_dir, args.sampler_seed, least_is_best)
        settings = json.dumps([str(search.recipe), search.metric, search.every_trial, search.space, flags])
        if study.user_attrs.get(SETTINGS, settings) != settings:
            raise ValueError(f"{output_dir} holds a search with other settings; choose another output_dir.")
        study.set_user_attr(SETTINGS, settings)
        left = trials_left(study, args.trials or search.trials)
        if left:
            raise_when_interrupted()
            # A trial that fails is reported, and the search goes on.
            try:
                study.optimize(lambda trial: train(trial, search, output_dir, flags), left, catch=(Exception,))
            except KeyboardInterrupt:
                trials = args.trials or search.trials
                print(
                    f"\nStopped by Ctrl-C; the study in {output_dir} has {trials - trials_left(study, trials)} of "
                    f"{trials} trials. Go on by the same command: the trial that was running begins again."
                )
                sys.exit(128 + signal.SIGINT)
            end_quietly_when_interrupted()
        write_results(study, search, output_dir, flags)


if __name__ == "__main__":
    main()
