"""The loop of PyTorch's tutorial "Reinforcement Learning (DQN)" with its settings, on its
environment.

Written as the tutorial has it (one environment, a deque of tuples, one update a step, a target
network that follows through state dicts), without its plots. With `--episodes`, its task: so many
training episodes.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice

import gymnasium as gym
import numpy as np
import torch
from climb import arguments, climb
from torch import Tensor, nn

BATCH_SIZE, GAMMA, TAU, LR, MEMORY = 128, 0.99, 0.005, 1e-4, 10_000
EPS_START, EPS_END, EPS_DECAY = 0.9, 0.05, 1000


class Tutorial:
    """Its networks, memory and optimiser."""

    def __init__(self, env: gym.Env) -> None:
        self.env, self.steps = env, 0
        self.policy, self.target = self.network(), self.network()
        self.target.load_state_dict(self.policy.state_dict())
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LR, amsgrad=True)
        self.criterion = nn.SmoothL1Loss()
        self.memory: deque[tuple[Tensor, Tensor, Tensor | None, Tensor]] = deque(maxlen=MEMORY)

    @staticmethod
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)
        )

    def select_action(self, state: Tensor) -> Tensor:
        epsilon = EPS_END + (EPS_START - EPS_END) * math.exp(-self.steps / EPS_DECAY)
        self.steps += 1
        if random.random() > epsilon:
            with torch.no_grad():
                return self.policy(state).max(1).indices.view(1, 1)
        return torch.tensor([[self.env.action_space.sample()]], dtype=torch.long)

    def optimize(self) -> None:
        if len(self.memory) < BATCH_SIZE:
            return
        state, action, next_state, reward = zip(
            *random.sample(self.memory, BATCH_SIZE), strict=True
        )
        non_final = torch.tensor([s is not None for s in next_state], dtype=torch.bool)
        value = torch.zeros(BATCH_SIZE)
        with torch.no_grad():
            value[non_final] = (
                self.target(torch.cat([s for s in next_state if s is not None])).max(1).values
            )
        chosen = self.policy(torch.cat(state)).gather(1, torch.cat(action))
        loss = self.criterion(chosen, (value * GAMMA + torch.cat(reward)).unsqueeze(1))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(self.policy.parameters(), 100)
        self.optimizer.step()

    def follow(self) -> None:
        slow, fast = self.target.state_dict(), self.policy.state_dict()
        for key in fast:
            slow[key] = fast[key] * TAU + slow[key] * (1 - TAU)
        self.target.load_state_dict(slow)

    def loop(self, seed: int) -> Iterator[int]:
        """Trains without an end; yields the duration of the episode that a step ended, or 0."""
        obs, _ = self.env.reset(seed=seed)
        while True:
            state, duration, done = torch.tensor(obs, dtype=torch.float32).unsqueeze(0), 0, False
            while not done:
                action = self.select_action(state)
                obs, reward, terminated, truncated, _ = self.env.step(action.item())
                done = terminated or truncated
                after = None if terminated else torch.tensor(obs, dtype=torch.float32).unsqueeze(0)
                self.memory.append(
                    (state, action, after, torch.tensor([reward], dtype=torch.float32))
                )
                state = after if after is not None else state
                self.optimize()
                self.follow()
                duration += 1
                yield duration if done else 0
            obs, _ = self.env.reset()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    env = gym.make(args.env)
    env.action_space.seed(args.seed)
    tutorial = Tutorial(env)
    steps = tutorial.loop(args.seed)
    if args.episodes:
        start = time.perf_counter()
        durations = list(islice(filter(None, steps), args.episodes))
        seconds = time.perf_counter() - start
        last, longest = statistics.fmean(durations[-100:]), max(durations)
        line = {"episodes": len(durations), "steps": tutorial.steps, "train_s": round(seconds, 2)}
        print(
            json.dumps(
                {
                    **line,
                    "steps_per_s": round(tutorial.steps / seconds),
                    "last": last,
                    "longest": longest,
                }
            )
        )
        return

    def train(count: int) -> int:
        deque(islice(steps, count), maxlen=0)
        return tutorial.steps

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        found: np.ndarray = tutorial.policy(torch.as_tensor(obs)).argmax(1).numpy()
        return found

    climb(args, train, act)


if __name__ == "__main__":
    main()
