"""Tiny random models of every type in transformers that takes token ids, and the tables that they fill.

python -m tests.model.encoders        # prints the tables of docs/encoders.md; takes a few minutes
"""

import copy
import inspect
import math
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from hf_multitask.model.packing import encode_packed, pack, unpack
from hf_multitask.training.smart import Smart, SmartArguments
from tests.conftest import CHECKPOINTING, TASKS, without_dropout
from tests.training.conftest import even_noise

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "dim", "d_model", "n_embd", "emb_dim", "embedding_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "d_inner"), 32),
    **dict.fromkeys(("head_dim", "d_head", "d_kv"), 4),
    **{"vocab_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 70},
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}
OWN: dict[str, dict[str, Any]] = {
    "canine": {"local_transformer_stride": 16, "max_position_embeddings": 96, "num_hash_buckets": 50},
    "codegen": {"rotary_dim": 4},
    "esm": {"mask_token_id": 4},
    "esmc": {"num_key_value_heads": 4, "mask_token_id": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "lilt": {"hidden_size": 24, "channel_shrink_ratio": 2},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "mobilebert": {"intra_bottleneck_size": 16, "trigram_input": False},
    "modernbert": {"local_attention": 8},
    "neomme": {"head_dim": 16},
    "phimoe": {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    **{kind: {"is_encoder_decoder": False} for kind in ("mt5", "t5", "umt5")},
}
LENGTHS = [3, 20, 9, 1]
# Of a batch of one row of each of the tests' tasks.
_ROW_LENGTHS = [3, 20, 9, 1, 5]
_LARGE: dict[str, Any] = {"epsilon": 0.5, "sigma": 0.1, "eta": 0.5}
_MOST_PARAMETERS = 30_000_000
_MOST_SECONDS = 60
_CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}


class Verdict(NamedTuple):
    """What became of a type.

    Args:
        sequences: `packed`, `padded`, ...; None: the type is refused, or was not tried.
        smart, layer, checkpointing: `yes`, or `no` and why: SMART at the words and at a layer, and recomputed layers.
        refusal: The sentence, without the type's name, of a type that is refused.
    """

    sequences: str | None = None
    smart: str = ""
    layer: str = ""
    checkpointing: str = ""
    refusal: str | None = None


def here(*kinds: str) -> list[str]:
    """Those of the types that this transformers has."""
    return [kind for kind in kinds if kind in CONFIG_MAPPING]


def types_that_take_token_ids() -> Iterator[str]:
    """Of all that `AutoModel` builds."""
    for kind in sorted(MODEL_MAPPING_NAMES):
        try:
            model: Any = MODEL_MAPPING[CONFIG_MAPPING[kind]]
            first = model[0] if isinstance(model, tuple) else model
            takes_them = "input_ids" in inspect.signature(first.forward).parameters
        except (ImportError, KeyError, ValueError):
            continue  # it needs a package that is not there
        if takes_them:
            yield kind


def tiny_config(kind: str, **sizes: Any) -> PreTrainedConfig:
    """A configuration of a type, made small by whatever names it has for its sizes."""
    known = CONFIG_MAPPING[kind]()
    names = {*known.to_dict(), *known.attribute_map, *inspect.signature(type(known).__init__).parameters}
    return CONFIG_MAPPING[kind](**{key: SIZES[key] for key in SIZES if key in names} | OWN.get(kind, {}) | sizes)


def tiny(config: PreTrainedConfig) -> MultiTaskBertModel:
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=config, tasks=TASKS)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def still(kind: str, **sizes: Any) -> MultiTaskBertModel:
    """A tiny model in training mode without any dropout."""
    torch.manual_seed(0)
    config = tiny_config(kind, **sizes)
    for key, value in config.to_dict().items():
        if isinstance(value, float) and ("drop" in key or key.endswith("pdrop")):
            setattr(config, key, 0.0)
    return without_dropout(tiny(config)).train()


def _sequences(lengths: list[int]) -> tuple[list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return [torch.randint(5, 40, (length,), generator=draw) for length in lengths], mask.long()


def states(model: MultiTaskBertModel, packed: bool) -> list[torch.Tensor]:
    """The states of random sequences."""
    sequences, mask = _sequences(LENGTHS)
    with torch.no_grad():
        if packed:
            packing = pack(LENGTHS)
            row = torch.cat([*sequences, torch.zeros(-sum(LENGTHS) % 32, dtype=torch.long)]).unsqueeze(0)
            hidden = unpack(encode_packed(model.backbone, packing, input_ids=row).last_hidden_state, packing)
        else:
            ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
            hidden = model(ids, attention_mask=mask).last_hidden_state
    return [one[:length] for one, length in zip(hidden, LENGTHS, strict=True)]


def states_beside(model: MultiTaskBertModel, padding: int) -> Tensor:
    """The states of a random sequence with so much padding behind it."""
    ids = torch.cat([_sequences([20])[0][0], torch.zeros(padding, dtype=torch.long)]).unsqueeze(0)
    with torch.no_grad():
        return model(ids, attention_mask=(torch.arange(20 + padding) < 20).long().unsqueeze(0)).last_hidden_state[
            :, :20
        ]


def looks(model: MultiTaskBertModel, back: bool) -> bool:
    """Whether the states of tokens behind (or before) one depend on it."""
    ids = _sequences([20])[0][0].unsqueeze(0)
    other = ids.clone()
    other[0, 10] = 5 + ids[0, 10] % 30
    with torch.no_grad():
        pair = [model(each, attention_mask=torch.ones_like(each)).last_hidden_state for each in (ids, other)]
    return not torch.allclose(*(hidden[:, 11:] if back else hidden[:, :10] for hidden in pair), **_CLOSE)


def batch(packed: bool) -> dict[str, Any]:
    """A row of each task, as the collator lays it out."""
    sequences, mask = _sequences(_ROW_LENGTHS)
    labels = {"sst": torch.tensor([1]), "quora": torch.tensor([1]), "sts": torch.tensor([2.5])}
    rest: dict[str, Any] = {"tasks": dict.fromkeys(TASKS, 1), "labels": labels}
    if not packed:
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        return {**rest, "input_ids": ids, "attention_mask": mask}
    row = torch.cat([*sequences, torch.zeros(-sum(_ROW_LENGTHS) % 32, dtype=torch.long)])
    return {**rest, "input_ids": row.unsqueeze(0), "packing": pack(_ROW_LENGTHS)}


def smart_step(model: MultiTaskBertModel, packed: bool, **args: Any) -> tuple[float, float, dict[str, Tensor]]:
    """One step: the plain loss, the regulariser, and the gradient of their sum, with noise that knows no layout."""
    model.zero_grad()
    smart, inputs = Smart(SmartArguments(**args), model), batch(packed)
    with mock.patch("torch.randn", even_noise):
        with smart.recording() as clean:
            outputs = model(**inputs)
        penalty = sum(smart(inputs, outputs.logits, clean).values.values(), torch.tensor(0.0))
    (outputs.loss + penalty).backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(outputs.loss.detach()), float(penalty.detach()), gradient


def _smart(model: MultiTaskBertModel, kind: str, layer: int | None) -> str:
    """Whether a step with the paper's settings, and one with a larger radius, are what they should be."""
    layouts = [True, False] if model.can_pack else [False]
    try:
        steps = [smart_step(model, packed, layer=layer, **settings) for settings in ({}, _LARGE) for packed in layouts]
    except ValueError as error:
        return f"no: {_without_name(str(error), kind)}"
    for loss, penalty, gradient in steps:
        if not (math.isfinite(loss) and 0 < penalty < math.inf and all(g.isfinite().all() for g in gradient.values())):
            return "FAILS"
    *_, first, last = [penalty for _, penalty, _ in steps]
    return "yes" if not model.can_pack or math.isclose(first, last, rel_tol=1e-2) else "FAILS"


def _checkpointing(model: MultiTaskBertModel, settings: dict[str, Any] | None) -> str:
    """Whether recomputed layers give the gradient that kept ones gave, with SMART of some settings or without."""
    model(**batch(model.can_pack))  # BigBird's first pass replaces its attention
    gradients = []
    for recomputes in (False, True):
        if recomputes:
            try:
                getattr(model, f"{CHECKPOINTING}_enable")()
            except ValueError:
                return "no"
        model.zero_grad()
        if settings is None:
            model(**batch(model.can_pack)).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        else:
            gradients.append(smart_step(model, model.can_pack, **settings)[2])
    same = all(torch.allclose(gradients[1][name], value, rtol=1e-3, atol=1e-4) for name, value in gradients[0].items())
    return "yes" if same else "FAILS"


def judge(kind: str) -> Verdict:
    """What becomes of a type; one whose tiny model cannot be made or run is not tried."""
    try:
        with _time_limit():
            config = tiny_config(kind)
            with torch.device("meta"):
                empty = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=copy.deepcopy(config), tasks=TASKS))
            if sum(parameter.numel() for parameter in empty.parameters()) > _MOST_PARAMETERS:
                return Verdict()
            model = still(kind).eval()
            alone, padded = states_beside(model, 0), states_beside(model, 8)
    except Exception as error:
        is_ours = "hf_multitask" in traceback.extract_tb(error.__traceback__)[-1].filename
        return Verdict(refusal=_without_name(str(error), kind) if is_ours and isinstance(error, ValueError) else None)
    sequences = "padded"
    if model.can_pack:
        pairs = zip(states(model, True), states(model, False), strict=True)
        sequences = "packed" if all(torch.allclose(*pair, **_CLOSE) for pair in pairs) else "FAILS"
    elif not torch.allclose(alone, padded, **_CLOSE):
        sequences = "padded, and the padding changes other tokens' states"
    elif not looks(model, back=False):
        sequences = "padded, and looks back only" if looks(model, back=True) else "padded, and sees no other token"
    model.train()
    smart = {layer: _smart(model, kind, layer) for layer in (None, 1)}
    works = [{**_LARGE, "layer": layer} for layer in (1, None) if smart[layer] == "yes"]
    return Verdict(sequences, smart[None], smart[1], _checkpointing(model, next(iter(works), None)))


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*args: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _without_name(sentence: str, kind: str) -> str:
    """A sentence without the type's name, so that those of several types are one."""
    start = sentence.removeprefix("smart: ").replace(f"{kind!r} ", "").replace(f"a {kind} backbone", "the backbone")
    return start.replace("a backbone", "the backbone").replace("; is", "; it is").rstrip(".")


def tables(verdicts: Mapping[str, Verdict]) -> str:
    """The tables of docs/encoders.md for some types."""
    tried: dict[tuple[str, ...], list[str]] = {}
    refused: dict[str, list[str]] = {}
    for kind, verdict in verdicts.items():
        if verdict.sequences is not None:
            tried.setdefault((verdict.sequences, verdict.smart, verdict.layer, verdict.checkpointing), []).append(kind)
        elif verdict.refusal is not None:
            refused.setdefault(verdict.refusal, []).append(kind)
    lines = ["| Sequences are | SMART | `smart.layer` | Checkpointing | Types |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} | {', '.join(sorted(names))} |" for row, names in sorted(tried.items())]
    lines += ["", "| Refused, since | Types |", "| --- | --- |"]
    lines += [f"| {why} | {', '.join(sorted(names))} |" for why, names in sorted(refused.items())]
    others = sorted(kind for kind, verdict in verdicts.items() if verdict.sequences is None is verdict.refusal)
    return "\n".join([*lines, "", f"Not tried: {', '.join(others)}."])


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    print(tables({kind: judge(kind) for kind in types_that_take_token_ids()}))
