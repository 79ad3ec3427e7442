"""From a name, a class or a function to the environment that it stands for."""

from __future__ import annotations

import importlib.machinery
import inspect
import os
import pkgutil
import re
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import VectorEnv

from poise.config.atari import GAMES
from poise.config.base import WRAPPERS, env_name
from poise.config.types import PositiveInt, brief, coerce
from poise.envs import trust
from poise.envs.agents import JointEnv
from poise.envs.atari import is_atari, make_atari
from poise.envs.changes import apply, sendable
from poise.envs.instances import refuse_if_played
from poise.envs.masking import ActionMaskInObservation, reports_mask
from poise.envs.old_gym import old_api_sentence
from poise.envs.packages import ROBOTICS, nearest_of, package_hint
from poise.envs.raised import raised_in
from poise.envs.tables import table_of
from poise.envs.velocities import register
from poise.envs.wrap import resolved, take_wrappers, wrap
from poise.errors import EnvError, nearest
from poise.install import install

Creator = Callable[..., gym.Env]

_creators: dict[str, Creator] = {}
_EXTRA = re.compile(r"gymnasium\[(mujoco|box2d)\]")
"""Gymnasium's extras that Poise has, too."""
_KEYWORD = re.compile(r"unexpected keyword argument '(\w+)'")
register()


def register_env(name: str, creator: Creator) -> None:
    """Makes an environment known as `name`, as `env="name"` in any configuration.

    Args:
        name: any text.
        creator: a class or function that takes the env config (a dict) and returns a Gymnasium
            environment.
    """
    if not callable(creator):
        raise EnvError(f"creator={creator!r} is not allowed: it must be a class or a function.")
    _creators[coerce(str, name, "name")] = creator


def registered_env(name: str) -> Creator | None:
    """What `register_env` was given under a name."""
    return _creators.get(name)


def make_env(
    env: Any, env_config: dict[str, Any] | None = None, render_mode: str | None = None
) -> gym.Env:
    """Makes one environment.

    Args:
        env: a Gymnasium id, `module:Env-v0`, `module:Class`, a registered name, a module of
            PettingZoo's (`mpe2.simple_spread_v3`), a class, or a function.
        env_config: keyword arguments for a Gymnasium id; the argument of a class or function of the
            user's. `max_episode_steps` always sets the time limit, and `wrappers` (each
            `module:Class`, or that with its arguments) are put around it.
        render_mode: for recording; classes and functions get it as `env_config["render_mode"]`.

    Raises:
        EnvError: it does not exist, its dependencies are missing, what was made is no Gymnasium
            environment, or episodes are played in it already.
    """
    config = checked(env, env_config)
    wrappers = take_wrappers(config)
    return wrap(_make_bare(env, config, render_mode), wrappers)


def _make_bare(env: Any, config: dict[str, Any], render_mode: str | None) -> gym.Env:
    """The environment without wrappers."""
    atari = dict(config)  # with the time limit, which the emulator keeps itself
    limit = config.pop("max_episode_steps", None)
    if render_mode is not None:
        config["render_mode"] = render_mode
    source = find_env(env)
    if isinstance(source, str):
        if is_atari(source):
            return make_atari(source, atari, render_mode)
        with Quiet(), AsEnvError(source, config):
            one = gym.make(source, max_episode_steps=limit, disable_env_checker=True, **config)
            return JointEnv(table) if (table := table_of(one)) else one
    with AsEnvError(env_name(source), config):
        made = call_creator(source, config)
        if (table := table_of(made)) is not None:
            refuse_if_played(made)
            return JointEnv(table, limit)
    if isinstance(made, VectorEnv):
        raise VectorEnvMadeError(env_name(source), made)
    if sentence := old_api_sentence(made):
        raise EnvError(sentence)
    if not isinstance(made, gym.Env):
        raise EnvError(
            f"{env_name(source)} returned a {type(made).__name__}, which is not a gymnasium.Env: "
            "derive the environment from gymnasium.Env."
        )
    for kind in ("observation_space", "action_space"):
        if not isinstance(getattr(made, kind, None), gym.Space):
            raise EnvError(
                f"{type(made).__name__} has no {kind}: "
                f"set self.{kind} to a gymnasium.Space in __init__."
            )
    refuse_if_played(made)
    return gym.wrappers.TimeLimit(made, limit) if limit else made


def is_native(env: Any) -> bool:
    """Whether there is a version of an environment that steps many at once in compiled code."""
    source = find_env(env)
    if not isinstance(source, str):
        return False
    return is_atari(source) or _spec(source).vector_entry_point is not None


def env_maker(env: Any, env_config: dict[str, Any] | None = None) -> Callable[[], gym.Env]:
    """A function that makes one environment after the other, action masks in their observations.

    Only the first one is asked whether there are masks.
    """
    masked: list[bool] = []

    def make() -> gym.Env:
        made = make_env(env, env_config)
        if not masked:
            masked.append(reports_mask(made))
        return ActionMaskInObservation(made) if masked[0] else made

    return make


def recipe(env: Any, env_config: dict[str, Any] | None = None) -> dict[str, Any]:
    """What another process needs to make an environment.

    Names that only this process knows are replaced by what they stand for.
    """
    source = find_env(env)
    spec = own_spec(source) if isinstance(source, str) else None
    config = checked(env, env_config)
    if wrappers := take_wrappers(config):
        config[WRAPPERS] = resolved(wrappers)
    return {
        "name": env_name(env),
        "env": source,
        "env_config": config,
        "spec": spec,
        "changes": sendable(("spaces.", "envs.", "stepping.", "config.")),
    }


def own_spec(env: str) -> Any:
    """The registry's entry of an id that a script or a package registered; None for Gymnasium's.

    Another process may not have imported what registers it.
    """
    known = gym.registry.get(env)
    home = known.entry_point if known is not None else None
    is_gymnasiums = isinstance(home, str) and home.startswith("gymnasium.")
    return None if is_gymnasiums else known


def recipe_maker(described: dict[str, Any]) -> Callable[[], gym.Env]:
    """The function of `env_maker` from what `recipe` returned, in another process."""
    apply(described["changes"])
    spec = described["spec"]
    if spec is not None:
        gym.registry.setdefault(spec.id, spec)
    return env_maker(described["env"], described["env_config"])


def find_env(env: Any) -> str | Creator:
    """The Gymnasium id or the creator that `env` names.

    A name with a colon, `module:Name`, imports the module first; the name is then one that the
    module registered (with Gymnasium or with Poise), or a class or function in it.

    Raises:
        EnvError: there is no such environment.
        TrustError: the name came in a file, and nobody knows or confirms it.
    """
    if not isinstance(env, str):
        return _creator(env)
    if env in _creators:
        return _creators[env]
    name: str = trust.whole(env)
    if is_atari(name):
        return name
    if ":" in name:
        return _in_module(name)
    if env not in gym.registry:
        forms = ("{}-v4", "{}NoFrameskip-v4", "{}Deterministic-v4", "ALE/{}-v5")
        games = [form.format(game) for game in GAMES for form in forms]
        known = [*_creators, *gym.registry, *games]
        hint = _meant(env) or package_hint(env) or nearest(env, known)
        raise EnvError(
            f"There is no environment {env!r}.{hint} "
            "Names are those of Gymnasium, of poise.register_env, or module:Name."
        )
    return str(env)


def _creator(env: Any) -> Creator:
    """What makes an environment, from something that is no name."""
    if isinstance(env, VectorEnv):
        return lambda: cast(Any, env)
    if isinstance(env, gym.Env):
        make = f"{type(env.unwrapped).__name__}(...)"
        if env.spec:
            make = f"gym.make({env.spec.id!r}), or {env.spec.id!r}"
        raise EnvError(
            f"env={env} is one environment, made already, and training plays several: "
            f"give what makes them, env=lambda config: {make}."
        )
    if not callable(env):
        raise EnvError(
            f"env={brief(env)} is not allowed: it must be a name, a class or a function."
        )
    return cast(Creator, env)


def _in_module(env: str) -> str | Creator:
    """What `module:Name` stands for, once the module is imported."""
    admit_env(env)
    module, _, name = env.partition(":")
    imported = trust.load_module(env, "env", EnvError, _meant(env) or package_hint(name))
    if name in _creators:
        return _creators[name]
    if name in gym.registry:
        return str(env)
    found = trust.attribute(imported, name)
    if found is None and name == "parallel_env":  # PettingZoo's games in turns have only this
        found = trust.attribute(imported, "env")
    if callable(found):
        trust.check_callable(found, str(env), "environment")
        return cast(Creator, found)
    if module == "__main__":
        raise EnvError(
            f"env={env!r} is defined in the script that trained with it: "
            f"move {name} into a module, or pass it as poise.load(path, env={name})."
        )
    options = [n for n, value in vars(imported).items() if callable(value)]
    raise EnvError(
        f"env={env!r}: {module!r} has and registers no {name!r}.{nearest_of(module, name, options)}"
    )


def admit_env(env: Any, env_config: dict[str, Any] | None = None) -> None:
    """Lets an environment that came in a file pass, with its wrappers; nothing is imported.

    Raises:
        TrustError: nobody knows or confirms one of them.
    """
    env_config = dict(env_config or {})
    for wrapper, arguments in take_wrappers(env_config):
        if isinstance(wrapper, str):
            trust.admit(wrapper, "wrapper", config=arguments)
    if isinstance(env, str) and env not in _creators:
        trust.admit(env, "environment", partial(_offers, env), env_config)


def _offers(env: str, module: ModuleType) -> bool:
    """Whether a loaded module has an environment of this name: a registered id or a class."""
    name = trust.whole(env).partition(":")[2]
    found = trust.attribute(module, name)
    is_class = isinstance(found, type) and issubclass(found, (gym.Env, VectorEnv))
    return name in gym.registry or is_class


def _meant(env: str) -> str:
    """`" Did you mean 'envs:Maze'?"` for `envs.Maze`, `envs.py:Maze`, and for modules misspelt."""
    found = re.fullmatch(r"(\w[\w.]*?)(?:\.py)?[.:](\w+)", env)
    if found is None:
        return ""
    module, name = found.groups()
    top, *inner = module.split(".")
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is None:
        return f" It needs PettingZoo: {install('multiagent')}." if top == "pettingzoo" else ""
    if f"{module}:{name}" != env:
        return f" Did you mean '{module}:{name}'?"
    places = [os.path.join(place, *inner[:-1]) for place in spec.submodule_search_locations or ()]
    near = nearest(inner[-1], [each.name for each in pkgutil.iter_modules(places)]) if inner else ""
    return re.sub(r"'(\w+)'", rf"'{'.'.join([top, *inner[:-1]])}.\1:{name}'", near)


def checked(env: Any, env_config: dict[str, Any] | None) -> dict[str, Any]:
    """A copy of an env config whose time limit, which all environments know, is checked.

    Raises:
        ConfigError: the time limit is not allowed.
        TrustError: it came in a file, with what may be paths or modules, and nobody knows or
            confirms it.
    """
    config, key = dict(env_config or {}), "max_episode_steps"
    admit_env(env, config)
    limit = config.pop(key, None)
    if limit is not None:
        config[key] = coerce(PositiveInt, limit, f"env_config.{key}")
    return config


def reward_threshold(env: Any) -> float | None:
    """The mean return at which Gymnasium's registry calls an environment solved, if it says so."""
    source = find_env(env)
    if not isinstance(source, str) or is_atari(source):
        return None
    threshold = _spec(source).reward_threshold
    return None if threshold is None else float(threshold)


def _spec(env_id: str) -> Any:
    """The registry's entry, which is without the `module:` that `find_env` has imported."""
    return gym.spec(env_id.rpartition(":")[2])


def call_creator(creator: Creator, config: dict[str, Any]) -> Any:
    """Calls `creator(config)` if it takes one argument, else `creator(**config)`.

    A creator that takes no `render_mode` is not given one: whether it renders shows in what it
    makes.
    """
    signature = inspect.signature(creator).parameters
    parameters = [p for p in signature.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p for p in parameters if p.default is p.empty and p.kind != p.KEYWORD_ONLY]
    usual = bool(parameters) and parameters[0].name in ("config", "env_config", "env_ctx")
    is_keyword = bool(required) and required[0].name in config
    if (usual or len(required) == 1) and not is_keyword:
        return creator(config)
    takes_any = any(p.kind == p.VAR_KEYWORD for p in signature.values())
    if "render_mode" not in signature and not takes_any:
        config = {key: value for key, value in config.items() if key != "render_mode"}
    needed = [p.name for p in parameters if p.default is p.empty and p.name not in config]
    if needed:
        raise EnvError(
            f"{env_name(creator)} cannot be made: "
            f"env_config does not give its {' and '.join(needed)}."
        )
    return creator(**config)


class VectorEnvMadeError(EnvError):
    """A vector environment was made where a single one was expected; it is in `env`."""

    def __init__(self, name: str, env: VectorEnv) -> None:
        super().__init__(
            f"{name} made a vector environment, a {type(env.unwrapped).__name__}. "
            "It trains and is evaluated as it is, with num_workers=0 "
            "and without max_episode_steps in the env_config; "
            "films, checks and worker processes need a function that makes a single environment."
        )
        self.env = env


class Quiet(warnings.catch_warnings):
    """Silences Gymnasium's notice of a newer version: the older one was asked for on purpose."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.filterwarnings("ignore", message=".*out of date.*")
        return result


class AsEnvError:
    """Turns errors while an environment is made into an `EnvError` that says what to do."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name, self.config = name, config

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        missing = isinstance(error, gym.error.DependencyNotInstalled)
        if missing and (found := _EXTRA.search(str(error))):
            raise EnvError(f"{self.name} needs an extra: {install(found[1])}") from None
        if isinstance(error, gym.error.Error):
            raise EnvError(f"{self.name} cannot be made: {error}") from error
        if isinstance(error, ImportError) and "gymnasium-robotics" in str(error):
            family = self.name.rpartition("-")[0] + "-v"
            known = max(name for name in gym.registry if name.startswith(family))
            raise EnvError(
                f"{self.name} is no longer part of Gymnasium. Did you mean {known!r}?"
            ) from None
        if isinstance(error, AssertionError) and raised_in(error, ROBOTICS):
            raise EnvError(
                f"{self.name} does not go with this version of MuJoCo: {install('robotics')}"
            ) from error
        unknown = _KEYWORD.search(str(error)) if isinstance(error, TypeError) else None
        if unknown and unknown[1] in self.config:
            raise EnvError(
                f"{self.name} knows no {unknown[1]!r}, which env_config gives it."
            ) from error
