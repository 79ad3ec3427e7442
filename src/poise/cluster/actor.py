"""The process that samples for a run, on whatever machine Ray has started it.

Whatever fails in it is returned as a `Failure` with its traceback, as worker processes do; only its
end, or that of its machine, is Ray's to tell.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
import numpy as np
import ray
import torch
from gymnasium.vector import VectorEnv

from poise.cluster.connect import about_here
from poise.envs.atari import is_atari, make_atari_vector
from poise.envs.make import VectorEnvMadeError, recipe_maker
from poise.envs.old_gym import WrongApiError
from poise.envs.raised import own_traceback, said
from poise.envs.wrap import take_wrappers
from poise.errors import EnvError, PoiseError, PoiseWarning
from poise.learning.optimizers import Flat
from poise.sampling.halt import Halt
from poise.sampling.sampler import Sampler
from poise.sampling.wire import Weights, arrays, size_of
from poise.spaces.layout import Layout
from poise.stepping.calls import Call
from poise.stepping.failures import Failure
from poise.stepping.given import GivenVectorEnv
from poise.stepping.inline import STEPPING, InlineVectorEnv
from poise.training.declared import STATE_ERRORS


def telling(method: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what a method raises as `{"error": ...}`, a `Failure` as plain values, and by which
    error it `ends` the run, if it does; with what it has `warned` of, which is heard nowhere here.
    """

    @functools.wraps(method)
    def told(self: SamplerActor, *args: Any) -> Any:
        try:
            answer = method(self, *args) or {}
        except BaseException as error:
            what = str(error), ""
            if not isinstance(error, PoiseError):  # which is a sentence already
                where = f"Worker {self.index} on {socket.gethostname()}"
                what = f"{where} failed: {said(error)}.", own_traceback(error)
            answer = {"error": Failure("ended", *what).to_json(), "ends": self.ends(error)}
        warned, self.warned = self.warned, []
        return {**answer, "warned": warned} if warned else answer

    return told


class Journal:
    """Stands where a sampler's `Failures` would: the driver counts, for all workers of the run."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def add(self, failures: Iterable[Failure], slots: Iterable[int]) -> None:
        """Notes failures, and the slots whose episodes they ended."""
        if (told := [failure.to_json() for failure in failures]) or slots:
            self.events.append((told, list(slots)))

    def episode_finished(self, slot: int) -> None:
        """Notes an episode that ended as it should."""
        self.events.append(slot)

    def take(self) -> list[Any]:
        """What was noted since the last call."""
        events, self.events = self.events, []
        return events


class SamplerActor:
    """Some of a run's environments, and a copy of the policy that acts in them.

    Its methods are called in the order in which they were sent, but for `pulse` and `halt`, which
    are answered meanwhile. What it unpickles comes from the driver, whose child it is.
    """

    index, heard = -1, 0
    sampler: Sampler | None = None

    def __init__(self) -> None:
        self.warned: list[str] = []
        warnings.showwarning = self.warn  # type: ignore[assignment]

    def warn(self, message: Warning | str, category: type[Warning], *_: Any) -> None:
        """Keeps a warning, of which Python tells once for each line of code."""
        kind = "" if issubclass(category, PoiseWarning) else f"{category.__name__}: "
        # What the driver knew is registered here, and once more by the package that it is of.
        if "already in registry" not in str(message):
            self.warned.append(f"{kind}{message}")

    def ends(self, error: BaseException) -> str:
        """The name of the error of Poise by which a run ends; empty, if a worker that is started
        anew may do better.

        Without a cluster, it may as little where environments step as one.
        """
        tolerant = self.sampler is not None and self.sampler.tolerant is not None
        if tolerant and isinstance(error, EnvError) and not isinstance(error, WrongApiError):
            return ""
        kinds = (kind for kind in type(error).__mro__ if kind.__module__ == PoiseError.__module__)
        return next((kind.__name__ for kind in kinds), "")

    def hello(self) -> dict[str, str]:
        """See `about_here`."""
        return about_here()

    @telling
    def make(self, index: int, path: list[str], sent: bytes) -> dict[str, Any]:
        """Makes the environments.

        Args:
            index: the worker's number.
            path: where the driver imports from; what is there on this machine, too, is added.
            sent: a recipe, pickled by the driver, whose child this is.
        """
        self.index = index
        sys.path += [folder for folder in path if folder not in sys.path and os.path.isdir(folder)]
        about = cloudpickle.loads(sent)
        torch.set_num_threads(1)
        self.halting, self.journal = Halt(), Journal()
        self.env = _make_env(about)
        for call in about["calls"]:
            Call(**call).of_batch(self.env)
        spaces = self.env.single_observation_space, self.env.single_action_space
        return {"spaces": [Layout(x).to_json() for x in spaces], "slots": self.env.num_envs}

    @telling
    def follow(self, sent: bytes, about: dict[str, Any]) -> None:
        """Acts with a policy from now on.

        Args:
            sent: the policy, pickled by the driver, whose child this is.
            about: what the sampler is made with, where this is the first.
        """
        policy, places = cloudpickle.loads(sent)
        self.weights, self.compact = Weights(Flat(policy, places)), about["compact"]
        self.sampler = self.sampler or Sampler(
            policy,
            self.env,
            about["steps"],
            np.random.SeedSequence(about["entropy"], spawn_key=about["spawn_key"]),
            correlation=about["correlation"],
            failures=self.journal,  # type: ignore[arg-type]
            first_slot=about["first_slot"],
            halt=self.halting,
        )
        self.sampler.policy = policy

    @telling
    def sample(self, order: tuple[int, ...], version: int, weights: Any) -> dict[str, Any]:
        """Fills a rollout, with newer weights if there are any.

        Args:
            order: worker, incarnation and sequence number of the rollout, and which weights it is
                sampled with; it comes back with the rollout.
            version: of the policy.
            weights: see `Weights.pack`; None where the latest are here.

        Returns:
            The rollout, and what came of sampling; `filled` rows alone where it was halted.
        """
        sampler = self.sampler
        assert sampler is not None
        if weights is not None:
            self.weights.load(weights)
        sampler.version = version
        try:
            for _ in sampler.stages():
                pass
        except BaseException:
            sampler.abandon()
            raise
        if not sampler.full:
            return {"order": order, "filled": sampler.filled}
        rollout = arrays(sampler.finish(), compact=self.compact)
        harvest = sampler.harvest()
        return {
            "order": order,
            "rollout": rollout,
            "bytes": size_of(rollout),
            "episodes": [episode.to_json() for episode in harvest.episodes],
            "rows": harvest.rows,
            "seconds": harvest.seconds,
            "events": self.journal.take(),
        }

    @telling
    def call(self, call: dict[str, Any]) -> dict[str, Any]:
        """Does something to the environments; a call that they cannot answer is no failure."""
        try:
            results = Call(**call).of_batch(self.env)
        except (EnvError, TypeError) as error:
            return {"problem": str(error)}
        try:
            cloudpickle.dumps(results)
        except Exception as error:
            what = f"What {call['name']!r} of the environment gave cannot be sent to the learner"
            return {"problem": f"{what}: {said(error)}."}
        return {"results": results}

    @telling
    def state(self) -> dict[str, Any]:
        """The sampler's state."""
        assert self.sampler is not None
        return {"state": self.sampler.state_dict()}

    @telling
    def restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """Goes on from a state; how many environments begin a new episode, or what is wrong."""
        assert self.sampler is not None
        if state["generator"] is None:  # the worker was not there when it was saved
            return {"lost": self.sampler.slots}
        try:
            return {"lost": len(self.sampler.load_state_dict(state))}
        except STATE_ERRORS as error:
            return {"misfit": str(error)}

    @ray.method(concurrency_group="meanwhile")  # type: ignore[untyped-decorator]
    def pulse(self) -> tuple[int, int]:
        """A count that moves while steps are taken, and the phase of `poise.stepping.inline`."""
        env = getattr(self, "env", None)
        if isinstance(env, InlineVectorEnv):
            return env.pulse[0], env.pulse[1]
        return (0, STEPPING) if self.sampler is None else (self.sampler.taken, STEPPING)

    @ray.method(concurrency_group="meanwhile")  # type: ignore[untyped-decorator]
    def halt(self, number: int, asked: bool) -> None:
        """Stops sampling between two steps, until it is asked no more.

        Args:
            number: of the driver's request; an earlier one that comes late counts no more.
            asked: whether to stop.
        """
        if number > self.heard:
            self.heard, self.halting.asked = number, asked

    @telling
    def close(self) -> None:
        """Closes the environments."""
        self.env.close()


def _make_env(about: dict[str, Any]) -> VectorEnv:
    make, count = recipe_maker(about), about["num_envs"]
    if isinstance(about["env"], str) and is_atari(about["env"]):
        config = dict(about["env_config"])
        if not take_wrappers(config):
            return make_atari_vector(about["env"], count, {"num_threads": 1, **config})
    try:
        return InlineVectorEnv(make, count, worker=about["worker"], total_envs=about["total_envs"])
    except VectorEnvMadeError as made:
        return GivenVectorEnv(made.env)
