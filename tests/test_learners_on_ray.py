"""Guards several learners on a Ray cluster: a head and three nodes of real raylets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import poise
from poise.algorithms.ppo import PPO
from poise.training.trainer import Trainer

pytest.importorskip("ray")

from clusters import Make, parameters, train_until
from poise.cluster import learners as module
from tiers import few

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("registries"),
]

OWN = {"num_workers": 1, "num_envs_per_worker": 8, "num_learners": 2}


def learners(algo: Trainer) -> Any:
    """All learners of a trainer."""
    _ = algo.samplers
    home: Any = algo.environments.home
    return home._learners


def peers(algo: Trainer) -> list[Any]:
    """The others."""
    return list(learners(algo)._peers)


SCALED = {"normalize_observations": True, "normalize_rewards": True}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PPO": ("PPO", "Pendulum-v1", {**SCALED, "target_kl": 0.05}),
    "A2C": ("A2C", "CartPole-v1", {**SCALED, "normalize_advantages": True}),
}


def check(on_ray: Make, algorithm: str, env: Any, iterations: int = 3, **settings: Any) -> Trainer:
    """Two learners end where one does; returns the trainer of the two."""
    two = on_ray(algorithm, env, **settings)
    one = on_ray(algorithm, env, **{**settings, "num_learners": 1})
    for _ in range(iterations):
        found, expected = two.train(), one.train()
    assert (parameters(two) - parameters(one)).abs().max() < 1e-4
    for key in ("policy_loss", "vf_loss", "entropy", "grad_norm"):
        assert found[f"learner/{key}"] == pytest.approx(expected[f"learner/{key}"], rel=0.02)
    return two


@pytest.mark.parametrize("name", few("PPO", of=CASES))
def test_results_are_those_of_one_learner(name: str, on_ray: Make) -> None:
    algorithm, env, settings = CASES[name]
    two = check(on_ray, algorithm, env, **settings)
    assert two.history[-1]["learner/learners"] == 2


@pytest.mark.parametrize("algorithm", few("PPO", "IMPALA", of=["PPO", "A2C", "IMPALA", "APPO"]))
def test_parameters_stay_equal_to_the_bit(
    algorithm: str, on_ray: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    pickled = module.pickled
    monkeypatch.setattr(module, "pickled", lambda it: sent.append(it) or pickled(it))
    algo = on_ray(algorithm, "CartPole-v1", num_learners=3, rollout_fragment_length=8)
    for _ in range(20):
        result = algo.train()
    assert result["learner/learners"] == 3
    assert [(peer.updates >= 20, peer.same) for peer in peers(algo)] == [(True, True)] * 2
    assert len(sent) == 1  # at the beginning


def test_one_that_rounds_otherwise_is_sent_the_parameters_anew(
    on_ray: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    pickled = module.pickled
    monkeypatch.setattr(module, "pickled", lambda it: sent.append(it) or pickled(it))
    monkeypatch.setattr(module, "fingerprint", lambda algorithm: 0)
    algo = on_ray("PPO", "CartPole-v1")
    with pytest.warns(poise.PoiseWarning, match="its processor rounds otherwise") as told:
        train_until(algo, lambda result: result["training_iteration"] == 3)
    assert sum("rounds otherwise" in str(each.message) for each in told) == 1
    assert len(sent) == 3


def mine(original: Any, folder: Path) -> Any:
    """A loss of a script's own, in which a learner on the cluster ends, once."""

    def loss(self: Any, batch: Any, *arguments: Any, **options: Any) -> Any:
        import ray

        if self.timesteps > 300 and ray.get_runtime_context().get_actor_id() is not None:
            try:
                (folder / "ended").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os._exit(7)
        found, parts = original(self, batch, *arguments, **options)
        size = sum((each**2).sum() for each in self.policy.parameters())
        return found + 0.1 * size, parts

    return loss


def test_a_loss_of_ones_own_reaches_all_and_one_that_ends_changes_nothing(
    on_ray: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPO, "loss", mine(PPO.loss, tmp_path))
    with pytest.warns(poise.PoiseWarning, match=r"was lost .* 1 of 2 go on .* Another takes"):
        two = check(on_ray, "PPO", "CartPole-v1", 5)
    assert (tmp_path / "ended").exists()
    train_until(two, lambda result: result["learner/learners"] == 2)
    assert [peer.same for peer in peers(two)] == [True]
    assert two.algorithm.reward_scaler is None


@pytest.mark.proof
def test_all_that_others_are_lost_leaves_one(on_ray: Make) -> None:
    import ray

    algo = on_ray("IMPALA", "CartPole-v1", num_learners=3)
    algo.train()
    for peer in peers(algo):
        ray.kill(peer.actor)
    with pytest.warns(poise.PoiseWarning, match="was lost"):
        train_until(algo, lambda result: result["learner/learners"] < 3)
    train_until(algo, lambda result: result["learner/learners"] == 3)


def test_a_run_goes_on_with_another_number(on_ray: Make, tmp_path: Path) -> None:
    settings = {**SCALED, "num_workers": 1}
    straight = on_ray("PPO", "CartPole-v1", **settings)
    for _ in range(2):
        straight.train()
    straight.save(tmp_path / "a")
    for _ in range(2):
        straight.train()
    straight.close()
    for number in (1, 3):
        with poise.load(tmp_path / "a", num_learners=number) as again:
            assert again.config.num_workers == 1
            for _ in range(2):
                result = again.train()
            assert (parameters(again) - parameters(straight)).abs().max() < 1e-4
            assert result.get("learner/learners", 1) == number
            assert again.environments.lost == 0
    with poise.load(tmp_path / "a", ray_address=None, num_workers=0) as again:
        assert again.config.num_learners == 1
        assert any("num_learners=1 (was 2)" in note for note in again.notes)
        again.train()


def test_what_cannot_be_shared_is_refused(on_ray: Make) -> None:
    with pytest.raises(poise.ConfigError, match="num_learners=2 is not allowed: what learns from"):
        on_ray("DQN", "CartPole-v1")

    class Alone(PPO):
        def iteration(self, samplers: Any) -> dict[str, float]:
            stats = self.learn(self.batch(samplers.collect()))
            return stats

    poise.register_algorithm("Alone", Alone)
    said = "Alone takes a gradient step outside of `update"
    with on_ray("Alone", "CartPole-v1") as algo, pytest.raises(poise.ConfigError, match=said):
        algo.train()

    class Holding(PPO):
        def update(self, rollout: Any) -> dict[str, float]:
            self.lock = __import__("threading").Lock()
            return super().update(rollout)

    poise.register_algorithm("Holding", Holding)
    algo = on_ray("Holding", "CartPole-v1")
    algo.train()
    with torch.no_grad():
        algo.algorithm.flat.data.mul_(1.5)  # so that it is sent anew
    with pytest.raises(poise.ClusterError, match=r"Holding cannot be sent .*lock"):
        algo.train()


def test_what_fails_in_another_learner_is_shown(on_ray: Make) -> None:
    class Failing(PPO):
        def update(self, rollout: Any) -> dict[str, float]:
            import ray

            if ray.get_runtime_context().get_actor_id() is not None:
                raise LookupError("no such table")
            return super().update(rollout)

    poise.register_algorithm("Failing", Failing)
    algo = on_ray("Failing", "CartPole-v1")
    with pytest.raises(poise.ClusterError, match=r"(?s)failed.*in update.*no such table"):
        algo.train()


def test_too_few_machines_are_named(on_ray: Make) -> None:
    said = r"After 1 s \(cluster_timeout_s\), \d of 5 learners. The others wait for a machine with"
    with pytest.raises(poise.ClusterError, match=said):
        on_ray("PPO", "CartPole-v1", num_learners=5, cluster_timeout_s=1.0).train()


@pytest.mark.proof
def test_cartpole_is_learnt_by_two(cluster: Any, trainer: Make) -> None:
    settings = {"seed": 1, "num_workers": 1, "num_learners": 2, "ray_address": cluster.address}
    algo = trainer("PPO", "CartPole-v1", **settings)
    result = algo.learn(500_000, stop={"episode_reward_mean": 475})
    assert result["confirmed_reward_mean"] >= 475
    assert [peer.same for peer in peers(algo)] == [True]


@pytest.mark.proof
def test_one_whose_machine_falls_silent_is_left_out(cluster: Any, on_ray: Make) -> None:
    """Frozen with all that runs there, it closes no connection; the head notices it in seconds."""
    import psutil
    import ray

    algo = on_ray("PPO", "CartPole-v1", num_learners=3)
    algo.train()
    silent, other = peers(algo)
    where, raylet = ray.get(silent.actor.__ray_call__.remote(about_its_node))
    frozen = [psutil.Process(raylet), *psutil.Process(raylet).children(recursive=True)]
    for process in frozen:
        process.suspend()
    with pytest.warns(poise.PoiseWarning, match="was lost .* 2 of 3 go on"):
        result = train_until(algo, lambda result: result["learner/learners"] < 3)
    assert learners(algo)._trouble == "One of the learners is gone."  # and no limit of time
    assert (result["learner/learners"], peers(algo)) == (2, [other])
    for process in frozen:
        process.kill()
    (node,) = (node for node in cluster.own if node.node_id == where)
    cluster.own.remove(node)
    cluster.remove_node(node, allow_graceful=False)
    cluster.own.append(cluster.add_node(num_cpus=1))


def about_its_node(_: Any) -> tuple[str, int]:
    """Of the node that an actor is on: its name, and the process of its raylet."""
    import ray

    return ray.get_runtime_context().get_node_id(), os.getppid()
