"""Guards IMPALA and APPO.

V-trace and the updates against independent ones, and the actor that samples meanwhile.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

import poise
from environments import Echo, Endless, Masked, Noise, Reach, Scripted, ShortLived, Task
from poise.algorithms.team import make_algorithm
from poise.config.model import ModelConfig
from poise.config.resolve import resolve
from poise.errors import ConfigError, EnvError
from poise.learning.optimizers import Flat
from poise.learning.returns import advantages, vtrace
from poise.models.policy import Policy
from poise.sampling import background
from poise.sampling.background import BackgroundGroup
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout
from poise.sampling.sampler import Sampler
from poise.spaces.layout import Layout
from poise.stepping.failures import Failure, Failures
from poise.stepping.inline import InlineVectorEnv
from poise.training import checkpoint
from poise.training.trainer import Trainer
from rollouts import sample

Make = Callable[..., Trainer]
BOTH = pytest.mark.parametrize("algorithm", ["IMPALA", "APPO"])

TINY: dict[str, Any] = {
    "preset": None,
    "num_envs": 4,
    "rollout_fragment_length": 8,
    "timesteps_per_iteration": 200,
    "model": {"fcnet_hiddens": [16]},
}
FAST: dict[str, dict[str, Any]] = {
    "IMPALA": {
        "num_envs": 16,
        "rollout_fragment_length": 8,
        "lr": [[0, 5e-3], [30_000, 5e-4]],
        "entropy_coeff": 0,
    },
    "APPO": {
        "num_envs": 16,
        "rollout_fragment_length": 16,
        "lr": [[0, 5e-3], [20_000, 5e-4]],
        "minibatch_size": 64,
    },
}


def acting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "poise-sampling"]


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    yield
    assert not acting()


def press_ctrl_c(entered: threading.Event, times: int = 1) -> None:
    """In the main thread, once an environment is in a step.

    So whatever is to catch it is in place.
    """
    ident = threading.main_thread().ident
    assert ident is not None

    def press(ident: int) -> None:
        entered.wait()
        for _ in range(times):
            time.sleep(0.2)
            signal.pthread_kill(ident, signal.SIGINT)

    threading.Thread(target=press, args=(ident,), daemon=True).start()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# --- V-trace --------------------------------------------------------------------------------------


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


def some_rows(steps: int = 12, slots: int = 5) -> tuple[Tensor, ...]:
    """Rewards, values, next values, ends and cuts."""
    generator = torch.Generator().manual_seed(1)
    numbers = (
        torch.randn(steps, slots, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    ends = (torch.rand(steps, slots, generator=generator) < 0.2 for _ in range(2))
    return *numbers, *ends


@pytest.mark.parametrize("lambda_", [0.0, 0.9, 1.0])
def test_on_policy_both_of_vtraces_results_are_the_generalized_advantages(lambda_: float) -> None:
    known = some_rows()
    correction, advantage = vtrace(torch.zeros(12, 5), *known, gamma=0.9, lambda_=lambda_)
    expected = advantages(*known, gamma=0.9, lambda_=lambda_)
    torch.testing.assert_close(correction, expected)
    torch.testing.assert_close(advantage, expected)


def test_golden_vtrace() -> None:
    """Ratios 2, 1/2 and 4, limits ρ̄ = 1.5 and 3 for the policy; γ = 1/2."""
    ratio, reward, value = column(2, 0.5, 4), column(1, 2, 3), column(4, 8, 16)
    after, none = column(8, 16, 32), flags(0, 0, 0)
    settings = {"gamma": 0.5, "lambda_": 1.0, "rho_limit": 1.5, "pg_rho_limit": 3.0}
    correction, advantage = vtrace(ratio.log(), reward, value, after, none, none, **settings)
    last = 1.5 * (3 + 0.5 * 32 - 16)
    middle = 0.5 * (2 + 0.5 * 16 - 8) + 0.5 * 0.5 * last
    first = 1.5 * (1 + 0.5 * 8 - 4) + 0.5 * 1 * middle
    torch.testing.assert_close(correction, column(first, middle, last))
    expected = [
        2 * (1 + 0.5 * (8 + middle) - 4),
        0.5 * (2 + 0.5 * (16 + last) - 8),
        3 * (3 + 0.5 * 32 - 16),
    ]
    torch.testing.assert_close(advantage, column(*expected))
    # An end and a cut in the middle: what comes after does not reach what was before; only the cut
    # bootstraps.
    for ends, worth in (((flags(0, 1, 0), none), 0.0), ((none, flags(0, 1, 0)), 0.5 * 16)):
        correction, advantage = vtrace(ratio.log(), reward, value, after, *ends, **settings)
        assert correction[1].item() == pytest.approx(0.5 * (2 + worth - 8))
        assert advantage[1].item() == pytest.approx(0.5 * (2 + worth - 8))
        assert correction[2].item() == pytest.approx(last)


def test_reset_rows_do_not_leak() -> None:
    ratio, none = column(1, 1, 7, 1), flags(0, 0, 0, 0)
    value, after, ended = column(1, 2, 3, 4), column(2, 3, 4, 5), flags(0, 1, 0, 0)
    found = []
    for reset in (0.0, 1e9):
        reward = column(1, 1, reset, 1)
        found.append(vtrace(ratio.log(), reward, value, after, ended, none, gamma=0.9, lambda_=1.0))
    keep = [0, 1, 3]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a[keep], b[keep])


# --- the updates ----------------------------------------------------------------------------------


def plain(mlp: Any) -> nn.Sequential:
    """A stack of layers as one would write it, with the parameters of another."""
    layers: list[nn.Module] = []
    for layer in mlp.layers:
        copy = nn.Linear(layer.in_features, layer.out_features)
        copy.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()})
        layers += [copy, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def off_policy_rollout(made: Trainer) -> Rollout:
    """One whose policy was another than the one that learns now."""
    algorithm = made.algorithm
    rollout = made.samplers.collect()
    algorithm.flat.data.add_(
        torch.randn(len(algorithm.flat.data), generator=torch.Generator().manual_seed(3)) * 0.2
    )
    return rollout


@pytest.mark.parametrize("opt_type", ["adam", "rmsprop"])
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "scaled"])
def test_one_update_of_impala_is_that_of_plain_pytorch(
    trainer: Make, opt_type: str, normalize: bool
) -> None:
    settings = {
        **TINY,
        "rollout_fragment_length": 30,
        "opt_type": opt_type,
        "lambda": 0.9,
        "lr": 0.01,
    }
    settings |= {
        "vtrace_clip_rho_threshold": 1.2,
        "vtrace_clip_pg_rho_threshold": 0.8,
        "entropy_coeff": 0.02,
    }
    made = trainer(
        "IMPALA",
        lambda config: ShortLived(),
        **settings,
        normalize_rewards=normalize,
        grad_clip=0.3,
    )
    algorithm: Any = made.algorithm
    rollout = off_policy_rollout(made)
    assert (rollout.valid == 0).any()
    pi, vf = plain(algorithm.policy.network.pi), plain(algorithm.policy.network.vf)
    parameters = [*pi.parameters(), *vf.parameters()]
    if opt_type == "adam":
        optimizer: Any = torch.optim.Adam(parameters, 0.01, eps=1e-5)
    else:
        optimizer = torch.optim.RMSprop(parameters, 0.01, alpha=0.99, eps=1e-5)
    reward = algorithm.learner_reward(rollout).clone()
    if normalize:
        algorithm.reward_scaler.__init__(0.99)
    steps, slots, gamma, lambda_ = 30, 4, 0.99, 0.9
    obs = rollout.obs["value"]
    v = vf(obs).squeeze(-1)
    log_pi = pi(obs[:-1]).log_softmax(-1)
    log_prob = log_pi.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1)
    ratio = (log_prob - rollout.log_prob).exp().detach()
    assert (ratio - 1).abs().max() > 0.05
    target, advantage = torch.zeros(steps, slots), torch.zeros(steps, slots)
    with torch.no_grad():
        for b in range(slots):
            for t in reversed(range(steps)):
                end = bool(rollout.terminated[t, b])
                delta = reward[t, b] + (0 if end else gamma * v[t + 1, b]) - v[t, b]
                later = 0.0 if end or t == steps - 1 else target[t + 1, b] - v[t + 1, b]
                weights = min(1.2, ratio[t, b]), lambda_ * min(1.0, ratio[t, b])
                target[t, b] = v[t, b] + weights[0] * delta + gamma * weights[1] * later
                advantage[t, b] = min(0.8, ratio[t, b]) * (delta + gamma * lambda_ * later)
    counts = rollout.valid.bool()
    policy_loss = -(log_prob * advantage)[counts].mean()
    vf_loss = ((v[:-1] - target) ** 2)[counts].mean()
    entropy = -(log_pi.exp() * log_pi).sum(-1)[counts].mean()
    optimizer.zero_grad()
    (policy_loss + 0.5 * vf_loss - 0.02 * entropy).backward()
    norm = nn.utils.clip_grad_norm_(parameters, 0.3)
    optimizer.step()
    report = algorithm.update(rollout)
    found = [report[key] for key in ("policy_loss", "vf_loss", "entropy", "grad_norm")]
    expected = [x.item() for x in (policy_loss, vf_loss, entropy, norm)]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for network, judge in ((algorithm.policy.network.pi, pi), (algorithm.policy.network.vf, vf)):
        for a, b in zip(plain(network).parameters(), judge.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_minibatches_are_whole_trajectories(trainer: Make) -> None:
    settings = {**TINY, "minibatch_size": 16, "num_sgd_iter": 3}
    algorithm: Any = trainer("IMPALA", "CartPole-v1", **settings).algorithm
    made = trainer("IMPALA", "CartPole-v1", **settings)
    seen: list[Rollout] = []
    loss = algorithm.loss
    algorithm.loss = lambda part, *rest: (seen.append(part), loss(part, *rest))[1]
    rollout = made.samplers.collect()
    algorithm.update(rollout)
    assert algorithm.updates == 6
    assert [part.slots for part in seen] == [2] * 6
    assert torch.equal(torch.cat([part.obs["value"] for part in seen[:2]], 1), rollout.obs["value"])


def test_without_a_lag_appo_is_ppo(trainer: Make) -> None:
    settings = {**TINY, "minibatch_size": 16, "num_sgd_iter": 3, "lr": 0.01, "entropy_coeff": 0.01}
    ppo: Any = trainer("PPO", "CartPole-v1", **settings)
    appo: Any = trainer("APPO", "CartPole-v1", **settings).algorithm
    assert torch.equal(appo.flat.data, ppo.algorithm.flat.data)
    for _ in range(4):
        rollout = ppo.samplers.collect()
        batches = ppo.algorithm.batch(rollout), appo.batch(rollout)
        for name in ("action", "log_prob", "advantage", "value", "target", "weight"):
            torch.testing.assert_close(
                *(getattr(batch, name) for batch in batches), atol=1e-5, rtol=1e-5
            )
        stats = ppo.algorithm.learn(batches[0]), appo.learn(batches[1])
        assert stats[0] == pytest.approx(stats[1], rel=1e-3, abs=1e-5)
        torch.testing.assert_close(appo.flat.data, ppo.algorithm.flat.data, atol=1e-5, rtol=1e-4)


def test_appo_weighs_what_another_policy_chose(trainer: Make) -> None:
    made = trainer("APPO", "CartPole-v1", **TINY)
    algorithm: Any = made.algorithm
    rollout = off_policy_rollout(made)
    batch = algorithm.batch(rollout)
    policy = algorithm.policy
    with torch.no_grad():
        inputs, value = policy(
            policy.prepare({k: leaf.flatten(0, 1) for k, leaf in rollout.obs.items()})
        )
    log_prob = policy.dist.log_prob(inputs[:32], rollout.action.flatten())
    torch.testing.assert_close(batch.log_prob, log_prob)  # so that the first ratio is 1
    ratio = (log_prob.view(8, 4) - rollout.log_prob).exp()
    assert (ratio - 1).abs().max() > 0.05
    settings = {"gamma": 0.99, "lambda_": 0.95}
    value = value.view(9, 4)
    known = rollout.reward, value[:-1], value[1:], rollout.terminated, rollout.truncated
    torch.testing.assert_close(
        batch.advantage.view(8, 4), vtrace(ratio.log(), *known, **settings)[0]
    )


# --- in the background ----------------------------------------------------------------------------

LENGTHS = [(2, 3), (4,), (1, 5, 2)]


def vector_env(mode: str) -> Any:
    makers = [lambda own=own: Scripted(own) for own in LENGTHS]
    if mode == "inline":
        rest = iter(makers)
        return InlineVectorEnv(lambda: next(rest)(), len(makers))
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])


def samplers_of(*modes: str) -> tuple[Policy, list[Sampler]]:
    envs = [vector_env(mode) for mode in modes]
    torch.manual_seed(0)
    layouts = Layout(envs[0].single_observation_space), Layout(envs[0].single_action_space)
    policy = Policy(*layouts, ModelConfig())
    failures = Failures(3 * len(envs))
    seeds = [np.random.SeedSequence(i) for i in range(len(envs))]
    return policy, [
        Sampler(policy, env, 5, seed, failures=failures, first_slot=3 * i)
        for i, (env, seed) in enumerate(zip(envs, seeds, strict=True))
    ]


@BOTH
def test_a_queue_that_memory_cannot_hold_is_refused(
    trainer: Make, monkeypatch: Any, algorithm: str
) -> None:
    with pytest.raises(
        ConfigError,
        match="learner_queue_size=1000000000 is not allowed: it must be an integer from 0",
    ):
        trainer(algorithm, "CartPole-v1", learner_queue_size=10**9)
    monkeypatch.setattr("poise.config.memory.free_memory", lambda: 2**26)
    settings = {"preset": None, "num_envs": 64, "n_steps": 256, "learner_queue_size": 1000}
    with pytest.raises(ConfigError, match="learner_queue_size=1000 takes"):
        trainer(algorithm, "CartPole-v1", **settings)


def in_background(policy: Policy, samplers: list[Sampler], waiting: int = 1) -> BackgroundGroup:
    return BackgroundGroup(SamplerGroup(samplers), policy, Flat(policy), waiting)


def copied(rollout: Rollout) -> dict[str, Any]:
    tensors = {
        name: getattr(rollout, name) for name in ("action", "log_prob", "reward", "valid", "first")
    }
    tensors |= {"terminated": rollout.terminated, "truncated": rollout.truncated, **rollout.obs}
    final = [
        (t, b, {k: v.tolist() for k, v in leaves.items()})
        for t, b, leaves in sorted(rollout.final)[:99]
    ]
    return {**{name: tensor.clone() for name, tensor in tensors.items()}, "final": final}


@pytest.mark.parametrize(
    "modes", [("inline",), ("NEXT_STEP",), ("SAME_STEP",), ("inline", "inline"), ("SAME_STEP",) * 2]
)
@pytest.mark.parametrize("waiting", [0, 2])
def test_rollouts_are_those_of_samplers_that_nobody_hurries(
    modes: tuple[str, ...], waiting: int
) -> None:
    """With a policy that stays as it is, and blocks that begin and end amid them."""
    _, straight = samplers_of(*modes)
    policy, samplers = samplers_of(*modes)
    group = in_background(policy, samplers, waiting)
    for block in (1, 4, 2):
        with group:
            for _ in range(block):
                found, expected = copied(group.collect()), copied(sample(*straight))
                for name, value in expected.items():
                    assert (
                        torch.equal(found[name], value)
                        if torch.is_tensor(value)
                        else found[name] == value
                    ), name
        assert not acting()


def test_a_full_queue_stops_the_actor() -> None:
    policy, samplers = samplers_of("inline")
    group = in_background(policy, samplers, waiting=2)
    steps = 0
    env = samplers[0].env
    recv = env.recv

    def counted() -> Any:
        nonlocal steps
        steps += 1
        return recv()

    env.recv = counted
    with group:
        until(lambda: group.ready == 4)  # nobody has taken one
        time.sleep(0.05)
        assert (steps, group.ready) == (20, 4)
        group.collect()
        until(lambda: steps == 20)
        time.sleep(0.05)
        assert (steps, group.ready) == (20, 3), "what the learner learns from is not overwritten"
        group.collect()
        until(lambda: group.ready == 3)
    assert steps == 25


def test_who_keeps_the_other_waiting_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STALLED_S", 0.05)
    policy, samplers = samplers_of("inline")
    told: list[Failure] = []
    samplers[0].failures.report = told.append
    group = in_background(policy, samplers)
    gate, recv = threading.Event(), samplers[0].env.recv
    samplers[0].env.recv = lambda: (gate.wait(), recv())[1]
    waits = 0
    wait = group._changed.wait

    def counted(timeout: float) -> bool:
        nonlocal waits
        waits += 1
        return wait(timeout)

    group._changed.wait = counted
    threading.Timer(0.4, gate.set).start()
    with group:
        group.collect()
        assert waits < 20, "it is woken up, and does not look all the time"
        until(lambda: len(told) == 2)
        assert group.waited > 0
    assert "The learner has waited 0 s for a rollout" in told[0].what
    assert "The learner has not finished with a rollout for" in told[1].what
    assert samplers[0].failures.total == 0


def test_parameters_and_moments_are_taken_up_between_rollouts() -> None:
    envs = [InlineVectorEnv(lambda: Noise(), 3)]
    policy = Policy(
        Layout(envs[0].single_observation_space),
        Layout(envs[0].single_action_space),
        ModelConfig(),
        normalize_observations=True,
    )
    sampler = Sampler(policy, envs[0], 4, np.random.SeedSequence(0))
    flat = Flat(policy)
    group = BackgroundGroup(SamplerGroup([sampler]), policy, flat, waiting=0)
    assert sampler.policy is group.policy is not policy
    assert policy.normalizer is not None
    with group:
        assert [group.collect().version for _ in range(2)] == [0, 0]
        until(lambda: group.ready == 1)  # version 0 again
        flat.data.fill_(0.25)
        policy.normalizer.update(torch.randn(50, 3) + 5, torch.ones(50))
        assert group.policy.normalizer.count == 0
        group.publish(7)
        assert [group.collect().version for _ in range(3)] == [0, 7, 7]
    assert torch.equal(torch.cat([p.flatten() for p in group.policy.parameters()]), flat.data)
    assert torch.equal(group.policy.normalizer.mean, policy.normalizer.mean)
    flat.data.fill_(0.5)
    assert not torch.equal(torch.cat([p.flatten() for p in group.policy.parameters()]), flat.data)


@pytest.mark.parametrize("waiting", [0, 1, 3])
@pytest.mark.parametrize("broadcast", [1, 3])
@BOTH
def test_the_lag_is_bounded(trainer: Make, algorithm: str, waiting: int, broadcast: int) -> None:
    settings = {
        **TINY,
        "learner_queue_size": waiting,
        "broadcast_interval": broadcast,
        "minibatch_size": 16,
    }
    made = trainer(algorithm, "CartPole-v1", **settings, num_sgd_iter=1)
    learner: Any = made.algorithm
    update = learner.update

    def patient(rollout: Rollout) -> dict[str, float]:
        until(lambda: made.samplers.ready == waiting + 1)  # all that there are but this one
        stats: dict[str, float] = update(rollout)
        return stats

    learner.update = patient
    lags = []
    for _ in range(4):
        result = made.train()
        lags.append(result["learner/policy_lag_max"])
        assert 0 <= result["learner/policy_lag_mean"] <= result["learner/policy_lag_max"]
        assert result["learner/queue_size"] <= waiting + 2
    per_rollout = 2  # gradient steps
    assert max(lags) == per_rollout * (waiting + broadcast)


# --- what goes wrong ------------------------------------------------------------------------------


class Failing(Task):
    """Raises whatever it is told to at its n-th step in all."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    left = 0

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self.error = error

    def observe(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def judge(self, action: Any) -> float:
        Failing.left -= 1
        if Failing.left < 0:
            raise self.error()
        return 1.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@BOTH
@pytest.mark.parametrize("after", [10, 300])
def test_an_environment_that_always_fails_is_told_with_its_traceback(
    trainer: Make, algorithm: str, after: int
) -> None:
    Failing.left = after
    made = trainer(
        algorithm, lambda config: Failing(lambda: ValueError("the motor is broken")), **TINY
    )
    with pytest.raises(
        EnvError, match=r"(?s)this is a bug, not an accident.*the motor is broken.*in judge"
    ):
        made.learn(10_000)
    assert not acting()
    Failing.left = 10**9
    assert made.train()["timesteps_this_iter"] >= 200


def test_what_the_actor_raises_comes_with_its_own_traceback(trainer: Make) -> None:
    made = trainer("IMPALA", "CartPole-v1", **TINY)
    made.train()

    def broken_act(*arguments: Any) -> Any:
        raise ZeroDivisionError("in the policy")

    made.samplers.policy.act = broken_act
    with pytest.raises(ZeroDivisionError, match="in the policy") as caught:
        made.train()
    assert "broken_act" in [entry.name for entry in caught.traceback]
    del made.samplers.policy.act
    assert made.train()["timesteps_this_iter"] >= 200


@BOTH
def test_an_error_in_the_learner_ends_the_actor(trainer: Make, algorithm: str) -> None:
    made = trainer(algorithm, "CartPole-v1", **TINY)
    made.train()
    learner: Any = made.algorithm
    update = learner.update

    def pressed(rollout: Rollout) -> dict[str, float]:
        raise KeyboardInterrupt

    learner.update = pressed
    with pytest.raises(KeyboardInterrupt):
        made.learn(1000)
    assert not acting()
    learner.update = update
    assert made.train()["timesteps_this_iter"] >= 200


def test_ctrl_c_while_the_learner_waits(trainer: Make) -> None:
    """A second Ctrl-C, while an environment takes its time, does not wait for a full rollout."""
    gate, entered = threading.Event(), threading.Event()

    class Slow(Echo):
        def step(self, action: Any) -> Any:
            entered.set()
            gate.wait()
            return super().step(action)

    made = trainer("IMPALA", lambda config: Slow(), **TINY)
    press_ctrl_c(entered, times=2)
    threading.Timer(2, gate.set).start()
    with pytest.raises(KeyboardInterrupt):
        made.learn(10**9)
    assert not acting()
    assert made.algorithm.timesteps == 0


def test_an_environment_that_never_returns_is_left_behind(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "ABANDONED_S", 0.1)
    gate, entered = threading.Event(), threading.Event()

    class Stuck(Echo):
        def step(self, action: Any) -> Any:
            entered.set()
            gate.wait()
            return super().step(action)

    made = trainer("IMPALA", lambda config: Stuck(), **TINY)
    press_ctrl_c(entered)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert len(acting()) == 1
    assert acting()[0].daemon, "it does not keep the program from ending"
    with pytest.raises(EnvError, match="has not returned from a step"):
        made.train()
    gate.set()
    until(lambda: not acting())
    assert made.train()["timesteps_this_iter"] >= 200


def test_ctrl_c_stops_at_the_boundary(trainer: Make) -> None:
    class Press(poise.Callback):
        def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
            assert not acting(), "callbacks see samplers at rest"
            if trainer.iteration == 2:
                signal.raise_signal(signal.SIGINT)

    made = trainer("APPO", "CartPole-v1", **TINY, callbacks=[Press()])
    assert made.learn(10_000)["stop_reason"] == "interrupted"
    assert made.iteration == 2


def test_a_hang_is_named_with_where_it_hangs(trainer: Make) -> None:
    told: list[Failure] = []
    gate = threading.Event()

    class Told(poise.Callback):
        def on_failure(self, trainer: Trainer, failure: Failure) -> None:
            told.append(failure)
            gate.set()

    class Hanging(Echo):
        def step(self, action: Any) -> Any:
            gate.wait()
            return super().step(action)

    made = trainer(
        "IMPALA", lambda config: Hanging(), **TINY, env_step_timeout_s=0.2, callbacks=[Told()]
    )
    made.train()
    assert told[0].kind == "hung"
    assert "gate.wait()" in told[0].details


# --- counting and saving --------------------------------------------------------------------------


class Numbered(Task):
    """Every episode has a number of its own, drawn at its reset, which its end reports."""

    length = 7
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 1, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        found = super().reset(seed=seed)
        self.number = float(self.np_random.integers(2**50))
        return found

    def observe(self) -> np.ndarray:
        return np.array([self.now / 7, 1], np.float32)

    def judge(self, action: Any) -> float:
        return float(action)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *rest, _ = super().step(action)
        return *rest, {"number": self.number}  # type: ignore[return-value]


class Numbers(poise.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_episode_end(self, trainer: Trainer, episode: Any) -> None:
        assert episode.length == 7
        self.seen.append(episode.info["number"])


@BOTH
def test_steps_and_episodes_are_counted_once_over_a_resume(
    trainer: Make, tmp_path: Path, algorithm: str
) -> None:
    before, after = Numbers(), Numbers()
    settings = {**TINY, "normalize_observations": True}
    made = trainer(algorithm, lambda config: Numbered(), **settings, callbacks=[before])
    for _ in range(4):
        made.train()
    learner: Any = made.algorithm
    assert made.algorithm.timesteps == sum(result["timesteps_this_iter"] for result in made.history)
    in_flight = made.samplers.ready * 32
    played = len(before.seen) * 7
    assert played <= made.algorithm.timesteps + in_flight
    assert played + 4 * 7 + in_flight >= made.algorithm.timesteps
    path = made.save(tmp_path / "saved")
    assert checkpoint.verify(path)["resume_grade"] == "statistical"
    with poise.load(path, env=lambda config: Numbered()) as resumed:
        resumed.callbacks.append(after)
        assert torch.equal(resumed.algorithm.flat.data, learner.flat.data)
        assert resumed.algorithm.timesteps == learner.timesteps
        results = [resumed.train() for _ in range(4)]
        waited = f"{in_flight} steps that waited for the learner were not kept"
        assert [note.partition(":")[0] for note in resumed.notes] == [waited] * (in_flight > 0)
        assert (
            results[0]["timesteps_total"] - learner.timesteps == results[0]["timesteps_this_iter"]
        )
        assert results[-1]["episodes_total"] == len(before.seen) + len(after.seen)
        assert results[0]["learner/policy_lag_max"] < 20
    numbers = before.seen + after.seen
    assert len(after.seen) > 50
    assert len(set(numbers)) == len(numbers), "an episode was played twice"


def test_after_a_close_it_goes_on_with_its_episodes(trainer: Make) -> None:
    numbers = Numbers()
    made = trainer("IMPALA", lambda config: Numbered(), **TINY, callbacks=[numbers])
    for _ in range(3):
        made.train()
        made.close()
        assert not acting()
    assert len(set(numbers.seen)) == len(numbers.seen) > 50


def test_a_resumed_run_has_no_dip(trainer: Make, tmp_path: Path) -> None:
    made = trainer("IMPALA", lambda config: Echo(), **FAST["IMPALA"], gamma=0.5)
    result = made.learn(15_000)
    with poise.load(made.save(tmp_path / "saved"), env=lambda config: Echo()) as resumed:
        for _ in range(2):
            again = resumed.train()
    assert again["episode_reward_mean"] >= result["episode_reward_mean"] - 0.5


@BOTH
def test_shares_of_time_are_of_each_side(trainer: Make, algorithm: str) -> None:
    result = trainer(algorithm, "CartPole-v1", **TINY).train()
    shares = {
        name: result[f"perf/{name}_share"] for name in ("env", "inference", "learning", "waiting")
    }
    assert all(share >= 0 for share in shares.values())
    assert shares["env"] > 0 < shares["inference"]
    assert shares["env"] + shares["inference"] <= 1
    assert shares["learning"] + shares["waiting"] == pytest.approx(1)


# --- settings -------------------------------------------------------------------------------------


def test_names_of_rllib_are_known() -> None:
    found: Any = resolve(
        "IMPALA", "Some-v0", {"decay": 0.9, "epsilon": 0.1, "lambda": 0.9, "sample_batch_size": 50}
    )[0]
    assert (found.rms_prop_decay, found.rms_prop_eps, found.gae_lambda) == (0.9, 0.1, 0.9)
    assert found.train_batch_size == found.sgd_minibatch_size == 16 * 50
    other: Any = resolve(
        "APPO", "Some-v0", {"num_epochs": 2, "clip_range": 0.3, "train_batch_size": 640}
    )[0]
    assert (other.num_sgd_iter, other.clip_param, other.train_batch_size) == (2, 0.3, 640)


@pytest.mark.parametrize("algorithm", ["IMPALA", "APPO"])
def test_every_iteration_learns_and_publishes_when_it_is_time(
    trainer: Make, algorithm: str
) -> None:
    """With one rollout each; the first warms up the normaliser; parameters go out every third."""
    settings = {
        **TINY,
        "timesteps_per_iteration": 0,
        "normalize_observations": True,
        "broadcast_interval": 3,
    }
    made = trainer(algorithm, "CartPole-v1", **settings)
    published = []
    for _ in range(7):
        assert math.isfinite(made.train()["learner/policy_loss"])
        published.append(made.samplers._version)
    assert [bool(now > before) for before, now in pairwise(published)] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatch_size": 50}, "sgd_minibatch_size=50 contradicts rollout_fragment_length=32"),
        ({"minibatch_size": 1024}, "sgd_minibatch_size=1024 contradicts .* train_batch_size=512"),
        ({"vtrace": False}, "always weighted by V-trace"),
        ({"replay_proportion": 1.0}, "learnt from once"),
        ({"opt_type": "sgd"}, "opt_type='sgd' is not allowed"),
        ({"num_gpus": 2}, "num_gpus=2"),
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("IMPALA", "Some-v0", settings)


# --- learning -------------------------------------------------------------------------------------

ENVS: dict[str, tuple[Callable[..., gym.Env], float]] = {
    "choose": (lambda config: Echo(start=3), 0.95 * 8),
    "reach": (lambda config: Reach(), 0.85 * 8),
    "masked": (lambda config: Masked([]), 0.9 * 8),
    "mask reported": (lambda config: Masked([], in_info=True), 0.9 * 8),
}


@BOTH
@pytest.mark.parametrize("name", ENVS)
def test_does_what_is_shown(trainer: Make, algorithm: str, name: str) -> None:
    env, enough = ENVS[name]
    made = trainer(algorithm, env, **FAST[algorithm], gamma=0.5, model={"log_std_init": -1.0})
    made.learn(stop={"episode_reward_mean": 1.03 * enough, "timesteps_total": 30_000})
    assert made.evaluate(20)["episode_reward_mean"] >= enough


@BOTH
@pytest.mark.parametrize(
    ("env", "value"), [(Endless, 5.0), (ShortLived, None)], ids=["cut", "ended"]
)
def test_values_of_known_tasks(
    trainer: Make, algorithm: str, env: type[Endless], value: float | None
) -> None:
    made = trainer(algorithm, lambda config: env(), **FAST[algorithm], gamma=0.8)
    made.learn(20_000)
    with torch.no_grad():
        found = made.policy.critic(made.policy.prepare({"value": torch.ones(1, 1)})).item()
    if value is None:
        assert 2.0 < found < 3.2
    else:
        assert found == pytest.approx(value, rel=0.05)


@BOTH
def test_same_step_resets_are_learnt_from_alike(algorithm: str) -> None:
    """Values of `Endless` and `ShortLived`, with final observations beside the rollout."""
    for env, low, high in ((Endless, 4.75, 5.25), (ShortLived, 2.0, 3.2)):
        vector = SyncVectorEnv([env] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
        layouts = Layout(vector.single_observation_space), Layout(vector.single_action_space)
        settings = {**FAST[algorithm], "num_envs": 8, "gamma": 0.8, "minibatch_size": 64}
        config: Any = resolve(algorithm, "Some-v0", settings)[0]
        learner: Any = make_algorithm(algorithm, config, *layouts, np.random.SeedSequence(0))
        length = config.rollout_fragment_length
        samplers = learner.place(
            SamplerGroup([Sampler(learner.policy, vector, length, np.random.SeedSequence(1))])
        )
        while learner.timesteps < 15_000:
            learner.iteration(samplers)
        assert low < learner.policy.critic(torch.ones(1, 1)).item() < high


@BOTH
def test_worker_processes_step_meanwhile(trainer: Make, algorithm: str) -> None:
    made = trainer(algorithm, lambda config: Echo(), **FAST[algorithm], gamma=0.5, num_workers=2)
    made.learn(15_000)
    assert len(made.samplers.members) == 2
    assert made.evaluate(20)["episode_reward_mean"] >= 0.9 * 8


@BOTH
def test_cartpole_learns(trainer: Make, algorithm: str) -> None:
    made = trainer(algorithm, "CartPole-v1")
    made.learn(stop={"episode_reward_mean": 150, "timesteps_total": 150_000})
    assert made.history[-1]["episode_reward_mean"] >= 150


@pytest.mark.slow
@BOTH
def test_cartpole_is_solved_by_its_preset(trainer: Make, algorithm: str) -> None:
    made = trainer(algorithm, "CartPole-v1")
    made.learn(stop={"episode_reward_mean": 475, "timesteps_total": 1_000_000})
    assert made.history[-1]["episode_reward_mean"] >= 475
    if algorithm == "IMPALA":  # what it has learnt is still there when it trains on
        assert made.learn(200_000)["episode_reward_mean"] >= 400
