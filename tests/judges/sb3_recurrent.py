"""Runs in an interpreter that has SB3-contrib, never in Poise's own: one update of RecurrentPPO.

    python sb3_recurrent.py recurrent IN.npz OUT.npz

`test_against_sb3.py` writes the one and reads the other. Rows come time-major, `[T, B, ...]`.
"""

import sys

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates
from stable_baselines3.common import policies
from stable_baselines3.common.logger import Logger

policies.preprocess_obs = lambda obs, *args, **kwargs: obs  # it would make float32 of observations
GATES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Nothing(gym.Env):
    """An environment that only has spaces."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def places(policy):
    """Parameters by Poise's names."""
    pi, vf = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    stacks = {"pi.0": pi[0], "pi.1": policy.action_net, "vf.0": vf[0], "vf.1": policy.value_net}
    found = {
        f"{n}.{part}": getattr(m, part) for n, m in stacks.items() for part in ("weight", "bias")
    }
    for g, cell in enumerate((policy.lstm_actor, policy.lstm_critic)):
        found |= {f"cells.{g}.{name}": getattr(cell, f"{name}_l0") for name in GATES}
    return found


class Sequences:
    """In the place of the rollout buffer: one minibatch, of the whole rollout, slot by slot."""

    def __init__(self, given):
        rows = lambda key: torch.as_tensor(given[key]).transpose(0, 1).flatten(0, 1)  # noqa: E731
        memory = [torch.as_tensor(given[key]).transpose(0, 1).contiguous() for key in ("h", "c")]
        pi, vf = [tuple(part[g : g + 1] for part in memory) for g in (0, 1)]
        self.values, self.returns = given["value"], given["target"]
        self.sample = RecurrentRolloutBufferSamples(
            observations=rows("obs"),
            actions=rows("action").double(),
            old_values=rows("value"),
            old_log_prob=rows("log_prob"),
            advantages=rows("advantage"),
            returns=rows("target"),
            lstm_states=RNNStates(pi, vf),
            episode_starts=rows("first").double(),
            mask=rows("valid"),
        )

    def get(self, batch_size=None):
        yield self.sample


def update(given):
    """One call of SB3-contrib's own `train`."""
    steps = len(given["log_prob"])
    obs = spaces.Box(-np.inf, np.inf, given["obs"].shape[2:], np.float64)
    made = RecurrentPPO(
        "MlpLstmPolicy",
        Nothing(obs, spaces.Discrete(given["pi.1.weight"].shape[0])),
        learning_rate=float(given["lr"]),
        n_steps=steps,
        batch_size=steps,
        n_epochs=1,
        clip_range=0.2,
        ent_coef=float(given["entropy_coeff"]),
        vf_coef=float(given["vf_coeff"]),
        max_grad_norm=float(given["grad_clip"]),
        policy_kwargs={
            "net_arch": [given["pi.0.weight"].shape[0]],
            "lstm_hidden_size": given["h"].shape[-1],
        },
        device="cpu",
    )
    policy = made.policy.double()
    for name, parameter in places(policy).items():
        parameter.data.copy_(torch.as_tensor(given[name]))
    made.set_logger(Logger(None, []))
    made.rollout_buffer = Sequences(given)
    made.train()
    return {name: np.asarray(parameter.data) for name, parameter in places(policy).items()}


if __name__ == "__main__":
    _, source, target = sys.argv[1:]
    np.savez(target, **update(np.load(source)))
