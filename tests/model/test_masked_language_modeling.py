"""Tokens that are masked are drawn as BERT draws them, and found by a head that ends in the word embeddings."""

import copy
import re
from collections import Counter
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F
from transformers import AlbertConfig, AutoModel, CanineConfig, ElectraConfig, FillMaskPipeline

from hf_multitask import MultiTaskBertConfig, MultiTaskBertModel, MultiTaskCollator, MultiTaskPipeline, TaskConfig
from hf_multitask.data.batch import select_rows
from hf_multitask.training.surgery import GradientSurgery, build_weighting
from tests.conftest import TASKS, WORDS, sentences, tiny_model

MLM = {"type": "masked_language_modeling"}
TASK: Any = TaskConfig(**MLM)
H, E, V = 6, 4, 90
TEXTS = ["the big cat sat on a mat", "good", "a film was not very good", "the plot was a big hill"]


def rows_of(tokenizer: Any, texts: list[str] = TEXTS, **kwargs: Any) -> list[dict[str, Any]]:
    tokens = TASK.tokenize(tokenizer, {"sentence": texts}, kwargs.get("max_length", 64))
    return [dict(zip(tokens, values, strict=True)) for values in zip(*tokens.values(), strict=True)]


def test_the_table_says_the_share() -> None:
    assert TASK.mask_probability == 0.15
    assert TaskConfig.from_dict({**MLM, "mask_probability": 0.3}).to_dict()["mask_probability"] == 0.3
    assert not TASK.differences(TaskConfig(**MLM, mask_probability=0.3))
    for value in (0, 1, -0.1, "0.2", True, float("nan")):
        with pytest.raises(ValueError, match=r"mask_probability .* must be a number above 0 and below 1"):
            TaskConfig(**MLM, mask_probability=value)
    with pytest.raises(ValueError, match="texts must be 1, the number of texts in a row of masked_language_modeling"):
        TaskConfig(**MLM, texts=2)


# ---- What is masked ----


def test_a_share_of_each_texts_tokens_is_chosen_at_least_one_and_never_a_special_one(tokenizer: Any) -> None:
    texts = [" ".join(["cat"] * count) for count in (1, 3, 10, 20, 40)] + ["cat unheard [MASK] [SEP]"]
    rows = rows_of(tokenizer, texts)
    for row, changed in zip(rows, TASK.batch_rows(rows, tokenizer), strict=True):
        ordinary = [place for place, token in enumerate(row["input_ids"]) if token >= 5]
        assert len(changed["masked"]) == len(changed["label"]) == max(1, round(0.15 * len(ordinary)))
        assert set(changed["masked"]) <= set(ordinary)
        assert changed["label"] == [row["input_ids"][place] for place in changed["masked"]]
        elsewhere = set(range(len(row["input_ids"]))) - set(changed["masked"])
        assert all(changed["input_ids"][place] == row["input_ids"][place] for place in elsewhere)


def test_8_of_10_become_the_mask_token_and_1_another_word(tokenizer: Any) -> None:
    task: Any = TaskConfig(**MLM, mask_probability=0.5)
    rows = rows_of(tokenizer, [" ".join(["cat"] * 60)] * 200)
    fates, words, places = Counter(), Counter(), Counter()
    for changed in task.batch_rows(rows, tokenizer):
        places.update(changed["masked"])
        for place, token in zip(changed["masked"], changed["label"], strict=True):
            now = changed["input_ids"][place]
            fates["kept" if now == token else "masked" if now == tokenizer.mask_token_id else "other"] += 1
            words[now] += 1
    total, vocabulary = sum(fates.values()), tokenizer.vocab_size
    assert total == 200 * 30
    # Of the words that are drawn, special ones and the word itself leave it as it is.
    assert fates["masked"] / total == pytest.approx(0.8, abs=0.02)
    assert fates["other"] / total == pytest.approx(0.1 * (vocabulary - 6) / vocabulary, abs=0.015)
    assert set(words) == {tokenizer.mask_token_id, *range(5, vocabulary)}
    assert min(places[place] for place in range(1, 61)) > 60


def test_the_same_rows_are_masked_alike_and_in_other_company_otherwise(tokenizer: Any) -> None:
    texts = sentences(30)
    rows = rows_of(tokenizer, texts)
    before = copy.deepcopy(rows)
    first, again = TASK.batch_rows(rows, tokenizer), TASK.batch_rows(copy.deepcopy(rows), tokenizer)
    assert first == again
    assert rows == before, "rows are not changed in place"
    others = TASK.batch_rows(rows[::-1], tokenizer)[::-1]
    assert [row["label"] for row in first] != [row["label"] for row in others]


def test_tokenizers_without_a_mask_token_are_refused(tokenizer: Any) -> None:
    rows = rows_of(tokenizer)
    tokenizer.mask_token = None
    for refused in (lambda: rows_of(tokenizer), lambda: TASK.batch_rows(rows, tokenizer)):
        with pytest.raises(ValueError, match="puts a mask token in the place of words, and the tokenizer has none"):
            refused()


# ---- The head ----


def naive_head(head: Any, states: torch.Tensor, vocabulary: torch.Tensor) -> torch.Tensor:
    hidden = states @ head.dense.weight.T + head.dense.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    spread = ((hidden - hidden.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    return hidden @ vocabulary.T


def test_the_head_is_hidden_layer_gelu_layernorm_word_embeddings_at_masked_places() -> None:
    head = TASK.build_head(H, embedding_size=E).eval()
    states, vocabulary = torch.randn(2, 5, H), torch.randn(V, E)
    outputs = head(states, torch.ones(2, 5), vocabulary, torch.tensor([[1, 3], [4, -1]]))
    assert outputs.shape == (2, 2, V)
    for row, number, place in ((0, 0, 1), (0, 1, 3), (1, 0, 4)):
        torch.testing.assert_close(outputs[row, number], naive_head(head, states[row, place], vocabulary))
    assert (outputs[1, 1] == -100).all()
    assert len(TASK.each_output(outputs)) == 3
    assert head(states, torch.ones(2, 5), vocabulary, torch.full((2, 0), -1)).shape == (2, 0, V)


def test_without_places_all_tokens_have_logits() -> None:
    head = TASK.build_head(H).eval()
    states, vocabulary = torch.randn(2, 3, H), torch.randn(V, H)
    outputs = head(states, torch.tensor([[1, 1, 1], [1, 1, 0]]), vocabulary)
    torch.testing.assert_close(outputs[0], naive_head(head, states[0], vocabulary))
    assert (outputs[1, 2] == -100).all()


@pytest.mark.parametrize(
    "encoder",
    [
        AlbertConfig(vocab_size=40, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=32),
        ElectraConfig(vocab_size=40, embedding_size=8, hidden_size=16, num_attention_heads=2, num_hidden_layers=2),
    ],
    ids=lambda config: config.model_type,
)
def test_embeddings_may_be_smaller_than_states(encoder: Any) -> None:
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=encoder, tasks={"mlm": MLM}))
    head: Any = model.heads["mlm"]
    assert head.dense.weight.shape == (8, 16)
    output = model(torch.arange(5, 10).reshape(1, 5), task="mlm", head_inputs={"masked": torch.tensor([[2]])})
    assert output.logits.shape == (1, 1, 40)


def test_an_encoder_without_word_embeddings_is_refused() -> None:
    config = CanineConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    refusal = (
        "task 'mlm': a masked_language_modeling reads the encoder's word embeddings, and a canine backbone has none"
    )
    with pytest.raises(ValueError, match=refusal):
        MultiTaskBertModel(MultiTaskBertConfig(encoder_config=config, tasks={"mlm": MLM}))
    model = MultiTaskBertModel(MultiTaskBertConfig(encoder_config=config, tasks={"sst": TASKS["sst"]}))
    with pytest.raises(ValueError, match=refusal):
        model.add_task("mlm", MLM)
    assert list(model.config.tasks) == ["sst"]


# ---- Loss and divergence ----


def padding(outputs: torch.Tensor, *places: tuple[int, int]) -> torch.Tensor:
    for row, place in places:
        outputs[row, place] = -100
    return outputs


def test_a_rows_loss_is_the_mean_over_its_masked_tokens_and_of_none_0() -> None:
    outputs = padding(torch.randn(3, 2, V), (1, 1), (2, 0), (2, 1)).requires_grad_()
    labels = torch.tensor([[7, 3], [9, -100], [-100, -100]])
    losses = TASK.losses(outputs, labels)
    first = F.cross_entropy(outputs[0].double(), torch.tensor([7, 3]))
    second = F.cross_entropy(outputs[1, :1].double(), torch.tensor([9]))
    torch.testing.assert_close(losses.double(), torch.stack([first, second, torch.zeros(()).double()]))
    assert TASK.label_counts(outputs, labels).tolist() == [2, 1, 0]
    losses.sum().backward()
    assert not outputs.grad[2].any()
    assert not outputs.grad[1, 1].any()
    assert TASK.losses(outputs.bfloat16(), labels).dtype == torch.float32
    nothing = torch.zeros(2, 0, V, requires_grad=True)
    TASK.losses(nothing, torch.zeros(2, 0, dtype=torch.long)).sum().backward()
    assert nothing.grad is not None


def test_outputs_of_all_tokens_are_no_match_for_labels_of_masked_ones() -> None:
    refusal = "outputs (1, 5, 90) of a masked_language_modeling do not fit labels (1, 3)"
    with pytest.raises(ValueError, match=re.escape(refusal)):
        TASK.losses(torch.randn(1, 5, V), torch.zeros(1, 3, dtype=torch.long))


def test_a_rows_divergence_is_the_mean_symmetric_kl_of_its_masked_tokens() -> None:
    outputs, others = (padding(torch.randn(3, 2, V), (1, 1), (2, 0), (2, 1)) for _ in range(2))
    p, q = (Categorical(logits=z.double()) for z in (outputs, others))
    each = kl_divergence(p, q) + kl_divergence(q, p)
    expected = torch.stack([each[0].mean(), each[1, 0], torch.zeros(()).double()])
    torch.testing.assert_close(TASK.divergences(outputs, others).double(), expected, rtol=1e-4, atol=1e-6)
    same = outputs.clone().requires_grad_()
    still = TASK.divergences(same, outputs)
    still.sum().backward()
    assert not still.any()
    assert not same.grad.any()


def test_an_evaluation_keeps_surprise_and_rank() -> None:
    outputs = padding(torch.randn(2, 2, V), (1, 1))
    outputs[1, 0] = 0
    labels = torch.tensor([[7, 3], [9, -100]])
    kept = TASK.evaluated(outputs, labels)
    assert kept.shape == (2, 2, 2)
    for place, label in enumerate((7, 3)):
        order = outputs[0, place].argsort(descending=True).tolist()
        assert kept[0, place].tolist() == [
            pytest.approx(-float(outputs[0, place].log_softmax(-1)[label]), rel=1e-5),
            order.index(label) + 1,
        ]
    assert kept[1, 0, 1] == V, "a head that says the same of all words is not right"
    assert (kept[1, 1] == -100).all()


# ---- In the model ----


@pytest.fixture
def batch_of(tokenizer: Any):
    """Rows of `mlm`, of which one has no ordinary token, beside one of `sst`."""

    def make(packing: bool) -> dict[str, Any]:
        mlm = [{"task": "mlm", **row} for row in rows_of(tokenizer, [*TEXTS, "unheard"])]
        sst = {"task": "sst", "input_ids": tokenizer("a good film")["input_ids"], "label": 1}
        configs = {"mlm": TASK, "sst": TaskConfig.from_dict(TASKS["sst"])}
        return MultiTaskCollator(tokenizer, configs, packing)([*mlm, sst])

    return make


def gradients_of(model: MultiTaskBertModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_equals_padded_and_the_loss_is_a_mean_over_tokens(batch_of) -> None:
    model = tiny_model({"mlm": MLM, "sst": TASKS["sst"]})
    outputs = [model(**batch_of(packing)) for packing in (True, False)]
    gradients = [gradients_of(model, output.loss) for output in outputs]
    for name in ("mlm", "sst"):
        torch.testing.assert_close(outputs[0].logits[name], outputs[1].logits[name], rtol=1e-4, atol=1e-4)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
    labels, logits = batch_of(True)["labels"]["mlm"], outputs[0].logits["mlm"]
    assert (labels[-1] == -100).all()
    torch.testing.assert_close(outputs[0].losses["mlm"], F.cross_entropy(logits.transpose(1, 2), labels))


@pytest.mark.parametrize("packing", [True, False])
def test_a_part_of_a_batch_has_its_rows_places(batch_of, packing: bool) -> None:
    model, batch = tiny_model({"mlm": MLM, "sst": TASKS["sst"]}), batch_of(packing)
    found = model(**select_rows(batch, {"mlm": torch.tensor([1, 3])}, model.config.tasks))
    expected = model(**batch).logits["mlm"][[1, 3]]
    torch.testing.assert_close(found.logits["mlm"], expected, rtol=1e-4, atol=1e-4)


def test_the_word_embeddings_gradient_is_that_of_both_their_uses(batch_of) -> None:
    model, batch = tiny_model({"mlm": MLM, "sst": TASKS["sst"]}), batch_of(False)
    found = gradients_of(model, model(**batch).losses["mlm"])["backbone.embeddings.word_embeddings.weight"]
    words: Any = model.get_input_embeddings()
    read, said = words.weight, words.weight.detach().clone().requires_grad_()
    loss, count = torch.zeros(()), 0
    for row, (places, labels) in enumerate(
        zip(batch["head_inputs"]["mlm"]["masked"].tolist(), batch["labels"]["mlm"].tolist(), strict=True)
    ):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        states = model(ids.unsqueeze(0)).last_hidden_state[0]
        for place, label in zip(places, labels, strict=True):
            if place >= 0:
                loss = loss - naive_head(model.heads["mlm"], states[place], said).log_softmax(-1)[label]
                count += 1
    first, second = torch.autograd.grad(loss / count, [read, said])
    assert first.any()
    assert second.any()
    torch.testing.assert_close(found, first + second, rtol=1e-3, atol=1e-5)


def test_surgery_has_both_uses_in_the_tasks_gradient(batch_of) -> None:
    model, batch = tiny_model({"mlm": MLM, "sst": TASKS["sst"]}), batch_of(False)
    plain = gradients_of(model, sum(model(**batch).losses.values()))
    model.zero_grad()
    names = ["mlm", "sst"]
    surgery = GradientSurgery(build_weighting("sum"), model.backbone.parameters(), names, Accelerator(cpu=True))
    for name in names:
        part = select_rows(batch, {name: torch.arange(len(batch["labels"][name]))}, model.config.tasks)
        with surgery.collecting(name):
            model(**part).loss.backward()
    surgery.combine()
    words: Any = model.get_input_embeddings()
    torch.testing.assert_close(
        words.weight.grad, plain["backbone.embeddings.word_embeddings.weight"], rtol=1e-3, atol=1e-5
    )


def test_a_frozen_encoder_leaves_the_head_to_learn(batch_of) -> None:
    model = tiny_model({"mlm": MLM, "sst": TASKS["sst"]})
    model.freeze_backbone()
    gradients = gradients_of(model, model(**batch_of(True)).loss)
    assert gradients
    assert all(name.startswith("heads.") for name in gradients)


def test_the_word_embeddings_are_saved_once_and_may_grow(tmp_path: Any) -> None:
    model = tiny_model({"mlm": MLM})
    ids, masked = torch.arange(5, 15).reshape(2, 5), {"masked": torch.tensor([[1, 2], [3, -1]])}
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(40 in value.shape for value in saved.values()) == 1
    loaded = AutoModel.from_pretrained(tmp_path)
    before = model(ids, task="mlm", head_inputs=masked).logits
    assert torch.equal(loaded(ids, task="mlm", head_inputs=masked).logits, before)
    loaded.resize_token_embeddings(48)
    after = loaded(ids, task="mlm", head_inputs=masked).logits
    assert after.shape == (2, 2, 48)
    torch.testing.assert_close(after[..., :40], before)


def test_the_head_reads_words_as_an_adapter_makes_them() -> None:
    peft = pytest.importorskip("peft")
    ids = torch.arange(5, 15).reshape(2, 5)
    model = peft.get_peft_model(tiny_model({"mlm": MLM}), peft.LoraConfig(target_modules=["word_embeddings"])).eval()
    plain = model(input_ids=ids, task="mlm").logits
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    found = model(input_ids=ids, task="mlm").logits
    assert not torch.allclose(found, plain, atol=1e-2)
    torch.testing.assert_close(model.merge_and_unload()(ids, task="mlm").logits, found, rtol=1e-4, atol=1e-4)


def test_tasks_come_and_go() -> None:
    model = tiny_model({"sst": TASKS["sst"]})
    model.add_task("mlm", MLM)
    assert model(torch.arange(5, 10).reshape(1, 5), task="mlm").logits.shape == (1, 5, 40)
    model.drop_task("mlm")
    assert list(model.heads) == ["sst"]


# ---- What is said ----


@pytest.fixture
def pipe(tokenizer: Any) -> MultiTaskPipeline:
    # A vocabulary as large as the tokenizer's: each of its words can be said.
    model = tiny_model({"mlm": MLM, "sst": TASKS["sst"]}, encoder={"vocab_size": 5 + len(WORDS)})
    return MultiTaskPipeline(model, tokenizer)


def test_the_pipeline_fills_every_mask(pipe: Any, tokenizer: Any) -> None:
    text = "the [MASK] was very [MASK]"
    said = pipe(text, task="mlm", top_k=3)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    logits = pipe.model(ids, task="mlm").logits[0, (ids[0] == tokenizer.mask_token_id)]
    # What transformers' own pipeline says of the same logits.
    output = {"input_ids": ids, "logits": pipe.model(ids, task="mlm").logits}
    theirs = FillMaskPipeline.postprocess(pipe, output, top_k=3)
    assert len(said) == len(logits) == 2
    for mine, other in zip(said, theirs, strict=True):
        assert [one["token"] for one in mine] == [one["token"] for one in other]
        assert [one["score"] for one in mine] == pytest.approx([one["score"] for one in other], rel=1e-4)
        for key in ("token_str", "sequence"):
            assert [one[key] for one in mine] == [one[key] for one in other]


def test_one_mask_gives_a_readable_text_and_no_mask_nothing(pipe: Any) -> None:
    one, none = pipe(["the [MASK] was good", "the film was good"], task="mlm")
    assert none == []
    assert one[0]["sequence"] == f"the {one[0]['token_str']} was good"
    assert one[0]["token_str"] in [*WORDS, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    both = pipe("the [MASK] was good")
    assert both["mlm"] == one
    assert both["sst"]["label"] in "01234"
    assert len(pipe("the [MASK] was good", task="mlm", top_k=None)[0]) == 5 + len(WORDS)
    assert pipe.for_task("mlm").task == "fill-mask"


def test_texts_of_any_number_of_masks_come_out_as_each_alone(pipe: Any) -> None:
    texts = ["a [MASK]", "the film", "[MASK] [MASK] [MASK]", "the [MASK] sat on the [MASK]", "unheard"]
    together = pipe(texts, task="mlm", batch_size=2)
    assert [len(said) for said in together] == [1, 0, 3, 2, 0]
    for text, said in zip(texts, together, strict=True):
        alone = pipe(text, task="mlm")
        assert [one["token"] for one in said] == [one["token"] for one in alone]
        assert [one["score"] for one in said] == pytest.approx([one["score"] for one in alone], rel=1e-4)


def test_a_mask_that_was_cut_off_is_not_filled(pipe: Any) -> None:
    assert len(pipe("a [MASK] the film was [MASK]", task="mlm", max_length=6)) == 1
