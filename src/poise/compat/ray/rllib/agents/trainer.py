"""RLlib's `Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from poise.api import make_trainer
from poise.compat.translate import best_preset, translated
from poise.config.base import env_label
from poise.training import checkpoint
from poise.training.loading import locate

DEFAULT_CONFIG: dict[str, Any] = {}
"""What a script copies and changes; what it leaves alone is Poise's to choose."""


class Trainer:
    """A trainer with RLlib's methods; `.trainer` is Poise's own.

    Args:
        config: settings by RLlib's names.
        env: the environment: an id, a registered name, or a class.

    Attributes:
        trainer: Poise's.
        config: all settings.

    Raises:
        ConfigError: a value that is not allowed.
    """

    algorithm: ClassVar[str] = ""

    def __init__(self, config: Mapping[str, Any] | None = None, env: Any = None, **_: Any) -> None:
        settings, callbacks = translated(self.algorithm, config or {}, env)
        preset = best_preset(self.algorithm, settings)
        self.trainer = make_trainer(
            self.algorithm, config=settings, preset=preset, callbacks=callbacks, progress=False
        )
        for note in self.trainer.notes:
            print(note, flush=True)
        self.config: dict[str, Any] = {**self.trainer.config.to_dict(), **(config or {})}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.trainer!r}>"

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.trainer.iteration

    def train(self) -> dict[str, Any]:
        """One iteration; the result has RLlib's classic keys."""
        result = self.trainer.train()
        window = list(self.trainer.metrics.window)
        learner = _below("learner/", result)
        several = len(self.trainer.algorithm.policies) > 1
        each = {name: _below(f"{name}/", learner) for name in self.trainer.algorithm.policies}
        returns = {
            name: result[key]
            for name in each
            if (key := f"policy/{name}/episode_reward_mean") in result
        }
        return {
            **result,
            "hist_stats": {
                "episode_reward": [episode.reward for episode in window],
                "episode_lengths": [episode.length for episode in window],
            },
            "info": {
                "num_steps_sampled": result["timesteps_total"],
                "learner": each if several else {"default_policy": learner},
            },
            "policy_reward_mean": returns,
            "config": self.config,
            "done": False,
        }

    def compute_action(
        self,
        observation: Any,
        state: Any = None,
        prev_action: Any = None,
        prev_reward: Any = None,
        *_: Any,
        explore: bool = True,
        policy_id: str | None = None,
        **__: Any,
    ) -> Any:
        """An action for one observation; sampled unless `explore=False`, as it was.

        With a `state`, it is the action, the next state and an empty dict. A state of zeros, of
        whatever shape, is that at an episode's start; the previous action is part of a state.
        Where several agents have several policies, `policy_id` says whose action it is.
        """
        if state is None or not len(state):
            return self.trainer.compute_action(observation, explore=explore, policy=policy_id)
        begins = not any(np.any(np.asarray(part)) for part in state)
        memory, earned = (None, None) if begins else (state, prev_reward)
        action, after = self.trainer.predict(
            observation, memory, deterministic=not explore, reward=earned
        )
        return action, list(after or ()), {}

    compute_single_action = compute_action

    def save(self, checkpoint_dir: str | None = None) -> str:
        """Writes a checkpoint and returns its path."""
        label = env_label(self.trainer.config.env)
        folder = checkpoint_dir or f"runs/{self.algorithm}_{label}_checkpoints"
        return str(self.trainer.save(Path(folder) / f"checkpoint_{self.iteration:06d}"))

    def restore(self, checkpoint_path: str | Path) -> None:
        """Goes on from a checkpoint."""
        path = locate(checkpoint_path)
        _, policies, state = checkpoint.read(path)
        self.trainer.load_state(policies, state, source=path)

    def evaluate(self) -> dict[str, Any]:
        """Plays fresh episodes."""
        return {"evaluation": self.trainer.evaluate()}

    def stop(self) -> None:
        """Gives its resources back."""
        self.trainer.close()

    cleanup = stop


def _below(prefix: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose keys begin with a prefix, without it."""
    found = {key.removeprefix(prefix): key for key in result if key.startswith(prefix)}
    return {short: result[key] for short, key in found.items()}
