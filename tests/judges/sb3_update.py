"""Runs in an interpreter that has Stable-Baselines3, never in Poise's own: the same data, another
implementation.

    python sb3_update.py returns|ppo|a2c IN.npz OUT.npz

IN and OUT hold plain arrays; `test_against_sb3.py` writes the one and reads the other.
"""

import sys

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common import policies
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import RolloutBufferSamples

policies.preprocess_obs = lambda obs, *args, **kwargs: obs  # it would make float32 of observations


class Nothing(gym.Env):
    """An environment that only has spaces."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def returns(given):
    """GAE over a buffer, with truncation as SB3's `collect_rollouts` handles it."""
    steps, slots = given["reward"].shape
    gamma, lambda_ = float(given["gamma"]), float(given["lambda"])
    box = spaces.Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(steps, box, box, "cpu", gae_lambda=lambda_, gamma=gamma, n_envs=slots)
    done = given["terminated"] | given["truncated"]
    only_cut = given["truncated"] & ~given["terminated"]
    # The buffer's arrays are float32; these take their places, so that the formula is what is
    # compared.
    buffer.rewards = given["reward"] + gamma * given["next_value"] * only_cut
    buffer.values = given["value"]
    buffer.episode_starts = np.concatenate([np.ones((1, slots)), done[:-1]])
    buffer.advantages = np.zeros((steps, slots))
    buffer.compute_returns_and_advantage(torch.as_tensor(given["next_value"][-1]), done[-1])
    return {"advantage": buffer.advantages, "target": buffer.returns}


def learner(kind, given):
    """SB3's algorithm with the given networks, in float64."""
    obs = spaces.Box(-np.inf, np.inf, given["obs"].shape[1:], np.float64)
    discrete = given["action"].ndim == 1
    width = given["pi.2.weight"].shape[0]
    actions = spaces.Discrete(width) if discrete else spaces.Box(-1e6, 1e6, (width,), np.float32)
    rest = (
        {} if kind == "a2c" else {"n_epochs": 1, "batch_size": len(given["obs"]), "clip_range": 0.2}
    )
    made = (PPO if kind == "ppo" else A2C)(
        "MlpPolicy",
        Nothing(obs, actions),
        learning_rate=float(given["lr"]),
        n_steps=len(given["obs"]),
        gamma=0.99,
        ent_coef=float(given["entropy_coeff"]),
        vf_coef=float(given["vf_coeff"]),
        max_grad_norm=float(given["grad_clip"]),
        normalize_advantage=bool(given["normalize"]),
        policy_kwargs={"net_arch": [given["pi.0.weight"].shape[0], given["pi.1.weight"].shape[0]]},
        device="cpu",
        **rest,
    )
    policy = made.policy.double()
    for name, module in places(policy).items():
        for part in ("weight", "bias"):
            getattr(module, part).data.copy_(torch.as_tensor(given[f"{name}.{part}"]))
    if not discrete:
        policy.log_std.data.copy_(torch.as_tensor(given["log_std"]))
    made.set_logger(Logger(None, []))
    return made, policy


def places(policy):
    """SB3's layers by Poise's names."""
    pi, vf = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    names = ("pi.0", "pi.1", "pi.2", "vf.0", "vf.1", "vf.2")
    return dict(
        zip(names, (pi[0], pi[2], policy.action_net, vf[0], vf[2], policy.value_net), strict=True)
    )


class Float64Samples:
    """In the place of the rollout buffer, which keeps float32: one minibatch, the whole batch."""

    def __init__(self, given):
        self.given = {name: torch.as_tensor(given[name]) for name in given.files}
        self.values, self.returns = given["value"], given["target"]

    def get(self, batch_size=None):
        g = self.given
        action = g["action"] if g["action"].ndim > 1 else g["action"].double().unsqueeze(1)
        yield RolloutBufferSamples(
            g["obs"], action, g["value"], g["log_prob"], g["advantage"], g["target"]
        )


def update(kind, given):
    """One call of SB3's own `train`."""
    made, policy = learner(kind, given)
    made.rollout_buffer = Float64Samples(given)
    with torch.no_grad():
        action = torch.as_tensor(given["action"])
        values, log_prob, entropy = policy.evaluate_actions(torch.as_tensor(given["obs"]), action)
    before = {
        "before.value": values.flatten(),
        "before.log_prob": log_prob,
        "before.entropy": entropy,
    }
    made.train()
    after = {
        f"{n}.{p}": getattr(m, p).data
        for n, m in places(policy).items()
        for p in ("weight", "bias")
    }
    if given["action"].ndim > 1:
        after["log_std"] = policy.log_std.data
    return {name: np.asarray(value) for name, value in {**before, **after}.items()}


if __name__ == "__main__":
    kind, source, target = sys.argv[1:]
    given = np.load(source)
    np.savez(target, **(returns(given) if kind == "returns" else update(kind, given)))
