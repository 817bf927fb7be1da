"""What a pasted TRL file may hold beside our settings: read from TRL 1.16 and transformers 5.23.

Nothing is ignored in silence. A setting is ours, or another name for one of ours, or without effect on what is learnt
and named in a note, or it would change what is learnt and is an error unless it has the value that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odeval.errors import OdevalError

ALIASES = {"max_new_tokens": "max_completion_length", "warmup_ratio": "warmup_steps", "torch_dtype": "dtype"}

# Where runs are logged, loaded and placed. Results do not depend on it.
_HARMLESS = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs activation_offloading
    attn_implementation batch_eval_metrics bf16_full_eval bnb_4bit_quant_storage bnb_4bit_quant_type
    cache_implementation dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor
    dataset_config dataset_kwargs dataset_num_proc dataset_streaming dataset_test_split dataset_text_field
    dataset_train_split ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters
    ddp_static_graph ddp_timeout debug disable_tqdm do_eval do_predict do_train ds3_gather_for_generation
    enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_packing
    eval_strategy eval_use_gather_object fp16_full_eval full_determinism gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
    ignore_bias_buffers ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names
    length_column_name liger_kernel_config local_rank log_completions log_level log_level_replica log_on_each_node
    log_unique_prompts logging_dir logging_first_step logging_nan_inf_filter logging_steps logging_strategy
    lora_task_type max_length max_prompt_length metric_for_best_model model_revision num_completions_to_print
    overwrite_output_dir pad_to_multiple_of pad_token parallelism_config per_device_eval_batch_size
    prediction_loss_only project push_to_hub remove_unused_columns restore_callback_states_from_checkpoint
    resume_from_checkpoint run_name save_on_each_node save_only_model save_strategy save_total_limit
    skip_memory_metrics teacher_model_revision tf32 torch_compile torch_compile_backend torch_compile_mode
    torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy
    truncation_mode trust_remote_code use_bnb_nested_quant use_cache use_liger_kernel
    vllm_enable_sleep_mode vllm_group_port vllm_max_model_length vllm_mode
    vllm_model_impl vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout
    vllm_tensor_parallel_size
"""
HARMLESS = frozenset(_HARMLESS.split())

# These change what is learnt. Only the values that stand here are what odkd does.
ONLY: dict[str, tuple[Any, ...]] = {
    "assistant_only_loss": (False,),
    "auto_find_batch_size": (False,),
    "average_tokens_across_devices": (True,),
    "chat_template_kwargs": (None, {}),
    "chat_template_path": (None,),
    "completion_only_loss": (None, True),
    "data_seed": (None,),
    "deepspeed": (None,),
    "dtype": ("float32", "auto", None),
    "eos_token": (None,),
    "fp16": (False,),
    "fsdp": (None, "", False),
    "fsdp_config": (None, {}),
    "generation_kwargs": (None, {}),
    "label_smoothing_factor": (0, 0.0),
    "load_in_4bit": (False,),
    "load_in_8bit": (False,),
    "lora_modules_to_save": (None, []),
    "lora_target_parameters": (None, []),
    "loss_type": ("nll",),
    "lr_scheduler_kwargs": (None, {}),
    "max_tool_calling_iterations": (None,),
    "min_p": (None, 0, 0.0),
    "model_init_kwargs": (None, {}),
    "neftune_noise_alpha": (None, 0),
    "optim": ("adamw_torch", "adamw_torch_fused"),
    "optim_args": (None,),
    "optim_target_modules": (None,),
    "packing": (False,),
    "packing_strategy": ("bfd",),
    "padding_free": (False,),
    "repetition_penalty": (None, 1, 1.0),
    "router_aux_loss_coef": (None, 0, 0.0),
    "shuffle_dataset": (True,),
    "teacher_model_init_kwargs": (None, {}),
    "use_dora": (False,),
    "use_rslora": (False,),
    "vllm_structured_outputs_regex": (None,),
}


def translate(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn a file that may hold TRL's settings into ours.

    Args:
        settings: Name → value, as read.

    Returns:
        Our settings (unknown names are left for the caller to refuse), and one line for whatever had no effect.

    Raises:
        OdevalError: A setting would change what is learnt, in a way that odkd has not.

    Example:
        >>> translate({"max_new_tokens": 64, "logging_steps": 10, "optim": "adamw_torch"})
        ({'max_completion_length': 64}, ['logging_steps, optim: accepted, without effect here'])
    """
    ours: dict[str, Any] = {}
    idle, notes = [], []
    for name, value in settings.items():
        if ALIASES.get(name, name) in settings and name in ALIASES:
            raise OdevalError(f"{name} and {ALIASES[name]} are one setting; give one of them")
        name = ALIASES.get(name, name)
        if name == "use_cpu":
            ours.update({"device": "cpu"} if value else {})
        elif name in HARMLESS:
            idle.append(name)
        elif name in ONLY:
            if value not in ONLY[name]:
                allowed = " or ".join(str(one) for one in ONLY[name] if one != {} and one != [] and one != "")
                raise OdevalError(f"{name} {value!r}: odkd has only {allowed}; leave it out")
            idle.append(name)
        else:
            ours[name] = value
    if idle:
        notes.append(f"{', '.join(idle)}: accepted, without effect here")
    if "beta" in ours and "objective" not in ours:
        ours["objective"] = "jsd"
        end = {0: ", which is forward KL", 1: ", which is reverse KL"}.get(ours["beta"], "")
        notes.append(f"beta {ours['beta']} without an objective: taken as TRL means it, objective jsd{end}")
        if float(ours.get("temperature", 1.0)) != 1.0 and "loss_temperature" not in ours:
            notes.append(
                f"temperature {ours['temperature']}: here of the rollouts alone; TRL's DistillationTrainer also "
                "divides the logits of the loss by it, which is loss_temperature"
            )
    return ours, notes
