"""Guards the trainer.

The result dict, the arithmetic of steps and episodes, stop rules, callbacks, interrupts,
evaluation, seeds, acting, divergence, and what an environment may be given as.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import poise
from environments import Echo, Noise, Reach, Scripted
from poise.algorithms.ppo import PPO
from poise.errors import ConfigError, DivergedError, EnvError
from poise.learning.learner import MAX_SKIPPED
from poise.training.trainer import Trainer
from test_checkpoint import same
from test_resume import timeless

Make = Callable[..., Trainer]

TINY: dict[str, Any] = {
    "preset": None,
    "num_envs_per_worker": 2,
    "rollout_fragment_length": 16,
    "num_sgd_iter": 2,
    "model": {"fcnet_hiddens": [8]},
}

EPISODES = {"episode_reward_mean", "episode_reward_min", "episode_reward_max", "episode_len_mean"}
RESULT_KEYS = {
    *EPISODES,
    "episodes_this_iter",
    "episodes_total",
    "episodes_lost_total",
    "env_failures_total",
    "worker_restarts_total",
    "timesteps_this_iter",
    "timesteps_total",
    "timesteps_since_best",
    "training_iteration",
    "time_this_iter_s",
    "time_total_s",
    "perf/env_steps_per_s",
    "perf/env_share",
    "perf/inference_share",
    "perf/learning_share",
    "perf/waiting_share",
}
LEARNER_KEYS = {
    "PPO": {
        "policy_loss", "vf_loss", "kl", "clip_fraction", "entropy", "grad_norm", "vf_explained_var",
        "cur_lr", "cur_clip_param", "cur_entropy_coeff", "sgd_steps", "skipped_updates",
    },
    "A2C": {
        "policy_loss", "vf_loss", "entropy", "vf_explained_var", "grad_norm", "cur_lr",
        "cur_entropy_coeff", "sgd_steps", "skipped_updates",
    },
}  # fmt: skip


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "IMPALA", "APPO"])
def test_an_iteration_has_the_steps_that_were_asked_for(trainer: Make, algorithm: str) -> None:
    algo = (
        trainer(
            algorithm,
            "CartPole-v1",
            preset=None,
            num_envs=4,
            n_steps=8,
            timesteps_per_iteration=100,
        )
        if (algorithm != "DQN")
        else trainer(
            algorithm,
            "CartPole-v1",
            preset=None,
            num_envs=4,
            timesteps_per_iteration=100,
            learning_starts=0,
        )
    )
    for _ in range(2):
        result = algo.train()
        assert 100 <= result["timesteps_this_iter"] <= 132
        assert result["learner/sgd_steps"] >= 3


# --- the result dict ------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_a_result_has_exactly_the_promised_keys(trainer: Make, algorithm: str) -> None:
    settings = {k: v for k, v in TINY.items() if algorithm == "PPO" or k != "num_sgd_iter"}
    algo = trainer(
        algorithm, "CartPole-v1", **settings, evaluation_interval=2, evaluation_duration=2
    )
    learner = {f"learner/{key}" for key in LEARNER_KEYS[algorithm]}
    first, second = algo.train(), algo.train()
    assert set(first) == RESULT_KEYS | learner
    evaluation = {f"evaluation/{key}" for key in {*EPISODES, "episode_reward_std", "episodes"}}
    assert set(second) == RESULT_KEYS | learner | evaluation
    assert all(isinstance(value, (int, float)) for value in second.values())
    assert list(algo.history) == [first, second]
    shares = [second[f"perf/{part}_share"] for part in ("env", "inference", "learning", "waiting")]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1, abs=0.01)


def test_numbers_that_environments_report_are_averaged(trainer: Make) -> None:
    algo = trainer("PPO", lambda config: Scripted(), **TINY)
    result = algo.train()
    numbers = [episode.info["episode_number"] for episode in algo.metrics.window]
    assert result["info/episode_number"] == sum(numbers) / len(numbers)
    assert set(result) - RESULT_KEYS == {
        "info/episode_number",
        *(f"learner/{k}" for k in LEARNER_KEYS["PPO"]),
    }


def scripted_episodes(steps: int) -> tuple[list[tuple[float, int]], int]:
    """Returns and lengths of `Scripted`'s episodes in one slot, and real steps.

    The slot takes `steps` steps with resets.
    """
    done, episode, used, real = [], 0, 0, 0
    while used < steps:
        episode += 1
        length = (2, 3)[(episode - 1) % 2]
        taken = min(length, steps - used)
        real, used = real + taken, used + taken + 1  # the step after the end only resets
        if taken == length:
            done.append((sum(10.0 * episode + n for n in range(1, length + 1)), length))
    return done, real


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_steps_and_episodes_are_counted_right(trainer: Make, iterations: int) -> None:
    algo = trainer("PPO", lambda config: Scripted(), **TINY)
    results = [algo.train() for _ in range(iterations)]
    done, real = scripted_episodes(16 * iterations)
    before = scripted_episodes(16 * (iterations - 1))
    last = results[-1]
    assert last["timesteps_total"] == 2 * real
    assert last["timesteps_this_iter"] == 2 * (real - before[1])
    assert last["episodes_total"] == 2 * len(done)
    assert last["episodes_this_iter"] == 2 * (len(done) - len(before[0]))
    assert last["training_iteration"] == iterations
    rewards, lengths = [reward for reward, _ in done], [length for _, length in done]
    assert last["episode_reward_mean"] == pytest.approx(np.mean(rewards))
    assert (last["episode_reward_min"], last["episode_reward_max"]) == (min(rewards), max(rewards))
    assert last["episode_len_mean"] == pytest.approx(np.mean(lengths))
    assert last["time_total_s"] == pytest.approx(sum(r["time_this_iter_s"] for r in results))


def test_statistics_are_of_the_last_episodes(trainer: Make) -> None:
    algo = trainer(
        "PPO",
        lambda config: Scripted(),
        **{**TINY, "num_envs_per_worker": 1},
        metrics_smoothing_episodes=3,
    )
    for _ in range(3):
        result = algo.train()
    rewards = [reward for reward, _ in scripted_episodes(48)[0]]
    assert len(rewards) > 3
    assert result["episode_reward_mean"] == pytest.approx(np.mean(rewards[-3:]))
    assert result["episode_reward_min"] == min(rewards[-3:])


def test_before_any_episode_ended_the_means_are_nan(trainer: Make) -> None:
    result = trainer("PPO", lambda config: Scripted(lengths=(1000,)), **TINY).train()
    assert all(math.isnan(result[key]) for key in EPISODES)
    assert (result["episodes_total"], result["timesteps_total"]) == (0, 32)


# --- when it stops --------------------------------------------------------------------------------


def test_stop_by_key(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    result = algo.learn(stop={"training_iteration": 3, "time_total_s": 1000})
    assert result["training_iteration"] == algo.iteration == 3
    assert result["stop_reason"] == "training_iteration reached 3"
    # It is there already.
    assert algo.learn(stop={"training_iteration": 3})["training_iteration"] == 3
    assert algo.learn(stop={"training_iteration": 4})["training_iteration"] == 4


def test_stop_by_callable(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    result = algo.learn(stop=lambda result: result["timesteps_total"] > 60)
    assert 60 < result["timesteps_total"] <= 96
    assert result["stop_reason"] == "the stop function said so"


def test_learn_for_a_number_of_steps_from_now_on(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    first = algo.learn(total_timesteps=70)
    assert 70 <= first["timesteps_total"] < 70 + 32
    assert first["stop_reason"] == "70 timesteps"
    second = algo.learn(total_timesteps=70)
    assert 70 <= second["timesteps_total"] - first["timesteps_total"] < 70 + 32


def test_a_key_that_results_do_not_have_suggests_the_nearest(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    with pytest.raises(ConfigError, match="Did you mean 'episode_reward_mean'") as caught:
        algo.learn(stop={"episode_reward_maen": 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [1, None, ("episode_reward_mean",)])
def test_a_stop_key_that_is_no_text_is_one_that_results_do_not_have(
    trainer: Make, key: Any
) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    with pytest.raises(ConfigError, match="which results do not have"):
        algo.learn(stop={key: 2})


@pytest.mark.parametrize(
    "stop",
    [
        {"training_iteration": "3"},
        {"training_iteration": True},
        {"time_total_s": math.nan},
        {"time_total_s": None},
        5,
        "episode_reward_mean=475",
    ],
)
def test_a_stop_rule_that_is_none_is_refused_before_training(trainer: Make, stop: Any) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    with pytest.raises(ConfigError, match=r"stop.*not allowed"):
        algo.learn(stop=stop)
    assert algo.iteration == 0


def test_means_count_only_when_their_window_is_full(trainer: Make) -> None:
    """CartPole's first episodes exceed 5 steps at once.

    The run must go on until 30 of them are in the mean.
    """
    algo = trainer("PPO", "CartPole-v1", **TINY, metrics_smoothing_episodes=30)
    result = algo.learn(stop={"episode_reward_mean": 5, "training_iteration": 500}, confirm=False)
    assert result["stop_reason"] == "episode_reward_mean reached 5"
    assert 30 <= result["episodes_total"] < 30 + result["episodes_this_iter"] + 1
    assert algo.history[-2]["episodes_total"] < 30


def test_nan_never_stops(trainer: Make) -> None:
    algo = trainer(
        "PPO", lambda config: Scripted(lengths=(1000,)), **TINY, metrics_smoothing_episodes=1
    )
    result = algo.learn(stop={"episode_reward_mean": -1e9, "training_iteration": 3})
    assert result["stop_reason"] == "training_iteration reached 3"


def test_evaluation_and_info_keys_may_come_later(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY, evaluation_interval=2, evaluation_duration=1)
    stop = {"evaluation/episode_reward_mean": 1, "info/success": 1, "training_iteration": 9}
    assert algo.learn(stop=stop)["training_iteration"] == 2


# --- callbacks ------------------------------------------------------------------------------------


class Diary(poise.Callback):
    """Notes every call, with the name of the diary."""

    def __init__(self, name: str, pages: list[Any]) -> None:
        self.name, self.pages = name, pages

    def on_run_start(self, trainer: Trainer) -> None:
        self.pages.append((self.name, "start"))

    def on_run_end(self, trainer: Trainer, reason: str) -> None:
        self.pages.append((self.name, "end", reason))

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        self.pages.append((self.name, "iteration", result["training_iteration"]))

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        assert (path / "manifest.json").is_file()
        self.pages.append((self.name, "checkpoint", path.name))

    def on_evaluation(self, trainer: Trainer, evaluation: dict[str, float]) -> None:
        self.pages.append((self.name, "evaluation", evaluation["episodes"]))
        evaluation["mine"] = 7.0


def test_callbacks_are_called_in_order(trainer: Make, tmp_path: Path) -> None:
    pages: list[Any] = []
    algo = trainer("PPO", "CartPole-v1", **TINY, evaluation_interval=2, evaluation_duration=3,
                   callbacks=[Diary("a", pages), Diary("b", pages)])  # fmt: skip
    result = algo.learn(stop={"training_iteration": 2})
    algo.save(tmp_path / "saved")
    expected = [
        ("start",),
        ("iteration", 1),
        ("evaluation", 3),
        ("iteration", 2),
        ("end", "training_iteration reached 2"),
        ("checkpoint", "saved"),
    ]
    assert pages == [(name, *event) for event in expected for name in "ab"]
    assert result["evaluation/mine"] == 7.0


class Adding(poise.Callback):
    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        result["twice"] = 2 * result["training_iteration"]


class Reading(poise.Callback):
    def __init__(self) -> None:
        self.read: list[Any] = []

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        self.read.append(result["twice"])


def test_a_callback_may_add_metrics_and_all_others_see_them(tmp_path: Path) -> None:
    reading = Reading()
    run = poise.run("PPO", "CartPole-v1", folder=tmp_path, quiet=True, tensorboard=False,
                    stop={"twice": 6}, callbacks=[Adding(), reading], **TINY)  # fmt: skip
    run.trainer.close()
    assert run.result["stop_reason"] == "twice reached 6"
    assert reading.read == [2, 4, 6] == [r["twice"] for r in run.folder.metrics()]
    assert [r["twice"] for r in run.trainer.history] == [2, 4, 6]


class Stopping(poise.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if trainer.iteration == self.at:
            trainer.stop("good enough")
            trainer.stop("a later reason does not count")


def test_a_callback_may_stop_the_run(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY, callbacks=[Stopping(2)])
    assert algo.learn(stop={"training_iteration": 9})["stop_reason"] == "good enough"
    assert algo.iteration == 2
    # A stop is for one `learn`.
    assert algo.learn(total_timesteps=1)["stop_reason"] == "1 timesteps"


class Episodes(poise.Callback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_episode_end(self, trainer: Trainer, episode: Any) -> None:
        self.seen.append(
            (episode.slot, episode.info["episode_number"], episode.reward, episode.length)
        )

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        assert len(self.seen) == result["episodes_total"]


def test_every_episode_is_told_once(trainer: Make) -> None:
    episodes = Episodes()
    trainer("PPO", lambda config: Scripted(), **TINY, callbacks=[episodes]).learn(
        stop={"training_iteration": 3}
    )
    done, _ = scripted_episodes(48)
    expected = [(slot, i + 1, reward, n) for slot in (0, 1) for i, (reward, n) in enumerate(done)]
    assert sorted(episodes.seen) == expected


class Exploding(poise.Callback):
    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        raise ZeroDivisionError("at once")


def test_the_end_is_told_after_an_exception_too(trainer: Make) -> None:
    pages: list[Any] = []
    algo = trainer("PPO", "CartPole-v1", **TINY, callbacks=[Diary("a", pages), Exploding()])
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError, match="at once"):
        algo.learn(stop={"training_iteration": 9})
    assert pages == [
        ("a", "start"),
        ("a", "iteration", 1),
        ("a", "end", "ZeroDivisionError: at once"),
    ]
    assert signal.getsignal(signal.SIGINT) is handler


# --- interrupts -----------------------------------------------------------------------------------


class Interrupting(poise.Callback):
    """Presses Ctrl-C in the second iteration, once or twice."""

    def __init__(self, times: int = 1, number: int = signal.SIGINT) -> None:
        self.times, self.number = times, number

    def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
        if trainer.iteration == 2:
            for _ in range(self.times):
                # To this thread: two in a row are not taken for one.
                signal.raise_signal(self.number)


def test_ctrl_c_stops_at_the_boundary(trainer: Make) -> None:
    called: list[int] = []

    def own(number: int, frame: Any) -> None:
        called.append(number)

    previous = signal.signal(signal.SIGINT, own)
    try:
        algo = trainer("PPO", "CartPole-v1", **TINY, callbacks=[Interrupting()])
        result = algo.learn(stop={"training_iteration": 9})
        assert result["stop_reason"] == "interrupted"
        assert result["training_iteration"] == algo.iteration == 2
        assert signal.getsignal(signal.SIGINT) is own
        assert called == []
    finally:
        signal.signal(signal.SIGINT, previous)
    assert algo.learn(stop={"training_iteration": 3})["training_iteration"] == 3


def test_a_second_ctrl_c_ends_at_once(trainer: Make) -> None:
    pages: list[Any] = []
    algo = trainer(
        "PPO", "CartPole-v1", **TINY, callbacks=[Interrupting(times=2), Diary("a", pages)]
    )
    with pytest.raises(KeyboardInterrupt):
        algo.learn(stop={"training_iteration": 9})
    assert pages[:-1] == [("a", "start"), ("a", "iteration", 1)]
    assert pages[-1][:2] == ("a", "end")
    assert pages[-1][2].startswith("KeyboardInterrupt")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_signals_are_caught_where_asked_for(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY, callbacks=[Interrupting(number=signal.SIGTERM)])
    before = signal.getsignal(signal.SIGTERM)
    assert (
        algo.learn(stop={"training_iteration": 9}, signals=(signal.SIGTERM,))["stop_reason"]
        == "preempted"
    )
    assert algo.iteration == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_is_heeded_while_the_stop_rule_is_asked(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)

    def rule(result: dict[str, Any]) -> bool:
        if result["training_iteration"] == 1:
            signal.raise_signal(signal.SIGTERM)
        return result["training_iteration"] == 3

    result = algo.learn(stop=rule, signals=(signal.SIGTERM,))
    assert (result["stop_reason"], result["training_iteration"]) == ("preempted", 1)


def test_outside_the_main_thread_learning_works(trainer: Make) -> None:
    import threading

    algo = trainer("PPO", "CartPole-v1", **TINY)
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(algo.learn(stop={"training_iteration": 2}))
    )
    thread.start()
    thread.join()
    assert results[0]["training_iteration"] == 2


# --- evaluation -----------------------------------------------------------------------------------


class Uneven(Scripted):
    """Episodes of 1 and 100 steps in turn, over all environments; the reward is the length."""

    turn = itertools.count()
    # Cannot be masked, so that no reset is spent on asking.
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        super().__init__()

    def reset(self, **options: Any) -> Any:
        self.length = (1, 100)[next(Uneven.turn) % 2]
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        obs, *_ = super().step(action)
        return obs, 1.0, self.now >= self.length, False, {}


@pytest.mark.parametrize("episodes", [1, 2, 5, 20, 33, 40])
def test_evaluation_plays_exactly_so_many_episodes(
    trainer: Make, episodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = trainer("PPO", lambda config: Uneven(), **TINY)
    monkeypatch.setattr(Uneven, "turn", itertools.count())
    numbers = algo.evaluate(episodes)
    assert numbers["episodes"] == episodes
    # In whichever slots they run, no episode is dropped for being long: the first that each slot
    # begins are counted.
    expected = sum((1, 100)[i % 2] for i in range(min(episodes, 20)))
    if episodes <= 20:
        assert numbers["episode_len_mean"] * episodes == pytest.approx(expected)
    assert numbers["episode_reward_mean"] == numbers["episode_len_mean"]
    assert numbers["episode_reward_max"] == (100 if episodes > 1 else 1)


class Lottery(Uneven):
    """Episodes of 1 or 100 steps, drawn from the environment's own generator."""

    def reset(self, **options: Any) -> Any:
        found = super().reset(**options)
        self.length = (1, 100)[int(self.np_random.integers(2))]
        return found


def test_evaluation_is_not_biased_towards_short_episodes(trainer: Make) -> None:
    """Of 800 episodes half are long, within four deviations; the first to end are short."""
    algo = trainer("PPO", lambda config: Lottery(), **TINY)
    mean = np.mean([algo.evaluate(40, seed=seed)["episode_len_mean"] for seed in range(20)])
    assert mean == pytest.approx(50.5, abs=4 * 49.5 / math.sqrt(800))


def test_evaluation_does_not_disturb_training(trainer: Make) -> None:
    ends = []
    for interval in (None, 1):
        evaluation = {
            "evaluation_interval": interval,
            "evaluation_duration": TINY["num_envs_per_worker"],
        }
        algo = trainer(
            "PPO", lambda config: Noise(), **TINY, **evaluation, normalize_observations=True
        )
        for _ in range(3):
            result = algo.train()
            if interval:
                algo.compute_action(np.zeros(3, np.float32), explore=True)
        ends.append(
            (
                dict(algo.policy.state_dict()),
                {
                    k: v
                    for k, v in timeless(result).items()
                    if "evalu" not in k and k != "timesteps_since_best"  # by what scores it
                },
            )
        )
    assert same(ends[0], ends[1])


def test_evaluation_is_repeatable_and_other_seeds_give_other_episodes(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY)
    assert algo.evaluate(5) == algo.evaluate(5)
    assert algo.evaluate(5) != algo.evaluate(5, seed=1)
    assert algo.evaluate(5, explore=True) == algo.evaluate(5, explore=True) != algo.evaluate(5)


# --- seeds ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "env"), [("PPO", "CartPole-v1"), ("A2C", "CartPole-v1"), ("PPO", "Pendulum-v1")]
)
def test_the_same_seed_gives_the_same_run_bit_for_bit(
    trainer: Make, algorithm: str, env: str
) -> None:
    settings = {k: v for k, v in TINY.items() if algorithm == "PPO" or k != "num_sgd_iter"}
    runs = []
    for seed, disturbance in ((1, 0), (1, 99), (2, 0)):
        np.random.seed(disturbance)  # no global generator matters
        torch.manual_seed(disturbance)
        algo = trainer(algorithm, env, **settings, seed=seed)
        results = [timeless(algo.train()) for _ in range(3)]
        runs.append((dict(algo.policy.state_dict()), results))
    assert same(runs[0], runs[1])
    assert not same(runs[0][0], runs[2][0])
    assert not same(runs[0][1], runs[2][1])


def test_seeds_differ_before_any_training(trainer: Make) -> None:
    first, second = (
        dict(trainer("PPO", "CartPole-v1", **TINY, seed=seed).policy.state_dict())
        for seed in (1, 2)
    )
    assert not same(first, second)


# --- acting ---------------------------------------------------------------------------------------

ACTING: dict[str, tuple[Callable[[Any], gym.Env], Any]] = {
    "Discrete": (lambda config: Echo(n=3, start=4), np.eye(3, dtype=np.float32)[0]),
    "Discrete observation": (
        lambda config: Noise(spaces.Discrete(5), spaces.Discrete(2)),
        np.int64(3),
    ),
    "Box": (lambda config: Reach(low=-2, high=6, size=2), np.zeros(2, np.float32)),
    "unbounded Box": (lambda config: Reach(finite=False), np.zeros(1, np.float32)),
    "matrix": (
        lambda config: Noise(spaces.Box(-1, 1, (2, 3)), spaces.Box(-1, 3, (2, 2))),
        np.ones((2, 3), np.float32),
    ),
}


@pytest.mark.parametrize("case", ACTING)
def test_actions_are_inside_the_space_for_one_and_for_many(trainer: Make, case: str) -> None:
    make, obs = ACTING[case]
    algo = trainer("PPO", make, **TINY)
    space = make({}).action_space
    algo.train()
    single = algo.compute_action(obs)
    assert space.contains(single)
    batch = np.stack([obs] * 7)
    actions, state = algo.predict(batch)
    assert state is None
    assert len(actions) == 7
    for action in actions:
        assert space.contains(action)
        assert np.array_equal(action, single)  # the most likely one, whatever stands beside it
    explored = [algo.compute_action(obs, explore=True) for _ in range(200)]
    assert all(space.contains(action) for action in explored)
    assert len({np.asarray(action).tobytes() for action in explored}) > 1
    noisy, _ = algo.predict(batch, deterministic=False)
    assert all(space.contains(action) for action in noisy)
    assert np.array_equal(algo.compute_action(obs), single)


def test_extreme_exploration_stays_inside_the_bounds(trainer: Make) -> None:
    algo = trainer(
        "PPO",
        lambda config: Reach(),
        **{**TINY, "model": {"fcnet_hiddens": [8], "log_std_init": 2.0}},
    )
    actions, _ = algo.predict(np.zeros((500, 1), np.float32), deterministic=False)
    assert actions.dtype == np.float32
    assert (actions.min(), actions.max()) == (-2.0, 6.0)
    # The environment itself asserts that actions are inside.
    assert algo.train()["timesteps_total"] > 0


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_predict_keeps_the_contract_of_stable_baselines3(trainer: Make, env: str) -> None:
    """As its `evaluate_policy` calls it: batch, state, which episodes begin, deterministic."""
    algo = trainer("PPO", env, **TINY)
    vec = gym.make_vec(env, 3, vectorization_mode="sync")
    obs, _ = vec.reset(seed=0)
    states, starts = None, np.ones(3, dtype=bool)
    for _ in range(5):
        actions, states = algo.predict(obs, state=states, episode_start=starts, deterministic=True)
        assert states is None
        assert isinstance(actions, np.ndarray)
        assert actions.shape == vec.action_space.shape
        assert vec.action_space.contains(actions)
        obs, _, terminated, truncated, _ = vec.step(actions)
        starts = terminated | truncated
    vec.close()


def test_acting_is_not_changed_by_training_data(trainer: Make) -> None:
    """Acting does not move the normaliser's moments."""
    algo = trainer("PPO", "Pendulum-v1", **TINY, normalize_observations=True)
    algo.train()
    before = {k: v.clone() for k, v in algo.policy.state_dict().items()}
    for i in range(5):
        algo.compute_action(np.full(3, 100.0 * i, np.float32), explore=True)
    assert same(before, dict(algo.policy.state_dict()))


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_updates_that_are_not_finite_are_skipped(
    trainer: Make, algorithm: str, value: float
) -> None:
    settings = {k: v for k, v in TINY.items() if algorithm == "PPO" or k != "num_sgd_iter"}
    extra = {"timesteps_per_iteration": 0} if algorithm == "A2C" else {"sgd_minibatch_size": 8}
    algo = trainer(algorithm, "CartPole-v1", **settings, **extra)
    algo.train()
    calls = itertools.count(1)
    parameter = next(algo.policy.parameters())
    hook = parameter.register_hook(lambda grad: grad * value if next(calls) in (1, 3) else grad)
    updates = algo.algorithm.updates
    while algo.algorithm.updates < updates + 2:
        result = algo.train()
    hook.remove()
    assert result["learner/skipped_updates"] == algo.algorithm.skipped == 2
    assert all(torch.isfinite(p).all() for p in algo.policy.parameters())


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_ten_in_a_row_stop_the_run_and_leave_the_parameters(trainer: Make, algorithm: str) -> None:
    settings = {k: v for k, v in TINY.items() if algorithm == "PPO" or k != "num_sgd_iter"}
    pages: list[Any] = []
    algo = trainer(algorithm, "CartPole-v1", **settings, callbacks=[Diary("a", pages)])
    algo.train()
    before = {k: v.clone() for k, v in algo.policy.state_dict().items()}
    hook = next(algo.policy.parameters()).register_hook(lambda grad: grad * math.nan)
    with pytest.raises(DivergedError, match="diverged") as caught:
        algo.learn(stop={"training_iteration": 99})
    hook.remove()
    assert "\n" not in str(caught.value)
    assert algo.algorithm.skipped == MAX_SKIPPED == 10
    assert same(before, dict(algo.policy.state_dict()))
    assert pages[-1] == ("a", "end", f"DivergedError: {caught.value}")
    # What made it diverge is gone: it can go on.
    assert algo.train()["learner/skipped_updates"] == MAX_SKIPPED


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_the_gradient_is_clipped_as_the_settings_say_now(trainer: Make, algorithm: str) -> None:
    algo = trainer(algorithm, "CartPole-v1", grad_clip=None, timesteps_per_iteration=0, preset=None)
    while not algo.algorithm.updates:
        algo.train()
    assert algo.algorithm.flat.grad.norm() > 1e-3
    algo.config.grad_clip = 1e-3
    algo.train()
    assert algo.algorithm.flat.grad.norm() == pytest.approx(1e-3, rel=1e-2)


def test_a_method_that_has_another_name_now_is_not_passed_over() -> None:
    with pytest.raises(
        ConfigError, match=r"^Halved.apply_gradient is not called: it is descend now\."
    ):
        type("Halved", (PPO,), {"apply_gradient": lambda self, lr: 0.0})


def test_ten_in_all_do_not_stop_the_run(trainer: Make) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY, sgd_minibatch_size=4)
    calls = itertools.count()
    hook = next(algo.policy.parameters()).register_hook(
        lambda grad: grad * math.nan if next(calls) % 2 else grad
    )
    algo.learn(stop={"training_iteration": 4})
    hook.remove()
    assert algo.algorithm.skipped > MAX_SKIPPED


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_an_absurd_learning_rate_never_spoils_the_parameters(trainer: Make, lr: float) -> None:
    algo = trainer("PPO", "CartPole-v1", **TINY, lr=lr, grad_clip=None)
    with contextlib.suppress(DivergedError):
        algo.learn(stop={"training_iteration": 12})
    assert all(torch.isfinite(p).all() for p in algo.policy.parameters())


# --- environments ---------------------------------------------------------------------------------


class TakesConfig(Echo):
    """Its constructor takes the env config as one dict."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(n=config.get("n", 4))
        self.given = config


class TakesKeywords(Echo):
    """Its constructor takes keywords."""

    def __init__(self, n: int = 4, render_mode: str | None = None) -> None:
        super().__init__(n=n)
        self.render_mode = render_mode


def make_echo(config: dict[str, Any]) -> gym.Env:
    return TakesConfig(config)


def actions_of(algo: Trainer) -> int:
    algo.train()
    return int(algo.policy.action_layout.space.n)


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    "way", ["class", "class with keywords", "function", "lambda", "registered", "module:Class"]
)
def test_an_environment_may_be_given_in_any_of_these_ways(trainer: Make, way: str) -> None:
    poise.register_env("my echo", TakesConfig)
    env = {
        "class": TakesConfig,
        "class with keywords": TakesKeywords,
        "function": make_echo,
        "lambda": lambda config: TakesConfig(config),
        "registered": "my echo",
        "module:Class": f"{__name__}:TakesConfig",
    }[way]
    assert actions_of(trainer("PPO", env, **TINY, env_config={"n": 6})) == 6
    assert actions_of(trainer("PPO", env, **TINY)) == 4


def test_a_module_may_register_its_environment_when_it_is_imported(
    trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registers_itself.py").write_text(
        "import gymnasium\nfrom environments import Echo\n"
        "gymnasium.register('SelfMade-v0', entry_point=Echo, max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        algo = trainer("PPO", "registers_itself:SelfMade-v0", **TINY, env_config={"n": 3})
        assert actions_of(algo) == 3
        assert algo.history[-1]["episode_len_mean"] == 3
    finally:
        gym.registry.pop("SelfMade-v0", None)
        sys.modules.pop("registers_itself", None)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", TakesConfig, make_echo])
def test_a_time_limit_may_be_set_for_any_environment(trainer: Make, env: Any) -> None:
    algo = trainer("PPO", env, **TINY, env_config={"max_episode_steps": 5})
    result = algo.train()
    assert result["episode_len_mean"] == 5
    assert algo.evaluate(3)["episode_len_mean"] == 5


class OldEnv:
    """An environment of the old `gym` package: it is no `gymnasium.Env`."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self) -> np.ndarray:
        return np.zeros(2, np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, {}


class OldReset(Echo):
    """It derives from `gymnasium.Env`, but its `reset` returns the observation alone."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


class OldStep(Echo):
    """It derives from `gymnasium.Env`, but its `step` returns four things."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


@pytest.mark.parametrize(
    ("env", "word"), [(OldEnv, "gymnasium.Env"), (OldReset, "reset"), (OldStep, "step")]
)
@pytest.mark.parametrize("limit", [{}, {"max_episode_steps": 5}], ids=["plain", "time limit"])
def test_an_environment_of_the_old_api_is_said_so(
    trainer: Make, env: Any, word: str, limit: dict[str, int]
) -> None:
    with pytest.raises(EnvError, match=word) as caught:
        trainer("PPO", env, **TINY, env_config=limit).train()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "env",
    [
        "CartPole-v9",
        "cartpole",
        "no_module_of_this_name:Env",
        "environments:Ecco",
        "ALE/Nothing-v5",
        5,
    ],
)
def test_an_environment_that_does_not_exist_is_said_so(trainer: Make, env: Any) -> None:
    with pytest.raises(EnvError) as caught:
        trainer("PPO", env, **TINY)
    assert "\n" not in str(caught.value)
    if env in ("cartpole", "environments:Ecco"):
        assert "Did you mean" in str(caught.value)


def test_an_env_config_that_does_not_fit_is_said_so(trainer: Make) -> None:
    for env in ("CartPole-v1", "Pendulum-v1", TakesKeywords):
        with pytest.raises(EnvError, match="no_such_argument") as caught:
            trainer("PPO", env, **TINY, env_config={"no_such_argument": 1})
        assert "\n" not in str(caught.value)


def test_a_setting_given_twice_is_said_so() -> None:
    with pytest.raises(ConfigError, match="lr"):
        poise.PPO("CartPole-v1", config={"lr": 1e-3}, lr=1e-3)
    with pytest.raises(ConfigError, match="environment"):
        poise.PPO()
