"""RLlib's hooks of episodes, called where the environment steps; and the episode that they get.

`episode.custom_metrics` goes with the last step's info, from where Poise takes it; the result has
its mean, minimum and maximum over the latest episodes, as RLlib's had.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np

from poise.compat.cluster import say
from poise.compat.missing import Absent
from poise.compat.rllib.batches import Seen
from poise.compat.rllib.hooks import Hooks, Logged
from poise.envs.agents import JointEnv
from poise.envs.old_gym import OldGymEnv
from poise.spaces.agents import ACTS, AGENTS, REWARD

METRICS = "custom_metrics/"
"""Before the names of custom metrics among the numbers that an episode ends with."""
ONE = "agent0"
"""RLlib's name of the only agent."""
_AWAY = "It is in the process that learns, not where environments step: use on_train_result."
_numbers = itertools.count(1)


class Episode:
    """An episode as hooks see it.

    Attributes:
        episode_id, length, total_reward: of it, so far.
        custom_metrics: numbers that the result is to have means of.
        user_data, custom_data: for the hooks' own use, as long as the episode lasts.
        agent_rewards: what each agent got, by `(agent, policy)`.
    """

    def __init__(self) -> None:
        self.episode_id = self.id_ = next(_numbers)
        self.length, self.total_reward, self.env_id = 0, 0.0, 0
        self.custom_metrics: dict[str, Any] = {}
        self.user_data: dict[str, Any] = {}
        self.custom_data = self.user_data
        self.hist_data: dict[str, Any] = {}
        self.media: dict[str, Any] = {}
        self.agent_rewards: dict[tuple[Any, str], float] = {}
        self.rewards: list[float] = []
        self.is_done = self.is_terminated = self.is_truncated = False
        self.last: dict[str, dict[Any, Any]] = {"obs": {}, "info": {}, "action": {}, "reward": {}}
        self.before: dict[str, dict[Any, Any]] = {"action": {}, "reward": {}}

    def __len__(self) -> int:
        return self.length

    def get_agents(self) -> list[Any]:
        """Who is in it."""
        return [*self.last["obs"]]

    def policy_for(self, agent_id: Any = ONE, *_: Any) -> str:
        """The policy of an agent, by its name."""
        return next((p for a, p in self.agent_rewards if a == agent_id), "default_policy")

    def last_observation_for(self, agent_id: Any = ONE) -> Any:
        """What an agent saw last."""
        return self.last["obs"].get(agent_id)

    last_raw_obs_for = last_observation_for

    def last_info_for(self, agent_id: Any = ONE) -> Any:
        """The info of an agent's last step."""
        return self.last["info"].get(agent_id)

    def last_action_for(self, agent_id: Any = ONE) -> Any:
        """What an agent did last."""
        return self.last["action"].get(agent_id)

    def last_reward_for(self, agent_id: Any = ONE) -> Any:
        """What an agent got last."""
        return self.last["reward"].get(agent_id, 0.0)

    def prev_action_for(self, agent_id: Any = ONE) -> Any:
        """What an agent did before that."""
        return self.before["action"].get(agent_id)

    def prev_reward_for(self, agent_id: Any = ONE) -> Any:
        """What an agent got before that."""
        return self.before["reward"].get(agent_id, 0.0)

    def get_return(self) -> float:
        """The sum of all rewards so far."""
        return self.total_reward

    def get_rewards(self, indices: Any = None, **_: Any) -> Any:
        """The rewards so far, or some of them."""
        return self.rewards if indices is None else self.rewards[indices]

    def get_observations(self, indices: int = -1, **_: Any) -> Any:
        """The last observation, which is the only one that is kept."""
        return _last(self.last["obs"], indices)

    def get_actions(self, indices: int = -1, **_: Any) -> Any:
        """The last action, likewise."""
        return _last(self.last["action"], indices)

    def get_infos(self, indices: int = -1, **_: Any) -> Any:
        """The last info, likewise."""
        return _last(self.last["info"], indices)


def _last(known: Mapping[Any, Any], indices: int) -> Any:
    if indices != -1:
        raise IndexError(f"indices={indices!r}: of an episode, only the last step is kept (-1).")
    return known.get(ONE, known)


class Hooked(gym.Wrapper):
    """An environment whose episodes are told to RLlib's hooks.

    Args:
        env: of one agent, or of several in their joint space.
        hooks: the script's.
    """

    def __init__(self, env: gym.Env, hooks: Hooks) -> None:
        super().__init__(env)
        self._hooks, self._episode = hooks, Episode()
        joint: Any = env.unwrapped
        self._joint = joint if isinstance(joint, JointEnv) else None
        own = joint.env if isinstance(joint, (JointEnv, OldGymEnv)) else joint
        self._steps: list[dict[str, Any]] = []
        worker = SimpleNamespace(
            worker_index=0, env=own, policy_map=Absent("policy_map", _AWAY),
            get_policy=Absent("get_policy", _AWAY), policy_config={},
        )  # fmt: skip
        envs = SimpleNamespace(
            envs=[own], get_unwrapped=lambda: [own], get_sub_environments=lambda *_, **__: [own]
        )
        self._known = {
            "worker": worker, "env_runner": worker, "base_env": envs, "env_index": 0,
            "env": _Envs([own]), "rl_module": Absent("rl_module", _AWAY),
            "policies": Absent("policies", _AWAY),
        }  # fmt: skip
        for name in ("on_sub_environment_created", "on_environment_created"):
            self._tell(name, sub_environment=own, env_context={})

    def _tell(self, name: str, **more: Any) -> None:
        logger = Logged(self._episode.custom_metrics)
        known = {**self._known, "episode": self._episode, "metrics_logger": logger, **more}
        self._hooks.call(name, **known)

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        self._episode = Episode()
        self._tell("on_episode_created")
        obs, info = self.env.reset(**how)
        self._see(obs, info)
        self._tell("on_episode_start")
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        episode = self._episode
        before = dict(episode.last["obs"])
        obs, reward, terminated, truncated, info = self.env.step(action)
        episode.length += 1
        episode.total_reward += float(reward)
        episode.rewards.append(float(reward))
        episode.before = {key: dict(episode.last[key]) for key in episode.before}
        episode.is_terminated, episode.is_truncated = bool(terminated), bool(truncated)
        episode.is_done = episode.is_terminated or episode.is_truncated
        self._see(obs, info, action, float(reward))
        if self._hooks.has("on_postprocess_trajectory"):
            self._steps.append({
                "obs": before, "new_obs": dict(episode.last["obs"]),
                "actions": dict(episode.last["action"]), "rewards": dict(episode.last["reward"]),
                "infos": dict(episode.last["info"]), "dones": episode.is_done,
            })  # fmt: skip
        self._tell("on_episode_step")
        if episode.is_done:
            self._end()
            info = {**info, **{METRICS + k: v for k, v in _means(episode.custom_metrics).items()}}
        return obs, reward, terminated, truncated, info

    def _end(self) -> None:
        steps, self._steps = self._steps, []
        for agent in {agent for step in steps for agent in step["actions"]}:
            own = [step for step in steps if agent in step["actions"] and agent in step["obs"]]
            batch = Seen.of(own, agent)
            self._tell("on_postprocess_trajectory", agent_id=agent, postprocessed_batch=batch,
                       policy_id=self._episode.policy_for(agent), original_batches={})  # fmt: skip
        self._tell("on_episode_end")
        for name in ("hist_data", "media"):
            if vars(self._episode)[name]:
                say(f"episode.{name} is not kept: custom_metrics are, as means.")

    def _see(self, obs: Any, info: Any, action: Any = None, reward: float = 0.0) -> None:
        """Keeps the last step of each agent."""
        last = self._episode.last
        if self._joint is None:
            last["obs"][ONE], last["info"][ONE] = obs, info
            given = {ONE: reward}
            last["action"].update({} if action is None else {ONE: action})
        else:
            names: dict[str, Any] = {name: a for a, name in self._joint.names.items()}
            acts = [names[name] for i, name in enumerate(names) if obs[ACTS][i]]
            last["obs"].update({a: obs[AGENTS][self._joint.names[a]] for a in acts})
            given = {names[name]: float(obs[REWARD][i]) for i, name in enumerate(names)}
            known = action if isinstance(action, Mapping) else {}
            last["action"].update({names[name]: each for name, each in known.items()})
            last["info"].update(dict.fromkeys(acts, info))
        for agent, earned in given.items():
            last["reward"][agent] = earned
            key = (agent, "default_policy")
            self._episode.agent_rewards[key] = self._episode.agent_rewards.get(key, 0.0) + earned


class _Envs(list):  # type: ignore[type-arg]
    """The one environment where hooks expect a vector of them: `env.envs[env_index]`."""

    @property
    def envs(self) -> list[Any]:
        return self

    @property
    def unwrapped(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self[0], name)


def _means(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Each metric as a number; of several values, their mean."""
    found = {}
    for key, value in metrics.items():
        listed = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        numbers = [float(each) for each in listed if isinstance(each, (int, float, np.generic))]
        if numbers:
            found[str(key)] = float(np.mean(numbers))
    return found
