"""Time of a Round Robin step: ours, through Trainer, against a plain loop, written here as a careful user would.

    python -m benchmarks.step --backbone MINILM --data-dir DIR [--precision bf16]

The plain loop pads each sentence list to its longest, runs the encoder once per list, sums the three losses, clips and
steps torch's AdamW. Both sides have the same weights, rows and seed, and take turns step by step in one run; ours is
timed from the end of a plain step to the end of our next, with all that Trainer does between. What of it is not
forward, backward, clipping or optimizer is the overhead: rows, schedule, collator and Trainer.
"""

import argparse
import copy
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from benchmarks.workload import TASKS, add_arguments, training_rows
from hf_multitask import MultiTaskBertModel, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.data.dataset import MultiTaskDataset
from hf_multitask.data.schedule import RoundRobin, StepBatchSampler


class PlainLoop:
    """The training step of a user who has never heard of this package, on copies of the same weights.

    Args:
        model: Where the weights come from.
        dataset, seed, batch_size: Give the same rows as ours.
        tokenizer: Pads.
        bf16: Whether the forward runs under autocast.
    """

    def __init__(
        self,
        model: MultiTaskBertModel,
        dataset: MultiTaskDataset,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        seed: int,
        bf16: bool,
    ) -> None:
        self.encoder, self.heads = copy.deepcopy(model.backbone).train(), copy.deepcopy(model.heads).train()
        self.parameters = [*self.encoder.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)
        self.tokenizer, self.bf16 = tokenizer, bf16
        self.batches = self._batches(dataset, batch_size, seed)

    def _batches(self, dataset: MultiTaskDataset, batch_size: int, seed: int) -> Any:
        sampler = StepBatchSampler(RoundRobin(dataset.sizes, batch_size), dataset.sizes, seed)
        for indices in sampler:
            rows = dataset.__getitems__(indices)
            yield {name: [row for row in rows if row["task"] == name] for name in TASKS}

    def _embed(self, token_ids: list[list[int]]) -> torch.Tensor:
        batch = self.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt")
        states = self.encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return (states * mask).sum(1) / mask.sum(1)

    def _loss(self, rows: dict[str, list[dict[str, Any]]]) -> torch.Tensor:
        labels = {name: torch.tensor([row["label"] for row in rows[name]]) for name in TASKS}
        u = {name: self._embed([row["input_ids"] for row in rows[name]]) for name in TASKS}
        v = {name: self._embed([row["input_ids_2"] for row in rows[name]]) for name in ("quora", "sts")}
        sst = F.cross_entropy(self.heads["sst"](u["sst"]).float(), labels["sst"])
        logits = self.heads["quora"](u["quora"], v["quora"]).float()
        quora = F.binary_cross_entropy_with_logits(logits, labels["quora"].float())
        sts = F.mse_loss(self.heads["sts"](u["sts"], v["sts"]), labels["sts"].float())
        return sst + quora + sts

    def step(self) -> float:
        """Trains one step and returns its loss."""
        rows = next(self.batches)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = self._loss(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


class TakeTurns(TrainerCallback):
    """Runs a plain step after each of ours and keeps both times, in seconds."""

    def __init__(self, plain: PlainLoop) -> None:
        self.plain = plain
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.overheads: list[float] = []
        self._computing = 0.0

    def time(self, owner: Any, method: str) -> None:
        """Counts a method's time as computing; what else a step takes is overhead."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self._computing += time.perf_counter() - start
            return result

        setattr(owner, method, timed)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        end = time.perf_counter()
        self.plain.step()
        self.ours.append(end - self.start)
        self.overheads.append(1 - self._computing / self.ours[-1])
        self._computing = 0.0
        self.start = time.perf_counter()
        self.theirs.append(self.start - end)


def make_trainer(
    model: MultiTaskBertModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, Dataset],
    args: argparse.Namespace,
    steps: int,
    callbacks: list[TrainerCallback] | None = None,
    **settings: Any,
) -> MultiTaskTrainer:
    """Our side, with the same settings as the plain loop, and others of its own."""
    training = MultiTaskTrainingArguments(
        tempfile.mkdtemp(),
        per_device_train_batch_size=args.batch_size,
        max_steps=steps,
        learning_rate=1e-5,
        bf16=args.precision == "bf16",
        seed=args.seed,
        packing=args.packing,
        logging_steps=10,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    trainer = MultiTaskTrainer(model, training, rows, processing_class=tokenizer, callbacks=callbacks)
    # Logs are gathered, as in any run, and not printed between the tables.
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass
class Comparison:
    """Medians over the steps of one run, in seconds, and the share of ours that is overhead."""

    ours: float
    theirs: float
    overhead: float


def compare(args: argparse.Namespace, period: int = 1, **settings: Any) -> Comparison:
    """Times our step, with `settings` for its trainer, and the plain loop's in turn.

    Where steps differ with a period, its members' medians are averaged.
    """
    model = MultiTaskBertModel.from_backbone(args.backbone, tasks=TASKS)
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    rows = training_rows(args.data_dir, tokenizer)
    bf16 = args.precision == "bf16"
    turns = TakeTurns(PlainLoop(model, MultiTaskDataset(rows), tokenizer, args.batch_size, args.seed, bf16))
    trainer = make_trainer(model, tokenizer, rows, args, args.steps + args.warmup, [turns], **settings)
    turns.time(model, "forward")
    turns.time(trainer.accelerator, "backward")
    turns.time(trainer.accelerator, "clip_grad_norm_")
    turns.time(trainer.create_optimizer(), "step")
    trainer.train()
    measured = (turns.ours, turns.theirs, turns.overheads)
    medians = ([statistics.median(values[args.warmup + i :: period]) for i in range(period)] for values in measured)
    return Comparison(*map(statistics.fmean, medians))


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of benchmarks that time steps."""
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=10, help="Steps that are run but not counted.")
    parser.add_argument("--packing", choices=["auto", "on", "off"], default="auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_step_arguments(parser)
    args = parser.parse_args()
    measured = compare(args)
    ours, theirs = measured.ours, measured.theirs
    print(f"| step, {args.precision}, batch {args.batch_size} | median, ms | ratio |\n| --- | ---: | ---: |")
    print(f"| plain loop | {1e3 * theirs:.0f} | 1.00 |\n| hf-multitask | {1e3 * ours:.0f} | {ours / theirs:.2f} |")
    print(f"\nOverhead: {measured.overhead:.1%} of our step.")


if __name__ == "__main__":
    main()
