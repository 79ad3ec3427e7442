"""Results as RLlib had them: the flat keys until 2.5, the nested ones since, in one dictionary."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from poise.compat.rllib.episodes import METRICS

NEW = {
    "env_runners/episode_return_mean": "episode_reward_mean",
    "env_runners/episode_return_min": "episode_reward_min",
    "env_runners/episode_return_max": "episode_reward_max",
    "env_runners/episode_len_mean": "episode_len_mean",
    "env_runners/num_episodes": "episodes_this_iter",
    "env_runners/num_episodes_lifetime": "episodes_total",
    "env_runners/num_env_steps_sampled": "timesteps_this_iter",
    "env_runners/num_env_steps_sampled_lifetime": "timesteps_total",
    "num_env_steps_sampled_lifetime": "timesteps_total",
    "num_env_steps_sampled": "timesteps_total",
    "num_env_steps_trained": "timesteps_total",
    "num_env_steps_sampled_this_iter": "timesteps_this_iter",
    "num_agent_steps_sampled": "timesteps_total",
    "num_agent_steps_sampled_lifetime": "timesteps_total",
}
"""RLlib's names of results and Poise's."""

LEARNER = {
    "grad_gnorm": "grad_norm", "mean_kl_loss": "kl", "mean_q": "q", "qf_mean": "q",
    "gradients_default_optimizer_global_norm": "grad_norm", "alpha_value": "alpha",
    "default_optimizer_learning_rate": "cur_lr", "total_loss": "loss",
}  # fmt: skip
"""RLlib's names of what the learner tells and Poise's; others are the same."""

_OLD_LEARNER = re.compile(r"(?:info/learner|learners)/([^/]+)/(?:learner_stats/)?([^/]+)")
_SECTIONS = ("env_runners/", "sampler_results/")


def key_of(name: str) -> str:
    """Poise's name of a result by RLlib's, as stop rules and searches have it."""
    if name in NEW:
        return NEW[name]
    if name.startswith("evaluation/"):
        return f"evaluation/{key_of(name.removeprefix('evaluation/'))}"
    if found := _OLD_LEARNER.fullmatch(name):
        policy, stat = found.groups()
        own = "" if policy in ("default_policy", "default") else f"{policy}/"
        return f"learner/{own}{LEARNER.get(stat, stat)}"
    for section in _SECTIONS:
        if name.startswith(section):
            return key_of(name.removeprefix(section))
    if name.startswith("policy_reward_mean/"):
        return f"policy/{name.partition('/')[2]}/episode_reward_mean"
    if name.startswith(METRICS):
        return f"info/{name.removesuffix('_mean')}"
    return name


def flat(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a nested dictionary by their places, such as `info/learner`."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}/")
        else:
            yield f"{before}{key}", value


def nested(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary of what has places such as `info/learner`."""
    made: dict[str, Any] = {}
    for place, value in entries.items():
        *inside, last = place.split("/")
        owner = made
        for part in inside:
            owner = owner.setdefault(part, {})
        owner[last] = value
    return made


def below(prefix: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose keys begin with a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in result.items() if key.startswith(prefix)}


def layouts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Statistics of episodes by Poise's names, and by RLlib's new ones beside them."""
    known = {new: result[old] for new, old in NEW.items() if old in result}
    metrics = {f"{k}_mean": v for k, v in below(f"info/{METRICS}", result).items()}
    plain = {key: value for key, value in result.items() if "/" not in key}
    made = {**plain, **nested(known), "custom_metrics": metrics}
    if "agent_timesteps_total" in result:
        for name in ("num_agent_steps_sampled", "num_agent_steps_sampled_lifetime"):
            made[name] = result["agent_timesteps_total"]
    made["policy_reward_mean"] = {
        name.removesuffix("/episode_reward_mean"): value
        for name, value in below("policy/", result).items()
    }
    return made


def classic(trainer: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of Poise's with RLlib's keys of all eras beside its own.

    Args:
        trainer: Poise's.
        result: its latest.
    """
    window, names = list(trainer.metrics.window), list(trainer.algorithm.policies)
    shown = {name: name if names[1:] else "default_policy" for name in names}
    learner = below("learner/", result)
    stats = {shown[n]: _stats(below(f"{n}/", learner) if names[1:] else learner) for n in names}
    rewards = {n: below(f"policy/{n}/", result) for n in names}
    metrics: dict[str, list[float]] = {}
    for episode in window:
        for key, value in below(METRICS, episode.info).items():
            metrics.setdefault(key, []).append(value)
    made = layouts(result)
    made["custom_metrics"] = {
        f"{key}_{how}": float(of(values))
        for key, values in metrics.items()
        for how, of in (("mean", np.mean), ("min", np.min), ("max", np.max))
    }
    made["env_runners"].update({key: float(np.mean(each)) for key, each in metrics.items()})
    history = {
        "episode_reward": [episode.reward for episode in window],
        "episode_lengths": [episode.length for episode in window],
    }
    evaluation = below("evaluation/", result)
    by_policy = {n: own["episode_reward_mean"] for n, own in rewards.items() if own}
    steps = result["timesteps_total"]
    return {
        **result,
        **made,
        "hist_stats": history,
        "sampler_results": {**{k: v for k, v in made.items() if "episode" in k},
                            "hist_stats": history, "custom_metrics": made["custom_metrics"]},
        "info": {"num_steps_sampled": steps, "num_steps_trained": steps,
                 "num_env_steps_sampled": steps, "num_agent_steps_sampled": steps,
                 "learner": {name: {**own, "learner_stats": own} for name, own in stats.items()}},
        "learners": {**stats, "__all_modules__": {"num_env_steps_trained_lifetime": steps}},
        "policy_reward_mean": by_policy,
        "policy_reward_min": {n: own["episode_reward_min"] for n, own in rewards.items()
                              if "episode_reward_min" in own},
        "policy_reward_max": {n: own["episode_reward_max"] for n, own in rewards.items()
                              if "episode_reward_max" in own},
        **({"evaluation": layouts(evaluation)} if evaluation else {}),
        "timers": {"learn_time_ms": 1000 * result["time_this_iter_s"]
                   * result.get("perf/learning_share", 0.0)},
        "sampler_perf": {}, "perf": below("perf/", result), "agent_timesteps_total":
        result.get("agent_timesteps_total", steps),
        "done": False, "pid": os.getpid(), "hostname": platform.node(), "node_ip": "127.0.0.1",
        "timestamp": int(time.time()), "date": time.strftime("%Y-%m-%d_%H-%M-%S"),
        "experiment_id": str(trainer.config.seed), "trial_id": "default",
    }  # fmt: skip


def _stats(own: Mapping[str, Any]) -> dict[str, Any]:
    """What a learner tells, by RLlib's names and Poise's."""
    return {**own, **{name: own[ours] for name, ours in LEARNER.items() if ours in own}}
