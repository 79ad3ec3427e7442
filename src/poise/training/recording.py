"""Films of a trainer's policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poise.envs.masking import ActionMaskInObservation
from poise.envs.video import film, make_filmed_env
from poise.errors import ConfigError
from poise.training.trainer import Trainer


def record(
    trainer: Trainer,
    path: str | Path,
    *,
    episodes: int = 1,
    explore: bool = False,
    max_steps: int = 10_000,
    seed: int = 0,
    fps: int | None = None,
) -> dict[str, Any]:
    """Films a trainer's policy in its environment, without a display.

    Args:
        trainer: acts.
        path: of the MP4 file.
        episodes, max_steps, seed, fps: see `poise.envs.video.film`.
        explore: samples actions instead of taking the most likely ones.

    Returns:
        `{"path", "episode_reward", "episode_len", "frames"}`.
    """
    if not isinstance(trainer, Trainer):
        raise ConfigError(
            f"trainer={trainer!r} is not allowed: poise.load makes a trainer of a checkpoint."
        )
    env = make_filmed_env(trainer.config.env, trainer.config.env_config)
    if trainer.policy.masked and env.observation_space != trainer.policy.obs_layout.space:
        env = ActionMaskInObservation(env)
    state: Any = None

    def act(obs: Any, reward: float | None) -> Any:
        nonlocal state
        memory = None if reward is None else state
        action, state = trainer.predict(obs, memory, deterministic=not explore, reward=reward)
        return action

    try:
        return film(env, act, path, episodes=episodes, max_steps=max_steps, seed=seed, fps=fps)
    finally:
        env.close()
