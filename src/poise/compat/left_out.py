"""RLlib's settings that are not carried over: one table for warnings and for the documentation."""

from __future__ import annotations

from typing import Any

WITHOUT_EFFECT = {
    "log_level", "eager_tracing", "eager_max_retraces", "log_sys_usage",
    "fake_sampler", "logger_creator", "logger_config", "in_evaluation", "disable_env_checking",
    "num_cpus_per_worker", "num_cpus_for_driver", "num_gpus_per_worker",
    "num_cpus_for_local_worker",
    "num_cpus_per_env_runner", "num_gpus_per_env_runner", "num_cpus_for_main_process",
    "num_cpus_per_learner", "num_cpus_per_learner_worker", "num_learner_workers", "local_gpu_idx",
    "num_gpus_per_learner_worker", "custom_resources_per_worker", "placement_strategy",
    "custom_resources_per_env_runner", "create_env_on_driver", "create_env_on_local_worker",
    "create_local_env_runner", "ignore_worker_failures", "recreate_failed_workers",
    "ignore_env_runner_failures", "restart_failed_env_runners", "restart_failed_sub_environments",
    "recreate_failed_env_runners", "max_num_worker_restarts", "max_num_env_runner_restarts",
    "delay_between_worker_restarts_s", "delay_between_env_runner_restarts_s",
    "num_consecutive_worker_failures_tolerance", "num_consecutive_env_runner_failures_tolerance",
    "worker_health_probe_timeout_s", "env_runner_health_probe_timeout_s",
    "worker_restore_timeout_s", "env_runner_restore_timeout_s",
    "validate_workers_after_construction",
    "validate_env_runners_after_construction", "sample_timeout_s", "evaluation_sample_timeout_s",
    "collect_metrics_timeout", "metrics_episode_collection_timeout_s", "simple_optimizer",
    "monitor", "render_env", "record_env", "compress_observations",
    "preprocessor_pref", "tf_session_args", "local_tf_session_args", "_disable_preprocessor_api",
    "_fake_gpus", "_disable_action_flattening", "_disable_execution_plan_api",
    "_enable_new_api_stack", "_enable_rl_module_api", "_enable_learner_api",
    "enable_rl_module_and_learner", "enable_env_runner_and_connector_v2", "enable_connectors",
    "enable_tf1_exec_eagerly", "auto_wrap_old_gym_envs", "is_atari", "action_mask_key",
    "num_data_loader_buffers", "minibatch_buffer_size", "num_multi_gpu_tower_stacks",
    "max_sample_requests_in_flight_per_worker", "max_requests_in_flight_per_sampler_worker",
    "max_requests_in_flight_per_env_runner", "learner_queue_size", "learner_queue_timeout",
    "num_aggregation_workers", "num_aggregator_actors_per_learner",
    "store_buffer_in_checkpoints", "synchronize_filters",
    "remote_worker_envs", "remote_env_batch_wait_ms", "gym_env_vectorize_mode", "sample_async",
    "sample_collector", "evaluation_num_workers", "evaluation_num_env_runners",
    "evaluation_parallel_to_training", "always_attach_evaluation_results",
    "evaluation_force_reset_envs_before_iteration", "enable_async_evaluation",
    "evaluation_auto_duration_min_env_steps_per_sample", "policy_map_capacity", "policy_map_cache",
    "policy_states_are_swappable", "extra_python_environs_for_driver",
    "extra_python_environs_for_worker", "extra_python_environs_for_workers",
    "export_native_model_files", "checkpoint_trainable_policies_only", "observation_space",
    "action_space", "shuffle_sequences", "grad_clip_by",
    "worker_side_prioritization", "torch_compile_learner", "torch_compile_worker", "run",
    "keep_per_episode_custom_metrics", "min_train_timesteps_per_iteration", "type", "_tf_policy_"
    "handles_more_than_one_loss", "use_worker_filter_stats", "update_worker_filter_stats",
    "merge_env_runner_states", "broadcast_env_runner_states", "env_runner_cls", "worker_cls",
    "log_gradients", "fused", "lr_schedule", "entropy_coeff_schedule",
}  # fmt: skip
"""Settings that say how RLlib does its work, or ask for what is always done.

The schedules stand here for where they are None.
"""

PRIORITIES = {"alpha", "beta", "eps"}
"""Settings of a prioritized replay, as its own configuration calls them."""

NESTED = (
    "optimization", "policy_model", "Q_model", "policy_model_config", "q_model_config",
)  # fmt: skip
"""Settings that hold others, of which some may be left out."""

IDLE: dict[str, Any] = {
    "framework": "torch", "batch_mode": "truncate_episodes", "use_critic": True, "use_gae": True,
    "vtrace": True, "use_kl_loss": False, "optimizer": {}, "shuffle_batch_per_epoch": True,
    "explore": True, "normalize_actions": True, "clip_actions": False, "count_steps_by":
    "env_steps", "replay_mode": "independent", "observation_fn": None, "env_task_fn": None,
    "soft_horizon": False, "no_done_at_end": False, "clip_rewards": None, "kl_coeff": 0.0,
    "num_learners": 0, "policies": None, "policy_mapping_fn": None, "policies_to_train": None,
    "model.use_attention": False, "model.zero_mean": True, "model.custom_model": None,
    "model.custom_action_dist": None, "model.custom_preprocessor": None,
    "model.no_final_linear": False, "model.custom_options": {}, "model.custom_model_config": {},
    "model.post_fcnet_hiddens": [], "model._disable_preprocessor_api": False, "opt_type": "adam",
    "model._disable_action_flattening": False, "use_state_preprocessor": False,
    "replay_buffer_num_slots": 0, "replay_proportion": 0.0, "num_atoms": 1, "noisy": False,
}  # fmt: skip
"""Values of settings, elsewhere left out, that ask for what is so in any case."""

_UNITS = "RLlib's is in the units of actions, Poise's in those in which their bounds are -1 and 1"
OTHER_SCALE = {
    "target_noise": _UNITS,
    "target_noise_clip": _UNITS,
    "vf_clip_param": "RLlib's bounds the squared error, Poise's how far a value may move",
}
"""Settings of the same name that mean something else."""

_TIME = "Iterations end on step counts, never on seconds: give timesteps_per_iteration."
_NETWORK = "Give model.custom_model, a torch.nn.Module of your own (docs/models.md)."
_DATA = "Nothing is learnt from recorded data here; see 'warm start' in docs/how-do-i.md."
_LOSS = "An algorithm of your own changes its loss (docs/ppo.md)."
_TASKS = "Curricula are callbacks that call environments: trainer.call_envs (docs/callbacks.md)."
INSTEAD: dict[str, str] = {
    **dict.fromkeys(
        ("min_iter_time_s", "min_time_s_per_iteration", "min_time_s_per_reporting"), _TIME
    ),
    **dict.fromkeys(("rl_module_spec", "catalog_class"), _NETWORK),
    **dict.fromkeys(
        (
            "input",
            "input_",
            "input_config",
            "output",
            "output_config",
            "postprocess_inputs",
            "input_evaluation",
            "off_policy_estimation_methods",
            "shuffle_buffer_size",
            "output_max_file_size",
        ),
        _DATA,
    ),
    **dict.fromkeys(
        (
            "learner_class",
            "_learner_class",
            "learner_config_dict",
            "training_intensity",
            "before_learn_on_batch",
            "after_train_step",
        ),
        _LOSS,
    ),
    "env_task_fn": _TASKS,
    "batch_mode": "A rollout ends where it is full, and the rest of an episode is bootstrapped.",
    **dict.fromkeys(
        (
            "env_to_module_connector",
            "module_to_env_connector",
            "learner_connector",
            "add_default_connectors_to_env_to_module_pipeline",
            "observation_fn",
        ),
        "Wrappers of Gymnasium's change what is seen and done: give wrappers.",
    ),
    "custom_eval_function": "poise.Callback.on_evaluation sees each evaluation.",
    "custom_evaluation_function": "poise.Callback.on_evaluation sees each evaluation.",
    "algorithm_config_overrides_per_module": "Give policies: {name: {settings of its own}}.",
    "soft_horizon": "A time limit is a truncation, whose value is bootstrapped.",
    "no_done_at_end": "A time limit is a truncation, whose value is bootstrapped.",
    "clip_actions": "Actions of the policy are scaled to their bounds, and never beyond them.",
    "opt_type": "IMPALA has rms_prop_eps and rms_prop_decay; the others learn by Adam.",
}
"""Settings that are left out where they ask for something, and what there is in their place."""
