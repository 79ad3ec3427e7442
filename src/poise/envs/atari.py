"""Atari games in ale-py's native vector environment: emulation and preprocessing in threads of C++.

One game and many go through the same code, so that an agent meets in films and by hand exactly what
it was trained on. ale-py is the extra `atari`, imported only here and only when a game is made.
"""

from __future__ import annotations

import weakref
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from poise.config.atari import FRAMES_PER_SECOND, AtariConfig, AtariName, atari_config, atari_name
from poise.errors import EnvError, nearest
from poise.install import install

_NOT_FOR_ONE = {"combat", "joust", "maze_craze", "warlords"}
"""Games that take two players, by the emulator's names."""


def is_atari(env_id: str) -> bool:
    """Whether a name is an Atari game's.

    A name that somebody else registered with Gymnasium is theirs.
    """
    if atari_name(env_id) is None:
        return False
    known = gym.registry.get(env_id)
    return known is None or str(known.entry_point).startswith("ale_py")


def make_atari(
    env_id: str, options: dict[str, Any] | None = None, render_mode: str | None = None
) -> gym.Env:
    """Makes one game.

    Args:
        env_id: such as `PongNoFrameskip-v4` or `ALE/Pong-v5`.
        options: see `poise.config.atari.AtariConfig`.
        render_mode: `rgb_array` or None.

    Raises:
        ConfigError: an option that does not exist, or a value that is not allowed.
        EnvError: no such game or render mode, or ale-py is not installed.
    """
    return AtariGame(*_described(env_id, options), render_mode)


def make_atari_vector(
    env_id: str, num_envs: int, options: dict[str, Any] | None = None
) -> AtariVector:
    """Makes `num_envs` games that are played as one batch; otherwise as `make_atari`."""
    return AtariVector(*_described(env_id, options), num_envs)


def _described(env_id: str, options: dict[str, Any] | None) -> tuple[str, AtariConfig]:
    """The emulator's name of a game, and its options."""
    name = atari_name(env_id)
    if name is None:
        raise EnvError(
            f"{env_id!r} is not the name of an Atari game, "
            "such as PongNoFrameskip-v4 or ALE/Pong-v5."
        )
    return _rom(env_id, name), atari_config(name, options or {})


def _rom(env_id: str, name: AtariName) -> str:
    """The emulator's name of a game: `ms_pacman`."""
    known = _roms()
    if name.game not in known:
        close = nearest(env_id, [env_id.replace(name.game, game) for game in known])
        raise EnvError(f"There is no Atari game {name.game!r}, as {env_id!r} asks for.{close}")
    return known[name.game]


@lru_cache(1)
def _roms() -> dict[str, str]:
    """The emulator's name (`ms_pacman`) of every game that ale-py brings, by ours (`MsPacman`)."""
    _import_ale()
    from ale_py import roms
    from ale_py.registration import rom_id_to_name

    return {rom_id_to_name(rom): rom for rom in roms.get_all_rom_ids() if rom not in _NOT_FOR_ONE}


def _import_ale() -> Any:
    """Imports ale-py, or says how to install it."""
    try:
        import ale_py
        import ale_py.vector_env
    except ImportError as error:
        raise EnvError(f"Atari games need ale-py ({error}): {install('atari')}") from None
    return ale_py


class AtariVector(VectorEnv):
    """A batch of one game, with NEXT_STEP semantics: the step after an episode's end resets.

    Observations are bytes `[num_envs, channels, size, size]`, channels being `stack` grey or `3 *
    stack` colour planes; rewards are the game's own. `step` is `send`, which starts the emulator's
    threads, and `recv`, which waits for them: in between, the interpreter is free.

    The info of a step holds `lives`. With `episodic_life`, it also holds `life_lost`, which
    learning takes for an end; the emulator's own option of that name would restart the game.

    Args:
        rom: the emulator's name of the game: `ms_pacman`.
        config: complete options (`poise.config.atari.atari_config`).
        num_envs: number of games.
        screen: height and width of the picture, if it shall be a single one in full colour instead
            of what the options say. The game takes the same course either way.
    """

    def __init__(
        self, rom: str, config: AtariConfig, num_envs: int, screen: tuple[int, int] | None = None
    ) -> None:
        ale_py = _import_ale()
        assert config.max_episode_steps is not None
        height, width = screen or (config.size, config.size)
        grey, stack = (False, 1) if screen else (config.grayscale, config.stack)
        self._native: Any = ale_py.vector_env.AtariVectorEnv(
            rom,
            num_envs,
            num_threads=min(config.num_threads, num_envs),
            img_height=height,
            img_width=width,
            grayscale=grey,
            stack_num=stack,
            frameskip=config.frame_skip,
            repeat_action_probability=config.sticky_actions,
            full_action_space=config.full_action_space,
            noop_max=config.noop_max,
            use_fire_reset=config.fire_reset,
            max_num_frames_per_episode=config.max_episode_steps * config.frame_skip,
            # Scores are real; `clip_rewards` clips for learning.
            reward_clipping=False,
            # It would restart the game, so that only first lives were ever played.
            episodic_life=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        self.metadata = {
            "autoreset_mode": AutoresetMode.NEXT_STEP,
            "render_fps": max(1, round(FRAMES_PER_SECOND / config.frame_skip)),
        }
        # Else, at the end of Python, nanobind would report the emulator as a leak.
        self._close_at_exit = weakref.finalize(self, self._native.__dict__.clear)
        self.num_envs = num_envs
        channels = stack if grey else 3 * stack
        self._grey, self._episodic_life = grey, config.episodic_life
        self.single_observation_space = spaces.Box(0, 255, (channels, height, width), np.uint8)
        self.single_action_space = spaces.Discrete(int(self._native.single_action_space.n))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._lives, self._over = np.zeros(num_envs, np.int32), np.ones(num_envs, np.bool_)
        self._stepping = False

    def reset(
        self,
        *,
        seed: int | list[int] | np.ndarray | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new games everywhere.

        An integer seeds them with `seed, seed + 1, ...`, a list with one seed each. Without a seed,
        each emulator's generator goes on.
        """
        # Ctrl-C came between `send` and `recv`: the emulator would take that step's result for the
        # reset's, or crash.
        if self._stepping:
            self._native.recv()
            self._stepping = False
        if seed is not None:
            seeds = np.asarray(seed, np.int64)
            if seeds.ndim == 0:
                seeds = seeds + np.arange(self.num_envs)
            seed = seeds % 2**31  # the emulator takes no larger ones
        obs, info = self._native.reset(seed=seed)
        self._over = np.ones(self.num_envs, np.bool_)
        return self._planes(obs), self._follow_lives(info, np.zeros(self.num_envs, np.bool_))

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Plays one action in each game; in those that are over, begins the next one instead."""
        self.send(actions)
        return self.recv()

    def send(self, actions: np.ndarray) -> None:
        """Starts a step; `actions` are integers `[num_envs]`. The next call must be `recv`."""
        self._native.send(np.asarray(actions, np.int64))
        self._stepping = True

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Waits for the step that `send` began; returns what `step` does, in arrays of its own."""
        obs, reward, terminated, truncated, info = self._native.recv()
        self._stepping = False
        info = self._follow_lives(info, terminated | truncated)
        return self._planes(obs), reward, terminated, truncated, info

    def _planes(self, obs: np.ndarray) -> np.ndarray:
        """Colour pictures `[B, stack, H, W, 3]` as the planes `[B, 3 * stack, H, W]` of a CNN."""
        return obs if self._grey else np.moveaxis(obs, -1, 2).reshape(len(obs), -1, *obs.shape[2:4])

    def _follow_lives(self, info: dict[str, Any], over: np.ndarray) -> dict[str, Any]:
        """The info of a step, `over` `[B]` telling which games it ended."""
        lives = info["lives"]
        # A new game may begin with fewer lives than the last one had: that is no loss.
        lost = (lives < self._lives) & ~self._over
        self._lives, self._over = lives, over
        return {"lives": lives, "life_lost": lost} if self._episodic_life else {"lives": lives}

    def close_extras(self, **kwargs: Any) -> None:
        self._close_at_exit()  # the emulator's threads end with the last reference to it


class AtariGame(gym.Env):
    """One game: a batch of one.

    With the seed `s + i`, it takes the same course as game `i` of a batch with the seed `s`. To be
    filmed, it plays the same game a second time beside the first, in full size and colour.

    Args:
        rom, config: as for `AtariVector`.
        render_mode: `rgb_array` or None.
    """

    def __init__(self, rom: str, config: AtariConfig, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise EnvError(
                f"render_mode={render_mode!r} is not allowed: "
                "an Atari game renders 'rgb_array' or nothing."
            )
        self.render_mode = render_mode
        self._batch = AtariVector(rom, config, 1)
        screen = _screen_size(rom) if render_mode else None
        self._screen = AtariVector(rom, config, 1, screen) if screen else None
        self._picture: np.ndarray | None = None
        fps = self._batch.metadata["render_fps"]
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins a new game."""
        super().reset(seed=seed)
        if self._screen is not None:
            # Both games need the same generator from the start; later, both go on in step.
            if seed is None and self._picture is None:
                seed = int(self.np_random.integers(2**31))
            self._picture = self._screen.reset(seed=seed)[0]
        obs, info = self._batch.reset(seed=seed)
        self._over = False
        return obs[0], {key: value[0].item() for key, value in info.items()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays one action.

        Raises:
            EnvError: the episode is over, or none has begun.
        """
        if self._over:
            raise EnvError("The game is over, or has not begun: call reset() before step().")
        actions = np.array([action])
        if self._screen is not None:
            self._picture = self._screen.step(actions)[0]
        obs, reward, terminated, truncated, info = self._batch.step(actions)
        self._over = bool(terminated[0] or truncated[0])
        numbers = {key: value[0].item() for key, value in info.items()}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), numbers

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The screen in colour `[height, width, 3]`, for `render_mode="rgb_array"`."""
        if self._picture is None:
            return None
        return np.ascontiguousarray(np.moveaxis(self._picture[0], 0, -1))

    def close(self) -> None:
        self._batch.close()
        if self._screen is not None:
            self._screen.close()


def _screen_size(rom: str) -> tuple[int, int]:
    """Height and width of a game's screen, which are 210 and 160 in nearly every game."""
    ale_py = _import_ale()
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(ale_py.roms.get_rom_path(rom))
    height, width = ale.getScreenDims()
    return int(height), int(width)
