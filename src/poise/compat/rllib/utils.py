"""Small things that RLlib's scripts import."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from poise.compat.raytune.loggers import pretty_print as pretty_print
from poise.compat.rllib.results import flat
from poise.errors import PoiseWarning

ENV_STATE = "state"
FLOAT_MIN, FLOAT_MAX = -3.4e38, 3.4e38
LEARNER_INFO, LEARNER_STATS_KEY = "learner", "learner_stats"
ENV_RUNNER_RESULTS, EVALUATION_RESULTS, LEARNER_RESULTS = "env_runners", "evaluation", "learners"
EPISODE_RETURN_MEAN, EPISODE_LEN_MEAN = "episode_return_mean", "episode_len_mean"
NUM_ENV_STEPS_SAMPLED_LIFETIME = "num_env_steps_sampled_lifetime"
TRAINING_ITERATION, TIMESTEPS_TOTAL = "training_iteration", "timesteps_total"
EPISODE_REWARD_MEAN, TIME_TOTAL_S = "episode_reward_mean", "time_total_s"
DEFAULT_MODULE_ID = "default_policy"

AgentID = EnvActionType = EnvObsType = EnvType = ModelConfigDict = ModelWeights = Any
MultiAgentDict = PolicyID = ResultDict = TensorStructType = TensorType = TrainerConfigDict = Any
AlgorithmConfigDict = PartialAlgorithmConfigDict = PartialTrainerConfigDict = EnvCreator = Any


def try_import_torch(error: bool = False) -> tuple[Any, Any]:
    """PyTorch and its `nn`."""
    return torch, torch.nn


def try_import_tf(error: bool = False) -> tuple[None, None, None]:
    """Nothing, as where TensorFlow is not installed: everything is PyTorch."""
    if error:
        text = "try_import_tf gives nothing: everything is PyTorch here."
        warnings.warn(text, PoiseWarning, stacklevel=2)
    return None, None, None


def try_import_tfp(error: bool = False) -> None:
    """Nothing; see `try_import_tf`."""


def override(cls: Any) -> Callable[[Any], Any]:
    """Marks a method that overrides one of a class."""
    return lambda method: method


def Deprecated(*_: Any, **__: Any) -> Callable[[Any], Any]:  # noqa: N802
    """Marks what is old."""
    return lambda found: found


def PublicAPI(found: Any = None, **_: Any) -> Any:  # noqa: N802
    """Marks what is public."""
    return found if callable(found) else lambda each: each


DeveloperAPI = ExperimentalAPI = OldAPIStack = OverrideToImplementCustomMethod = PublicAPI


def deep_update(original: dict[str, Any], new: Mapping[str, Any], *_: Any, **__: Any) -> Any:
    """The first dictionary, changed by the second, also within its dictionaries."""
    for key, value in new.items():
        inner = original.get(key)
        nested = isinstance(value, Mapping) and isinstance(inner, dict)
        original[key] = deep_update(inner, value) if nested else value  # type: ignore[arg-type]
    return original


def merge_dicts(one: Mapping[str, Any], two: Mapping[str, Any]) -> Any:
    """Both as a new dictionary."""
    return deep_update({k: dict(v) if isinstance(v, dict) else v for k, v in one.items()}, two)


def convert_to_numpy(x: Any, *_: Any) -> Any:
    """A structure of tensors as one of arrays."""
    if isinstance(x, Mapping):
        return {key: convert_to_numpy(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(convert_to_numpy(value) for value in x)
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x


def convert_to_torch_tensor(x: Any, *_: Any) -> Any:
    """A structure of arrays as one of tensors."""
    if isinstance(x, Mapping):
        return {key: convert_to_torch_tensor(value) for key, value in x.items()}
    return torch.as_tensor(np.asarray(x)) if not isinstance(x, torch.Tensor) else x


def one_hot(x: Any, depth: Any = 0, **_: Any) -> Any:
    """Categories as rows of zeros and a one."""
    size = int(getattr(depth, "n", depth))
    if isinstance(x, torch.Tensor):
        return torch.nn.functional.one_hot(x.long(), size).float()
    return np.eye(size, dtype=np.float32)[np.asarray(x)]


def get_preprocessor(space: Any) -> Callable[..., Any]:
    """A function that says of a space how large it is as one vector."""
    from poise.compat.rllib.models import seen_space

    shape = seen_space(space).shape
    return lambda *_: SimpleNamespace(size=int(np.prod(shape)), shape=shape)


def check(x: Any, y: Any, decimals: int = 5, **_: Any) -> None:
    """Looks whether two structures of numbers are equal.

    Raises:
        AssertionError: they are not.
    """
    if isinstance(x, Mapping):
        assert x.keys() == y.keys(), f"{list(x)} is not {list(y)}"
        for key in x:
            check(x[key], y[key], decimals)
    else:
        np.testing.assert_almost_equal(convert_to_numpy(x), convert_to_numpy(y), decimals)


def check_learning_achieved(
    tune_results: Any, min_value: float, evaluation: bool = False, metric: str | None = None
) -> None:
    """Looks whether a trial has reached a return.

    Raises:
        ValueError: none has.
    """
    key = metric or "episode_reward_mean"
    key = f"evaluation/{key}" if evaluation and metric is None else key
    found = [dict(flat(trial.last_result)).get(key) for trial in tune_results.trials]
    best = max((each for each in found if each is not None), default=float("nan"))
    if not best >= min_value:
        raise ValueError(f"{key} is {best:g} at most, and should be {min_value:g}.")
    print(f"{key} is {best:g}: {min_value:g} is reached.")
