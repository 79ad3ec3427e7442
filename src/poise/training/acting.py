"""Asking a policy for actions, one observation or a batch at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from poise.models.policy import Policy
from poise.spaces import masks
from poise.training.evaluation import check_outputs, is_single, to_tensors


@torch.no_grad()
def predict(
    policy: Policy,
    observation: Any,
    state: Any = None,
    episode_start: Any = None,
    action_mask: Any = None,
    generator: torch.Generator | None = None,
) -> tuple[Any, Any]:
    """Actions and memory: see `Trainer.predict`. With a generator, actions are sampled from it."""
    if policy.masked or action_mask is not None:
        observation = masks.complete(policy.obs_layout.space, policy.action_layout.space, observation, action_mask)
    single = is_single(policy, observation)
    obs = to_tensors(policy, observation)
    if single:
        obs = {name: value.unsqueeze(0) for name, value in obs.items()}
    batch = len(next(iter(obs.values())))
    first = torch.as_tensor(np.zeros(batch, bool) if episode_start is None else np.asarray(episode_start))
    memory = policy.initial_state(batch) if state is None else state
    noise = None if generator is None else policy.dist.noise((batch,), generator)
    action, inputs, memory = policy.act(obs, memory, first, noise)
    check_outputs(policy, obs, inputs)
    actions = policy.env_action(action)
    if single:
        actions = policy.action_layout.element(policy.action_layout.flatten(actions), 0)
    return actions, (memory or None)
