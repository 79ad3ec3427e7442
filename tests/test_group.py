"""Guards that algorithms see their samplers through one object alone, wherever these are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from poise.training.trainer import Trainer
from rollouts import Elsewhere

Make = Callable[..., Trainer]

SMALL: dict[str, Any] = {
    "num_envs_per_worker": 4,
    "rollout_fragment_length": 16,
    "timesteps_per_iteration": 0,
}
CASES = {
    "PPO": ("PPO", "CartPole-v1", {}),
    "PPO, normalised": (
        "PPO",
        "Pendulum-v1",
        {"normalize_observations": True, "normalize_rewards": True},
    ),
    "A2C": ("A2C", "CartPole-v1", {"normalize_observations": True}),
    "DQN": (
        "DQN",
        "CartPole-v1",
        {"learning_starts": 64, "epsilon_timesteps": 500, "buffer_size": 500},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_all_that_acting_depends_on_is_published(name: str, trainer: Make) -> None:
    """A copy that knows only what was published acts to the bit as the policy itself.

    Published are parameters, moments and ε.
    """
    algorithm, env, settings = CASES[name]
    here, there = (
        trainer(algorithm, env, preset=None, seed=3, **SMALL, **settings) for _ in range(2)
    )
    learner = there.algorithm
    learner.place = lambda samplers: Elsewhere(samplers, learner.policy, learner.flat)  # type: ignore[method-assign]
    assert isinstance(there.samplers, Elsewhere)
    for _ in range(8):
        mine, theirs = here.train(), there.train()
        assert torch.equal(here.algorithm.flat.data, learner.flat.data)
    assert mine["timesteps_total"] == theirs["timesteps_total"]
    assert 0 < there.samplers.members[0].version <= learner.updates


def test_a_policy_that_was_changed_is_followed(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", preset=None, **SMALL)
    learner = algo.algorithm
    learner.place = lambda samplers: Elsewhere(samplers, learner.policy, learner.flat)  # type: ignore[method-assign]
    algo.train()
    group = algo.samplers
    assert isinstance(group, Elsewhere)
    first = next(learner.policy.parameters())
    first.requires_grad_(False)  # others learn from now on, in other places of the vector
    algo.train()
    assert group.own.places == learner.flat.places
    pairs = zip(
        group.policy.state_dict().values(), learner.policy.state_dict().values(), strict=True
    )
    assert all(torch.equal(acting, learning) for acting, learning in pairs)
