"""Guards samplers on a Ray cluster: a head and three nodes of real raylets."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

import poise
from poise.models.policy import Policy
from poise.sampling.halt import HaltedError
from poise.training.trainer import Trainer

pytest.importorskip("ray")

from clusters import SMALL, Make, parameters, train_until
from poise.cluster import workers
from tiers import few

pytestmark = pytest.mark.slow


def fleet(algo: Trainer) -> Any:
    _ = algo.samplers
    home: Any = algo.environments.home
    return home.fleet


CASES = {
    "PPO": ("PPO", "Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}),
    "A2C": ("A2C", "CartPole-v1", {}),
    "DQN": ("DQN", "CartPole-v1", {"learning_starts": 64, "epsilon_timesteps": 500}),
    "SAC": ("SAC", "environments:Point", {"learning_starts": 64, "gradient_steps": 2, "her": True}),
}


@pytest.mark.parametrize("name", few("PPO", "DQN", of=CASES))
def test_results_are_those_of_local_workers(name: str, trainer: Make, on_ray: Make) -> None:
    algorithm, env, settings = CASES[name]
    here, there = trainer(algorithm, env, **SMALL, **settings), on_ray(algorithm, env, **settings)
    for _ in range(6):
        mine, theirs = here.train(), there.train()
        assert torch.equal(parameters(here), parameters(there))
    for key in ("timesteps_total", "episodes_total", "episode_reward_mean", "episode_len_mean"):
        assert mine[key] == pytest.approx(theirs[key], rel=0, abs=0, nan_ok=True)
    assert theirs["cluster/workers"] == 2
    assert theirs["cluster/nodes"] == 4


@pytest.mark.parametrize("name", few("DQN", of=["PPO", "DQN"]))
def test_a_resumed_run_is_as_if_it_had_not_stopped(
    name: str, on_ray: Make, cluster: Any, tmp_path: Path
) -> None:
    algorithm, env, settings = CASES[name]
    algo = on_ray(algorithm, env, **settings)
    for _ in range(3):
        algo.train()
    algo.save(tmp_path / "a")
    for _ in range(3):
        algo.train()
    algo.close()  # whose workers take two of the three CPUs
    with poise.load(tmp_path / "a") as again:
        for _ in range(3):
            again.train()
        assert torch.equal(parameters(again), parameters(algo))


def test_a_run_goes_on_with_fewer_workers(on_ray: Make, tmp_path: Path) -> None:
    algo = on_ray("PPO", "Pendulum-v1", num_workers=3, normalize_rewards=True)
    before = algo.train()["timesteps_total"]
    algo.save(tmp_path / "a")
    algo.close()
    with poise.load(tmp_path / "a", num_workers=1) as again:
        assert any("Episodes under way begin anew" in note for note in again.notes)
        result = again.train()
    assert result["timesteps_total"] > before
    assert result["cluster/workers"] == 1


def test_a_run_of_this_machine_goes_on_on_a_cluster(
    trainer: Make, cluster: Any, tmp_path: Path
) -> None:
    trainer("PPO", "CartPole-v1", **{**SMALL, "num_workers": 0, "num_envs_per_worker": 3}).save(
        tmp_path / "a"
    )
    with poise.load(tmp_path / "a", ray_address=cluster.address) as again:
        assert "CPUs - 1 for the learner = 2 workers" in " ".join(again.notes)
        assert again.train()["cluster/workers"] == 2


class Halting(gym.Wrapper):
    """Touches a file at its 100th step, and goes on when there is another."""

    def __init__(self, env: gym.Env, file: str) -> None:
        super().__init__(env)
        self.file, self.count = Path(file), 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 100:
            self.file.touch()
            while not self.file.with_suffix(".go").exists():
                time.sleep(0.01)
        return super().step(action)


def halting(config: dict[str, Any]) -> gym.Env:
    return Halting(gym.make("Acrobot-v1"), config["file"])


def test_a_halt_amid_a_rollout_loses_nothing(
    on_ray: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "there"
    settings = {"rollout_fragment_length": 64, "env_config": {"file": str(file)}}
    file.with_suffix(".go").touch()
    straight = on_ray("PPO", halting, **settings)
    for _ in range(4):
        straight.train()
    straight.close()
    file.unlink()
    file.with_suffix(".go").unlink()
    algo = on_ray("PPO", halting, **settings)
    ask = fleet(algo).halt

    def told(asked: bool) -> None:
        ask(asked)
        file.with_suffix(".go").touch()

    def halt() -> None:
        while not file.exists():
            time.sleep(0.01)
        algo.halt.asked = True

    monkeypatch.setattr(fleet(algo), "halt", told)
    thread = threading.Thread(target=halt, daemon=True)
    thread.start()
    with pytest.raises(HaltedError):
        train_until(algo, lambda result: False)
    thread.join()
    assert algo.samplers.underway
    algo.save(tmp_path / "a")
    algo.close()
    with poise.load(tmp_path / "a", env=halting) as again:
        while again.iteration < 4:
            again.train()
        assert torch.equal(parameters(again), parameters(straight))


class Dying(gym.Wrapper):
    """Ends its process at its 200th step, once."""

    def __init__(self, env: gym.Env, file: str) -> None:
        super().__init__(env)
        self.file, self.count = Path(file), 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 200:
            with suppress(FileExistsError):  # of all environments, one is the first
                self.file.touch(exist_ok=False)
                self.end()
        return super().step(action)

    def end(self) -> None:
        os._exit(7)


class Hanging(Dying):
    def end(self) -> None:
        time.sleep(3600)


def dying(config: dict[str, Any]) -> gym.Env:
    return Dying(gym.make("Acrobot-v1"), config["file"])


def hanging(config: dict[str, Any]) -> gym.Env:
    return Hanging(gym.make("Acrobot-v1"), config["file"])


@pytest.mark.parametrize("make", [dying, hanging])
def test_a_worker_is_replaced_with_the_policy_of_now(
    make: Any, on_ray: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FEEL_S", 0.2)
    file = {"file": str(tmp_path / "died")}
    settings = {"rollout_fragment_length": 64, "normalize_observations": True}
    algo = on_ray("PPO", make, env_config=file, env_step_timeout_s=1.0, **settings)
    with pytest.warns(poise.PoiseWarning, match="ended while it sampled|hangs: it has been"):
        result = train_until(algo, lambda r: r["worker_restarts_total"] == 1)
    # The rows of the worker that was lost do not count; those of the other do.
    assert result["timesteps_this_iter"] in range(200, 4 * 64 + 1)
    assert result["cluster/rollouts_lost_total"] == 1
    assert result["episodes_lost_total"] == 4
    result = train_until(
        algo, lambda r: r["cluster/workers"] == 2 and r["timesteps_this_iter"] > 300
    )
    assert result["cluster/rollouts_dropped_total"] == 0
    sampled = algo.samplers.collect()
    policy, rows = algo.algorithm.policy, sampled.steps * sampled.slots
    x = policy.prepare({name: leaf[:-1].flatten(0, 1) for name, leaf in sampled.obs.items()})
    with torch.no_grad():
        inputs, _ = policy(x)
        log_prob = policy.dist.log_prob(inputs, sampled.action.flatten(0, 1))
    # Weights and moments of the new one are those of now: all actions are as likely as it says.
    assert sampled.valid.sum() > rows - 10
    assert torch.allclose(log_prob, sampled.log_prob.flatten(), atol=1e-5)
    assert {worker.incarnation for worker in fleet(algo).workers} == {0, 1}


def test_a_node_that_goes_is_let_go_and_one_that_comes_is_used(cluster: Any, on_ray: Make) -> None:
    algo = on_ray("IMPALA", "CartPole-v1", num_workers=3, rollout_fragment_length=32)
    train_until(algo, lambda r: r["cluster/workers"] == 3)
    cluster.remove_node(cluster.own.pop(), allow_graceful=False)
    with pytest.warns(poise.PoiseWarning, match="ended while it"):
        result = train_until(algo, lambda r: r["cluster/workers"] == 2)
    before = result["timesteps_total"]
    result = train_until(algo, lambda r: r["timesteps_total"] > before + 2000)
    assert result["cluster/workers"] == 2
    cluster.own.append(cluster.add_node(num_cpus=1))
    result = train_until(algo, lambda r: r["cluster/workers"] == 3)
    result = train_until(algo, lambda r: fleet(algo).workers[-1].rollouts > 3)
    asked = sum(worker.asked for worker in fleet(algo).workers)
    taken = sum(worker.taken for worker in fleet(algo).workers)
    calls = [call.what for worker in fleet(algo).workers for call in worker.calls]
    underway = calls.count("sample")
    assert asked == taken + underway + fleet(algo).lost  # none was lost or doubled unseen
    assert fleet(algo).dropped == 0


def test_batches_are_made_of_whoever_comes_first(on_ray: Make) -> None:
    pytest.importorskip("ale_py")
    settings = {"train_batch_size": 320, "rollout_fragment_length": 32, "seed": 1}
    algo = on_ray(
        "IMPALA",
        "PongNoFrameskip-v4",
        **{**settings, "num_workers": 3, "num_envs_per_worker": 2, "timesteps_per_iteration": 640},
    )
    result = algo.train()
    assert result["learner/sgd_steps"] == 2
    assert result["timesteps_this_iter"] in range(600, 641)
    assert result["learner/policy_lag_max"] <= 3
    # The newest frame's changes alone travel between machines: a stack of four has 28 KiB.
    assert result["cluster/bytes_per_step"] < 1024


def broken(config: dict[str, Any]) -> gym.Env:
    raise LookupError("no such simulator")


def failing(config: dict[str, Any]) -> gym.Env:
    class Failing(gym.Wrapper):
        def step(self, action: Any) -> Any:
            raise LookupError("no such robot")

    return Failing(gym.make("CartPole-v1"))


def test_what_fails_everywhere_stops_the_run_with_its_cause(on_ray: Make) -> None:
    with pytest.raises(poise.EnvError, match=r"LookupError: no such simulator[\s\S]*broken"):
        on_ray("PPO", broken)
    algo = on_ray("PPO", failing)
    with pytest.raises(poise.EnvError, match="no such robot"), pytest.warns(poise.PoiseWarning):
        algo.train()


def stillborn(config: dict[str, Any]) -> gym.Env:
    with suppress(FileExistsError):
        Path(config["file"]).touch(exist_ok=False)
        os._exit(7)
    return gym.make("CartPole-v1")


def test_a_worker_that_is_lost_before_training_changes_nothing(
    trainer: Make, on_ray: Make, tmp_path: Path
) -> None:
    file = tmp_path / "died"
    with pytest.warns(poise.PoiseWarning, match="while it made its environments.* started anew"):
        there = on_ray("PPO", stillborn, num_workers=1, env_config={"file": str(file)})
    settings = {**SMALL, "num_workers": 0, "env_config": {"file": str(file)}}
    here = trainer("PPO", stillborn, **settings)
    for _ in range(2):
        here.train(), there.train()
    assert torch.equal(parameters(here), parameters(there))


class Breaking(CartPoleVectorEnv):
    """Gives one observation that is not finite."""

    count = 0

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        self.count += 1
        if self.count == 100:
            obs[1] = math.nan
        return obs, *rest


def breaking(config: dict[str, Any]) -> Any:
    return Breaking(num_envs=4)


def test_a_batch_that_breaks_ends_the_run_as_it_does_here(trainer: Make, on_ray: Make) -> None:
    said = []
    for make, settings in ((trainer, {**SMALL, "num_workers": 0}), (on_ray, {"num_workers": 1})):
        algo = make("PPO", breaking, **settings)
        with pytest.raises(poise.EnvError, match=r"Environment 1 gave .* not finite") as caught:
            train_until(algo, lambda r: r["training_iteration"] == 20)
        said.append(str(caught.value))
        assert (algo.iteration, algo.failures.restarts) == (6, 0)
    assert said[0] == said[1]


def test_a_state_that_does_not_fit_is_refused_as_it_is_here(trainer: Make, on_ray: Make) -> None:
    said = []
    for make, settings in ((trainer, {**SMALL, "num_workers": 0}), (on_ray, {"num_workers": 1})):
        algo = make("PPO", "CartPole-v1", **settings)
        algo.train()
        states = algo.samplers.state_dict()
        states[0]["returns"] = states[0]["returns"] + math.inf
        with pytest.raises(poise.CheckpointError, match="not finite") as caught:
            algo.environments._restore(algo.samplers, states)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_auto_leaves_to_others_what_they_hold(on_ray: Make, cluster: Any) -> None:
    ray = pytest.importorskip("ray")
    on_ray("PPO", "CartPole-v1", num_workers=1).close()  # which connects, and gives its CPU back
    other = ray.remote(num_cpus=1)(threading.Event).remote()
    ray.get(other.is_set.remote())
    algo = on_ray("PPO", "CartPole-v1", num_workers="auto", num_envs_per_worker=8)
    said = "0 + 1 + 1 + 1 CPUs - 1 that others hold - 1 for the learner = 1 worker, with 8"
    assert any(said in note for note in algo.notes)
    ray.kill(other)


def test_too_few_machines_are_waited_for_and_named(on_ray: Make) -> None:
    said = (
        r"After 2 s \(cluster_timeout_s\), 3 of 5 workers. The others wait for a machine with 1 "
        r"free CPU: the cluster has 4 with 0 \+ 1 \+ 1 \+ 1 CPUs, and 0 of them are free."
    )
    with pytest.raises(poise.ClusterError, match=said):
        on_ray("PPO", "CartPole-v1", num_workers=5, cluster_timeout_s=2.0)


def test_a_run_begins_with_as_many_as_are_enough(on_ray: Make) -> None:
    with pytest.warns(poise.PoiseWarning, match="Training begins with 3 of 5 workers"):
        algo = on_ray("PPO", "CartPole-v1", num_workers=5, min_workers=2, cluster_timeout_s=2.0)
    assert algo.train()["timesteps_this_iter"] <= 3 * 4 * 16


def test_auto_takes_all_cpus_but_one_and_is_asked_again_elsewhere(
    on_ray: Make, tmp_path: Path
) -> None:
    algo = on_ray("PPO", "CartPole-v1", num_workers="auto", num_envs_per_worker=8)
    assert (algo.config.num_workers, algo.config.num_envs_per_worker) == (2, 4)
    said = "num_workers='auto': 0 + 1 + 1 + 1 CPUs - 1 for the learner = 2 workers"
    assert any(note.startswith(said) for note in algo.notes)
    algo.save(tmp_path / "a")
    algo.close()
    with poise.load(tmp_path / "a", ray_address=None) as again:
        assert (again.config.num_workers, again.config.num_envs) == (0, 8)
        said = " ".join(again.notes)
        assert "num_workers='auto': " in said
        assert "num_workers=0 (was 2)" in said
        again.train()


def test_another_version_is_named(on_ray: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.cluster.connect.version_of_poise", lambda: "0.0.1")
    with pytest.raises(poise.ClusterError, match=r"has Poise .*, and this process .*Poise 0.0.1"):
        on_ray("PPO", "CartPole-v1")


def test_what_cannot_be_sent_is_named(on_ray: Make) -> None:
    lock = threading.Lock()

    def holding(config: dict[str, Any]) -> gym.Env:
        with lock:
            return gym.make("CartPole-v1")

    with pytest.raises(poise.EnvError, match=r"holding cannot be sent to worker processes"):
        on_ray("PPO", holding)


def test_what_a_script_has_changed_acts_in_workers(
    on_ray: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_right(self: Any, action: Any) -> Any:
        return torch.ones_like(action).numpy()

    monkeypatch.setattr(Policy, "env_action", always_right)
    algo = on_ray("PPO", "CartPole-v1", rollout_fragment_length=64)
    algo.train()
    assert algo.train()["episode_len_mean"] < 12  # the pole falls to the left


def test_samplers_that_run_ahead_stop_for_a_checkpoint(on_ray: Make, tmp_path: Path) -> None:
    settings = {"timesteps_per_iteration": 2000, "normalize_rewards": True}
    algo = on_ray("IMPALA", "CartPole-v1", **settings)
    before = algo.train()["timesteps_total"]
    algo.save(tmp_path / "a")
    assert algo.train()["timesteps_total"] >= before + 2000  # they go on afterwards
    algo.close()
    with poise.load(tmp_path / "a") as again:
        assert again.train()["timesteps_total"] >= before + 2000
        assert again.environments.lost == 0


def test_environments_can_be_asked_and_set(on_ray: Make) -> None:
    algo = on_ray("PPO", "CartPole-v1")
    algo.set_env_attr("gravity", 1.5)
    assert algo.get_env_attr("gravity") == [1.5] * 8
    with pytest.raises(poise.EnvError, match="has no 'gravitas'"):
        algo.call_envs("gravitas")
    assert algo.train()["cluster/workers"] == 2


@pytest.mark.parametrize(
    ("algorithm", "goal"), [("PPO", 475), ("A2C", 195), ("IMPALA", 475), ("DQN", 195)]
)
def test_cartpole_is_learnt(algorithm: str, goal: int, cluster: Any, trainer: Make) -> None:
    algo = trainer(algorithm, "CartPole-v1", seed=1, num_workers=2, ray_address=cluster.address)
    result = algo.learn(500_000, stop={"episode_reward_mean": goal})
    assert result["confirmed_reward_mean"] >= goal


def test_a_killed_driver_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poise"]
    flags = ["--num_workers", "2", "--ray-address", "local", "--checkpoint-interval-s", "0.1"]
    flags += ["--seed", "1", "--stop", "timesteps_total=1000000000", "--folder", str(tmp_path)]
    run = subprocess.Popen(
        [*command, "train", "PPO", "--env", "CartPole-v1", "--name", "run", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (found := list(tmp_path.glob("*/run/checkpoints/*/manifest.json"))):
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    saved = max(int(file.parent.name) for file in found)
    folder = found[0].parents[2]
    done = subprocess.run(
        [*command, "resume", str(folder), "--stop", f"training_iteration={saved + 5}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again = poise.load(folder)
    assert again.iteration >= saved + 5
    again.close()


class Old(gym.Wrapper):
    """Warns as it is made, and at a step."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        warnings.warn("this simulator is old", stacklevel=2)

    def step(self, action: Any) -> Any:
        warnings.warn("its joints are stiff", poise.PoiseWarning, stacklevel=2)
        return super().step(action)


def test_warnings_of_workers_are_told_once(on_ray: Make) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        algo = on_ray("PPO", lambda config: Old(gym.make("CartPole-v1")))
        algo.train(), algo.train()
    said = [str(each.message) for each in told if "In a worker" in str(each.message)]
    assert [each.partition(": ")[2] for each in said] == [
        "UserWarning: this simulator is old",
        "its joints are stiff",
    ]
