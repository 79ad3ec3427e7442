"""From the name of an environment, a class or a function to an environment, or a batch of them."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import VectorEnv

from poise.envs.inline import InlineVectorEnv
from poise.errors import EnvError, nearest

Creator = Callable[..., gym.Env]

_creators: dict[str, Creator] = {}


def register_env(name: str, creator: Creator) -> None:
    """Makes an environment known as `name`, as `env="name"` in any configuration.

    Args:
        name: any text.
        creator: a class or function that takes the env config (a dict) and returns a Gymnasium environment.
    """
    _creators[name] = creator


def make_env(env: Any, env_config: dict[str, Any] | None = None, render_mode: str | None = None) -> gym.Env:
    """Makes one environment.

    Args:
        env: a Gymnasium id, `module:Env-v0`, `module:Class`, a registered name, a class, or a function.
        env_config: keyword arguments for a Gymnasium id; the argument of a class or function of the user's.
            `max_episode_steps` always sets the time limit.
        render_mode: for recording; classes and functions get it as `env_config["render_mode"]`.

    Raises:
        EnvError: it does not exist, its dependencies are missing, or what was made is no Gymnasium environment.
    """
    config = dict(env_config or {})
    limit = config.pop("max_episode_steps", None)
    if render_mode is not None:
        config["render_mode"] = render_mode
    source = find_env(env)
    if isinstance(source, str):
        with _Quiet(), _AsEnvError(source):
            return gym.make(source, max_episode_steps=limit, disable_env_checker=True, **config)
    with _AsEnvError(getattr(source, "__qualname__", repr(source))):
        made = _call(source, config)
    if not isinstance(made, gym.Env):
        raise EnvError(
            f"{source!r} made a {type(made).__module__}.{type(made).__name__}, which is not a gymnasium.Env: "
            "derive the environment from gymnasium.Env (environments of the old `gym` package must be ported)."
        )
    for kind in ("observation_space", "action_space"):
        if not isinstance(getattr(made, kind, None), gym.Space):
            raise EnvError(f"{type(made).__name__} has no {kind}: set self.{kind} to a gymnasium.Space in __init__.")
    return gym.wrappers.TimeLimit(made, limit) if limit else made


def make_vector_env(env: Any, num_envs: int, env_config: dict[str, Any] | None = None) -> VectorEnv:
    """Makes a batch of environments with NEXT_STEP semantics.

    Native where Gymnasium's registry has a vector version of it; otherwise `num_envs` of them, stepped one after
    the other in this process.
    """
    config = dict(env_config or {})
    source = find_env(env)
    if isinstance(source, str):
        limit = {"max_episode_steps": config.pop("max_episode_steps")} if "max_episode_steps" in config else {}
        with _Quiet(), _AsEnvError(source):
            if _spec(source).vector_entry_point is not None:
                return gym.make_vec(source, num_envs, vectorization_mode="vector_entry_point", **limit, **config)
    return InlineVectorEnv(lambda: make_env(env, env_config), num_envs)


def find_env(env: Any) -> str | Creator:
    """The Gymnasium id or the creator that `env` names.

    A name with a colon, `module:Name`, imports the module first; the name is then one that the module registered
    (with Gymnasium or with Poise), or a class or function in it.
    """
    if not isinstance(env, str):
        if not callable(env):
            raise EnvError(f"env={env!r} is not allowed: it must be a name, a class or a function.")
        return cast(Creator, env)
    if env in _creators:
        return _creators[env]
    module, colon, name = env.partition(":")
    if colon:
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
                raise
            raise EnvError(f"env={env!r}: there is no module {error.name!r} to import.") from None
        if name in _creators:
            return _creators[name]
        if name not in gym.registry:
            found: Any = imported
            for part in name.split("."):
                found = getattr(found, part, None)
            if callable(found):
                return cast(Creator, found)
            if module == "__main__":
                raise EnvError(
                    f"env={env!r} is defined in the script that trained with it: move {name} into a module, or pass it "
                    f"as poise.load(path, env={name})."
                )
            options = [n for n, value in vars(imported).items() if callable(value)]
            raise EnvError(f"env={env!r}: {module!r} has and registers no {name!r}.{nearest(name, options)}")
        return env
    if env not in gym.registry and not env.startswith("ALE/"):
        raise EnvError(
            f"There is no environment {env!r}.{nearest(env, [*_creators, *gym.registry])} "
            "Names are those of Gymnasium, of poise.register_env, or module:Name."
        )
    return env


def reward_threshold(env: Any) -> float | None:
    """The mean return at which Gymnasium's registry calls an environment solved, if it says so."""
    source = find_env(env)
    if not isinstance(source, str):
        return None
    threshold = _spec(source).reward_threshold
    return None if threshold is None else float(threshold)


def _spec(env_id: str) -> Any:
    """The registry's entry; it does not know the `module:` that `find_env` has imported."""
    return gym.spec(env_id.rpartition(":")[2])


def _call(creator: Creator, config: dict[str, Any]) -> Any:
    """`creator(config)` where it takes one argument, `creator(**config)` where it takes keywords or nothing.

    A creator that takes no `render_mode` is not given one: whether it renders shows in what it makes.
    """
    signature = inspect.signature(creator).parameters
    parameters = [p for p in signature.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p for p in parameters if p.default is p.empty and p.kind != p.KEYWORD_ONLY]
    takes_config = len(required) == 1 or (parameters and parameters[0].name in ("config", "env_config", "env_ctx"))
    if takes_config and not (required and required[0].name in config):
        return creator(config)
    if "render_mode" not in signature and not any(p.kind == p.VAR_KEYWORD for p in signature.values()):
        config = {key: value for key, value in config.items() if key != "render_mode"}
    return creator(**config)


class _Quiet(warnings.catch_warnings):
    """Silences Gymnasium's notice that an older version of an environment was asked for: that was on purpose."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.filterwarnings("ignore", message=".*out of date.*")
        return result


class _AsEnvError:
    """Turns Gymnasium's own errors (which say what to install) into an `EnvError`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, gym.error.Error):
            raise EnvError(f"{self.name} cannot be made: {error}") from error
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            raise EnvError(f"{self.name} cannot be made with this env_config: {error}.") from error
