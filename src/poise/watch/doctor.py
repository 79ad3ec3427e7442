"""Says why a run does not learn."""

from __future__ import annotations

import warnings
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.advice.course import FEWEST_EPISODES, FEWEST_STEPS, Course, Seen
from poise.advice.symptoms import Finding, findings
from poise.envs.make import make_env
from poise.envs.masking import ActionMaskInObservation
from poise.errors import PoiseError
from poise.models.encoders import is_image
from poise.sampling.episodes import Finished
from poise.spaces.agents import is_joint
from poise.spaces.layout import Layout
from poise.stepping.advice import available_cores
from poise.tracking.folder import RunFolder
from poise.training.loading import load
from poise.training.trainer import Trainer

PLAYED = 1_000
"""Steps that are played with a run's policy, to see what it sees."""


@dataclass
class Diagnosis:
    """What the doctor says of a run; printing it shows it.

    Attributes:
        run: its folder.
        findings: what keeps it from learning, the likeliest cause first.
        learns: whether its return has risen; None where it is too early to tell, or need not.
        contest: whether agents play against each other, so that it need not rise.
        notes: what could not be looked at, and why.
    """

    run: str
    findings: list[Finding] = field(default_factory=list)
    learns: bool | None = None
    notes: list[str] = field(default_factory=list)
    contest: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """One sentence: whether it learns, and what was found."""
        if self.contest:
            return (
                "Agents play against each other, so that the sum of their returns need not rise: "
                "selfplay/elo rates them (`opponents`), or games against somebody else."
            )
        if self.learns is None:
            return (
                f"It is too early to tell: the doctor needs {FEWEST_STEPS:,} steps and "
                f"{FEWEST_EPISODES} episodes."
            )
        if self.learns:
            return "It learns." if not self.findings else "It learns, but something holds it back."
        if self.findings:
            return "Its return has not risen."
        return (
            "Its return has not risen, and its numbers do not say why: it may need more steps, "
            "other settings (`poise tune`), or a look at the environment (`poise doctor ENV`)."
        )

    def __str__(self) -> str:
        lines = [self.run, f"  {self.summary}"]
        for finding in self.findings:
            lines += ["", f"  {finding.symptom}", f"    {finding.text}", f"    {finding.advice}"]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def diagnose(run: str | Path, *, play_steps: int = PLAYED, trust: bool = False) -> Diagnosis:
    """Looks at a run's settings, results and episodes, and at what its policy sees.

    Args:
        run: its folder.
        play_steps: steps that are played with its latest policy, with sampled actions; 0 for none.
        trust: as for `poise.load`.

    Raises:
        RunError: there is no run here.
    """
    folder = RunFolder(run)
    saved = folder.config()
    episodes = [Finished(*episode) for episode in folder.episodes()]
    course = Course(saved["algorithm"], saved["config"], folder.metrics(), episodes)
    course.workers, notes = available_cores() > 1, []
    if "rebuilt" in saved:
        notes.append(
            f"Its config.json {saved['rebuilt']}; its newest checkpoint says its settings."
        )
    if not course.results:
        notes.append("It has no results: metrics.jsonl is missing, empty or damaged.")
    if several := [*(course.config.get("policies") or {})]:
        notes.append(
            "It has several agents: their policies are not played"
            + (f", and how {' and '.join(several)} learn is not looked at." if several[1:] else ".")
        )
    try:
        look(course, folder, play_steps, trust)
    except Exception as error:  # what cannot be played must not hide what can be read
        why = str(error) if isinstance(error, PoiseError) else f"{type(error).__name__}: {error}"
        notes.append(f"Its policy was not played: {why}")
    contest = course.told and course.contest
    learns = course.learns if course.told and not contest else None
    return Diagnosis(str(folder.path), findings(course), learns, notes, contest)


def look(course: Course, folder: RunFolder, steps: int, trust: bool = False) -> None:
    """Adds what a run's latest policy sees and does; nothing of several agents.

    Raises:
        PoiseError: the policy or its environment cannot be made.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with load(folder.path, trust=trust) as trainer:
            policy = trainer.policy
            if is_joint(policy.obs_layout.space):
                return
            course.layouts = policy.obs_layout, policy.action_layout
            if steps:
                config = trainer.config
                with closing(make_env(config.env, dict(config.env_config))) as env:
                    course.seen = play(trainer, env, steps)


def play(trainer: Trainer, env: gym.Env, steps: int) -> Seen:
    """Plays so many steps with sampled actions.

    Args:
        trainer: acts.
        env: of its spaces, but for the mask.
        steps: how many.
    """
    policy = trainer.policy
    if policy.masked and env.observation_space != policy.obs_layout.space:
        env = ActionMaskInObservation(env)
    leaves = [leaf for leaf in policy.obs_layout.leaves if _is_numbers(leaf)]
    seen: dict[str, list[np.ndarray]] = {leaf.name: [] for leaf in leaves}
    actions, rewards, lengths, truncations = [], [], [], 0
    obs, state, reward, length = env.reset(seed=0)[0], None, None, 0
    for _ in range(steps):
        flat = policy.obs_layout.flatten(obs)
        for leaf in leaves:
            seen[leaf.name].append(np.asarray(flat[leaf.name], np.float64).reshape(-1))
        action, state = trainer.predict(obs, state, deterministic=False, reward=reward)
        actions.append(_in_bounds(policy.action_layout, action))
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        length += 1
        if terminated or truncated:
            lengths.append(length)
            truncations += bool(truncated and not terminated)
            obs, state, reward, length = env.reset()[0], None, None, 0
    observations = {name: np.stack(rows) for name, rows in seen.items()}
    return Seen(observations, np.stack(actions), np.array(rewards), lengths, truncations)


def _is_numbers(leaf: Any) -> bool:
    """Whether a leaf of observations holds numbers that are no picture, and no code."""
    return isinstance(leaf.space, spaces.Box) and not is_image(leaf)


def _in_bounds(layout: Layout, action: Any) -> np.ndarray:
    """The bounded numbers of an action, from -1 to 1 at the bounds."""
    parts, flat = [np.empty(0)], layout.flatten(action)
    for leaf in layout.leaves:
        if isinstance(leaf.space, spaces.Box):
            low, high = leaf.space.low.ravel(), leaf.space.high.ravel()
            value = np.asarray(flat[leaf.name], np.float64).ravel()
            bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
            middle, half = (high + low)[bounded] / 2, (high - low)[bounded] / 2
            parts.append((value[bounded] - middle) / half)
    return np.concatenate(parts)
