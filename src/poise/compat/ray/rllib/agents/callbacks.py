"""RLlib's class of callbacks."""

from __future__ import annotations

from typing import Any


class DefaultCallbacks:
    """Derive from this; `on_train_result` and `on_episode_end` are called."""

    def on_train_result(self, *, trainer: Any, result: dict[str, Any], **_: Any) -> None:
        """After each iteration; what is put into `result` is kept with it."""

    def on_episode_end(
        self, *, worker: Any, base_env: Any, policies: Any, episode: Any, **_: Any
    ) -> None:
        """After each episode, with its `total_reward` and `length`."""

    def on_episode_start(self, **_: Any) -> None:
        """Is not called."""

    def on_episode_step(self, **_: Any) -> None:
        """Is not called."""

    def on_sample_end(self, **_: Any) -> None:
        """Is not called."""

    def on_postprocess_trajectory(self, **_: Any) -> None:
        """Is not called."""

    def on_learn_on_batch(self, **_: Any) -> None:
        """Is not called."""
