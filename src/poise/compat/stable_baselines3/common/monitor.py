"""`stable_baselines3.common.monitor`: what episodes returned, in their infos and in files."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium

from poise.compat.gym.core import OldEnv, modern, takes_five
from poise.config.types import a_path
from poise.errors import PoiseError

EXT = "monitor.csv"


class MonitorFile:
    """A `monitor.csv`: a line of JSON about the run, then a row for each episode.

    Args:
        name: a folder, or what stands before `.monitor.csv`.
        env: of which the file is.
        keys: columns beside return, length and time.
    """

    def __init__(self, name: str, env: Any, keys: Sequence[str] = (), *, anew: bool = True) -> None:
        path = a_path(name)
        if not path.name.endswith(EXT):
            path = path / EXT if path.is_dir() else path.with_name(f"{path.name}.{EXT}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w" if anew else "a", newline="")
        self._rows = csv.DictWriter(self._file, ["r", "l", "t", *keys])
        if anew:
            about = {
                "t_start": time.time(),
                "env_id": str(getattr(env.spec, "id", None)) if env else None,
            }
            self._file.write(f"#{json.dumps(about)}\n")
            self._rows.writeheader()
        self._file.flush()

    def write(self, row: dict[str, Any]) -> None:
        """Adds an episode."""
        self._rows.writerow(row)
        self._file.flush()


class _Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Counts."""

    def __init__(self, env: gymnasium.Env, file: MonitorFile | None, keys: Sequence[str]) -> None:
        super().__init__(env)
        self._file, self._keys, self._start = file, keys, time.time()
        self.rewards: list[float] = []
        self.episode_returns: list[float] = []
        self.episode_lengths: list[int] = []
        self.episode_times: list[float] = []
        self.total_steps = 0

    def reset(self, **kwargs: Any) -> Any:
        self.rewards = []
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.rewards.append(float(reward))
        self.total_steps += 1
        if terminated or truncated:
            took = round(time.time() - self._start, 6)
            row: dict[str, Any] = {
                "r": round(sum(self.rewards), 6),
                "l": len(self.rewards),
                "t": took,
            }
            row |= {key: info[key] for key in self._keys}
            self.episode_returns.append(row["r"])
            self.episode_lengths.append(row["l"])
            self.episode_times.append(took)
            if self._file is not None:
                self._file.write(row)
            info = {**info, "episode": row}
        return obs, reward, terminated, truncated, info

    def get_total_steps(self) -> int:
        """Steps of all episodes."""
        return self.total_steps

    def get_episode_rewards(self) -> list[float]:
        """Returns of the episodes that have ended."""
        return self.episode_returns

    def get_episode_lengths(self) -> list[int]:
        """Their lengths."""
        return self.episode_lengths

    def get_episode_times(self) -> list[float]:
        """Seconds at which they ended."""
        return self.episode_times


class Monitor(OldEnv):
    """An environment of any API whose infos tell of the episode at its end: `episode`.

    Args:
        env: any environment.
        filename: see `MonitorFile`; None writes no file.
        allow_early_resets: an episode may be given up; it is then not counted.
        reset_keywords: without effect.
        info_keywords: numbers of the last info that are kept, too.
        override_existing: whether a file that is there is replaced.
    """

    def __init__(
        self,
        env: Any,
        filename: str | None = None,
        allow_early_resets: bool = True,
        reset_keywords: Sequence[str] = (),
        info_keywords: Sequence[str] = (),
        override_existing: bool = True,
    ) -> None:
        keys = tuple(info_keywords)
        file = MonitorFile(filename, env, keys, anew=override_existing) if filename else None
        super().__init__(_Recorder(modern(env), file, keys), five=takes_five(env))
        self.__dict__.update(_outer=env)

    @property
    def env(self) -> Any:
        """The environment that is watched."""
        return self._outer


def get_monitor_files(path: str) -> list[str]:
    """The `monitor.csv` files of a folder."""
    return [str(file) for file in sorted(Path(path).glob(f"*{EXT}"))]


def load_results(path: str) -> Any:
    """The episodes of all files of a folder as a pandas data frame, in the order of their ends.

    Raises:
        PoiseError: there is none.
    """
    import pandas

    files = get_monitor_files(path)
    if not files:
        raise PoiseError(f"There is no {EXT} in {path}.")
    frames, starts = [], []
    for name in files:
        with open(name) as file:
            starts.append(json.loads(file.readline()[1:])["t_start"])
            frame = pandas.read_csv(file)
            frame["t"] += starts[-1]
            frames.append(frame)
    found = pandas.concat(frames).sort_values("t").reset_index(drop=True)
    found["t"] -= min(starts)
    return found
