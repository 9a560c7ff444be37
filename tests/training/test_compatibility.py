import inspect
from dataclasses import fields
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from packaging import version
from transformers import Trainer, TrainingArguments

from hf_multitask import MultiTaskTrainer, MultiTaskTrainingArguments
from hf_multitask.training import compatibility
from hf_multitask.training.compatibility import check_model
from tests.conftest import task_rows, tiny_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics must be false"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last must be false"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches must be true"),
        ({"label_names": ["label"]}, "label_names must be unset"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be false"),
        ({"length_column_name": "tokens"}, "length_column_name must be unset: .*, not 'tokens'"),
        ({"use_cache": True}, "use_cache must be false: nothing is generated"),
        ({"use_liger_kernel": True}, "use_liger_kernel must be false"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices must be true: a loss is a mean over"),
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics may hold 'loss' alone"),
        ({"dataloader_in_order": False}, "dataloader_in_order must be true"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config must leave split_batches"),
        ({"accelerator_config": {"dispatch_batches": True}}, "and dispatch_batches off"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy 'group_by_length' has no effect"),
    ],
)
def test_an_argument_without_a_meaning_here_is_refused(make_trainer: Any, arguments: Any, message: str) -> None:
    if not set(arguments) <= {field.name for field in fields(TrainingArguments)}:
        pytest.skip("this transformers does not have it")
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": float("nan")}, "learning_rate must be a number from 0 on, not nan"),
        ({"learning_rate": -1.0}, "learning_rate must be a number from 0 on, not -1.0"),
        ({"head_learning_rate": float("inf")}, "head_learning_rate must be a number from 0 on"),
        ({"head_weight_decay": -0.1}, "head_weight_decay must be a number from 0 on"),
        ({"max_steps": 0}, "max_steps must be at least 1, or -1 for num_train_epochs, not 0"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers must be at least 0, not -1"),
        ({"optim_args": "betas=(0.9,0.95)"}, r"does not take optim_args 'betas=\(0.9,0.95\)': write name=value"),
        ({"optim_args": '{"betas": [0.9, 0.95]}'}, "does not take optim_args .*: write name=value"),
        ({"optim": "adamw_torch", "optim_args": "beta1=0.8"}, "optim adamw_torch does not read 'beta1'. .*adam_beta1"),
        ({"optim": "sgd", "optim_args": "momentum=0.9,nestrov=true"}, "optim sgd does not read 'nestrov'"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "optim sgd does not take optim_args 'momentum=much'"),
        ({"adam_beta1": 2.0}, "does not take its arguments .*beta"),
        ({"lr_scheduler_kwargs": {"a": 1}}, r"lr_scheduler_type linear does not take lr_scheduler_kwargs {'a': 1} \("),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type warmup_stable_decay does not take"),
    ],
)
def test_what_an_optimizer_or_its_schedule_does_not_take_is_refused_before_training(
    make_trainer: Any, arguments: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"},
        {"optim": "rmsprop", "optim_args": "centered=true"},
        {"optim": "adafactor"},
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.1}},
        {"learning_rate": 0.0, "head_learning_rate": 1e-3},
    ],
)
def test_what_they_take_is_taken(make_trainer: Any, arguments: Any) -> None:
    make_trainer(**arguments)


@pytest.mark.parametrize("reporter", ["tensorboard", "wandb", "mlflow"])
def test_a_reporter_that_is_not_installed_is_named(
    make_trainer: Any, reporter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compatibility, "get_available_reporting_integrations", list)
    with pytest.raises(ValueError, match=f"report_to {reporter} needs its package"):
        make_trainer(report_to=[reporter])


@pytest.mark.parametrize("name", ["compute_loss_func", "model_init"])
def test_so_is_a_function_that_would_never_be_called(tmp_path: Any, name: str) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path))
    with pytest.raises(ValueError, match=f"{name} is not taken: "):
        MultiTaskTrainer(tiny_model(), args, **{name: lambda *_: None})


@pytest.mark.parametrize("metrics", [5, "accuracy", {"sst": None}, {"sst": "accuracy"}, ["accuracy"]])
def test_so_are_metrics_that_are_no_function(tmp_path: Any, metrics: Any) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path))
    with pytest.raises(ValueError, match="compute_metrics must be a function, or a function by task, not "):
        MultiTaskTrainer(tiny_model(), args, compute_metrics=metrics)


def best_ids(logits: Any, labels: Any) -> Any:
    return {name: values.argmax(-1) for name, values in logits.items() if values.ndim == 2} or logits


@pytest.mark.parametrize("given", [{}, {"compute_metrics": {"quora": lambda _: {}}}], ids=["ours", "by task"])
def test_logits_are_not_changed_under_our_metrics(tmp_path: Any, given: Any) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path))
    with pytest.raises(ValueError, match="preprocess_logits_for_metrics is taken with a function as compute_metrics"):
        MultiTaskTrainer(tiny_model(), args, preprocess_logits_for_metrics=best_ids, **given)


def test_under_a_function_of_ones_own_they_may_be(tmp_path: Any, tokenizer: Any) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path), use_cpu=True)
    own: dict[str, Any] = {"compute_metrics": lambda evaluated: {"size": evaluated.predictions["sst"].ndim}}
    trainer = MultiTaskTrainer(
        tiny_model(), args, processing_class=tokenizer, preprocess_logits_for_metrics=best_ids, **own
    )
    assert trainer.evaluate({"sst": task_rows(4)["sst"]})["eval_sst_size"] == 1


@pytest.mark.parametrize("model", [None, "outputs/mine", torch.nn.Linear(1, 1)])
def test_so_is_what_is_no_model_of_several_tasks(tmp_path: Any, model: Any) -> None:
    args = MultiTaskTrainingArguments(str(tmp_path))
    with pytest.raises(ValueError, match=f"must be a MultiTaskBertModel, .*, not {type(model).__name__}"):
        MultiTaskTrainer(model, args)


def test_a_search_for_hyperparameters_names_the_recipe_that_does_it(make_trainer: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=r"hyperparameter_search is not offered, .* with recipes/tune\.py, or"
    ):
        make_trainer().hyperparameter_search(direction="maximize")


def test_arguments_of_another_class_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="args must be MultiTaskTrainingArguments, which take all that"):
        MultiTaskTrainer(tiny_model(), TrainingArguments(str(tmp_path)))
    with pytest.raises(ValueError, match="args must be MultiTaskTrainingArguments, not dict"):
        MultiTaskTrainer(tiny_model(), {"output_dir": str(tmp_path)})


def test_no_arguments_are_the_default_ones(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = MultiTaskTrainer(tiny_model(), train_dataset=task_rows(4), processing_class=tokenizer)
    assert trainer.args.output_dir == "tmp_trainer"


def test_tokenized_rows_need_a_tokenizer_too(tmp_path: Any) -> None:
    rows = {"sst": Dataset.from_dict({"input_ids": [[2, 5, 3]], "label": [1]})}
    for packing in ("auto", "off"):
        args = MultiTaskTrainingArguments(str(tmp_path), packing=packing, use_cpu=True)
        with pytest.raises(ValueError, match="processing_class is missing: the tokenizer"):
            MultiTaskTrainer(tiny_model(), args, rows)


# What was thought about: each works as in Trainer, is checked by our arguments, or is refused above.
FIELDS = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon
    auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval
    do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches
    eval_on_start eval_steps eval_strategy eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config
    full_determinism gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
    ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names label_smoothing_factor
    learning_rate length_column_name liger_kernel_config load_best_model_at_end local_rank log_level
    log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps logging_strategy
    lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model neftune_noise_alpha
    num_train_epochs optim optim_args optim_target_modules output_dir parallelism_config per_device_eval_batch_size
    per_device_train_batch_size prediction_loss_only project push_to_hub remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model
    save_steps save_strategy save_total_limit seed skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
    train_sampling_strategy use_cache use_cpu use_liger_kernel warmup_steps weight_decay
""".split()
PARAMETERS = """
    args callbacks compute_loss_func compute_metrics data_collator eval_dataset model model_init
    optimizer_cls_and_kwargs optimizers preprocess_logits_for_metrics processing_class train_dataset
""".split()


def test_transformers_has_no_argument_that_nobody_has_thought_about() -> None:
    """Decide of a new one whether it works here or is refused, and then add it to the list."""
    if version.parse(transformers.__version__) < version.parse("5.23"):
        pytest.skip("older versions have arguments that are gone")
    assert {field.name for field in fields(TrainingArguments)} <= set(FIELDS)
    assert inspect.signature(Trainer.__init__).parameters.keys() - {"self"} <= set(PARAMETERS)


def test_a_model_that_gives_tuples_is_refused(tmp_path: Any) -> None:
    model = tiny_model()
    model.config.return_dict = False
    with pytest.raises(ValueError, match=r"model\.config\.return_dict must be true in training"):
        MultiTaskTrainer(model, MultiTaskTrainingArguments(str(tmp_path)))


def test_a_model_with_code_of_its_own_is_refused_where_processes_share_rows() -> None:
    class Arguments:
        world_size = 2

    class Copy:
        type, COUPLES_ROWS, READS_VOCABULARY = "ranking", True, False

    model = tiny_model({"near": {"type": "ranking"}})
    check_model(model, Arguments())  # type: ignore[arg-type]
    model.config.tasks["near"] = Copy()
    with pytest.raises(
        ValueError, match=r"task 'near': .* load it without trust_remote_code, after import hf_multitask"
    ):
        check_model(model, Arguments())  # type: ignore[arg-type]
    Arguments.world_size = 1
    check_model(model, Arguments())  # type: ignore[arg-type]
