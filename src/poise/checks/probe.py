"""How checks call an environment: each call is announced, and what it raises becomes a finding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from time import perf_counter
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from poise.checks import values
from poise.checks.report import Finding, Level, Report
from poise.checks.where import error_place, layers, method_place
from poise.envs.goals import goal_fault, has_goals
from poise.envs.old_gym import old_reset_sentence, old_step_sentence, takes
from poise.envs.raised import said
from poise.errors import PoiseError


class Phase(IntEnum):
    """What a call is for."""

    MAKE = 0
    RESET = 1
    STEP = 2
    RENDER = 3
    CLOSE = 4

    def title(self, step: int) -> str:
        """As a sentence says it; `step` counts from 1 within the episode."""
        making, stepping = "making the environment", f"step {step} of an episode"
        return (making, "reset()", stepping, "render()", "close()")[self]

    @property
    def method(self) -> str:
        """The user's method that is called."""
        return ("__init__", "reset", "step", "render", "close")[self]

    @property
    def check(self) -> str:
        """The check that a failure in it belongs to."""
        return ("make", "reset", "step", "render", "make")[self]


class Stop(Exception):  # noqa: N818
    """A check cannot go on; why has been reported."""


class Probe:
    """Makes and calls one kind of environment, and writes down what is wrong.

    Args:
        make: makes an instance for a render mode or for None.
        report: where findings and facts are put.
        found: called with every finding, at once.
        at: called before every call of the environment: the phase, and the step in its episode.
        seed: of the episodes and actions.

    Attributes:
        limit: steps after which the time limit ends an episode, if there is one. `made` takes that
            wrapper off, with others that `gymnasium.make` puts on: they hide what the environment
            itself returns.
        step_s: seconds that a step takes, about, its share of the resets included; known after some
            play.
    """

    def __init__(
        self,
        make: Callable[[str | None], gym.Env],
        report: Report,
        *,
        found: Callable[[Finding], None] = lambda finding: None,
        at: Callable[[Phase, int], None] = lambda phase, step: None,
        seed: int = 0,
    ) -> None:
        self._make, self.report, self._found, self._at, self.seed = make, report, found, at, seed
        self.limit: int | None = None
        self.step_s = 0.0
        self._length = 0
        self._about = ""
        self._seen: set[tuple[Any, ...]] = set()

    def finding(
        self, level: Level, check: str, text: str, where: str | None = None, key: Any = None
    ) -> None:
        """Reports a violation, once for each `key`, which is the text unless given."""
        mark = (check, text if key is None else key)
        if mark not in self._seen:
            self._seen.add(mark)
            is_code = any(sign in text.partition(" ")[0] for sign in "(_")
            finding = Finding(level, check, text if is_code else text[:1].upper() + text[1:], where)
            self.report.findings.append(finding)
            self._found(finding)

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Whatever ends a check inside does not end the others."""
        try:
            yield
        except Stop:
            pass
        except Exception as error:  # values so odd that the check itself stumbled over them
            where, line = error_place(error)
            text = f"a check could not be made: {said(error)}{_in(line)}"
            self.finding("error", "step", text, where)

    @contextmanager
    def about(self, what: str) -> Iterator[None]:
        """What is found inside is said of this."""
        self._about = what
        try:
            yield
        finally:
            self._about = ""

    def call(self, phase: Phase, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the user's code.

        Raises:
            Stop: it raised; that has been reported.
        """
        self._at(phase, self._length)
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also of an environment that calls sys.exit()
            where, line = error_place(error)
            ours = phase is Phase.MAKE and isinstance(error, PoiseError) and where is None
            what = f"{phase.title(self._length)}{self._about}"
            text = str(error) if ours else f"{what} raised {said(error)}{_in(line)}"
            self.finding("error", phase.check, text, where, key=("raised", where, type(error)))
            raise Stop from error

    def made(self, render_mode: str | None = None) -> gym.Env:
        """An instance, bare of the wrappers of `gymnasium.make`."""
        self._length, start = 0, perf_counter()
        env: gym.Env = self.call(Phase.MAKE, self._make, render_mode)
        self.report.facts.setdefault("construct_s", perf_counter() - start)
        while isinstance(env, (TimeLimit, OrderEnforcing, PassiveEnvChecker)):
            if isinstance(env, TimeLimit):
                self.limit = env._max_episode_steps
            env = env.env
        return env

    def reset(self, env: gym.Env, seed: int | None = None) -> Any:
        """What `reset` returns, called with the keywords that it takes."""
        self._length = 0
        keywords = {
            key: value
            for key, value in {"seed": seed, "options": None}.items()
            if all(takes(layer.reset, key) for layer in layers(env))
        }
        return self.call(Phase.RESET, env.reset, **keywords)

    def step(self, env: gym.Env, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """The five values of a step, also where an environment returns the old API's four."""
        self._length += 1
        found = self.call(Phase.STEP, env.step, action)
        sentence = old_step_sentence(env, found)
        if sentence is None:
            return found  # type: ignore[no-any-return]
        self.finding("error", "step", sentence, method_place(env, "step"))
        if not (isinstance(found, tuple) and len(found) == 4):
            raise Stop
        return found[0], found[1], found[2], False, found[3]

    def first(self, env: gym.Env, seed: int | None = None) -> Any:
        """Begins an episode and returns its first observation, after a look at it."""
        found, where = self.reset(env, seed), method_place(env, "reset")
        obs = found
        sentence = old_reset_sentence(env, found)
        if sentence is not None:
            self.finding("error", "reset", sentence, where)
        else:
            obs, info = found
            self._look_at_info(info, "reset", where)
        self._look_at(env, obs, "reset", where)
        return obs

    def next(self, env: gym.Env, action: Any) -> tuple[Any, bool, bool]:
        """Takes a step, looks at everything, and returns observation, terminated and truncated."""
        obs, reward, terminated, truncated, info = self.step(env, action)
        where = method_place(env, "step")
        for level, text in values.reward_faults(reward):
            self.finding(level, "step", text, where, key=("reward", level))
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            for level, text in values.flag_faults(name, flag):
                self.finding(level, "step", text, where, key=name)
        self._look_at_info(info, "step", where)
        self._look_at(env, obs, "step", where)
        if has_goals(env) and (sentence := goal_fault(env, obs, reward, info)) is not None:
            where = method_place(env, "compute_reward")
            self.finding("warning", "goals", sentence, where, key="goals")
        return obs, _true(terminated), _true(truncated)

    def sampler(self, env: gym.Env) -> Callable[[], Any]:
        """Draws actions, the same ones every time, by a generator that is not the environment's."""
        space = copy.deepcopy(env.action_space)
        space.seed(self.seed)
        return space.sample

    def _look_at(self, env: gym.Env, obs: Any, method: str, where: str | None) -> None:
        for fault in values.value_faults(env.observation_space, obs):
            text = f"{fault.text[:-1]} (returned by {method}(){self._about})."
            self.finding(fault.level, "observation", text, where, key=fault.kind)

    def _look_at_info(self, info: Any, method: str, where: str | None) -> None:
        if not isinstance(info, dict):
            got = values.short(info)
            text = f"the info that {method}() returns must be a dict, and is {got}: return {{}}."
            self.finding("error", method, text, where, key="info")


def _in(line: str) -> str:
    return f", in `{line}`." if line else "."


def _true(flag: Any) -> bool:
    try:
        return bool(flag)
    except ValueError:  # an array of several
        return False
