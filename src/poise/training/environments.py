"""The environments of a trainer: those that it samples in, and those that it is evaluated in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from poise.algorithms.base import Algorithm
from poise.config.base import AlgorithmConfig, env_name
from poise.config.memory import require_sizes
from poise.envs.make import is_native
from poise.errors import CheckpointError, ConfigError, PoiseError
from poise.models.policy import Policy
from poise.sampling.episodes import Episode
from poise.sampling.group import SamplerGroup
from poise.sampling.halt import Halt
from poise.sampling.home import Home, make_home
from poise.spaces.layout import Layout
from poise.stepping.batches import make_vector_env
from poise.stepping.calls import Call, remember
from poise.stepping.failures import Failure, Failures
from poise.stepping.inline import InlineVectorEnv
from poise.stepping.process import Limits
from poise.stepping.watchdog import watch
from poise.training.declared import STATE_ERRORS, misfit
from poise.training.evaluation import run_episodes, step_limit


class Environments:
    """Makes a trainer's environments, and the samplers in them, when they are first needed.

    Args:
        config: complete; `num_workers="auto"` is resolved in it when environments are made.
        report: is told of hangs of environments in this process, from another thread.
        notes: takes sentences about what was chosen, and what could not be restored.

    Attributes:
        halt: stops all sampling between two steps.
        home: the environments to sample in, and where they are; None before they are made.
        samplers: they act in them; None before they are made.
        calls: what was asked of these environments, by kind and name.
        pending: the state of samplers that are not made yet, as a checkpoint or `close` left it.
        lost: how many environments could not be restored from such a state.
    """

    def __init__(
        self, config: AlgorithmConfig, report: Callable[[Failure], None], notes: list[str]
    ) -> None:
        self.config, self.notes = config, notes
        self.halt = Halt()
        self._report = report
        self.home: Home | None = None
        self.samplers: SamplerGroup | None = None
        self.pending: list[Any] | None = None
        self.lost = 0
        self._evaluation: dict[int, Any] = {}
        self.calls: dict[tuple[str, str], Call] = {}
        self._evaluation_calls: dict[tuple[str, str], Call] = {}

    def layouts(self) -> tuple[Layout, Layout]:
        """The layouts of one environment's observation and action space; it is made to be asked.

        Raises:
            EnvCountError: a vector environment of the user's has another number of environments
                than the configuration.
        """
        config = self.config
        if isinstance(config.env, VectorEnv) and config.evaluation_interval:
            raise ConfigError(
                f"evaluation_interval={config.evaluation_interval} is not allowed with a vector "
                "environment that is made already: episodes of an evaluation would disturb those "
                "of the training. Give a function that makes it, env=lambda config: ...."
            )
        if self.home is None:
            require_sizes(config)
            limits, note = self._limits(), self.notes.append
            self.home = make_home(config, limits, self._report, note)
            for call in self.calls.values():
                self.home.call(call)
        return self.home.layouts

    @property
    def batches(self) -> list[Any]:
        """The environments to sample in, one batch per sampler; empty where they are elsewhere, or
        not made yet."""
        return self.home.batches if self.home is not None else []

    def make_samplers(
        self,
        algorithm: Algorithm,
        seed: Callable[[int], np.random.SeedSequence],
        failures: Failures,
    ) -> SamplerGroup:
        """Makes the samplers of an algorithm; they go on where those in `pending` stood.

        Args:
            algorithm: has the policy that acts, and says where samplers live.
            seed: of the sampler with this index.
            failures: takes what fails in the environments.

        Raises:
            CheckpointError: the policy was made for other spaces.
        """
        policy = algorithm.behaviour
        self._fit(policy, *(layout.space for layout in self.layouts()))
        length = self.config.rollout_fragment_length
        assert length is not None
        assert self.home is not None
        group = self.home.samplers(
            policy,
            length,
            seed,
            correlation=getattr(self.config, "exploration_correlation", 0.0),
            failures=failures,
            halt=self.halt,
        )
        samplers = algorithm.place(group)
        if self.pending is not None:
            # No state at all is that of workers none of which was there.
            lost = self._restore(samplers, self.pending) if self.pending else self.config.num_envs
            if lost:
                self.lost += lost
                of = f"{lost} of {self.config.num_envs} environments"
                self.notes.append(f"{of} could not be restored and began a new episode.")
            if waiting := sum(state.get("waiting", 0) for state in self.pending):
                self.notes.append(
                    f"{waiting} steps that waited for the learner were not kept: "
                    "they are neither learnt from nor counted."
                )
        self.home.learners(algorithm)
        self.pending = None
        self.samplers = samplers
        return samplers

    @staticmethod
    def _restore(samplers: SamplerGroup, states: list[Any]) -> int:
        """Puts samplers where those before them stood.

        Returns:
            How many environments could not follow, and begin a new episode.

        Raises:
            CheckpointError: the states are not those of such samplers.
        """
        checked_elsewhere = dict.fromkeys(("memory", "env", "noise", "underway"))
        try:
            # Of workers that are all being replaced, nothing is known to compare with.
            for own, state in zip(samplers.state_dict() or [{}] * len(states), states, strict=True):
                if (what := misfit({**own, **checked_elsewhere}, state)) is not None:
                    raise ValueError(what)
            return samplers.load_state_dict(states)
        except STATE_ERRORS as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                "The state of the environments in the checkpoint does not fit its configuration: "
                f"{reason}."
            ) from error

    def _fit(self, policy: Policy, *found: Any) -> None:
        if found != (policy.obs_layout.space, policy.action_layout.space):
            raise CheckpointError(
                f"{env_name(self.config.env)} has other spaces than the policy was trained with: "
                f"{found[0]} and {found[1]}."
            )

    def evaluation(self, slots: int) -> Any:
        """A batch of so many environments to evaluate in, made once and kept."""
        if slots not in self._evaluation:
            env = make_vector_env(self.config.env, slots, self.config.env_config)
            self._evaluation[slots] = env
            self._watch(env)
            for call in self._evaluation_calls.values():
                call.of_batch(env)
        return self._evaluation[slots]

    def play(
        self,
        policy: Policy,
        episodes: int,
        seed: np.random.SeedSequence,
        *,
        explore: bool,
        window: Collection[Episode],
        many: bool = False,
    ) -> list[Episode]:
        """Plays so many fresh episodes in environments of their own; see `run_episodes`.

        Args:
            policy, episodes, seed, explore: as there.
            window: training episodes of late, which say how long episodes are.
            many: up to 1,000 at once, where the environment is native; otherwise in 20 environments
                at most.

        Raises:
            EnvError: the environments fail again and again.
            HaltedError: it was asked to stop.
        """
        native = many and is_native(self.config.env)
        env = self.evaluation(min(episodes, 1000 if native else 20))
        self._fit(policy, env.single_observation_space, env.single_action_space)
        return run_episodes(
            policy,
            env,
            episodes,
            seed,
            explore=explore,
            report=self._report,
            max_steps=step_limit(self.config, env, window),
            halt=self.halt,
        )

    def call(self, call: Call, *, evaluation: bool) -> list[Any]:
        """Does something to all environments; see `EnvAccess`."""
        assert self.home is not None
        results = self.home.call(call)
        remember(self.calls, call)
        if evaluation:
            for batch in self._evaluation.values():
                call.of_batch(batch)
            remember(self._evaluation_calls, call)
        return results

    def close(self) -> None:
        """Closes all environments. Where they stand is remembered in `pending`."""
        try:
            if self.samplers is not None:
                self.samplers.close()
                self.pending = self.samplers.state_dict()
        except PoiseError as error:  # which would hide the one that has ended training
            self.pending = []
            self._report(Failure("odd", f"Where the environments stood is not kept: {error}"))
        finally:
            made = [*([self.home] if self.home else []), *self._evaluation.values()]
            self.home, self.samplers, self._evaluation = None, None, {}
            with ExitStack() as closing:  # each of them, whatever another raises
                for each in made:
                    closing.callback(each.close)

    def _watch(self, env: Any) -> None:
        if isinstance(env, InlineVectorEnv):
            watch(env, self._limits(), self._report)

    def _limits(self) -> Limits:
        config = self.config
        times = config.env_make_timeout_s, config.env_reset_timeout_s, config.env_step_timeout_s
        return Limits(*times, (config.worker_memory_mb or 0) * 2**20)


class EnvAccess:
    """What a trainer's callbacks may ask of its environments, wherever they step.

    Curricula, difficulties and statistics are made of it, between iterations (`on_run_start`,
    `on_iteration`, `on_evaluation`). Methods and attributes are those of the environments or of
    their wrappers. What was called or set last is done to fresh instances too, which take the place
    of environments and workers that failed. It is not in checkpoints: do it again in
    `on_run_start`.
    """

    environments: Environments
    algorithm: Algorithm
    samplers: Any

    def call_envs(
        self, name: str, *args: Any, evaluation: bool = False, **kwargs: Any
    ) -> list[Any]:
        """Calls a method of every environment.

        Args:
            name: of the method.
            args, kwargs: for it; numbers, texts, lists, dicts and arrays, where workers step the
                environments.
            evaluation: also of the environments that evaluations use, now and later.

        Returns:
            What each environment returned; a native batch, which is one thing, returns once.

        Raises:
            EnvError: there is no such method, it raised, or something cannot be sent to a worker.
        """
        return self._ask(Call("call", name, list(args), kwargs), evaluation=evaluation)

    def set_env_attr(self, name: str, value: Any, *, evaluation: bool = False) -> None:
        """Sets an attribute that every environment has; arguments and errors as for `call_envs`."""
        self._ask(Call("set", name, [value]), evaluation=evaluation)

    def get_env_attr(self, name: str) -> list[Any]:
        """An attribute of every environment; results and errors as for `call_envs`."""
        return self._ask(Call("get", name), evaluation=False)

    def _ask(self, call: Call, *, evaluation: bool) -> list[Any]:
        _ = self.samplers  # which makes the environments
        results = self.environments.call(call, evaluation=evaluation)
        self.algorithm.asked(call)
        return results
