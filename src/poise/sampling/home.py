"""Where a run's samplers live: in this process, or on a cluster.

A home makes the environments when it is made itself, which tells their spaces; the samplers in them
follow when there is a policy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

from poise.config.base import AlgorithmConfig
from poise.models.policy import Policy
from poise.sampling.group import SamplerGroup
from poise.sampling.halt import Halt
from poise.sampling.sampler import Sampler
from poise.spaces.layout import Layout
from poise.stepping.batches import choose_workers, make_batches
from poise.stepping.calls import Call
from poise.stepping.failures import Failure, Failures
from poise.stepping.given import EnvCountError, GivenVectorEnv
from poise.stepping.inline import InlineVectorEnv
from poise.stepping.process import Limits
from poise.stepping.watchdog import watch

RAY = "poise.cluster.samplers"
"""The module of Ray's home, which is imported where a configuration asks for it."""


class Home(Protocol):
    """Environments somewhere, and the samplers that act in them.

    Attributes:
        batches: the environments, one batch per sampler; empty where they are not in reach.
        layouts: of one environment's observations and actions.
    """

    batches: list[Any]
    layouts: tuple[Layout, Layout]

    def samplers(
        self,
        policy: Policy,
        steps: int,
        seed: Callable[[int], np.random.SeedSequence],
        *,
        correlation: float,
        failures: Failures,
        halt: Halt,
    ) -> SamplerGroup:
        """Makes the samplers; arguments as `Sampler` takes them, but seeds by sampler."""

    def learners(self, algorithm: Any) -> None:
        """Has an algorithm learn together with others, where the configuration has several."""

    def call(self, call: Call) -> list[Any]:
        """Does something to all environments, and to those that take their place later."""

    def close(self) -> None:
        """Closes the environments."""


def make_home(
    config: AlgorithmConfig,
    limits: Limits,
    report: Callable[[Failure], None],
    note: Callable[[str], None],
) -> Home:
    """Makes a run's environments where the configuration wants them.

    Args:
        config: `num_workers="auto"` is resolved in it.
        limits: of time and memory, for environments.
        report: is told of what hangs, or is waited for, at once.
        note: takes a sentence about what was chosen.
    """
    if not config.on_cluster:
        return LocalHome(config, limits, report, note)
    made: Home = importlib.import_module(RAY).RayHome(config, limits, report, note)
    return made


class LocalHome:
    """Environments on this machine, in this process or in workers, and samplers in this process.

    Raises:
        EnvError: the environments cannot be made.
        EnvCountError: a vector environment of the user's has another number of environments than
            the configuration.
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        limits: Limits,
        report: Callable[[Failure], None],
        note: Callable[[str], None],
    ) -> None:
        self._limits, self._report = limits, report
        if config.num_workers == "auto":
            # The workers share the environments, so that what is learnt stays the same.
            config.num_workers, why = choose_workers(config.env, config.num_envs, config.env_config)
            config.num_envs_per_worker //= max(1, config.num_workers)
            config.__dict__["auto_workers"] = True
            note(f"num_workers='auto': {why}")
        workers, envs = config.num_workers, config.num_envs_per_worker
        self.batches: list[Any] = list(
            make_batches(config.env, envs, config.env_config, workers, limits)
        )
        given = self.batches[0]
        if isinstance(given, GivenVectorEnv) and given.num_envs != config.num_envs:
            self.close()
            raise EnvCountError(given.num_envs, config.num_envs)
        spaces = given.single_observation_space, given.single_action_space
        self.layouts = Layout(spaces[0]), Layout(spaces[1])

    def samplers(
        self,
        policy: Policy,
        steps: int,
        seed: Callable[[int], np.random.SeedSequence],
        *,
        correlation: float,
        failures: Failures,
        halt: Halt,
    ) -> SamplerGroup:
        members: list[Sampler] = []
        slot = 0
        for i, env in enumerate(self.batches):
            sampler = Sampler(
                policy,
                env,
                steps,
                seed(i),
                first_slot=slot,
                correlation=correlation,
                failures=failures,
                halt=halt,
            )
            members.append(sampler)
            slot += sampler.slots
            if isinstance(env, InlineVectorEnv):
                watch(env, self._limits, self._report)
        return SamplerGroup(members)

    def learners(self, algorithm: Any) -> None:
        pass  # there is one

    def call(self, call: Call) -> list[Any]:
        return [result for batch in self.batches for result in call.of_batch(batch)]

    def close(self) -> None:
        with ExitStack() as closing:  # each of them, whatever another raises
            for env in self.batches:
                closing.callback(env.close)
