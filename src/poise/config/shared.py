"""What several algorithms share: names of environments, parts of presets, aliases, searches."""

from __future__ import annotations

from dataclasses import dataclass

from poise.config.base import WRAPPERS, AlgorithmConfig

ATARI = "Atari"
"""The preset of every Atari game that has none of its own."""

PONG = ("PongNoFrameskip-v4", "PongDeterministic-v4")
CARTPOLE = ("CartPole-v0", "CartPole-v1")
COST_TABLES = (
    "Taxi-v3", "Taxi-v4", "CliffWalking-v0", "CliffWalking-v1", "CliffWalkingSlippery-v1",
)  # fmt: skip
"""Environments of a few discrete states in which every step costs something."""

ATARI_NETWORK = {
    "clip_rewards": True, "model.vf_share_layers": True, "model.fcnet_hiddens": [512],
    "model.fcnet_activation": "relu",
}  # fmt: skip

# The two convolutions of Mnih et al. 2013 are enough for Pong, in half the time of Nature's three.
SMALL_NETWORK = {"model.fcnet_hiddens": [256], "model.conv_filters": [[16, 8, 4], [32, 4, 2]]}

ON_POLICY_ALIASES = {
    **AlgorithmConfig.aliases, "lambda": "gae_lambda", "lambda_": "gae_lambda",
    "ent_coef": "entropy_coeff", "vf_coef": "vf_loss_coeff",
    "n_steps": "rollout_fragment_length", "num_steps": "rollout_fragment_length",
    "normalize_advantage": "normalize_advantages", "norm_adv": "normalize_advantages",
}  # fmt: skip

# Searches are near those of RL Baselines3 Zoo; batch sizes follow from `rollout_fragment_length`.
NETWORK_SEARCH = {"model.fcnet_hiddens": "choice([[64, 64], [256, 256], [64], [128, 128]])"}
ON_POLICY_SEARCH = {
    "lr": "loguniform(1e-4, 1e-2)", "gamma": "choice([0.98, 0.99, 0.995, 0.999])",
    "gae_lambda": "uniform(0.85, 1.0)", "entropy_coeff": "choice([0.0, 0.001, 0.01])",
    **NETWORK_SEARCH,
}  # fmt: skip

WITH_STATE = "poise.envs.agents:WithState"


@dataclass
class ActorCriticConfig(AlgorithmConfig):
    """What algorithms with a policy and a value function of states have in common."""

    central_critic: bool = False
    """With several agents, whether the value function sees what all of them see (MAPPO).

    Beside an agent's own observation it sees the environment's `state()`, if it has one, else the
    observations of all others and whose turn it is; and which of the policy's agents it is. The
    policy sees its own observation alone.
    """

    def derive(self, explicit: set[str]) -> None:
        wrappers = self.wrappers or self.env_config.get(WRAPPERS) or []
        if self.central_critic and WITH_STATE not in wrappers:
            self.wrappers = [*wrappers, WITH_STATE]
        super().derive(explicit)
