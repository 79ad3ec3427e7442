"""A trainer's way to the disk and back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from poise.algorithms.base import Algorithm
from poise.config.base import AlgorithmConfig, env_name
from poise.config.registry import home_of
from poise.config.types import a_path
from poise.envs.changes import changes
from poise.errors import CheckpointError, ModelError, writing
from poise.install import version_of_poise
from poise.stepping import snapshot
from poise.stepping.failures import Failures
from poise.training import checkpoint
from poise.training.callbacks import Callback
from poise.training.confirmation import Confirmation
from poise.training.declared import STATE_ERRORS, misfit
from poise.training.environments import Environments
from poise.training.metrics import Metrics
from poise.training.names import homes, remember


class Saving:
    """What a trainer keeps, and how it goes on from there."""

    name: str
    preset: str | None
    config: AlgorithmConfig
    algorithm: Algorithm
    environments: Environments
    metrics: Metrics
    failures: Failures
    callbacks: list[Callback]
    history: deque[dict[str, Any]]
    goals: Mapping[str, float]
    notes: list[str]
    iteration: int
    confirmation: Confirmation | None
    samplers: Any

    @property
    def score(self) -> tuple[str, float] | None:
        """The key of the result that says how good the policy is now, and its value.

        It is the mean of an evaluation where the run has evaluations, else that of a full window of
        episodes: one in a window that is not full may be a lucky one. A policy that plays earlier
        selves is rated by its games against them. None where it is not known.
        """
        evaluates = bool(self.config.evaluation_interval)
        key = "evaluation/episode_reward_mean" if evaluates else "episode_reward_mean"
        key = "selfplay/elo" if self.algorithm.opponents is not None else key
        full = len(self.metrics.window) >= self.config.metrics_smoothing_episodes
        value = float(self._last_result().get(key, math.nan))
        return (key, value) if math.isfinite(value) and (evaluates or full) else None

    def _last_result(self) -> dict[str, Any]:
        return self.history[-1] if self.history else self.metrics.of_episodes()

    @property
    def confirmed(self) -> dict[str, Any]:
        """`confirmed_reward_mean` and `confirmed_episodes`, if the present policy was confirmed."""
        known = self.confirmation
        return known.found if known is not None and known.at == self.algorithm.timesteps else {}

    def save(self, path: str | Path) -> Path:
        """Writes a checkpoint folder, replacing one that is there.

        `poise.load(path)` goes on exactly from it.

        Returns:
            The folder's absolute path.

        Raises:
            CheckpointError: `path` is something else than a checkpoint.
            RunError: it cannot be written: the disk is full, for example.
        """
        target = a_path(path).absolute()
        pending = self.environments.pending
        samplers = self.samplers.state_dict() if pending is None else pending
        policies, policy = self.algorithm.policies, self.algorithm.policy
        state = {
            "algorithm": self.algorithm.state_dict(),
            "samplers": samplers,
            "iteration": self.iteration,
            "failures": self.failures.state_dict(),
            **self.metrics.state_dict(),
        }
        exact = bool(samplers) and all(_exact(sampler) for sampler in samplers)
        exact = exact and not self.environments.calls
        mean = self._last_result()["episode_reward_mean"]
        about = {
            "poise": version_of_poise(),
            "algorithm": self.name,
            "env": env_name(self.config.env),
            "preset": self.preset,
            "observation_space": policy.obs_layout.to_json(),
            "action_space": policy.action_layout.to_json(),
            "iteration": self.iteration,
            "timesteps_total": self.algorithm.timesteps,
            "episode_reward_mean": None if math.isnan(mean) else mean,
            **dict(zip(("score_of", "score"), self.score or (None, None), strict=True)),
            **self.confirmed,
            "resume_grade": "bitwise" if exact and self.algorithm.repeatable else "statistical",
            "names": homes(self.config),
            **({"home": home} if (home := home_of(self.name)) else {}),
            "changed": [str(change) for change in changes()],
            "stop": dict(self.goals) or None,
            "auto_workers": self.config.auto_workers,
            "config": self.config.to_dict(),
        }
        with writing(target):
            parameters = {name: dict(each.state_dict()) for name, each in policies.items()}
            checkpoint.write(target, parameters, state, about)
        remember(self.config, home)
        for callback in self.callbacks:
            callback.on_checkpoint(cast(Any, self), target)
        return target

    def load_state(
        self,
        policies: checkpoint.Policies,
        state: dict[str, Any],
        *,
        source: str | Path = "The checkpoint",
    ) -> None:
        """Restores what `save` wrote into a trainer of the same configuration.

        The environments follow when they are first needed.

        Raises:
            CheckpointError: parameters or state are not those of this configuration; the sentence
                names `source`.
        """
        own_policies = self.algorithm.policies
        if others := policies.keys() - own_policies.keys():
            raise CheckpointError(
                f"{source} holds policies that are not learnt here: {', '.join(sorted(others))}."
            )
        policies = {name: policies.get(name, {}) for name in own_policies}
        for name, each in own_policies.items():
            checkpoint.check_parameters(each.state_dict(), policies[name], source)
        if self.environments.samplers is not None:  # they are amid another course of training
            self.environments.close()
        # The others were said when the run began.
        self.notes[:] = [
            each for each in self.notes if each.startswith(("num_workers='auto'", "num_gpus="))
        ]
        own = {"algorithm": self.algorithm.form(), **self.metrics.state_dict()}
        if (what := misfit(own, state)) is not None:
            raise CheckpointError(f"{source} does not fit its own configuration: {what}.")
        try:
            self.algorithm.load(state["algorithm"], policies)
            self.iteration = int(state["iteration"])
            self.metrics.load_state_dict(state)
            self.failures.load_state_dict(state["failures"])
            self.environments.pending = state["samplers"]
        except STATE_ERRORS as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{source} does not fit its own configuration: {reason}."
            ) from error

    def take_weights(self, source: str | Path | Saving, which: str | int = "latest") -> list[str]:
        """A warm start: takes the weights of another policy where name and shape agree.

        Normalisers come along; optimisers, counters and the environments stay as they are.

        Args:
            source: a trainer, a checkpoint, or a run folder.
            which: of a run folder, as for `poise.load`.

        Returns:
            The names of what stays as it was, such as a head for other actions.

        Raises:
            ModelError: nothing fits.
            CheckpointError: there is no such checkpoint, or it is damaged.
        """
        from poise.training.loading import choose  # which makes trainers

        if isinstance(source, Saving):
            found = {name: each.state_dict() for name, each in source.algorithm.policies.items()}
        else:
            found = checkpoint.read(choose(source, which))[1]
        left: list[str] = []
        own, only = self.algorithm.policies, next(iter(found.values())) if len(found) == 1 else {}
        for name, policy in own.items():
            state, given = policy.state_dict(), found.get(name, only)
            shapes = {key: value.shape for key, value in state.items()}
            fits = {key: x for key, x in given.items() if x.shape == shapes.get(key)}
            left += [key if len(own) == 1 else f"{name}.{key}" for key in shapes if key not in fits]
            policy.load_state_dict({**state, **fits})
            policy.refresh()
        if len(left) == sum(len(policy.state_dict()) for policy in own.values()):
            raise ModelError(f"Nothing of {source} fits this policy: no name and shape agree.")
        for member in getattr(self.algorithm, "members", {"": self.algorithm}).values():
            for target in getattr(member, "targets", {}).values():
                target.match()
        if (samplers := self.environments.samplers) is not None:
            samplers.follow(self.algorithm.policy, self.algorithm.flat, self.algorithm.updates)
        return left

    def leave_environment(self, why: str) -> None:
        """Forgets what belongs to another environment: its episodes, also unfinished, and results.

        Args:
            why: the beginning of the sentence in `notes`.
        """
        self.metrics.window.clear()
        self.metrics.finished.clear()
        self.history.clear()
        self.metrics.unfinished_s, self.metrics.best = 0.0, None
        self.environments.pending = None
        gone = "".join(f"{what}, " for what in self.algorithm.leave_environment())
        self.notes.append(
            f"{why}: the window of episodes, {gone}results and episodes under way begin anew; "
            "the policy, its normalisers and the counters go on."
        )


def _exact(sampler: dict[str, Any]) -> bool:
    """Whether a sampler's state leads on to the very same steps."""
    env = sampler["env"]
    if sampler["generator"] is None:  # it was on a cluster, and not there
        return False
    if not sampler["started"]:  # it never began, or an error or a second Ctrl-C left it amid a step
        return env is None
    return env is not None and snapshot.exact(env)
