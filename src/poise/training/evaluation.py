"""How good a policy is: fresh episodes in environments of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from poise.config.base import AlgorithmConfig
from poise.errors import EnvError, ModelError, SpaceError
from poise.learning.seeding import torch_generator
from poise.models.policy import Policy
from poise.sampling.episodes import Episode, episode_info
from poise.sampling.halt import Halt, HaltedError
from poise.sampling.rollout import stored_dtype
from poise.spaces.layout import ROOT
from poise.stepping.failures import Failure, Failures
from poise.stepping.inline import InlineVectorEnv
from poise.stepping.snapshot import reset_seeded
from poise.stepping.tolerant import TolerantVectorEnv


@torch.no_grad()
def run_episodes(
    policy: Policy,
    env: VectorEnv,
    episodes: int,
    seed: np.random.SeedSequence,
    *,
    explore: bool = False,
    report: Callable[[Failure], None] | None = None,
    max_steps: int | None = None,
    halt: Halt | None = None,
) -> list[Episode]:
    """Plays `episodes` whole episodes, in all of `env`'s slots at once.

    Each slot plays its own share, fixed beforehand: taking the first episodes to end would favour
    short ones. One that does not end is cut after `max_steps`; its slot waits for the others, and
    then all begin anew.

    Args:
        policy: acts.
        env: NEXT_STEP or SAME_STEP autoreset.
        episodes: how many in all.
        seed: of the environments and of the noise.
        explore: samples actions instead of taking the most likely ones.
        report: called with what fails, and with how many episodes were cut.
        max_steps: of one episode; None waits for its end.
        halt: is looked at before every step.

    Raises:
        EnvError: the environments fail again and again.
        HaltedError: it was asked to stop.
    """
    slots = env.num_envs
    share = np.array([(episodes + i) // slots for i in range(slots)])
    autoreset = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    next_step = autoreset == AutoresetMode.NEXT_STEP
    env_seed, noise_seed = seed.spawn(2)
    generator = torch_generator(noise_seed)
    done: list[Episode] = []
    failures = Failures(slots, report)
    cut = 0
    while share.any():
        raw = reset_seeded(env, env_seed)
        env_seed = env_seed.spawn(1)[0]
        state, first = policy.initial_state(slots), torch.ones(slots, dtype=torch.bool)
        returns, lengths = np.zeros(slots), np.zeros(slots, np.int64)
        over = np.zeros(slots, np.bool_)  # whose episode ended with the last step
        waits = np.zeros(slots, np.bool_)  # whose episode was cut
        while share[~waits].any():
            if halt is not None and halt.asked:
                raise HaltedError
            obs = to_tensors(policy, raw)
            noise = policy.dist.noise((slots,), generator) if explore else None
            action, inputs, state = policy.act(obs, state, first, noise)
            raw, reward, terminated, truncated, info = env.step(policy.env_action(action))
            check_outputs(policy, obs, inputs)
            if policy.hears_rewards:
                state = policy.rewarded(state, reward)
            if not np.isfinite(reward).all():
                raise EnvError("An evaluation environment gave a reward that is not finite.")
            # Under NEXT_STEP, the step after an episode's end is its reset, and none of its own.
            stepped = ~over if next_step else np.ones(slots, np.bool_)
            if isinstance(env, TolerantVectorEnv) and env.disturbed:
                # Where an environment failed, a fresh one plays the episode anew.
                failures.add(env.take_failures(), np.flatnonzero(env.lost).tolist())
                returns[env.lost], lengths[env.lost] = 0.0, 0
                stepped &= ~env.lost
            first = torch.as_tensor(~stepped if next_step else terminated | truncated)
            returns += reward * stepped
            lengths += stepped
            over = terminated | truncated
            ended = over if max_steps is None else over | (lengths >= max_steps)
            for b in np.flatnonzero(ended).tolist():
                if share[b] and not waits[b]:
                    share[b] -= 1
                    numbers = {}
                    if over[b]:
                        failures.episode_finished(b)
                        numbers = episode_info(info if next_step else info.get("final_info", {}), b)
                    else:
                        waits[b] = True
                        cut += 1
                    done.append(Episode(float(returns[b]), int(lengths[b]), b, numbers))
                returns[b], lengths[b] = 0.0, 0
    if cut and report is not None:
        what = (
            f"{cut} of {episodes} evaluation episodes did not end and were cut after "
            f"{max_steps:,} steps (evaluation_max_steps); they count with what they had earned."
        )
        report(Failure("odd", what))
    return done


def step_limit(config: AlgorithmConfig, env: VectorEnv, window: Iterable[Episode]) -> int:
    """Steps after which an evaluation cuts an episode.

    `evaluation_max_steps`, where it is set; else the largest of the environment's own limit, ten
    times the longest episode in `window`, and 10,000.
    """
    if config.evaluation_max_steps is not None:
        return config.evaluation_max_steps
    spec = env.envs[0].spec if isinstance(env, InlineVectorEnv) else env.spec
    own = getattr(spec, "max_episode_steps", None) or config.env_config.get("max_episode_steps")
    longest = max((episode.length for episode in window), default=0)
    return max(10_000, own or 0, 10 * longest)


def to_tensors(policy: Policy, obs: Any) -> dict[str, torch.Tensor]:
    """A batch of observations as leaves, in the types that rollouts store."""
    values, tensors = policy.obs_layout.flatten(obs), {}
    for leaf in policy.obs_layout.leaves:
        kind = stored_dtype(leaf.dtype.name, wide=policy.wide)
        tensors[leaf.name] = torch.as_tensor(np.asarray(values[leaf.name], order="C")).to(kind)
    return tensors


def check_outputs(policy: Policy, obs: dict[str, torch.Tensor], inputs: torch.Tensor) -> None:
    """Finds out whose fault it is where a policy's outputs are not finite.

    Minus infinity is allowed in them: it forbids a choice.

    Args:
        policy: that acted.
        obs: leaves `[B, ...]` that it acted on.
        inputs: of its action distribution, `[B, ...]`: the outputs of its network.

    Raises:
        ModelError: a parameter is not finite.
        EnvError: an observation is not, or is so large that the network's numbers overflow.
    """
    if (inputs < torch.inf).all():
        return
    if policy.overflown is not None:
        raise ModelError(
            f"The policy's parameter {policy.overflown!r} holds numbers that are not finite: "
            "it cannot act."
        )
    for name, leaf in obs.items():
        if not torch.isfinite(leaf).all():
            raise EnvError(
                f"The observation {name!r} is not finite in {leaf.dtype}, as networks have it."
            )
    largest, name = max((leaf.double().abs().max().item(), name) for name, leaf in obs.items())
    raise EnvError(
        f"The observation {name!r} reaches {largest:.2g}, "
        "at which the numbers of the network overflow: scale it down, "
        "or train with normalize_observations."
    )


def is_single(policy: Policy, obs: Any) -> bool:
    """Whether `obs` is one element of the policy's observation space, and not a batch of them.

    Raises:
        SpaceError: it is neither.
    """
    layout = policy.obs_layout
    try:
        values = {name: np.asarray(value) for name, value in layout.flatten(obs).items()}
    except (KeyError, IndexError, TypeError, ValueError):
        raise SpaceError(
            f"This observation is not built as the policy's observation space, {layout.space}."
        ) from None
    batches = set()
    for leaf in layout.leaves:
        shape, space = values[leaf.name].shape, leaf.space
        batch, rest = shape[: len(shape) - len(leaf.shape)], shape[len(shape) - len(leaf.shape) :]
        batches.add(batch)
        if rest != leaf.shape or len(batch) > 1 or len(batches) > 1:
            part = "" if leaf.name == ROOT else f" {leaf.name!r}"
            raise SpaceError(
                f"An observation{part} of shape {shape} does not fit: "
                f"the policy was made for {leaf.shape}."
            )
        if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
            index = values[leaf.name] - space.start
            count = space.n if isinstance(space, spaces.Discrete) else space.nvec
            if (index < 0).any() or (index >= count).any():
                raise SpaceError(
                    f"The observation {leaf.name!r} is outside its space {space}: "
                    f"{values[leaf.name]}."
                )
    return batches == {()}


def summarize(episodes: list[Episode]) -> dict[str, float]:
    """What episodes returned and how long they were, and means of what environments reported."""
    rewards = np.array([e.reward for e in episodes]) if episodes else np.array([np.nan])
    lengths = np.array([e.length for e in episodes]) if episodes else np.array([np.nan])
    summary = {
        "episode_reward_mean": float(rewards.mean()),
        "episode_reward_min": float(rewards.min()),
        "episode_reward_max": float(rewards.max()),
        "episode_reward_std": float(rewards.std()),
        "episode_len_mean": float(lengths.mean()),
        "episodes": len(episodes),
    }
    return {**summary, **info_means(episodes)}


def info_means(episodes: list[Episode]) -> dict[str, float]:
    """`info/<key>`: the mean of each number that environments reported at an episode's end."""
    keys = dict.fromkeys(key for e in episodes for key in e.info)
    return {
        f"info/{key}": float(np.mean([e.info[key] for e in episodes if key in e.info]))
        for key in keys
    }
