"""RLlib's `Trainer`, which is called `Algorithm` since 2.0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from poise.api import load, make_trainer
from poise.compat.ray_missing import AbsentError
from poise.compat.raytune.analysis import Checkpoint, old_path
from poise.compat.rllib.config import AlgorithmConfig
from poise.compat.rllib.hooks import OldCallbacks
from poise.compat.rllib.policy import PolicyView, Workers
from poise.compat.rllib.results import classic, layouts
from poise.compat.translate import best_preset, translated
from poise.config.base import env_label
from poise.training import checkpoint
from poise.training.loading import locate

OVERRIDDEN = (
    "training_step", "execution_plan", "step", "setup", "get_default_policy_class", "train_step",
)  # fmt: skip
"""Methods by which RLlib's algorithms are changed, none of which is called here."""


class Saved(str):
    """The path of a checkpoint, which RLlib 2 handed over as an object."""

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(str(self))


class Algorithm:
    """A trainer with RLlib's methods; `.trainer` is Poise's own.

    Args:
        config: settings by RLlib's names: a dictionary, or a builder.
        env: the environment: an id, a registered name, or a class.

    Attributes:
        trainer: Poise's.
        config: all settings.

    Raises:
        ConfigError: a value that is not allowed.
        AbsentError: it derives from an algorithm to change its steps.
    """

    algorithm: ClassVar[str] = ""

    def __init__(
        self, config: Mapping[str, Any] | None = None, env: Any = None, *_: Any, **__: Any
    ) -> None:
        name = self.algorithm or getattr(config, "algorithm", "") or (config or {}).get("run", "")
        if not name:
            raise AbsentError("Algorithm is no algorithm itself: take PPO, PPOConfig or others.")
        for method in OVERRIDDEN:
            if hasattr(type(self), method):
                raise AbsentError(
                    f"{type(self).__name__}.{method} is never called here: an algorithm of your "
                    "own derives from Poise's (docs/ppo.md)."
                )
        settings, callbacks = translated(name, config or {}, env)
        preset = best_preset(name, settings)
        trainer = make_trainer(
            name, config=settings, preset=preset, callbacks=callbacks, progress=False
        )
        for note in trainer.notes:
            print(note, flush=True)
        self._take(trainer, config or {})
        for callback in callbacks:
            callback.on_run_start(trainer)

    @classmethod
    def around(cls, trainer: Any) -> Algorithm:
        """RLlib's methods for a trainer of Poise's that there is."""
        made = cls.__new__(cls)
        made._take(trainer, {})
        return made

    def _take(self, trainer: Any, given: Mapping[str, Any]) -> None:
        self.trainer = trainer
        settings = {**trainer.config.to_dict(), **given}
        self.config = AlgorithmConfig(settings)
        self._begun = trainer.iteration, trainer.algorithm.timesteps, trainer.metrics.time_total_s

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.trainer!r}>"

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """A configuration that nothing is set in."""
        from poise.compat.rllib.registry import of_name

        made: AlgorithmConfig = of_name(f"{cls.algorithm}Config")()
        return made

    @classmethod
    def default_resource_request(cls, config: Any = None) -> Any:
        """What a training needs is what there is."""
        from poise.compat.raytune.tuner import PlacementGroupFactory

        return PlacementGroupFactory()

    @classmethod
    def with_updates(cls, *_: Any, **__: Any) -> Any:
        """Is not here: it changes policies and losses.

        Raises:
            AbsentError: always.
        """
        raise AbsentError(
            f"{cls.__name__}.with_updates has no equivalent here: an algorithm of your own "
            "derives from Poise's (docs/ppo.md)."
        )

    @classmethod
    def merge_trainer_configs(cls, one: Any, two: Mapping[str, Any], *_: Any) -> Any:
        """The first configuration with the second's settings over it."""
        return AlgorithmConfig(one).copy().put(two)

    @classmethod
    def from_checkpoint(cls, path: Any, *_: Any, **__: Any) -> Algorithm:
        """The algorithm that a checkpoint was saved from, to act with or to go on."""
        from poise.compat.rllib.registry import of_name

        trainer = load(old_path(path), progress=False)
        made: Algorithm = (cls if cls.algorithm else of_name(trainer.name)).around(trainer)
        return made

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self.trainer.iteration)

    training_iteration = iteration

    @property
    def logdir(self) -> str:
        """Where it saves."""
        label = env_label(self.trainer.config.env)
        return f"runs/{self.trainer.name}_{label}_checkpoints"

    def train(self) -> dict[str, Any]:
        """One iteration; the result has RLlib's keys of all eras."""
        result = self.trainer.train()
        hooks = [each for each in self.trainer.callbacks if isinstance(each, OldCallbacks)]
        told = hooks[0].result if hooks and hooks[0].result else classic(self.trainer, result)
        begun = zip(("iterations", "timesteps", "time"), self._begun, strict=True)
        total = {"iterations": "training_iteration", "timesteps": "timesteps_total",
                 "time": "time_total_s"}  # fmt: skip
        since = {f"{name}_since_restore": result[total[name]] - before for name, before in begun}
        return {**told, **since, "config": self.config.to_dict()}

    def compute_single_action(
        self,
        observation: Any = None,
        state: Any = None,
        prev_action: Any = None,
        prev_reward: Any = None,
        *_: Any,
        explore: bool | None = None,
        policy_id: str | None = None,
        full_fetch: bool = False,
        **others: Any,
    ) -> Any:
        """An action for one observation; sampled unless `explore=False`, as it was.

        With a `state`, it is the action, the next state and an empty dict. A state of zeros, of
        whatever shape, is that at an episode's start; the previous action is part of a state.
        Where several agents have several policies, `policy_id` says whose action it is.
        """
        observation = others.get("obs", observation)
        sampled = self.config.get("explore", True) if explore is None else explore
        name = policy_id if policy_id in self.trainer.algorithm.policies else None
        if state is None or not len(state):
            action = self.trainer.compute_action(observation, explore=sampled, policy=name)
            return (action, [], {}) if full_fetch else action
        begins = not any(np.any(np.asarray(part)) for part in state)
        memory, earned = (None, None) if begins else (state, prev_reward)
        action, after = self.trainer.predict(
            observation, memory, deterministic=not sampled, reward=earned, policy=name
        )
        return action, list(after or ()), {}

    compute_action = compute_single_action

    def compute_actions(
        self, observations: Mapping[Any, Any], *_: Any, explore: bool | None = None, **how: Any
    ) -> dict[Any, Any]:
        """An action for each observation of a dictionary, by its keys."""
        policy_id = how.get("policy_id")
        return {
            key: self.compute_single_action(each, explore=explore, policy_id=policy_id)
            for key, each in observations.items()
        }

    @property
    def policy_ids(self) -> list[str]:
        """The names of its policies; the only one is called `default_policy`."""
        names = list(self.trainer.algorithm.policies)
        return names if names[1:] else ["default_policy"]

    def get_policy(self, policy_id: str = "default_policy") -> PolicyView:
        """A policy with RLlib's methods."""
        names = self.trainer.algorithm.policies
        return PolicyView(self.trainer, policy_id if policy_id in names else next(iter(names)))

    get_module = get_policy

    @property
    def workers(self) -> Workers:
        """RLlib's set of workers: one, which is here."""
        return Workers(self.trainer, {name: self.get_policy(name) for name in self.policy_ids})

    env_runner_group = workers

    @property
    def env_runner(self) -> Workers:
        """The same."""
        return self.workers

    def get_weights(self, policies: Any = None) -> dict[str, Any]:
        """The parameters of its policies, by their names."""
        return {name: self.get_policy(name).get_weights() for name in policies or self.policy_ids}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Takes what `get_weights` returned."""
        for name, own in weights.items():
            self.get_policy(name).set_weights(own)

    def save(self, checkpoint_dir: Any = None, *_: Any, **__: Any) -> Saved:
        """Writes a checkpoint and returns its path."""
        folder = Path(checkpoint_dir or self.logdir)
        return Saved(self.trainer.save(folder / f"checkpoint_{self.iteration:06d}"))

    save_checkpoint = save

    def save_to_path(self, path: Any = None, *_: Any, **__: Any) -> str:
        """Writes a checkpoint at a path."""
        return str(self.trainer.save(path) if path else self.save())

    def restore(self, checkpoint_path: Any) -> None:
        """Goes on from a checkpoint."""
        path = locate(old_path(checkpoint_path))
        _, policies, state = checkpoint.read(path)
        self.trainer.load_state(policies, state, source=path)
        self._take(self.trainer, self.config)
        for each in self.trainer.callbacks:
            if isinstance(each, OldCallbacks):
                each.hooks.call("on_checkpoint_loaded", algorithm=self)

    restore_from_path = load_checkpoint = restore

    def evaluate(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Plays fresh episodes; the result has RLlib's layouts of all eras."""
        found = self.trainer.evaluate()
        for callback in self.trainer.callbacks:
            callback.on_evaluation(self.trainer, found)
        told = layouts(found)
        return {"evaluation": told, "env_runners": told["env_runners"]}

    def export_policy_model(self, export_dir: str, *_: Any, **__: Any) -> None:
        """Writes the policy for PyTorch alone; see docs/export.md."""
        from poise.api import export

        export(self.trainer, "torch", Path(export_dir) / "model.pt")

    def stop(self) -> None:
        """Gives its resources back."""
        self.trainer.close()

    cleanup = stop

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "trainer":
            raise AttributeError(name)
        own = [each for each in dir(type(self)) if not re.match("_", each)]
        from poise.errors import nearest

        raise AttributeError(
            f"{type(self).__name__}.{name} of RLlib has no equivalent here.{nearest(name, own)} "
            "`.trainer` is Poise's own."
        )
