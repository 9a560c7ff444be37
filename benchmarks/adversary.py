"""What SMART's regulariser is made of before training: its size, and how far it is an adversary's or dropout's.

    python -m benchmarks.adversary --backbone MINILM --data-dir DIR [--precision bf16]

For each variant, the mean over some batches of the divergence per task, of the perturbation's radius in units of the
embeddings' RMS, and of its cosine with the gradient that it should follow.
"""

import argparse
from itertools import islice
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.step import make_trainer
from benchmarks.workload import TASKS, add_arguments, training_rows
from hf_multitask import MultiTaskBertModel, SmartArguments
from hf_multitask.training.smart import Smart

LARGE = {"projection": "normalized", "norm": "2", "eta": 0.18, "sigma": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "ball, ε = 1e-6": {"epsilon": 1e-6},
    "ball, ε = 1e-5": {"epsilon": 1e-5},
    "ball, ε = 0.01": {"epsilon": 0.01, "eta": 0.1, "sigma": 1e-3},
    "normalized, η = 1e-3": {"projection": "normalized"},
    "normalized, η = 0.18": LARGE,
    "noise of radius 0.18 (T = 0)": {**LARGE, "steps": 0},
    "unit, η = 1e-3": {"projection": "unit", "epsilon": 1e-6},
    "no perturbation": {"eta": 0.0, "sigma": 0.0, "steps": 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--batches", type=int, default=10)
    args = parser.parse_args()
    args.packing = "auto"
    model = MultiTaskBertModel.from_backbone(args.backbone, tasks=TASKS)
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    trainer = make_trainer(model, tokenizer, training_rows(args.data_dir, tokenizer), args, args.batches)
    batches = list(islice(trainer.get_train_dataloader(), args.batches))
    model.train()
    print(f"| {args.precision} | dropout | " + " | ".join(TASKS) + " | radius | cosine |")
    print("| --- | --- |" + " ---: |" * (len(TASKS) + 2))
    for name, variant in VARIANTS.items():
        for dropout in ("shared", "independent"):
            smart = Smart(SmartArguments(**variant, dropout=dropout), model)
            torch.manual_seed(args.seed)
            results = [measure(smart, model, batch, args.precision == "bf16") for batch in batches]
            cells = [f"{mean(results, task):.0e}" for task in TASKS]
            cosine = "" if smart.args.steps == 0 else f"{mean(results, 'cosine'):.2f}"
            print(f"| {name} | {dropout} | " + " | ".join(cells) + f" | {mean(results, 'radius'):.1e} | {cosine} |")


def measure(smart: Smart, model: MultiTaskBertModel, batch: dict[str, Any], bf16: bool) -> dict[str, float]:
    """The regulariser of one batch."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        with smart.recording() as clean:
            outputs = model(**batch)
        result = smart(batch, outputs.logits, clean)
    sizes = {"radius": result.radius, "cosine": result.cosine}
    return {name: float(value.detach()) for name, value in (result.values | sizes).items() if value is not None}


def mean(results: list[dict[str, float]], name: str) -> float:
    """Over batches."""
    return sum(result[name] for result in results) / len(results)


if __name__ == "__main__":
    main()
