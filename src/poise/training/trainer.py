"""The trainer: one algorithm, its samplers, and what is measured of them."""

from __future__ import annotations

import signal
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from poise.algorithms.base import Algorithm, learning_mode
from poise.algorithms.team import make_algorithm
from poise.config.algorithms import algorithm_spec
from poise.config.base import AlgorithmConfig, env_name
from poise.config.types import PositiveInt, coerce
from poise.envs.raised import telling_interrupts
from poise.errors import PoiseWarning
from poise.learning.device import choose
from poise.models.encoders import is_image, is_large
from poise.sampling.episodes import Harvest
from poise.sampling.group import SamplerGroup
from poise.sampling.halt import Halt, HaltedError
from poise.sampling.opponents import Opponent
from poise.spaces.layout import Layout
from poise.stepping.advice import available_cores
from poise.stepping.failures import Failure, Failures
from poise.training.acting import ALGORITHM, SAMPLERS, Acting
from poise.training.callbacks import Callback
from poise.training.confirmation import Confirmation
from poise.training.environments import EnvAccess, Environments
from poise.training.metrics import Metrics
from poise.training.saving import Saving
from poise.training.signals import acknowledge, stopping_on
from poise.training.stopping import Stop, StopRule, default_stop
from poise.training.threads import torch_threads


class Trainer(EnvAccess, Acting, Saving):
    """Trains one policy in one environment.

    Args:
        algorithm: its name.
        config: resolved configuration (`poise.config.resolve.resolve`); a seed that is None is
            drawn and written there.
        callbacks: called in this order.
        layouts: of one environment's observation and action space. Without them the environments
            are made at once, to be asked.
        preset: name of the preset that the configuration came from, for the record.

    Attributes:
        algorithm: holds the policy.
        config: complete and resolved.
        callbacks: may be appended to.
        iteration: iterations done.
        metrics: statistics of its episodes and its time.
        history: the latest results, at most 10,000.
        goals: result keys and the values at which the current `learn` ends.
        error: the exception that ended the last `learn`, if one did.
        failures: what failed in the environments so far.
        notes: sentences about what a load or a resume could not restore.
    """

    def __init__(
        self,
        algorithm: str,
        config: AlgorithmConfig,
        *,
        callbacks: Sequence[Callback] = (),
        layouts: tuple[Layout, Layout] | None = None,
        preset: str | None = None,
    ) -> None:
        self.name = algorithm_spec(algorithm)[0]
        self.config, self.preset = config, preset
        self.callbacks = coerce(list[Callback], callbacks, "callbacks")
        if config.seed is None:
            config.seed = int(np.random.SeedSequence().generate_state(1)[0])
        self.notes: list[str] = []
        self.environments = Environments(config, self._report, self.notes)
        if layouts is None:
            layouts = self.environments.layouts()
        pictures = any(is_image(leaf) for leaf in layouts[0].leaves)
        config.num_gpus, why = choose(config.num_gpus, pictures=pictures)
        self.notes += [why] if why else []
        if config.num_threads == "auto":
            free = max(1, available_cores() - config.sampling_threads)
            # Small networks are slower with more, and so are boards of games.
            config.num_threads = free if any(map(is_large, layouts[0].leaves)) else 1
        try:
            # The QR decompositions of the first weights round differently with more threads.
            with torch_threads(1):
                self.algorithm: Algorithm = make_algorithm(
                    self.name, config, *layouts, self.stream(ALGORITHM)
                )
            self.notes += self.algorithm.announce() if self.environments.home else []
        except BaseException:  # such as spaces that no policy can take
            self.environments.close()
            raise
        self.iteration = 0
        self.history: deque[dict[str, Any]] = deque(maxlen=10_000)
        self.goals: Mapping[str, float] = {}
        self.error: BaseException | None = None
        self.failures = Failures(config.num_envs, self._report)
        config.settle()
        config.model.settle()
        self.metrics = Metrics(config.metrics_smoothing_episodes)
        self._stop_reason: str | None = None
        self.confirmation: Confirmation | None = None

    def __repr__(self) -> str:
        preset = f", preset {self.preset}" if self.preset else ""
        reward = f", reward {self.history[-1]['episode_reward_mean']:.1f}" if self.history else ""
        done = f"{self.iteration} iterations, {self.algorithm.timesteps:,} steps{reward}"
        return f"<{self.name} on {env_name(self.config.env)}{preset}: {done}>"

    @property
    def samplers(self) -> SamplerGroup:
        """The samplers; made when first needed, since acting needs none."""
        made = self.environments.samplers
        if made is None:
            self.algorithm.announce()  # a checkpoint's settings may be those of another machine
            # With the iteration in the stream, environments that cannot be restored begin new
            # episodes, never those of the first time again.
            with learning_mode():
                made = self.environments.make_samplers(
                    self.algorithm,
                    lambda i: self.stream(SAMPLERS, i, self.iteration),
                    self.failures,
                )
        return made

    @property
    def opponents(self) -> list[Opponent]:
        """Of self-play: the present self and the earlier ones of its pool, the latest first.

        It is empty where there is none (see the setting `opponents`).
        """
        pool = self.algorithm.opponents
        return pool.table(self.algorithm.timesteps) if pool is not None else []

    def _report(self, failure: Failure) -> None:
        """Tells the callbacks; where none of them listens, it is a warning."""
        listeners = [c for c in self.callbacks if type(c).on_failure is not Callback.on_failure]
        for callback in listeners:
            callback.on_failure(self, failure)
        if not listeners:
            warnings.warn(str(failure), PoiseWarning, stacklevel=2)

    @telling_interrupts()
    def train(self) -> dict[str, Any]:
        """One iteration: sample, learn, evaluate if due. Returns the result dict."""
        start = time.perf_counter() - self.metrics.unfinished_s
        algorithm = self.algorithm
        algorithm.start = algorithm.start or (algorithm.timesteps, algorithm.updates)
        before = algorithm.start[0]
        samplers = self.samplers
        try:
            with torch_threads(int(self.config.num_threads)):
                learner = algorithm.advance(samplers)
        except HaltedError:
            self.metrics.unfinished_s = time.perf_counter() - start
            raise
        algorithm.start = None
        self.iteration += 1
        seconds, self.metrics.unfinished_s = time.perf_counter() - start, 0.0
        harvest = samplers.harvest()
        self.metrics.enter(harvest, before, algorithm.timesteps, seconds)
        for callback in self.callbacks:
            if type(callback).on_episode_end is not Callback.on_episode_end:
                for episode in harvest.episodes:
                    callback.on_episode_end(self, episode)
        result = self._result(algorithm.timesteps - before, harvest, seconds, learner)
        interval = self.config.evaluation_interval
        if interval and self.iteration % interval == 0:
            with suppress(HaltedError):  # the iteration stands
                result.update(self._evaluate())
        self.history.append(result)  # first: a checkpoint that a callback writes is scored by it
        score = self.score[1] if self.score else None
        result["timesteps_since_best"] = self.metrics.since_best(score, algorithm.timesteps)
        for callback in self.callbacks:
            callback.on_iteration(self, result)
        return result

    def _evaluate(self) -> dict[str, float]:
        """An evaluation as part of a result."""
        evaluation = self.evaluate()
        for callback in self.callbacks:
            callback.on_evaluation(self, evaluation)
        return {f"evaluation/{key}": value for key, value in evaluation.items()}

    def _result(
        self, steps: int, harvest: Harvest, seconds: float, learner: dict[str, float]
    ) -> dict[str, Any]:
        return {
            **self.metrics.of_episodes(),
            **self.algorithm.of_episodes(list(self.metrics.window)),
            "episodes_this_iter": len(harvest.episodes),
            "timesteps_this_iter": steps,
            "timesteps_total": self.algorithm.timesteps,
            **self.algorithm.counted(),
            "training_iteration": self.iteration,
            "time_this_iter_s": seconds,
            "time_total_s": self.metrics.time_total_s,
            "episodes_lost_total": self.failures.episodes_lost,
            "env_failures_total": self.failures.total,
            "worker_restarts_total": self.failures.restarts,
            **{f"learner/{key}": value for key, value in learner.items()},
            "learner/skipped_updates": self.algorithm.skipped,
            **harvest.numbers,
            "perf/env_steps_per_s": steps / seconds,
            **self.metrics.of_time(harvest.seconds, seconds, self.algorithm.waited),
        }

    @telling_interrupts()
    def learn(
        self,
        total_timesteps: int | None = None,
        *,
        stop: Stop = None,
        confirm: bool = True,
        signals: tuple[signal.Signals, ...] = (),
    ) -> dict[str, Any]:
        """Trains until a condition holds.

        Ctrl-C stops between two steps of the environments, and the next `learn` (or that of a
        trainer loaded from a checkpoint) goes on there; a second Ctrl-C ends at once.

        Args:
            total_timesteps: environment steps from now on.
            stop: result keys and the values at which to stop, or a function of the result. With
                neither, training ends at the environment's reward threshold, if the registry has
                one, or after a million steps.
            confirm: a goal that is a statistic of training episodes (`episode_reward_mean`,
                `info/...`) ends training only if as many fresh episodes of the present policy reach
                it, too; otherwise training goes on. Fewer are played where environments are slow.
                Their steps and their random numbers are apart from training.
            signals: stop on these too (`poise train` adds SIGTERM and SIGHUP).

        Returns:
            The last result, with `stop_reason` added, and `confirmed_reward_mean` where a
            confirmation was asked for.
        """
        if stop is None and total_timesteps is None:
            stop = default_stop(self.config)
        rule = StopRule(stop, self.config)
        steps = coerce(PositiveInt | None, total_timesteps, "total_timesteps")
        goal = None if steps is None else self.algorithm.timesteps + steps
        goals = dict(stop) if isinstance(stop, Mapping) else {}
        self.goals = goals if goal is None else {**goals, "timesteps_total": goal}
        self._stop_reason = None
        self.halt.asked = False
        reason = ""
        self.error = None
        result: dict[str, Any] = dict(self.history[-1]) if self.history else {}
        play = self.fresh_episodes
        self.confirmation = Confirmation(self.config, play, self._report) if confirm else None
        try:
            with stopping_on((signal.SIGINT, *signals), self._halt), suppress(HaltedError):
                for callback in self.callbacks:
                    callback.on_run_start(self)
                if result and self._stop_reason is None:
                    self.stop(rule(result, self.confirmation))
                while self._stop_reason is None:
                    result = self.train()
                    if goal is not None and self.algorithm.timesteps >= goal:
                        self.stop(f"{total_timesteps} timesteps")
                    if self._stop_reason is None:
                        self.stop(rule(result, self.confirmation))
            reason = self._stop_reason or ""
        except BaseException as error:
            self.error = error
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.halt.asked = False
            for callback in self.callbacks:
                callback.on_run_end(self, reason)
        return {**result, **self.confirmed, "stop_reason": reason}

    def stop(self, reason: str | None) -> None:
        """Makes `learn` end after the current iteration.

        The first reason stays, so that nothing undoes what a signal said; None is no reason.
        """
        if reason is not None and self._stop_reason is None:
            self._stop_reason = reason

    def _halt(self, reason: str) -> None:
        """What a signal does, at any moment: it is heard, and stops before the next step."""
        self.halt.asked = True
        self.stop(reason)
        acknowledge(reason)

    @property
    def halt(self) -> Halt:
        """Stops sampling between two steps."""
        return self.environments.halt

    @property
    def underway(self) -> int:
        """Environment steps of an iteration that a stop left unfinished."""
        return self.environments.samplers.underway if self.environments.samplers else 0

    def close(self) -> None:
        """Closes the environments.

        Where they stand is remembered, so that training or saving can still go on.
        """
        self.environments.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
