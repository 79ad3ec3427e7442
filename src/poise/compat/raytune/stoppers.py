"""Tune's rules for when trials end."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from poise.training.callbacks import Callback


class Stopper:
    """Derive from this: `__call__(trial_id, result)` says whether a trial ends."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial ends."""
        raise NotImplementedError

    def stop_all(self) -> bool:
        """Whether all end."""
        return False


class MaximumIterationStopper(Stopper):
    """Ends a trial after so many iterations."""

    def __init__(self, max_iter: int) -> None:
        self.max_iter = max_iter

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return bool(result["training_iteration"] >= self.max_iter)


class TimeoutStopper(Stopper):
    """Ends all after so many seconds."""

    def __init__(self, timeout: Any) -> None:
        seconds = timeout.total_seconds() if hasattr(timeout, "total_seconds") else float(timeout)
        self.end = time.monotonic() + seconds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return time.monotonic() >= self.end


class TrialPlateauStopper(Stopper):
    """Ends a trial whose metric has stayed where it is.

    Args:
        metric: the result.
        std: a standard deviation of the latest `num_results` of at most so much.
        num_results, grace_period: results that are compared, and that there must be.
        metric_threshold, mode: only where it is at most (`min`) or at least (`max`) that.
    """

    def __init__(self, metric: str, std: float = 0.01, num_results: int = 4, grace_period: int = 4,
                 metric_threshold: float | None = None, mode: str | None = None
    ) -> None:  # fmt: skip
        self.metric, self.std, self.grace = metric, std, grace_period
        self.threshold, self.mode, self.size = metric_threshold, mode, num_results
        self.seen: dict[str, deque[float]] = {}
        self.count: dict[str, int] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        value = float(result[self.metric])
        latest = self.seen.setdefault(trial_id, deque(maxlen=self.size))
        latest.append(value)
        self.count[trial_id] = self.count.get(trial_id, 0) + 1
        if self.count[trial_id] < self.grace or len(latest) < self.size:
            return False
        if self.threshold is not None:
            enough = value <= self.threshold if self.mode == "min" else value >= self.threshold
            if not enough:
                return False
        return statistics.pstdev(latest) <= self.std


ExperimentPlateauStopper = TrialPlateauStopper


class CombinedStopper(Stopper):
    """Ends a trial where one of several says so."""

    def __init__(self, *stoppers: Any) -> None:
        self.stoppers = stoppers

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        said = [each(trial_id, result) for each in self.stoppers]  # all of them are asked
        return any(said)

    def stop_all(self) -> bool:
        return any(each.stop_all() for each in self.stoppers)


def rules_of(stop: Any) -> tuple[dict[str, float] | None, Any]:
    """Stop rules as Poise has them, and what is to be asked beside."""
    from poise.compat.rllib.results import flat, key_of

    if stop is None or isinstance(stop, Mapping):
        return (None if stop is None else {key_of(k): v for k, v in flat(stop)}), None
    if isinstance(stop, (list, tuple)):
        return None, CombinedStopper(*stop)
    return None, stop


class Asked(Callback):
    """Ends a run where a script's rule says so of its result, which has RLlib's keys."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        from poise.compat.rllib.results import classic

        stop_all = getattr(self.rule, "stop_all", lambda: False)
        if self.rule(str(trainer.config.seed), classic(trainer, result)) or stop_all():
            trainer.stop("the script's stop rule said so")


class Restoring(Callback):
    """Begins a run from a checkpoint; one that goes on from its own is left alone."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_run_start(self, trainer: Any) -> None:
        from poise.training import checkpoint
        from poise.training.loading import locate

        if trainer.iteration == 0:
            path = locate(self.path)
            _, policies, state = checkpoint.read(path)
            trainer.load_state(policies, state, source=path)
