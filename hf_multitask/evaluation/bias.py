"""Bias probes (paper section 8): does a prediction change with nothing but the gender, name or nationality it is of?

Such probes find a bias or they do not; they cannot show that there is none (Jentzsch and Turan 2022).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from datasets import Dataset
from scipy.stats import t
from tqdm.auto import tqdm

from hf_multitask.evaluation.task_evaluations import evaluation_of
from hf_multitask.model.configuration_mtbert import TaskConfig

PROBES = Path(__file__).with_name("bias.yaml")

COLUMNS = ["task", "attribute", "first", "second", "value", "low", "high", "absolute"]

# From rows by task to the logits or scores of each task, as `Trainer.predict(...).predictions` has them.
Predict = Callable[[dict[str, Dataset]], Mapping[str, np.ndarray]]


def probe_bias(
    tasks: Mapping[str, TaskConfig],
    predict: Predict,
    probes: Path = PROBES,
    confidence: float = 0.95,
    tokenizer: Any = None,
    shows_progress: bool = False,
) -> pd.DataFrame:
    """Compares predictions for counterfactual sentences.

    A task of one text reads each sentence. A task of two reads it beside the same sentence with a neutral term: what is
    compared is what the task says of the two.

    Args:
        tasks: The tasks to probe, by name.
        predict: The model.
        probes: A YAML file with `templates`, and `attributes` that have two `groups`, a `neutral` term and `pairs`.
        confidence: Of the intervals.
        tokenizer: The model's; pairs with a term whose words it does not know are left out. None: all pairs are probed.
        shows_progress: Whether to show a progress bar, one for all attributes.

    Returns:
        A row for each task and attribute: `task`, `attribute`, the groups `first` and `second`, the mean difference of
        the first less the second, `value`, the bounds of its interval, `low` and `high` (Student's t over the pairs of
        terms, each one's mean over the templates), and the mean `absolute` difference over all sentences. Attributes
        without a pair that is left have no row. Its `attrs["left_out"]` has those terms that were left out, as pairs.
    """
    content = yaml.safe_load(probes.read_text(encoding="utf-8"))
    templates = content["templates"]
    evaluations = {name: evaluation_of(task) for name, task in tasks.items()}
    tasks = {name: task for name, task in tasks.items() if evaluations[name].is_probed}
    rows, left_out = [], []
    for attribute, probe in tqdm(content["attributes"].items(), "bias probes", disable=not shows_progress):
        pairs = [pair for pair in probe["pairs"] if all(_is_known(tokenizer, term) for term in pair)]
        left_out += [tuple(pair) for pair in probe["pairs"] if pair not in pairs]
        if not pairs or not tasks:
            continue
        terms = [term for pair in pairs for term in pair]
        texts = [_filled(template, term) for term in terms for template in templates]
        neutral = [_filled(template, probe["neutral"]) for _ in terms for template in templates]
        outputs = predict({name: _rows(task, texts, neutral) for name, task in tasks.items()})
        for name in tasks:
            # By pair of terms, member of the pair, and template.
            values = evaluations[name].probed(outputs[name]).reshape(len(pairs), 2, len(templates))
            differences = values[:, 0] - values[:, 1]
            rows.append(
                {
                    "task": name,
                    "attribute": attribute,
                    "first": probe["groups"][0],
                    "second": probe["groups"][1],
                    **_mean_interval(differences.mean(axis=1), confidence),
                    "absolute": float(np.abs(differences).mean()),
                }
            )
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs["left_out"] = left_out
    return table


def _is_known(tokenizer: Any, term: str) -> bool:
    """Whether a vocabulary has each word of a term in more than letters: of other words, a model knows nothing."""
    if tokenizer is None:
        return True
    for word in term.split():
        # Vocabularies of bytes have words with the blank before them.
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id in ids or (len(word) > 1 and len(ids) >= len(word)):
            return False
    return True


def _filled(template: str, term: str) -> str:
    sentence = template.replace("{}", term)
    return sentence[0].upper() + sentence[1:]


def _rows(task: TaskConfig, texts: list[str], neutral: list[str]) -> Dataset:
    return Dataset.from_dict({"sentence1": texts, "sentence2": neutral} if task.texts == 2 else {"sentence": texts})


def _mean_interval(values: np.ndarray, confidence: float) -> dict[str, Any]:
    count, mean = len(values), float(values.mean())
    if count < 2:
        return {"value": mean, "low": np.nan, "high": np.nan}
    half = float(t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return {"value": mean, "low": mean - half, "high": mean + half}
