"""Settings that were given and that nothing reads: said once, so that nobody relies on them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from poise.config.base import AlgorithmConfig
from poise.stepping.inline import InlineVectorEnv
from poise.training.trainer import Trainer


def unused(trainer: Trainer, stop: Any = None) -> list[str]:
    """A sentence for each reason why settings that were given are not used.

    `AlgorithmConfig.given` says which were. One that is off, as it is by default, is not named.

    Args:
        trainer: made, and not trained yet.
        stop: the rules of a run; None where whoever has the trainer may call `learn` and `evaluate`
            themselves.
    """
    config, given, sentences = trainer.config, set(trainer.config.given), list[str]()
    policies = trainer.algorithm.policies.items()
    of_each = [_reasons(trainer, name, policy, stop) for name, policy in policies]
    for each in zip(*of_each, strict=True):  # of several policies, none may read it
        applies, (_, names, why) = all(reason[0] for reason in each), each[0]
        keys = [key for key in names.split() if applies and key in given]
        found = [key for key in keys if _is_on(config, key)]
        given -= set(found)  # one reason is enough
        sentences += [f"Not used: {', '.join(found)} ({why})."] if found else []
    return sentences


def _is_on(config: AlgorithmConfig, key: str) -> bool:
    """Whether a setting has a value that does something, or another one than it has by default."""
    value = attrgetter(key)
    return bool(value(config) or value(config) != value(type(config)()))


_HIDDEN = (
    "model.fcnet_hiddens model.vf_fcnet_hiddens model.fcnet_activation model.initializer "
    "model.vf_share_layers"
)
_PICTURES = "model.conv_filters model.conv_activation model.conv_dtype"
_GAUSSIAN = (
    "model.action_distribution model.free_log_std model.log_std_init exploration_correlation"
)
_CELLS = "model.lstm_cell_size model.lstm_use_prev_action model.lstm_use_prev_reward"
_AGENTS = "policies policy_mapping_fn policies_to_train"
_PRIORITIES = "prioritized_replay_alpha prioritized_replay_beta prioritized_replay_eps"
_CLUSTER = "ray_address num_cpus_per_worker min_workers cluster_timeout_s"
_PROCESSES = "worker_memory_mb learner_queue_size"
_LIMITS = "env_step_timeout_s env_reset_timeout_s env_make_timeout_s"


def _reasons(trainer: Trainer, name: str, policy: Any, stop: Any) -> list[tuple[Any, str, str]]:
    """Conditions, the settings that are not used where one holds, and how that is said.

    Args:
        trainer, stop: as for `unused`.
        name, policy: one of its policies.
    """
    several = getattr(trainer.algorithm, "members", {})
    config = several[name].config if several else trainer.config
    model = config.model
    batch, total = next(iter(trainer.environments.batches), None), config.total_timesteps
    pictures = [] if policy.custom else policy.features.pictures
    # Critics beside the policy have layers of their own behind a custom model, too.
    critics, soft = (
        hasattr(several.get(name, trainer.algorithm), "critics"),
        getattr(policy, "soft", None),
    )
    alone = batch is not None and not hasattr(batch, "workers")
    other = isinstance(stop, dict) and stop.get("timesteps_total", total) != total
    evaluates = stop is None or config.evaluation_interval
    native = not isinstance(batch, InlineVectorEnv)
    hidden = model.fcnet_hiddens + (model.vf_fcnet_hiddens or [])
    rollout = config.rollout_fragment_length or 1
    where = "there is no ray_address"
    if config.ray_address is not None:
        where = "num_workers=0 samples in this process, without Ray"
    return [
        (not policy.recurrent, f"burn_in {_CELLS} model.max_seq_len", "there is no model.memory"),
        (not model.memory, _CELLS, "a custom model has cells of its own"),
        (
            policy.recurrent and not (hasattr(config, "clip_param") or hasattr(config, "burn_in")),
            "model.max_seq_len",
            f"{trainer.name} learns from whole rollouts",
        ),
        (not several, _AGENTS, "the environment has one agent"),
        (
            hasattr(config, "clip_param") and model.max_seq_len > rollout,
            "model.max_seq_len",
            f"no sequence is longer than rollout_fragment_length={rollout}",
        ),
        (
            policy.custom,
            _PICTURES if critics else f"{_HIDDEN} {_PICTURES}",
            "a custom model has layers of its own",
        ),
        (not policy.custom, "model.custom_model_config", "there is no model.custom_model"),
        (
            policy.custom and not policy.actions.free,
            "model.log_std_init",
            "the custom model gives log σ itself",
        ),
        (
            not policy.needs_log_prob,
            "model.vf_share_layers",
            f"{trainer.name} has no value function beside Q",
        ),
        (not hidden, "model.fcnet_activation", "no layers are hidden"),
        (not pictures, _PICTURES, "observations hold no pictures"),
        (
            all(leaf.dtype.kind == "f" for leaf in pictures),
            "model.conv_dtype",
            "pictures of floats stay float32",
        ),
        (not policy.actions.dim, _GAUSSIAN, "actions are not continuous"),
        (
            soft and policy.actions.squashed is None,
            "model.action_distribution",
            "numbers without bounds are not squashed",
        ),
        (
            hasattr(config, "exploration_noise"),
            "model.free_log_std model.log_std_init",
            f"{trainer.name} explores by exploration_noise",
        ),
        (
            not getattr(config, "learn_alpha", True),
            "alpha_lr target_entropy target_entropy_share",
            "learn_alpha is off",
        ),
        (
            getattr(config, "target_entropy", None) is not None,
            "target_entropy_share",
            "target_entropy is set",
        ),
        (soft and soft.kinds == ["numbers"], "target_entropy_share", "no action is a choice"),
        (
            not policy.moments,
            "normalize_observations",
            "observations are Discrete, or go to a custom model",
        ),
        (not getattr(config, "prioritized_replay", True), _PRIORITIES, "prioritized_replay is off"),
        (not getattr(config, "her", True), "n_sampled_goal goal_selection_strategy", "her is off"),
        (
            not getattr(config, "target_networks", True),
            "tau target_network_update_freq",
            "target_networks is off",
        ),
        (
            getattr(config, "num_quantiles", 0) == 1,
            "top_quantiles_to_drop",
            "num_quantiles is 1",
        ),
        (
            getattr(config, "opt_type", "") == "adam",
            "rms_prop_eps rms_prop_decay",
            "opt_type is 'adam'",
        ),
        (alone, "worker_memory_mb", "there are no worker processes"),
        (not config.on_cluster, _CLUSTER, where),
        (config.on_cluster, _PROCESSES, "workers on a cluster have bounds of their own"),
        (alone and native, _LIMITS, "nothing can watch environments that step as one native batch"),
        (not evaluates, "evaluation_duration evaluation_explore", "evaluation_interval is not set"),
        (other, "total_timesteps", "the stop rule for timesteps_total comes before it"),
    ]
