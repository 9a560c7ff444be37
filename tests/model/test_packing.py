from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AutoModel, DebertaV2Config

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel
from hf_multitask.data.collator import MultiTaskCollator
from hf_multitask.model.dropout import use_bit_dropout
from hf_multitask.model.packing import pack, packed_attention, use_packing
from tests.conftest import CHECKPOINTING, TASKS, tiny_model

KINDS = ["bert", "roberta", "distilbert", "modernbert"]
# Local attention narrow enough that the tests' sequences are longer than its window.
NARROW = {"modernbert": {"local_attention": 8, "max_position_embeddings": 520}}
ALL_TASKS = {
    **TASKS,
    "nli": {"type": "pair_classification", "num_labels": 3, "pair_encoding": "cross", "pooling": "cls"},
    "close": {"type": "pair_regression", "pair_encoding": "cross", "pooling": "max"},
}


def model_of(kind: str) -> MultiTaskBertModel:
    """A model for sequences of up to 512 tokens, with dropout off."""
    size = {} if kind == "distilbert" else {"max_position_embeddings": 520}
    return tiny_model(ALL_TASKS, kind, encoder={**size, **NARROW.get(kind, {})})


def random_rows(lengths: list[int], model: MultiTaskBertModel) -> list[dict[str, Any]]:
    """Rows of the tasks in turn, until the lengths of their sequences are used up."""
    draw = torch.Generator().manual_seed(sum(lengths))
    remaining, rows = list(lengths), {name: [] for name in ALL_TASKS}

    def ids() -> list[int]:
        return torch.randint(5, 40, (remaining.pop(),), generator=draw).tolist()

    while len(remaining) >= 2:
        for name, task in model.config.tasks.items():
            if len(remaining) < task.sequences_per_row:
                continue
            row = {"task": name, "input_ids": ids(), "label": 3.5 if not task.label_names else 1}
            if task.sequences_per_row == 2:
                row["input_ids_2"] = ids()
            elif task.texts == 2:
                half = len(row["input_ids"]) // 2
                row["token_type_ids"] = [0] * half + [1] * (len(row["input_ids"]) - half)
            rows[name].append(row)
    return [row for by_task in rows.values() for row in by_task]


def both_layouts(rows: list[dict[str, Any]], model: MultiTaskBertModel, tokenizer: Any) -> list[dict[str, Any]]:
    takes_types = model.config.encoder_config.model_type == "bert"
    rows = [{key: value for key, value in row.items() if takes_types or key != "token_type_ids"} for row in rows]
    tables = {"tokenizer": tokenizer, "task_configs": model.config.tasks}
    return [MultiTaskCollator(**tables, packing=packing)(rows) for packing in (False, True)]


def check_equal(lengths: list[int], model: MultiTaskBertModel, tokenizer: Any) -> None:
    outputs, gradients = [], []
    for batch in both_layouts(random_rows(lengths, model), model, tokenizer):
        model.zero_grad()
        outputs.append(model(**batch))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    padded, packed = outputs
    assert packed.loss.item() == pytest.approx(padded.loss.item(), rel=5e-6, abs=1e-6)
    for name, logits in padded.logits.items():
        torch.testing.assert_close(packed.logits[name], logits, rtol=1e-4, atol=1e-5, msg=name)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_padded_agree_for_every_head_from_one_token_to_512(kind: str, tokenizer: Any) -> None:
    check_equal([1, 512, 2, 33, 33, 1, 7, 64, 65, 300, 5, 17, 16, 15], model_of(kind), tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_padded_agree_for_any_lengths(kind: str, tokenizer: Any) -> None:
    model = model_of(kind)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(1, 60), min_size=2, max_size=20))
    def property_(lengths: list[int]) -> None:
        check_equal(lengths, model, tokenizer)

    property_()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_every_token_is_in_one_group_once_and_comes_back_to_its_place(lengths: list[int]) -> None:
    packing = pack(lengths)
    filling = -sum(lengths) % 32
    row = torch.arange(sum(lengths) + filling)
    laid_out = row[packing["places"]]
    real = torch.cat([real.flatten() for real in packing["groups"]])
    assert torch.equal(laid_out[real].sort().values, row)
    assert torch.equal(laid_out[packing["restore"]], row)
    expected = torch.nn.utils.rnn.pad_sequence(row[: sum(lengths)].split(lengths), batch_first=True)
    assert torch.equal(torch.where(packing["mask"], packing["padded"], 0), expected)
    sizes = [*lengths, filling] if filling else lengths
    assert packing["position_ids"].tolist() == [[position for length in sizes for position in range(length)]]
    assert packing["boundaries"].tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def test_attention_costs_little_more_than_the_sequences_squares_and_few_groups() -> None:
    lengths = [length for length in range(16, 512)] * 3
    groups = pack(lengths)["groups"]
    assert sum(real.shape[0] * real.shape[1] ** 2 for real in groups) <= 2 * sum(length**2 for length in lengths)
    assert len(groups) <= 6
    assert all(real.shape[1] % 16 == 0 for real in groups)


def test_attention_with_dropout_is_attention_then_dropout() -> None:
    query, key, value = torch.randn(3, 1, 2, 32, 8)
    packing = pack([5, 20, 4, 3])
    exact, _ = packed_attention(torch.nn.Module(), query, key, value, None, packing)
    # A probability that rounds to 0 takes the same path and drops nothing.
    nothing_dropped, _ = packed_attention(torch.nn.Module(), query, key, value, None, packing, dropout=1e-9)
    torch.testing.assert_close(nothing_dropped, exact)
    means = torch.stack(
        [packed_attention(torch.nn.Module(), query, key, value, None, packing, dropout=0.5)[0] for _ in range(2000)]
    ).mean(0)
    torch.testing.assert_close(means, exact, atol=0.2, rtol=0)


def test_attention_in_parts_is_that_of_all_sequences_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = pack([17, 20, 24, 30, 29])
    inputs = torch.randn(3, 1, 2, 128, 8, requires_grad=True)

    def attention(most_scores: int) -> tuple[torch.Tensor, torch.Tensor]:
        monkeypatch.setattr("hf_multitask.model.packing._MOST_SCORES", most_scores)
        # A mask's bits are drawn one after the other, whatever the parts.
        torch.manual_seed(0)
        output, _ = packed_attention(torch.nn.Module(), *inputs, None, packing, dropout=0.5)
        return output, torch.autograd.grad(output.square().sum(), inputs)[0]

    whole = attention(1 << 21)
    # One sequence at a time, and two, of those of up to 32 tokens.
    for most_scores in (1, 2 * 2 * 32 * 32):
        torch.testing.assert_close(attention(most_scores), whole)


def test_a_plain_padded_batch_is_read_as_before_after_packing_was_used(tokenizer: Any) -> None:
    model = model_of("bert")
    padded, packed = both_layouts(random_rows([5, 9, 4, 8, 3, 7], model), model, tokenizer)
    before = model(**padded).loss
    model(**packed)
    assert torch.equal(model(**padded).loss, before)


def test_the_encoder_alone_reads_a_packed_row(tokenizer: Any) -> None:
    model = model_of("bert")
    padded, packed = both_layouts(random_rows([5, 9, 4, 8, 3, 7], model), model, tokenizer)
    outputs = [
        model(**{key: batch[key] for key in batch if key not in ("labels", "tasks")}) for batch in (padded, packed)
    ]
    torch.testing.assert_close(outputs[1].pooler_output, outputs[0].pooler_output)
    mask = packed["packing"]["mask"]
    torch.testing.assert_close(outputs[1].last_hidden_state[mask], outputs[0].last_hidden_state[mask])


def test_activation_checkpointing_recomputes_the_packed_attention(tokenizer: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = model_of("bert")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")()
        _, packed = both_layouts(random_rows([5, 19, 4, 8, 3, 7], model), model, tokenizer)
        model.train()(**packed).loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients)


def test_dropout_acts_on_a_packed_row(tokenizer: Any) -> None:
    model = model_of("bert").train()
    _, packed = both_layouts(random_rows([5, 19, 4, 8, 3, 7], model), model, tokenizer)
    assert model(**packed).loss != model(**packed).loss


def test_bf16_autocast(tokenizer: Any) -> None:
    model = model_of("bert")
    padded, packed = both_layouts(random_rows([5, 19, 4, 8, 3, 7], model), model, tokenizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(**packed).loss
    torch.testing.assert_close(mixed, model(**padded).loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("training", [False, True])
def test_it_compiles_as_one_graph(training: bool, tokenizer: Any) -> None:
    model = model_of("bert").train(training)
    use_bit_dropout(model)
    _, packed = both_layouts(random_rows([5, 19, 4, 8, 3, 7], model), model, tokenizer)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**packed)
    if not training:
        torch.testing.assert_close(compiled.loss, model(**packed).loss)


def test_the_reference_kernel_gives_the_same_as_the_fast_one(tokenizer: Any) -> None:
    model = model_of("bert")
    _, packed = both_layouts(random_rows([5, 19, 4, 8, 3, 7], model), model, tokenizer)
    fast = model(**packed).loss
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(model(**packed).loss, fast)


def test_a_saved_model_says_nothing_of_packing(tokenizer: Any, tmp_path: Path) -> None:
    model = model_of("bert")
    model(**both_layouts(random_rows([5, 9, 4, 8], model), model, tokenizer)[1])
    model.save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    assert AutoModel.from_pretrained(tmp_path).backbone.config._attn_implementation == "sdpa"


def test_kernels_of_variable_length_get_the_boundaries_of_the_sequences(tokenizer: Any) -> None:
    model = model_of("bert")
    _, packed = both_layouts(random_rows([5, 9, 4, 8, 3, 7], model), model, tokenizer)
    expected = model(**packed).loss
    seen: dict[str, Any] = {}

    def stand_in(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        seen.update({"mask": mask, **kwargs})
        kwargs = {name: kwargs[name] for name in ("dropout", "scaling")}
        return packed_attention(module, query, key, value, None, packing=packed["packing"], **kwargs)

    original = AttentionInterface._global_mapping["flash_attention_2"]
    AttentionInterface.register("flash_attention_2", stand_in)
    try:
        model.backbone.config._attn_implementation = "flash_attention_2"
        assert model.can_pack
        torch.testing.assert_close(model(**packed).loss, expected)
    finally:
        AttentionInterface.register("flash_attention_2", original)
    assert seen["mask"] is None
    assert seen["cu_seq_lens_q"].tolist() == packed["packing"]["boundaries"].tolist()
    assert seen["max_length_k"] == 9


def test_an_encoder_without_the_interface_is_padded_and_on_is_refused() -> None:
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = DebertaV2Config(**small, intermediate_size=32, max_position_embeddings=70)
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=encoder, tasks=TASKS))
    assert not use_packing(model, "auto")
    assert not use_packing(model, "off")
    with pytest.raises(ValueError, match="a deberta-v2 backbone with eager attention cannot read packed"):
        use_packing(model, "on")


@pytest.mark.parametrize(("setting", "packs"), [("auto", True), ("on", True), ("off", False)])
def test_the_setting_decides_where_the_backbone_can(setting: str, packs: bool) -> None:
    assert use_packing(model_of("bert"), setting) == packs


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
@pytest.mark.parametrize("before", [False, True])
def test_a_packed_batch_under_attention_that_ignores_packing_is_refused(
    implementation: str, before: bool, tokenizer: Any
) -> None:
    model = model_of("bert")
    _, packed = both_layouts(random_rows([5, 9, 4, 8, 3, 7], model), model, tokenizer)
    expected = model(**packed).loss if before else None
    model.set_attn_implementation(implementation)
    assert not use_packing(model, "auto")
    with pytest.raises(ValueError, match=f"cannot be read with {implementation} attention"):
        model(**packed)
    model.set_attn_implementation("sdpa")
    assert use_packing(model, "auto")
    if before:
        assert torch.equal(model(**packed).loss, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_asked_for_attentions_a_packed_batch_is_padded(implementation: str, kind: str, tokenizer: Any) -> None:
    model = model_of(kind)
    padded, packed = both_layouts(random_rows([5, 9, 4, 8, 3, 7], model), model, tokenizer)
    expected = model(**packed)
    model.set_attn_implementation(implementation)
    output = model(**packed, output_attentions=True)
    for name, logits in expected.logits.items():
        torch.testing.assert_close(output.logits[name], logits, rtol=1e-4, atol=1e-5, msg=name)
    if implementation == "eager":
        assert output.attentions[0].shape[::3] == packed["packing"]["mask"].shape
        wanted = model(**padded, output_attentions=True).attentions[0]
        torch.testing.assert_close(output.attentions[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [{"is_causal": True}, {"softcap": 30.0}, {"position_bias": torch.zeros(1)}])
def test_attention_that_packed_attention_does_not_have_is_refused(asked: dict[str, Any]) -> None:
    states = torch.randn(1, 2, 32, 8)
    with pytest.raises(ValueError, match=f"no {next(iter(asked))}, which Linear asks for"):
        packed_attention(torch.nn.Linear(1, 1), states, states, states, None, pack([5, 20]), **asked)
