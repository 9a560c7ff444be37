"""Time of embedding and of classifying sentences: ours against the libraries that people use for it.

    python -m benchmarks.predict --backbone MINILM [--data-dir DIR] [--sentences 10000]

Embeddings: our pipeline's `embed` against `sentence_transformers`' `encode`, both from the same folder, mean pooling,
at each one's default batch size. Classes: our pipeline against transformers' text-classification one, with
a head of the same size on the same backbone, at the best of several batch sizes. Sides take turns; medians are shown.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from benchmarks.workload import TASKS, add_arguments, sentences
from hf_multitask import MultiTaskBertModel, MultiTaskPipeline

_PIPELINE_BATCH_SIZES = (1, 8, 32)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median time of each side, in seconds, over rounds in which each runs once."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            times[name].append(seconds(run))
    return {name: statistics.median(values) for name, values in times.items()}


def embeddings(args: argparse.Namespace, pipe: MultiTaskPipeline, texts: list[str]) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    word_states = Transformer(args.backbone, max_seq_length=args.max_length)
    pooled = Pooling(word_states.get_word_embedding_dimension(), pooling_mode="mean")
    theirs = SentenceTransformer(modules=[word_states, pooled], device="cpu")
    sides = {
        "sentence-transformers": lambda: theirs.encode(texts),
        "hf-multitask": lambda: pipe.embed(texts, max_length=args.max_length),
    }
    difference = np.abs(theirs.encode(texts[:100]) - pipe.embed(texts[:100])).max()
    times = in_turns(sides, args.rounds)
    table("embeddings", "sentence-transformers", times, args)
    print(f"\nGreatest difference of an embedding's value: {difference:.1e}\n")


def classes(args: argparse.Namespace, ours: MultiTaskPipeline, texts: list[str]) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(args.backbone, num_labels=5)
    pipe = pipeline("text-classification", model=classifier, tokenizer=ours.tokenizer, device="cpu")
    options = {"truncation": True, "max_length": args.max_length}
    part = texts[: len(texts) // 5]
    best = min(_PIPELINE_BATCH_SIZES, key=lambda size: seconds(lambda: pipe(part, batch_size=size, **options)))
    sides = {
        "pipeline": lambda: pipe(texts, batch_size=best, **options),
        "hf-multitask": lambda: ours(texts, task="sst", max_length=args.max_length),
    }
    table("classes", "pipeline", in_turns(sides, args.rounds), args, f" (batches of {best})")


def table(title: str, baseline: str, times: dict[str, float], args: argparse.Namespace, note: str = "") -> None:
    print(f"| {title} of {args.sentences} sentences | s | ratio |\n| --- | ---: | ---: |")
    for name, value in times.items():
        print(f"| {name}{note if name == baseline else ''} | {value:.1f} | {value / times[baseline]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "backbone", "data_dir", "seed")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--max-length", type=int, default=256, help="In tokens.")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = MultiTaskBertModel.from_backbone(args.backbone, tasks=TASKS).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.backbone)
    texts = sentences(args.data_dir, args.sentences, args.seed)
    pipe = MultiTaskPipeline(model, tokenizer, device="cpu")
    embeddings(args, pipe, texts)
    classes(args, pipe, texts)


if __name__ == "__main__":
    main()
