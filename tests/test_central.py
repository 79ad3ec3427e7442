"""Value functions that see what all agents see, beside policies that do not (MAPPO)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.many_agents import Signs, Turns
from tests.test_agents import GAME, TWO, Rooms, parameters

import poise
from poise.algorithms.ppo import PPO
from poise.models.policy import Policy
from poise.spaces.layout import Layout

HOW: dict[str, Any] = {
    "central_critic": True, "num_envs_per_worker": 4, "rollout_fragment_length": 16, "seed": 1,
    "preset": None, "timesteps_per_iteration": 0,
}  # fmt: skip


def signs(n: int, state: bool = False) -> Any:
    return lambda config: Signs(n, state)


def a_part(trainer: Any, name: str = "default") -> Any:
    """The algorithm of a policy, and its part of a rollout."""
    parts = trainer.algorithm.split(trainer.samplers.collect())
    return trainer.algorithm.members[name], parts[name]


def test_one_agent_alone_has_nothing_to_see_beside() -> None:
    made = [poise.PPO(signs(1), **{**HOW, "central_critic": on}) for on in (True, False)]
    for _ in range(3):
        results = [trainer.train() for trainer in made]
    assert torch.equal(parameters(made[0]), parameters(made[1]))
    assert results[0]["learner/vf_loss"] == results[1]["learner/vf_loss"]


@pytest.mark.parametrize("state", [True, False])
def test_a_value_function_that_ignores_the_rest_teaches_as_one_that_does_not_see_it(
    state: bool,
) -> None:
    how = {**HOW, "num_sgd_iter": 1, "sgd_minibatch_size": 64, "grad_clip": None}
    central = poise.PPO(signs(2, state), **how)
    plain = poise.PPO(signs(2, state), **{**how, "central_critic": False})
    own, given = (each.algorithm.policy.policies["default"].network for each in (central, plain))
    own.pi.load_state_dict(given.pi.state_dict())
    weights = dict(given.vf.state_dict())
    first = next(key for key, value in weights.items() if value.shape[-1] == 1 and value.ndim == 2)
    widened = torch.zeros_like(own.vf.state_dict()[first])
    widened[:, :1] = weights[first]
    own.vf.load_state_dict({**weights, first: widened})
    central.train()
    plain.train()
    torch.testing.assert_close(own.pi.state_dict(), given.pi.state_dict(), atol=1e-6, rtol=0)
    after = own.vf.state_dict()
    assert after[first][:, 1:].abs().sum() > 0  # it learns to look
    torch.testing.assert_close(
        {**after, first: after[first][:, :1]}, dict(given.vf.state_dict()), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("memory", [None, "gru"])
@pytest.mark.parametrize("state", [True, False])
def test_values_depend_on_what_all_see_and_actions_do_not(state: bool, memory: Any) -> None:
    trainer = poise.PPO(signs(3, state), **HOW, model={"memory": memory, "max_seq_len": 16})
    member, part = a_part(trainer)
    policy, run = member.policy, partial(member.policy, state=part.state, first=part.first)
    name = "beside/state" if state else "beside/others/1/value"
    before = run(member.prepared(part))
    part.obs[name] = -part.obs[name]
    after = run(member.prepared(part))
    assert torch.equal(before[0], after[0])
    assert (before[1] != after[1]).all()
    # Acting needs an agent's own observation alone, as it is.
    _, inputs, _ = policy.act({"value": part.obs["value"][0]}, part.state, part.first[0], None)
    steps = part.obs["value"].shape[1]
    torch.testing.assert_close(inputs, before[0][:steps])
    assert trainer.compute_action(np.ones(1, np.float32)) in (0, 1)


def test_what_stands_beside_is_what_the_others_see_and_whose_number_it_is() -> None:
    member, part = a_part(poise.PPO(signs(3), **HOW))
    own = part.obs["value"].view(17, 3, 4)  # [T + 1, agents, E]
    others = [part.obs[f"beside/others/{k}/value"].view(17, 3, 4) for k in (0, 1)]
    for agent, rest in enumerate([(1, 2), (0, 2), (0, 1)]):
        for k, other in enumerate(rest):
            assert torch.equal(others[k][:, agent], own[:, other])
    assert part.obs["beside/number"][0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert part.obs["beside/acts"].shape == (17, 12, 3)
    assert member.policy.whole.size == 1 + 2 + 3 + 3
    member, part = a_part(poise.PPO(signs(2, state=True), **HOW))
    assert torch.equal(part.obs["beside/state"][:, :4, 0], part.obs["value"][:, :4, 0])
    assert torch.equal(part.obs["beside/state"][:, :4, 1], part.obs["value"][:, 4:, 0])


def test_all_agents_act_without_the_state() -> None:
    trainer = poise.PPO(signs(2, state=True), **HOW)
    joint, _ = poise.make_env(signs(2, state=True)).reset(seed=1)
    actions = trainer.compute_action(joint)
    assert actions == {a: trainer.compute_action(joint["agents"][a]) for a in ("a0", "a1")}
    env = trainer.samplers.members[0].env
    batch, _ = env.reset(seed=1)
    found = trainer.predict({key: value for key, value in batch.items() if key != "state"})[0]
    assert {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in trainer.predict(batch)[0].items()
    }


class Paid(gym.RewardWrapper):
    def reward(self, reward: Any) -> float:
        return 7.0


@pytest.mark.parametrize("inside", [True, False])
def test_wrappers_of_ones_own_stay(inside: bool) -> None:
    """Also those that stand in the env_config."""
    own = {"wrappers": [f"{__name__}:Paid"]}
    given = {"env_config": own} if inside else own
    trainer = poise.PPO(signs(2, state=True), **HOW, **given)
    rollout = trainer.samplers.collect()
    assert "state" in rollout.obs
    assert rollout.reward[rollout.valid > 0].unique().tolist() == [7.0]


class Named(Signs):
    """Its agents see parts that are called as what stands beside them is."""

    def observation_space(self, agent: str) -> spaces.Space:
        own = super().observation_space(agent)
        return spaces.Dict({"state": own, "number": own, "others": own})

    def _look(self) -> Any:
        return {
            a: dict.fromkeys(("state", "number", "others"), v) for a, v in super()._look().items()
        }


def test_parts_of_an_observation_may_be_called_as_what_stands_beside() -> None:
    trainer = poise.PPO(lambda config: Named(2), **HOW)
    member, part = a_part(trainer)
    assert (part.obs["number"].abs() == 1).all()
    assert part.obs["beside/number"].max() == 1
    assert member.policy.whole.size == 3 + 2 + 3 + 2


class Watched(Turns):
    """Its state is the step of the game, which all may know."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(GAME)
        self.state_space = Turns.observation_space(self, "a")

    def state(self) -> Any:
        return np.array([self.at, 0], np.float32)


@pytest.mark.parametrize("steps", [3, 7])
@pytest.mark.parametrize("memory", [None, "gru"])
def test_of_a_step_in_turn_the_state_counts_in_which_it_was_chosen(memory: Any, steps: int) -> None:
    """However many others act before its outcome is known, also in another rollout."""
    how = {**HOW, "rollout_fragment_length": steps}
    trainer = poise.PPO(Watched, **how, model={"memory": memory, "max_seq_len": steps})
    found = 0
    for _ in range(5):
        _, part = a_part(trainer)
        own, state = (part.obs[key][:-1, :, 0] for key in ("value", "beside/state"))
        counts = part.valid > 0
        found += int(counts.sum())
        assert torch.equal(own[counts], state[counts])
        goes_on = counts & ~part.terminated
        later = [part.obs[key][1:, :, 0][goes_on] for key in ("value", "beside/state")]
        assert torch.equal(*later)
    assert found >= steps * 4 * 3


def test_what_others_see_explains_returns_that_ones_own_does_not() -> None:
    found = {}
    for central in (True, False):
        how = {**HOW, "central_critic": central, "gamma": 0.1, "lr": 3e-3}
        trainer = poise.PPO(signs(2), **how)
        for _ in range(15):
            result = trainer.train()
        found[central] = result["learner/vf_explained_var"]
    assert found[True] > 0.9
    assert found[False] < 0.3


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "IMPALA", "APPO"])
@pytest.mark.parametrize("memory", [None, "lstm"])
def test_it_is_saved_resumed_and_evaluated(algorithm: str, memory: Any, tmp_path: Path) -> None:
    how = {**HOW, "normalize_observations": True, "model": {"memory": memory}}
    if algorithm in ("PPO", "APPO"):
        how["model"] |= {"max_seq_len": 16}
    trainer = poise.make_trainer(algorithm, f"{__name__}:Watched", **how)
    before = parameters(trainer).clone()
    trainer.train()
    assert not torch.equal(parameters(trainer), before)
    with poise.load(trainer.save(tmp_path / "saved")) as again:
        for made in (trainer, again):
            made.train()
        assert torch.equal(parameters(trainer), parameters(again))
        assert "episode_reward_mean" in again.evaluate(2)


def test_kinds_of_agents_have_value_functions_of_their_own() -> None:
    trainer = poise.PPO(Rooms, **TWO, central_critic=True)
    trainer.train()
    beside = {
        name: [leaf.name.removeprefix("beside/") for leaf in policy.obs_layout.beside]
        for name, policy in trainer.algorithm.policies.items()
    }
    assert beside["small"] == ["acts", "others/0/value", "others/1/value", "number"]
    assert beside["big"] == ["acts", "others/0/value", "others/1/value"]


@pytest.mark.parametrize(
    ("algorithm", "env", "settings", "sentence"),
    [
        ("PPO", "CartPole-v1", {}, "central_critic=True is for several agents, and CartPole"),
        ("DQN", Rooms, {}, "central_critic.*PPO, A2C, IMPALA and APPO can have"),
        ("PPO", Rooms, {"model.vf_share_layers": True}, "contradicts model.vf_share_layers=True"),
        ("PPO", Rooms, {"policies": {"a": {"central_critic": True}, "b": {}}},
         "'central_critic' is the same for all policies"),
    ],
)  # fmt: skip
def test_what_has_no_central_value_function_says_so(
    algorithm: str, env: Any, settings: Any, sentence: str
) -> None:
    with pytest.raises(poise.PoiseError, match=sentence):
        poise.make_trainer(algorithm, env, preset=None, central_critic=True, **settings)


def test_a_policy_of_ones_own_that_sees_no_more_is_refused(registries: None) -> None:
    class Own(PPO):
        def make_policy(self, *layouts: Layout) -> Policy:
            return Policy(*layouts, self.config.model)

    poise.register_algorithm("Own", Own)
    with pytest.raises(poise.ConfigError, match=r"Own.make_policy makes has no value function"):
        poise.make_trainer("Own", signs(2), **HOW)


@pytest.mark.slow
def test_an_export_has_no_value_of_what_it_does_not_see(tmp_path: Path) -> None:
    trainer = poise.PPO(signs(2), **HOW, model={"memory": "gru", "max_seq_len": 16})
    found = poise.export(trainer, "numpy", tmp_path / "robot", observations=50)
    assert {*found.largest} == {"action", "probabilities", "state_out_0"}
