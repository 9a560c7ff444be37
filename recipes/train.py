"""Trains one encoder on several tasks at once, as a recipe says.

    accelerate launch recipes/train.py
    accelerate launch recipes/train.py --config recipes/paper/full_finetuning.yaml --learning_rate 2e-5 --data_dir DIR

Every key of the recipe is a flag; `--tasks.<name>.<key>` changes a task. See `recipes/quickstart.yaml`.
"""

import json
import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Python puts a script's folder first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_multitask_cli.command_line import answer_at_once, refusals, writable_folder

DEFAULT_CONFIG = Path(__file__).parent / "quickstart.yaml"

if __name__ == "__main__":
    # Before the imports that take seconds.
    answer_at_once(__doc__, DEFAULT_CONFIG)

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from hf_multitask.building import build_trainer
from hf_multitask.data.preparation import PreparedData
from hf_multitask.data.sources import HubSource
from hf_multitask.data.streaming import StreamError
from hf_multitask.evaluation.summary import results_table
from hf_multitask.hub.card import RunFacts
from hf_multitask.hub.checkpoints import check_same_model, find_checkpoint, steps_made
from hf_multitask.past_run import PastRun, backbone_in_words
from hf_multitask.recipe import Recipe, RecipeParser
from hf_multitask.saved_recipe import save_recipe
from hf_multitask.scoring import score, trivial_scores
from hf_multitask.training.callbacks import GracefulStop
from hf_multitask.training.checkpoints import RunRefusedError
from hf_multitask.training.trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

# What is left to go wrong with good input.
FAILURES = (FloatingPointError, ImportError, OSError, SafetensorError, StreamError, RunRefusedError)


def run_facts(recipe: Recipe, data: PreparedData, tokenizer: Any) -> RunFacts:
    """What the model card says beyond what the trainer knows."""
    backbone = recipe.model.backbone
    is_folder = Path(backbone).is_dir()
    return RunFacts(
        backbone=backbone_in_words(backbone, recipe.model.from_scratch, is_folder),
        base_model=None if is_folder or recipe.model.from_scratch else backbone,
        datasets={
            name: (str(source.path), source.name)
            for name, source in recipe.sources.items()
            if isinstance(source, HubSource) and not Path(str(source.path)).exists()
        },
        language=recipe.card.language,
        license=recipe.card.license,
        reports=data.reports,
        trivial=trivial_scores(recipe.tasks, data, "validation", tokenizer),
    )


def write_data_report(output_dir: Path, data: PreparedData) -> None:
    """Writes what became of the rows."""
    rows = {
        split: {name: {**asdict(entry), "source": entry.place} for name, entry in by_task.items()}
        for split, by_task in data.reports.items()
    }
    (output_dir / "data_report.json").write_text(json.dumps(rows, indent=2))


def finish(trainer: MultiTaskTrainer, data: PreparedData, recipe: Recipe, result: TrainOutput) -> None:
    """Saves and scores the trained model, and reports and pushes it."""
    output_dir, is_main = Path(str(recipe.training.output_dir)), trainer.is_world_process_zero()
    if is_main:
        # Of streamed rows, only now it is known what became of them.
        write_data_report(output_dir, data)
    trainer.save_metrics("train", result.metrics)
    if recipe.report.tune_thresholds:
        trainer.tune_thresholds()
    # Whatever happens while it is scored, the model is there.
    trainer.save_model(_internal_call=True)
    scored, shortfalls = None, {}
    if "validation" in data.rows:
        logger.info("The model is saved in %s, and scored now.", output_dir)
        scored = score(trainer, data, "validation", probe=recipe.report.write_report)
        trainer.log(scored.metrics)
        trainer.save_metrics("eval", scored.metrics)
    trainer.save_state()
    if is_main:
        # One that is there is of an earlier model.
        shutil.rmtree(output_dir / "report", ignore_errors=True)
    if is_main and scored is not None:
        assert trainer.run_facts is not None
        run = PastRun.read(output_dir)
        trainer.run_facts.shortfalls = shortfalls = scored.shortfalls(run.training(recipe.training.world_size))
        if recipe.report.write_report:
            history, examples = trainer.state.log_history, recipe.report.examples(recipe.training.push_to_hub)
            title = run.title(output_dir.absolute().name, scored.tasks)
            report = scored.report(title, scored.intervals(), history, examples, shortfalls)
            report.save(output_dir / "report")
            trainer.run_facts.report = report
    trainer.create_model_card()
    with refusals():
        # With push_to_hub, this pushes too.
        trainer.save_model()
    if is_main:
        table = f"\n{results_table(scored.tasks, scored.metrics, scored.trivial)}\n" if scored is not None else ""
        page = output_dir / "report" / "index.html"
        print(f"{table}\nSaved to {output_dir}{f'; the report is {page}' if page.is_file() else ''}.", flush=True)
        for name, said in shortfalls.items():
            logger.warning("task %r: %s", name, said)


def is_finished(trainer: MultiTaskTrainer, output_dir: Path, resume: str) -> bool:
    """Whether the run in a folder was finished, and resuming would at most make some of its steps again.

    The folder says it, not its newest checkpoint: a finished run may have kept only an earlier one, the best, and one
    that broke off while it was scored has all steps behind it and is not finished.

    Raises:
        ValueError: The folder's model has other tasks or another encoder.
    """
    total = trainer.total_steps()
    if steps_made(output_dir) < total or (resume != "true" and steps_made(resume) < total):
        return False
    check_same_model(output_dir, trainer.model.config)
    return True


def main() -> None:
    with refusals():
        parser = RecipeParser(DEFAULT_CONFIG, description=__doc__)
        recipe = parser.parse_recipe(sys.argv[1:])
        args = recipe.training
        if args.output_dir == parser.get_default("output_dir"):
            raise ValueError("output_dir is missing: the folder that the run is to write.")
        logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
        output_dir = writable_folder(str(args.output_dir))
        trainer, data = build_trainer(recipe)
        if recipe.report.tune_thresholds and "validation" not in data.rows:
            raise ValueError("tune_thresholds needs validation rows, and no task's data have any.")
        resume = args.resume_from_checkpoint
        if resume is not None and is_finished(trainer, output_dir, resume):
            if trainer.is_world_process_zero():
                print(
                    f"The run in {output_dir} is finished: all {trainer.total_steps()} steps are made, and nothing is "
                    "changed. To train on, raise max_steps or num_train_epochs."
                )
            trainer.end()
            return
        if resume is not None:
            resume = find_checkpoint(resume, str(output_dir), args.hub_token, trainer.model.config)
    trainer.run_facts = run_facts(recipe, data, trainer.processing_class)
    if trainer.is_world_process_zero():
        save_recipe(recipe, output_dir)
        write_data_report(output_dir, data)
        # Written when a run ends, by which it is known as finished: this one is not.
        (output_dir / TRAINER_STATE_NAME).unlink(missing_ok=True)

    stop = GracefulStop(trainer.accelerator)
    trainer.add_callback(stop)
    with refusals(FAILURES, status=1):
        result = trainer.train(resume_from_checkpoint=resume)
        if stop.signal is None:
            finish(trainer, data, recipe, result)
        elif trainer.is_world_process_zero():
            print(
                f"\nStopped by {stop.signal.name}; step {trainer.state.global_step} is saved in {output_dir}. "
                "Go on by the same command with --resume_from_checkpoint true."
            )
    trainer.end()
    if stop.signal is not None:
        sys.exit(128 + stop.signal)


if __name__ == "__main__":
    main()
