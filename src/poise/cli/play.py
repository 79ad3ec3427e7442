"""`poise play`: a person has one seat of a game, and the policy the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from poise.cli.output import echo, takes
from poise.cli.runs import find_checkpoint, load_checkpoint, plays
from poise.errors import ConfigError, PoiseError, nearest
from poise.spaces.agents import ACTS, AGENTS, REWARD, is_joint
from poise.spaces.masks import KEY

if TYPE_CHECKING:
    from poise.training.trainer import Trainer

MARKS = ".XO#*+@%&"
"""An empty place of a board, and the stones on its planes: the own ones first."""


class Game(gym.Wrapper):
    """A game in a terminal: shows the board, asks a person for moves, and says how it ended.

    Args:
        env: of several agents, as one.
        trainer: acts for the others.
        seat: the person's, by the agent's name or number; None takes the first.
        explore: whether the policy samples its actions.

    Raises:
        ConfigError: there is no such seat, or its actions cannot be typed as one number.
    """

    def __init__(
        self, env: gym.Env, trainer: Trainer, seat: str | None = None, *, explore: bool = False
    ) -> None:
        super().__init__(env)
        if not is_joint(env.observation_space):
            raise ConfigError("poise play takes a game of several agents, and this has one.")
        self.names = list(env.observation_space[AGENTS].spaces)  # type: ignore[index]
        known = {str(i): name for i, name in enumerate(self.names)} | {n: n for n in self.names}
        if (found := known.get(seat or "0")) is None:
            raise ConfigError(
                f"--seat {seat} is not allowed: the seats are {', '.join(self.names)}."
                f"{nearest(str(seat), self.names)}"
            )
        self.moves: Any = env.action_space[found]  # type: ignore[index]
        if not isinstance(self.moves, spaces.Discrete):
            raise ConfigError(f"{found} acts by {self.moves}, and a person types one number.")
        self.seat, self.number = found, self.names.index(found)
        self.trainer, self.explore = trainer, explore

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        self.memory, self.returns = None, np.zeros(len(self.names))
        self.seen, info = super().reset(**how)
        return self.seen, info

    def act(self, seen: Any, reward: float | None) -> dict[str, Any]:
        """The actions of all: the policy's, and what the person types."""
        greedy = not self.explore
        actions, self.memory = self.trainer.predict(seen, self.memory, deterministic=greedy)
        if seen[ACTS][self.number]:
            self._show()
            actions = {**actions, self.seat: self._typed(seen[AGENTS][self.seat])}
        return dict(actions)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        for number in {*np.flatnonzero(self.seen[ACTS]).tolist()} - {self.number}:
            echo(f"{self.names[number]} plays {action[self.names[number]]}")
        self.seen, *outcome = super().step(action)
        self.returns += self.seen[REWARD]
        if any(outcome[1:3]):
            self._show()
            own, best = self.returns[self.number], np.delete(self.returns, self.number).max()
            scores = map("{} {:g}".format, self.names, self.returns)
            echo(f"{_END[int(np.sign(own - best))]}: {', '.join(scores)}")
        return self.seen, *outcome  # type: ignore[return-value]

    def _show(self) -> None:
        text = self.render() if self.render_mode == "ansi" else None
        echo(f"\n{text or readable(self.seen[AGENTS][self.seat])}")

    def _typed(self, seen: Any) -> Any:
        """An action that is allowed; it is asked for until one is typed."""
        mask = seen.get(KEY) if isinstance(seen, Mapping) else None
        legal = self.moves.start + np.flatnonzero(np.ones(self.moves.n) if mask is None else mask)
        choice = click.Choice([str(each) for each in legal.tolist()])
        return self.moves.dtype.type(click.prompt(f"{self.seat}, your move", type=choice))


_END = {1: "You win", 0: "A tie", -1: "You lose"}


def readable(seen: Any) -> str:
    """An observation as text: planes of stones as a board, anything else as numbers."""
    if isinstance(seen, Mapping):
        return "\n".join(f"{key}:\n{readable(seen[key])}" for key in seen if key != KEY)
    board = np.asarray(seen)
    if board.ndim == 3 and np.isin(board, (0, 1)).all():
        planes = np.moveaxis(board, -1, 0) if board.shape[-1] < board.shape[0] else board
        if len(planes) < len(MARKS) and planes.sum(0).max(initial=0) <= 1:
            which = np.tensordot(np.arange(1, len(planes) + 1), planes, 1).astype(int)
            return "\n".join(" ".join(MARKS[i] for i in row) for row in which.tolist())
    return str(board)


def playing(env: Any, env_config: dict[str, Any], *, filmed: bool) -> gym.Env:
    """The environment of a game, which shows itself as text where it can, or as frames."""
    from poise.envs.make import make_env
    from poise.envs.video import make_filmed_env

    if filmed:
        return make_filmed_env(env, env_config)
    made = make_env(env, env_config)
    if "ansi" not in (made.metadata or {}).get("render_modes", ()):
        return made
    made.close()
    return make_env(env, env_config, render_mode="ansi")


@plays(
    1,
    takes(
        click.option("--seat", metavar="NAME", help="Yours: an agent's name, or its number from 0. "
                     "[default: the first]"),
        click.option("--record", "film", metavar="FILE", help="Film the games, as an MP4 file."),
    ),
)  # fmt: skip
def play(
    run: str,
    seat: str | None,
    film: str | None,
    episodes: int,
    explore: bool,
    seed: int,
    checkpoint: str,
    folder: str,
    trust: bool,
) -> None:
    """Play a game against the policy, in this terminal.

    You have one seat of a game whose moves are numbers, and the policy has the others. Ctrl-D ends.
    RUN is a run folder, the name of a run, `latest`, or a checkpoint folder.
    """
    from poise.envs import video

    if not sys.stdin.isatty():
        raise PoiseError("poise play needs a terminal, in which you type your moves.")
    path, _ = find_checkpoint(run, checkpoint, folder)
    with load_checkpoint(path, trust=trust) as trainer:
        config = trainer.config
        env = playing(config.env, config.env_config, filmed=film is not None)
        game = Game(env, trainer, seat, explore=explore)
        try:
            if film is not None:
                echo(video.film(game, game.act, film, episodes=episodes, seed=seed)["path"])
                return
            for episode in range(episodes):
                seen, _ = game.reset(seed=seed if episode == 0 else None)
                over = False
                while not over:
                    seen, _, terminated, truncated, _ = game.step(game.act(seen, None))
                    over = terminated or truncated
        except click.Abort:  # Ctrl-D
            echo("")
        finally:
            env.close()
