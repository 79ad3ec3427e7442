"""Networks of your own: any torch.nn.Module that returns distribution inputs and values."""

import gymnasium as gym
import torch
from torch import nn

import poise


class Gated(nn.Module):
    """One trunk whose features are gated by the observation, and two heads."""

    def __init__(self, observation_space: gym.Space, num_outputs: int, width: int = 64) -> None:
        super().__init__()
        size = observation_space.shape[0]
        self.features, self.gate = nn.Linear(size, width), nn.Linear(size, width)
        self.policy, self.value = nn.Linear(width, num_outputs), nn.Linear(width, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)  # the first policy is nearly uniform

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(self.features(observation)) * torch.sigmoid(self.gate(observation))
        return self.policy(x), self.value(x).squeeze(-1)


poise.register_model("gated", Gated)  # the name goes into checkpoints, not the code

algo = poise.PPO(
    "CartPole-v1",
    model={"custom_model": "gated", "custom_model_config": {"width": 96}},
    seed=0,
    progress=True,
)
result = algo.learn(stop={"episode_reward_mean": 300, "timesteps_total": 200_000})
print(f"{result['timesteps_total']} steps: {result['stop_reason']}")

algo.save("gated")
print("Loaded:", poise.load("gated"))
