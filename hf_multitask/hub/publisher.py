"""The half of the trainer that saves and pushes: everything a model needs, every time, and nothing lost."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints
from transformers.utils.hub import PushInProgress

from hf_multitask.data.loading import SplitReport
from hf_multitask.hub.adapters import CONFIG_NAME, check_same_kind, check_trainable, describe_adapter, is_adapted
from hf_multitask.hub.card import RunFacts, build_card
from hf_multitask.hub.checkpoints import LAST_CHECKPOINT, find_checkpoint
from hf_multitask.hub.manifest import MANIFEST_NAME, newest_whole, seal
from hf_multitask.hub.upload import HUB_ERRORS, KeptBack, may_pass, refused_by_hub, upload_folder
from hf_multitask_cli.recipe_yaml import as_boolean

logger = logging.getLogger(__name__)

# What a checkpoint has for resuming, beside the model.
_RESUMING = ["optimizer*", "*.pt", "rng_state*", "average.safetensors", "epoch_losses.json", MANIFEST_NAME]
# Of FSDP and of DeepSpeed.
_RESUMING += ["pytorch_model_fsdp*", "global_step*", "latest", "zero_to_*.py"]
# What a run says of itself, beside its checkpoints. Not `report/`: while training, that is an earlier run's.
_REPORTS = ("data_report.json", "train_results.json", "eval_results.json", "all_results.json")
# A run's recipe in its folder. It is not pushed: its paths lead to data on the run's own machine.
RECIPE_NAME = "recipe.yaml"
_PUSH_PREFIX = "_push-"


class ModelPublisher(Trainer):
    """Saves and pushes a model with its code, tokenizer and card.

    No pickle is among what makes a model: the arguments are saved as `training_args.json`. Pushes during training are
    of copies of the checkpoints, so that neither the next checkpoint nor the removal of an old one gets in the way. A
    push that fails for the Hub's or the network's sake is tried again; one that fails for good during training is
    logged, and the training goes on.
    """

    model: Any
    args: Any
    push_in_progress: Any
    _hub_api: HfApi
    # What the card says beyond what the trainer knows; a recipe or a user sets it.
    run_facts: RunFacts | None = None
    # See [`MultiTaskEvaluator`].
    tuned: tuple[str, ...]
    # What became of the rows that were given in Python, by split and task.
    data_reports: dict[str, dict[str, SplitReport]]

    @cached_property
    def _kept_back(self) -> KeptBack:
        return KeptBack(Path(self.args.output_dir) / RECIPE_NAME)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As the parent.

        Args:
            resume_from_checkpoint: A folder, True for the newest whole one in the output folder, or a repository on the
                Hub; see [`fetch_checkpoint`].
            kwargs: For the parent.

        Raises:
            ValueError: There is no checkpoint, or the one that is named is not whole, of other tasks or of another
                encoder, or of a whole model where the run trains an adapter, or the other way round; or the adapter
                cannot be trained.
        """
        check_trainable(self.model)
        resume_from_checkpoint = as_boolean(resume_from_checkpoint)
        if resume_from_checkpoint:
            args = self.args
            where = (args.output_dir, args.hub_token)
            resume_from_checkpoint = find_checkpoint(resume_from_checkpoint, *where, self.model.config)
            check_same_kind(resume_from_checkpoint, self.model)
            logger.info("Resuming from %s.", resume_from_checkpoint)
        return super().train(resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the parent; older checkpoints go only when the new one is whole.

        Raises:
            OSError: The checkpoint cannot be written; the message names the last whole one.
        """
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit = self.args.save_total_limit
        if self.args.should_save:
            # Of a checkpoint of this step that is written over.
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
        self.args.save_total_limit = None
        try:
            super()._save_checkpoint(model, trial)
            # Other processes write files of their own there.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                seal(folder)
        # Writers of tensors have their own ways to say that a disk is full.
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            reason = str(error).partition("\n")[0].rstrip(".")
            raise OSError(f"{folder} could not be written: {reason}. {_whole_one(folder.parent)}") from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), limit, best_model_checkpoint=best, use_mtime=True)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            if is_adapted(self.model):
                self.model.config.to_json_file(folder / CONFIG_NAME)
                # In place of PEFT's, which is to be filled in by hand.
                self.create_model_card(output_dir=folder)
            arguments = {key: _without_folders(value) for key, value in self.args.to_dict().items()}
            text = json.dumps(arguments, indent=2, default=str)
            (folder / TRAINING_ARGS_NAME).with_suffix(".json").write_text(text, encoding="utf-8")

    # ---- The card ----

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset: str | list[str] | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        """Writes the card of the run as it stands, `README.md`.

        Args:
            language, license, finetuned_from, dataset: As for the parent; by default, what `run_facts` says.
            tags: Further ones.
            model_name: The model's name, if it has no repository; by default the output folder's.
            output_dir: Where to write; by default to the run's folder.
        """
        if not self.is_world_process_zero():
            return
        name = getattr(self, "hub_model_id", None) or self.args.hub_model_id or model_name
        sizes = {
            split: dataset.sizes
            for split, dataset in (("train", self.train_dataset), ("validation", self.eval_dataset))
            if dataset is not None
        }
        facts = self.run_facts or RunFacts()
        if not facts.reports:
            facts = replace(
                facts, reports={split: _given_in_python(self.data_reports.get(split, {})) for split in sizes}
            )
        card = build_card(
            facts,
            name=name or Path(self.args.output_dir).absolute().name,
            config=self.model.config,
            args=self.args,
            history=self.state.log_history,
            step=self.state.global_step,
            sizes=sizes,
            parameters=self.model.num_parameters(),
            adapter=describe_adapter(self.model),
            tuned=self.tuned,
            language=language,
            license=license,
            tags=tags,
            base_model=finetuned_from,
            datasets=dataset,
        )
        card.save(Path(output_dir or self.args.output_dir) / "README.md")

    # ---- Pushing ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As the parent; a refusal is a sentence, before training."""
        with refused_by_hub(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            # Transformers before 5.21 does not know the argument.
            super().init_hf_repo(token=token, **_given(private=private))
        # One for the whole run: its pushes in the background follow each other, so that none overtakes a later one.
        self._hub_api = HfApi()
        # Of a run that was killed while it pushed.
        for copy in Path(self.args.output_dir).glob(f"{_PUSH_PREFIX}*") if self.is_world_process_zero() else ():
            shutil.rmtree(copy)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the parent; a failure that may pass is tried again, unless the push is in the background.

        Raises:
            OSError: The push failed for good; the message names the folder that holds the model, whole.
        """
        try:
            with ExitStack() as until_pushed:
                if self.is_world_process_zero():
                    until_pushed.enter_context(self._kept_back)
                options = {**_given(private=private), **kwargs}
                pushed = super().push_to_hub(commit_message, blocking, token, revision, **options)
                if isinstance(pushed, Future):
                    # It looks for the folder's files when its turn comes.
                    whenever_pushed = until_pushed.pop_all()
                    pushed.add_done_callback(lambda _: whenever_pushed.close())
                return pushed
        except HUB_ERRORS as error:
            if self.hub_model_id is None or not self.is_world_process_zero():
                raise
            failure = error
        folder = self.args.output_dir
        try:
            with refused_by_hub(self.hub_model_id):
                if not may_pass(failure):
                    raise failure
            return upload_folder(
                self.hub_model_id,
                folder,
                token=self.args.hub_token if token is None else token,
                revision=self.args.hub_revision if revision is None else revision,
                ignore_patterns=["_*", RECIPE_NAME, f"{PREFIX_CHECKPOINT_DIR}-*"],
                commit_message=commit_message,
            )
        except OSError as error:
            raise OSError(
                f"the push failed: {error} The model is whole in {folder}; push it by: "
                f"hf upload {self.hub_model_id} {folder} . --exclude '{PREFIX_CHECKPOINT_DIR}-*' '_*' {RECIPE_NAME}"
            ) from failure

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes a checkpoint's model, with its card and what the run has reported, and, if so told, the checkpoint."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        # The copy is of a whole checkpoint; what other processes still write into this one is sealed later.
        seal(checkpoint_folder)
        self._report_failed_pushes()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = self._copy_to_push(checkpoint_folder)
        self.create_model_card(output_dir=folder)
        places = {HubStrategy.CHECKPOINT: LAST_CHECKPOINT, HubStrategy.ALL_CHECKPOINTS: Path(checkpoint_folder).name}
        future = self._hub_api.run_as_future(
            self._push_copy, folder, places.get(strategy), f"Training in progress, step {self.state.global_step}"
        )
        if busy:
            self.push_in_progress.jobs.append(future)
        else:
            self.push_in_progress = PushInProgress([future])

    def _copy_to_push(self, checkpoint_folder: str) -> str:
        """A copy of a checkpoint that nothing changes, of links where the disk has them."""
        folder = tempfile.mkdtemp(prefix=_PUSH_PREFIX, dir=self.args.output_dir)
        shutil.copytree(checkpoint_folder, folder, copy_function=_link, dirs_exist_ok=True)
        return folder

    def _push_copy(self, folder: str, checkpoint_place: str | None, message: str) -> None:
        """Pushes a copy from `_copy_to_push` and removes it."""
        options: dict[str, Any] = {
            "repo_id": self.hub_model_id,
            "folder": folder,
            "token": self.args.hub_token,
            "revision": self.args.hub_revision,
        }
        try:
            if checkpoint_place is not None:
                upload_folder(
                    **options,
                    path_in_repo=checkpoint_place,
                    delete_patterns="*",
                    ignore_patterns=["README.md"],
                    commit_message=f"{message}, checkpoint",
                )
            for name in _REPORTS:
                if (report := Path(self.args.output_dir) / name).exists():
                    shutil.copy2(report, Path(folder) / name)
            upload_folder(**options, ignore_patterns=_RESUMING, commit_message=message)
        finally:
            shutil.rmtree(folder)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failed_pushes()

    def _report_failed_pushes(self) -> None:
        """Logs why pushes in the background failed, once."""
        progress = getattr(self, "push_in_progress", None)
        for job in progress.jobs if progress is not None else []:
            if job.done() and (error := job.exception()) is not None:
                logger.warning(
                    "A push during training failed: %s The checkpoints are whole in %s.", error, self.args.output_dir
                )
        if progress is not None:
            progress.jobs = [job for job in progress.jobs if not job.done()]


def _given(**arguments: Any) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not None}


def _given_in_python(reports: Mapping[str, SplitReport]) -> dict[str, SplitReport]:
    return {task: replace(report, source="given in Python") for task, report in reports.items()}


def _whole_one(output_dir: Path) -> str:
    try:
        whole = newest_whole(output_dir)
    except ValueError:
        return "There is no earlier checkpoint."
    return f"The last whole checkpoint is {whole}; resume from there."


def _without_folders(value: Any) -> Any:
    """A value, or of an absolute path the last part: what a run saves may be pushed for everybody to read."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
