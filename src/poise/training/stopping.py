"""When a run ends.

stop={"episode_reward_mean": 475, "time_total_s": 60}        # whichever comes first
stop={"timesteps_since_best": 200_000}                       # once nothing improves any more
stop=lambda result: result["learner/kl"] > 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from poise.config.base import AlgorithmConfig
from poise.config.types import NonNegative, brief, coerce
from poise.envs.make import reward_threshold
from poise.errors import ConfigError, nearest

Stop = Mapping[str, float] | Callable[[dict[str, Any]], bool] | None

EPISODE_KEYS = (
    "episode_reward_mean", "episode_reward_min", "episode_reward_max", "episode_len_mean",
)  # fmt: skip
"""Statistics of the latest training episodes."""
COUNTS = (
    "episodes_this_iter", "episodes_total", "timesteps_this_iter", "timesteps_total",
    "timesteps_since_best", "training_iteration", "time_this_iter_s", "time_total_s",
)  # fmt: skip
"""Counts and times, which are never negative."""
RESULT_KEYS = (*EPISODE_KEYS, *COUNTS)
"""The keys of every result; others, such as `learner/kl`, depend on what runs."""
DEFAULT_STEPS = 1_000_000
"""Steps after which training without a stop rule ends, if the environment is not solved before."""


def default_stop(config: AlgorithmConfig) -> dict[str, float]:
    """Where training without a stop rule ends.

    After the configuration's `total_timesteps`; without them, at the environment's reward threshold
    in Gymnasium's registry, or after `DEFAULT_STEPS`.
    """
    if config.total_timesteps is not None:
        return {"timesteps_total": config.total_timesteps}
    threshold = reward_threshold(config.env)
    reward = {} if threshold is None else {"episode_reward_mean": threshold}
    return {**reward, "timesteps_total": DEFAULT_STEPS}


def check_keys(stop: Stop, config: AlgorithmConfig) -> None:
    """Refuses a mistyped key before anything has been done, where no callback can add it.

    Raises:
        ConfigError: the nearest key is named.
    """
    for key in stop if isinstance(stop, Mapping) else ():
        if key not in RESULT_KEYS and ("/" not in str(key) or _needs_evaluation(str(key), config)):
            raise _no_such(key, RESULT_KEYS)


def _needs_evaluation(key: str, config: AlgorithmConfig) -> bool:
    """Whether a key is a result of evaluations, and the run has none."""
    return key.startswith("evaluation/") and not config.evaluation_interval


def _no_such(key: str, known: Iterable[str]) -> ConfigError:
    hint = f".{nearest(str(key), known)}"
    if str(key).startswith("evaluation/"):
        hint = " without evaluations: set evaluation_interval, for example to 10."
    return ConfigError(f"stop names {key!r}, which results do not have{hint}")


class StopRule:
    """Says why a run should stop, given its latest result.

    A key stops the run once its value is at least the given one; NaN never does. Means over
    episodes count only when their window is full (`metrics_smoothing_episodes`, 100 unless set):
    one lucky first episode is not a solved task. The configuration's `total_timesteps` end the run
    as well, unless the rule names `timesteps_total` itself.

    Raises:
        ConfigError: the rule is neither a mapping of numbers nor callable, or names a key that
            results do not have.
    """

    def __init__(self, stop: Stop, config: AlgorithmConfig) -> None:
        self.stop, self.config = stop, config
        own = stop is None or (isinstance(stop, Mapping) and "timesteps_total" in stop)
        self.last = None if own else config.total_timesteps
        if isinstance(stop, Mapping):
            if not stop:
                raise ConfigError(
                    "stop={} names no result: training would never end. Fill it, or leave it out."
                )
            kinds = {key: NonNegative if key in COUNTS else float for key in stop}
            self.stop = {
                str(key): coerce(kinds[key], value, f"stop {key}") for key, value in stop.items()
            }
        elif stop is not None and not callable(stop):
            raise ConfigError(
                f"stop={brief(stop)} is not allowed: it must be a mapping of result keys to "
                "numbers, or callable."
            )

    def __call__(
        self,
        result: dict[str, Any],
        confirm: Callable[[str, float, dict[str, Any]], str | None] | None = None,
    ) -> str | None:
        """The reason to stop, or None to go on.

        Args:
            result: the latest.
            confirm: is asked before a statistic of training episodes ends the run, and returns the
                reason.
        """
        if self.last is not None and result["timesteps_total"] >= self.last:
            return f"total_timesteps={self.last}"
        if callable(self.stop):
            return "the stop function said so" if self.stop(result) else None
        for key, limit in self._reached(result):
            if confirm is None or not _of_episodes(key):
                return f"{key} reached {limit:g}"
            if reason := confirm(key, limit, result):
                return reason
        return None

    def _reached(self, result: dict[str, Any]) -> Iterator[tuple[str, float]]:
        """The keys whose limits a result has reached, with these limits."""
        assert not callable(self.stop)
        window = self.config.metrics_smoothing_episodes
        for key, limit in (self.stop or {}).items():
            if key not in result:
                # Some are there only after an evaluation, or an episode's end.
                comes = key.startswith(("evaluation/", "info/"))
                if comes and not _needs_evaluation(key, self.config):
                    continue
                raise _no_such(key, result)
            if _of_episodes(key) and result["episodes_total"] < window:
                continue
            if result[key] is not None and result[key] >= limit:
                yield key, limit


def _of_episodes(key: str) -> bool:
    """Whether a key is a statistic of the latest training episodes."""
    return key in EPISODE_KEYS or key.startswith("info/")
