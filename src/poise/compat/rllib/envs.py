"""Environments as RLlib took them: of Gym's old API, with a context, and of several agents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium as gym

from poise.envs.make import call_creator, registered_env
from poise.envs.make import register_env as _register_env
from poise.envs.old_gym import OldGymEnv, convert_space, old_api_sentence, takes
from poise.envs.tables import table_of
from poise.errors import EnvError

LOOKED = 200
"""Steps in which agents are looked for that an environment does not name."""
_made = itertools.count()

TaskType = Any


class EnvContext(dict[str, Any]):
    """The environment's config, and where it is made.

    Attributes:
        worker_index, num_workers, remote: as if there were one worker, which is what environments
            can tell here.
        vector_index: counts the environments that a process makes.
    """

    def __init__(self, env_config: Mapping[str, Any] | None = None, worker_index: int = 0,
                 vector_index: int = 0, remote: bool = False, num_workers: int = 0,
                 **_: Any) -> None:  # fmt: skip
        super().__init__(env_config or {})
        self.worker_index, self.vector_index = worker_index, vector_index
        self.remote, self.num_workers = remote, num_workers
        self.recreated_worker = False

    def set_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Takes what is not set."""
        self.update({key: value for key, value in defaults.items() if key not in self})


class MultiAgentEnv:
    """Whoever is in the observations of `reset` and `step` is to act.

    `reset` returns observations by agent, or these and infos; `step` takes actions and returns
    observations, rewards, dones (or terminateds and truncateds) and infos by agent, with the key
    `__all__` in what ends an episode. `possible_agents` (or `_agent_ids`) are all agents that may
    appear; `observation_space` and `action_space` (or `..._spaces`) are one space for all, or one
    by agent. Where it has neither, agents are looked for, and spaces are those of their policies.
    """

    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """What it is given is for a class that stands behind it, if there is one."""
        behind = super().__init__
        if getattr(behind, "__objclass__", None) is not object:
            behind(*args, **kwargs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode."""
        raise NotImplementedError

    def step(self, action_dict: dict[Any, Any]) -> Any:
        """Takes the actions of those who were in the observations."""
        raise NotImplementedError

    def render(self) -> Any:
        """A frame, where there are any."""
        return None

    def close(self) -> None:
        """Gives its resources back."""

    def with_agent_groups(self, *_: Any, **__: Any) -> Any:
        """Is not here.

        Raises:
            EnvError: always.
        """
        raise EnvError(
            "with_agent_groups has no equivalent here: agents learn one policy with a value "
            "function that sees all by central_critic=True (docs/agents.md)."
        )


class _Several(MultiAgentEnv):
    """An environment of several agents that is a `gym.Env` as well, without being one."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, **how: Any) -> Any:
        return self.env.reset(**{key: value for key, value in how.items()
                                 if takes(self.env.reset, key)})  # fmt: skip

    def step(self, action_dict: dict[Any, Any]) -> Any:
        return self.env.step(action_dict)


class TaskSettableEnv(gym.Env):
    """An environment with tasks: `env_task_fn` is not called; see callbacks and `call_envs`."""


def make_multi_agent(env: Any) -> type[MultiAgentEnv]:
    """A class of environments in which `num_agents` play for themselves, side by side.

    Args:
        env: the id of theirs, or a function of the config.
    """

    class MultiEnv(MultiAgentEnv):
        """Several environments of one kind."""

        def __init__(self, config: Mapping[str, Any] | None = None) -> None:
            own = dict(config or {})
            count = int(own.pop("num_agents", 1))
            make = (lambda: gym.make(env)) if isinstance(env, str) else (lambda: env(own))
            self.agents = [_modern(make()) for _ in range(count)]
            self.possible_agents = list(range(count))
            self._agent_ids = set(self.possible_agents)
            self.observation_space = self.agents[0].observation_space
            self.action_space = self.agents[0].action_space

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.over: set[int] = set()
            found = {
                i: each.reset(seed=None if seed is None else seed + i)
                for i, each in enumerate(self.agents)
            }
            infos: dict[int, Any] = {i: info for i, (_, info) in found.items()}
            return {i: obs for i, (obs, _) in found.items()}, infos

        def step(self, actions: Mapping[int, Any]) -> Any:
            parts = {i: self.agents[i].step(action) for i, action in actions.items()}
            columns: list[dict[Any, Any]]
            columns = [{i: part[k] for i, part in parts.items()} for k in range(5)]
            obs, rewards, ends, cuts, infos = columns
            self.over |= {i for i in parts if ends[i] or cuts[i]}
            done = len(self.over) == len(self.agents)
            return obs, rewards, {**ends, "__all__": done}, {**cuts, "__all__": False}, infos

        def render(self) -> Any:
            return self.agents[0].render()

    return MultiEnv


def PettingZooEnv(env: Any) -> Any:  # noqa: N802
    """The game itself, which Poise takes as it is."""
    return env


ParallelPettingZooEnv = PettingZooEnv


def register_env(name: str, env_creator: Callable[[dict[str, Any]], Any]) -> None:
    """Makes an environment known by a name; those of Gym's old API as well."""
    _register_env(name, modern(env_creator))


def modern(env: Any, policies: Mapping[str, Any] | None = None, mapping: Any = None) -> Any:
    """An environment as Poise takes it.

    Classes and functions get an `EnvContext`, and environments of Gym's old API are wrapped.

    Args:
        env: a class, a function, or a name, which stays as it is.
        policies: those of several agents, with the spaces that RLlib's scripts say there.
        mapping: which policy an agent has.
    """
    if isinstance(env, str) and policies:
        env = registered_env(env) or env
    if env is None or isinstance(env, str) or not callable(env):
        return env
    if getattr(env, "poises", False) and not policies:
        return env
    agents: list[Any] = []  # found once, by the first environment

    def creator(config: dict[str, Any]) -> Any:
        context = EnvContext(config, vector_index=next(_made))
        made = call_creator(env, context)
        if isinstance(made, MultiAgentEnv) or hasattr(made, "_agent_ids"):
            made = _Several(made) if isinstance(made, gym.Env) else made
            _name_agents(made, agents, policies or {}, mapping)
        return _modern(made)

    creator.__name__ = creator.__qualname__ = getattr(env, "__name__", type(env).__name__)
    creator.poises = True  # type: ignore[attr-defined]
    return creator


def _modern(made: Any) -> Any:
    several = table_of(made) is not None
    return _Old(made) if not several and old_api_sentence(made) else made


class _Old(OldGymEnv):
    """An environment of the old API whose own methods can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        setattr(self.env, name, value)
        return True


def _name_agents(made: Any, agents: list[Any], policies: Mapping[str, Any], mapping: Any) -> None:
    """Tells who may appear in an environment, and their spaces, where it does not say so."""
    named = next((getattr(made, n) for n in ("possible_agents", "_agent_ids", "agents")
                  if getattr(made, n, None)), None)  # fmt: skip
    if named is not None and all(isinstance(each, (str, int)) for each in named):
        agents[:] = agents or sorted(named, key=str)
    spaces = {kind: getattr(made, f"{kind}_space", None) for kind in ("observation", "action")}
    by_policy = {name: _spaces_of(spec) for name, spec in policies.items()}
    if not agents:
        agents += _look(made, by_policy, mapping, spaces["action"])
    made.possible_agents = list(agents)
    for i, kind in enumerate(spaces):
        own = getattr(made, f"{kind}_spaces", None) or spaces[kind]
        if own is None or (isinstance(own, Mapping) and not own):
            found = {a: by_policy[_policy_of(mapping, a)][i] for a in agents}
            setattr(made, f"{kind}_spaces", found)
        elif not isinstance(own, Mapping):
            setattr(made, f"{kind}_space", convert_space(own))
        else:
            setattr(made, f"{kind}_spaces", {a: convert_space(own[a]) for a in own})


def _spaces_of(spec: Any) -> tuple[Any, Any]:
    """The spaces that a policy's specification has."""
    parts = spec if isinstance(spec, (tuple, list)) else (None, None, None)
    found = [None if each is None else convert_space(each) for each in parts[1:3]]
    return found[0], found[1]


def _policy_of(mapping: Any, agent: Any) -> str:
    from poise.config.agents import _asked

    return "default_policy" if mapping is None else str(_asked(mapping, str(agent)))


def _look(made: Any, by_policy: Mapping[str, Any], mapping: Any, action: Any) -> list[Any]:
    """Plays at random for a while, to see who appears.

    Raises:
        EnvError: nobody knows what an agent may do.
    """
    found = made.reset()
    obs = found[0] if isinstance(found, tuple) else found
    seen = dict.fromkeys(obs)
    for _ in range(LOOKED):
        space = {a: by_policy.get(_policy_of(mapping, a), (None, action))[1] or action for a in obs}
        if unknown := [a for a, each in space.items() if each is None]:
            raise EnvError(
                f"{type(made).__name__} does not say what the agent {unknown[0]!r} may do: give it "
                "an action_space, or its policy a specification with one."
            )
        found, _rewards, dones, *_ = made.step({a: each.sample() for a, each in space.items()})
        seen.update(dict.fromkeys(found))
        obs = {a: each for a, each in found.items() if not dones.get(a)}
        if dones.get("__all__"):
            break
    return list(seen)
