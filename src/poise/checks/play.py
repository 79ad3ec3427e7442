"""Checks of one environment that is played.

They look at its spaces and signatures, its episodes, the corners of its action space, its frames.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.checks import values
from poise.checks.probe import Phase, Probe, Stop
from poise.checks.where import layers, method_place
from poise.envs.goals import has_goals
from poise.envs.old_gym import old_api_sentence, takes
from poise.errors import SpaceError
from poise.spaces.agents import AGENTS, is_joint
from poise.spaces.layout import Layout

EPISODES = 3
"""Episodes from which on what they have in common is no accident."""


def check_signature(probe: Probe, env: gym.Env) -> None:
    """Whether `reset` can be called as Poise calls it."""
    sentence = old_api_sentence(env)
    if sentence is not None:
        probe.finding("error", "reset", sentence, method_place(env, "reset"))
        return
    for layer in layers(env):
        missing = [f"{key}=" for key in ("seed", "options") if not takes(layer.reset, key)]
        if missing:
            text = f"reset() of {type(layer).__name__} takes no {' and no '.join(missing)}"
            text = f"{text}: begin it with def reset(self, *, seed=None, options=None)."
            probe.finding("error", "reset", text, method_place(layer, "reset"))


def check_spaces(probe: Probe, env: gym.Env) -> None:
    """Whether there are spaces, and a network can take them."""
    where = method_place(env, "__init__")
    found: dict[str, Any] = {
        kind: getattr(env, f"{kind}_space", None) for kind in ("observation", "action")
    }
    for kind, space in found.items():
        for level, text in values.space_faults(kind, space):
            probe.finding(level, "spaces", text, where)
        probe.report.facts[f"{kind}_space"] = " ".join(
            str(space[AGENTS] if is_joint(space) else space).split()
        )
    probe.report.facts["goals"] = found["observation"] is not None and has_goals(env)
    if not all(isinstance(space, spaces.Space) for space in found.values()) or probe.report.errors:
        try:
            probe.sampler(env)()
        except Exception:  # without actions there is nothing to play
            raise Stop from None


_End = Literal["terminated", "truncated", "limit"]


@dataclass(frozen=True)
class _Episode:
    length: int
    end: _End
    back: bool
    """Whether its last observation was its first one again, after others."""


def check_episodes(probe: Probe, env: gym.Env, steps: int, seconds: float) -> None:
    """Plays at random and looks at everything that is returned."""
    sample, start, total = probe.sampler(env), perf_counter(), 0
    where = method_place(env, "step")
    episodes: list[_Episode] = []
    brightest: int | None = None

    def more() -> bool:
        return total < min(steps, 5) or (total < steps and perf_counter() - start < seconds)

    while more():
        obs = probe.first(env, None if episodes else probe.seed)
        first, moved, length = copy.deepcopy(obs), False, 0
        end: _End | None = None
        given: list[tuple[Any, Any]] = []  # the last two actions, and what they were
        while more() and end is None:
            action = sample()
            given = [*given[-1:], (action, copy.deepcopy(action))]
            old, kept = obs, copy.deepcopy(obs)
            obs, terminated, truncated = probe.next(env, action)
            total, length = total + 1, length + 1
            _check_left_alone(probe, where, old, kept, given)
            moved |= not values.same(obs, first)
            if isinstance(obs, np.ndarray) and obs.dtype == np.uint8 and obs.ndim == 3:
                brightest = max(brightest or 0, int(obs.max(initial=0)))
            if terminated or truncated:
                end = "terminated" if terminated else "truncated"
            elif length == probe.limit:
                end = "limit"
        if end is not None:
            episodes.append(_Episode(length, end, moved and values.same(obs, first)))
    probe.step_s = (perf_counter() - start) / max(total, 1)
    lengths = [episode.length for episode in episodes]
    probe.report.facts["episodes"] = len(episodes)
    probe.report.facts["episode_len_mean"] = float(np.mean(lengths)) if lengths else None
    _judge(probe, where, episodes, total if total >= steps else 0)
    if brightest == 1:
        text = (
            "the observation is a uint8 image in which nothing was brighter than 1 of 255: "
            "was it divided by 255 before it was made uint8? Return 0 to 255."
        )
        probe.finding("warning", "observation", text, where)


def _check_left_alone(
    probe: Probe, where: str | None, old: Any, kept: Any, actions: list[tuple[Any, Any]]
) -> None:
    """Whether a step changed what was returned before (`old`, as it was: `kept`), or an action."""
    if not values.same(old, kept):
        text = (
            "step() changes the observation that was returned before: that is harmless in Poise, "
            "which copies at once, but other code keeps observations; return a copy, "
            "such as self.state.copy()."
        )
        probe.finding("warning", "buffers", text, where)
    for action, given in actions:
        if not values.same(action, given):
            text = (
                "step() changes an action that it was given, "
                f"from {values.short(given)} to {values.short(action)}, "
                "and with it what is learnt from: work on a copy, np.array(action)."
            )
            probe.finding("error", "action", text, where, key="changed")


def _judge(probe: Probe, where: str | None, episodes: list[_Episode], played: int) -> None:
    """Looks at what the episodes have in common; `played` steps were asked for, or 0."""
    lengths = {episode.length for episode in episodes}
    if not episodes and played:
        text = (
            f"no episode ended within {played:,} steps, and rewards are counted when one does: "
            "set max_episode_steps in the env_config, "
            "or return terminated=True where the task is over."
        )
        probe.finding("warning", "episodes", text, where)
    if len(episodes) < EPISODES:
        return
    terminated = all(episode.end == "terminated" for episode in episodes)
    if terminated and len(lengths) == 1 and min(lengths) > 1:
        text = (
            f"all {len(episodes)} episodes were terminated after exactly {min(lengths)} steps: "
            "if that is a time limit, return truncated=True instead, "
            "else a policy learns that the clock is a cliff."
        )
        probe.finding("warning", "episodes", text, where)
    if all(episode.back for episode in episodes):
        text = (
            "the last observation of every episode was its first one again: "
            "if step() resets by itself, leave that to the caller, "
            "and return the observation in which the episode ended."
        )
        probe.finding("warning", "episodes", text, where)


def check_corners(probe: Probe, env: gym.Env) -> None:
    """Steps the lowest and the highest action, each in a new episode."""
    try:
        layout = Layout(env.action_space)
    except SpaceError:  # that was found already
        return
    for end in ("low", "high"):
        action = _corner(layout, high=end == "high")
        probe.first(env, probe.seed)
        with probe.about(f" with the action {values.short(action)} ({end})"):
            probe.next(env, copy.deepcopy(action))


def _corner(layout: Layout, *, high: bool) -> Any:
    """An action at the edge of its space; where there is no edge, one of size 1."""
    corner = {}
    for leaf in layout.leaves:
        edge = np.asarray(values.limits(leaf.space)[high])
        edge = np.where(np.isfinite(edge), edge, 1.0 if high else -1.0)
        corner[leaf.name] = np.broadcast_to(edge, leaf.shape).astype(leaf.dtype)[()]
    return layout.unflatten(corner)


def check_frames(probe: Probe, env: gym.Env) -> None:
    """Films one frame, where the environment says that it can."""
    if "rgb_array" not in (env.metadata or {}).get("render_modes", ()):
        return
    filmed = probe.made("rgb_array")
    if filmed.render_mode != "rgb_array":
        text = (
            'its metadata promises "rgb_array", but asked for it the environment has the '
            f"render_mode {filmed.render_mode!r}, so it cannot be filmed: "
            "take render_mode (of the config) in __init__, and keep it as self.render_mode."
        )
        probe.finding("warning", "render", text, method_place(env, "__init__"))
        return
    probe.reset(filmed, probe.seed)
    start = perf_counter()
    frame = probe.call(Phase.RENDER, filmed.render)
    probe.report.facts["render_s"] = perf_counter() - start
    for level, text in values.frame_faults(frame):
        probe.finding(level, "render", text, method_place(filmed, "render"))
    probe.call(Phase.CLOSE, filmed.close)
