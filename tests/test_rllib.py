"""RLlib's names of all eras: what was silent or wrong, and each construct that scripts are made of.

Scripts of others are not here; those that were run are listed in docs/coming-from.md.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from poise.compat.ray.rllib.agents import DefaultCallbacks, a3c, dqn, ppo
from poise.compat.ray.rllib.agents.ppo.ppo import PPOAgent, PPOTrainer
from poise.compat.ray.rllib.algorithms.algorithm import Algorithm
from poise.compat.ray.rllib.algorithms.ppo import PPO, PPOConfig
from poise.compat.ray.rllib.env import EnvContext
from poise.compat.ray.rllib.env.multi_agent_env import MultiAgentEnv, make_multi_agent
from poise.compat.ray.rllib.models import ModelCatalog
from poise.compat.ray.rllib.models.torch.fcnet import FullyConnectedNetwork
from poise.compat.ray.rllib.models.torch.recurrent_net import RecurrentNetwork
from poise.compat.ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from poise.compat.ray.rllib.utils.framework import try_import_tf, try_import_torch
from poise.compat.ray.tune import stopper
from poise.compat.ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from torch import nn

import poise
from poise.compat import cluster, ray
from poise.compat.ray import air, tune
from poise.compat.ray_missing import AbsentError
from poise.compat.raytune.analysis import old_path
from poise.compat.rllib.results import layouts
from poise.compat.translate import settings_of, translated
from poise.config.resolve import resolve
from poise.errors import CheckpointError, ConfigError, RunError

QUICK = {"train_batch_size": 64, "num_envs_per_worker": 1, "model": {"fcnet_hiddens": [8]}}
"""Settings of an iteration that takes a moment."""


class Count(gymnasium.Env):
    """Four steps; the observation is the number of the step, and the reward the action."""

    observation_space = gymnasium.spaces.Box(0, 4, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config: Any = None) -> None:
        self.context, self.level = config, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        self.t += 1
        return np.full(1, self.t, np.float32), float(action), self.t == 4, False, {"t": self.t}

    def set_level(self, level: int) -> None:
        self.level = level


class Pair(MultiAgentEnv):
    """Of the first years: no agents and no spaces are named; each earns its action."""

    def __init__(self, config: Any = None) -> None:
        self.t = 0

    def reset(self) -> Any:
        self.t = 0
        return self._seen()

    def _seen(self) -> dict[str, Any]:
        return {name: np.zeros(1, np.float32) for name in ("left", "right")}

    def step(self, actions: dict[str, int]) -> Any:
        self.t += 1
        rewards = {name: float(action) for name, action in actions.items()}
        return self._seen(), rewards, {"__all__": self.t == 3}, {name: {} for name in actions}


# --- callbacks ------------------------------------------------------------------------------------


class Metrics(DefaultCallbacks):
    """All hooks of an episode, in their order."""

    def on_episode_start(self, *, worker: Any, base_env: Any, policies: Any, episode: Any,
                         env_index: int, **_: Any) -> None:  # fmt: skip
        episode.user_data["seen"] = []
        assert isinstance(base_env.get_unwrapped()[0], Count)

    def on_episode_step(self, worker, base_env, episode, **_):  # type: ignore[no-untyped-def]
        episode.user_data["seen"].append(float(episode.last_observation_for()[0]))

    def on_episode_end(self, *, worker: Any, base_env: Any, policies: Any, episode: Any,
                       **_: Any) -> None:  # fmt: skip
        assert episode.user_data["seen"] == [1.0, 2.0, 3.0, 4.0]
        assert episode.last_info_for()["t"] == episode.length == 4
        episode.custom_metrics["mean_seen"] = np.mean(episode.user_data["seen"])
        episode.custom_metrics["number"] = episode.episode_id
        episode.hist_data["angles"] = [1.0]

    def on_train_result(self, *, trainer: Any, result: dict[str, Any], **_: Any) -> None:
        result["callback_ok"] = True
        result["twice"] = (
            2 * result["info"]["learner"]["default_policy"]["learner_stats"]["entropy"]
        )


def test_metrics_of_episodes_have_a_mean_a_minimum_and_a_maximum(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_said", set())
    trainer = PPOTrainer({**QUICK, "callbacks": Metrics}, Count)
    result = trainer.train()
    metrics = result["custom_metrics"]
    assert metrics["mean_seen_mean"] == metrics["mean_seen_min"] == 2.5
    assert metrics["number_min"] < metrics["number_mean"] < metrics["number_max"]
    assert result["callback_ok"] is True
    assert result["twice"] == 2 * result["learners"]["default_policy"]["entropy"]
    assert trainer.trainer.history[-1]["twice"] == result["twice"]  # kept in the run's files
    assert capsys.readouterr().out.count("episode.hist_data is not kept") == 1
    trainer.stop()


def test_every_hook_of_a_class_is_called_or_refused() -> None:
    called: list[str] = []

    def noting(name: str) -> Any:
        return lambda self, **_: called.append(name)

    from poise.compat.rllib.hooks import BETWEEN, IN_EPISODES, NEVER

    hooks = {name: noting(name) for name in (*IN_EPISODES, *BETWEEN)}
    trainer = PPOTrainer(
        {**QUICK, "evaluation_interval": 1, "evaluation_num_episodes": 1,
         "callbacks": type("All", (DefaultCallbacks,), hooks)}, Count
    )  # fmt: skip
    trainer.train()
    assert called.index("on_evaluate_start") < called.index("on_evaluate_end")
    assert set(called) | {"on_checkpoint_loaded"} == {*IN_EPISODES, *BETWEEN}
    for name in (*NEVER, "on_epsiode_end"):
        with pytest.raises(ConfigError, match=f"The callback {name} is never called here"):
            PPO(
                {**QUICK, "callbacks": type("One", (DefaultCallbacks,), {name: noting(name)})},
                Count,
            )


def test_a_trajectory_can_be_read_and_not_changed() -> None:
    seen: list[Any] = []

    class Look(DefaultCallbacks):
        def on_postprocess_trajectory(self, *, postprocessed_batch: Any, agent_id: Any,
                                      policy_id: str, **_: Any) -> None:  # fmt: skip
            seen.append((agent_id, policy_id, postprocessed_batch.count))
            np.testing.assert_array_equal(postprocessed_batch["obs"][:, 0], [0, 1, 2, 3])
            np.testing.assert_array_equal(
                postprocessed_batch["rewards"], postprocessed_batch["actions"]
            )
            with pytest.raises(ValueError, match="read-only"):
                postprocessed_batch["rewards"][0] = 9
            with pytest.raises(AbsentError, match="cannot set 'rewards': what is learnt from does"):
                postprocessed_batch["rewards"] = 9

    PPOTrainer({**QUICK, "callbacks": Look}, Count).train()
    assert set(seen) == {("agent0", "default_policy", 4)}


def test_the_new_hooks_get_what_they_name() -> None:
    def on_episode_end(
        *, episode: Any, metrics_logger: Any, env: Any, env_index: int, **_: Any
    ) -> None:
        assert isinstance(env.envs[env_index], Count)
        metrics_logger.log_value("return", episode.get_return(), reduce="mean", window=10)

    config = PPOConfig().environment(Count).training(train_batch_size=64)
    algo = config.callbacks(on_episode_end=on_episode_end).build_algo()
    result = algo.train()
    assert result["env_runners"]["return"] == result["env_runners"]["episode_return_mean"]
    algo.stop()


# --- configurations -------------------------------------------------------------------------------


def test_a_default_configuration_is_filled_and_read() -> None:
    config = ppo.DEFAULT_CONFIG.copy()
    config["model"]["fcnet_hiddens"] = [8]
    config["env_config"]["length"] = 3
    assert config["lr"] == poise.config.ppo.PPOConfig().lr
    assert config["model"]["fcnet_activation"] == "tanh"
    assert "fcnet_hiddens" not in ppo.DEFAULT_CONFIG["model"]
    assert dqn.DEFAULT_CONFIG["buffer_size"] != a3c.DEFAULT_CONFIG.get("buffer_size")
    settings, _ = translated("PPO", config, "CartPole-v1")
    assert settings["model.fcnet_hiddens"] == [8]
    with pytest.raises(KeyError, match="'lrr' is not set, and no setting of Poise's"):
        config["lrr"]


def test_a_builder_is_a_dictionary() -> None:
    config = (
        PPOConfig()
        .environment("CartPole-v1", env_config={"a": 1})
        .framework("torch")
        .rollouts(num_rollout_workers=0)
        .training(gamma=0.9, lr=1e-3, lambda_=0.8, model={"fcnet_hiddens": [8]})
        .resources(num_gpus=0)
        .evaluation(evaluation_interval=2, evaluation_duration=3)
        .debugging(log_level="ERROR", seed=7)
        .api_stack(enable_rl_module_and_learner=False)
    )
    assert config["lr"] == config.lr == 1e-3
    assert config.to_dict()["model"] == {"fcnet_hiddens": [8]}
    other = config.copy()
    other.model["fcnet_hiddens"] = [16]
    other.lr = 1.0
    assert (config.model["fcnet_hiddens"], config["lr"]) == ([8], 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings, _ = translated("PPO", config)
    expected = {"gamma": 0.9, "lr": 1e-3, "gae_lambda": 0.8, "seed": 7, "evaluation_duration": 3}
    assert expected.items() <= settings.items()
    with pytest.raises(AttributeError, match=r"no 'enviroment'\. Did you mean 'environment'"):
        config.enviroment  # noqa: B018


def test_what_asks_for_something_else_is_said_once_and_what_does_not_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        translated(
            "PPO", {"min_iter_time_s": 0, "batch_mode": "truncate_episodes", "kl_coeff": 0.0}
        )
    for key, value, says in (
        ("min_iter_time_s", 10, "Iterations end on step counts, never on seconds"),
        ("batch_mode", "complete_episodes", "the rest of an episode is bootstrapped"),
        ("framework", "tf", "Everything is PyTorch"),
        ("input", "/tmp/data", "Nothing is learnt from recorded data"),
        ("evaluation_duration_unit", "timesteps", "it is counted in episodes"),
    ):
        with pytest.warns(poise.PoiseWarning, match=says):
            translated("PPO", {key: value}, "CartPole-v1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = {"evaluation_config": {"explore": False, "render_env": True}}
        assert translated("PPO", own, "CartPole-v1")[0]["evaluation_explore"] is False


def test_a_file_of_rllib_trains(tmp_path: Path) -> None:
    from poise.cli.inputs import read_experiment

    (tmp_path / "cartpole.yaml").write_text(
        "cartpole-ppo:\n  env: CartPole-v1\n  run: PPO\n  stop: {timesteps_total: 100}\n"
        "  checkpoint_freq: 5\n  config:\n    framework: torch\n    num_workers: 1\n"
        "    observation_filter: MeanStdFilter\n    model: {fcnet_hiddens: [32]}\n"
    )
    with pytest.warns(poise.PoiseWarning, match="checkpoint_freq=5 is left out: --checkpoint-freq"):
        found = read_experiment(str(tmp_path / "cartpole.yaml"))
    assert (found.name, found.algorithm, found.stop) == (
        "cartpole-ppo",
        "PPO",
        {"timesteps_total": 100},
    )
    assert found.settings == {
        "env": "CartPole-v1", "num_workers": "auto", "normalize_observations": True,
        "model.fcnet_hiddens": [32],
    }  # fmt: skip


def test_ray_init_knows_its_arguments() -> None:
    ray.init(ignore_reinit_error=True, local_mode=True, log_to_driver=False)
    with pytest.raises(
        TypeError, match=r"no argument 'negeer_reinit_error'\. Did you mean 'ignore_"
    ):
        ray.init(negeer_reinit_error=True)
    ray.shutdown()


# --- trainers -------------------------------------------------------------------------------------


def test_results_have_the_keys_of_all_eras() -> None:
    config = {**QUICK, "evaluation_interval": 1, "evaluation_num_episodes": 2}
    trainer = PPOAgent(config, Count)
    result = trainer.train()
    old = result["info"]["learner"]["default_policy"]
    assert old["learner_stats"]["entropy"] == old["entropy"] == result["learner/entropy"]
    assert result["learners"]["default_policy"]["mean_kl_loss"] == result["learner/kl"]
    for key in ("sampler_results", "evaluation"):
        assert np.isfinite(result[key]["episode_reward_mean"])
    assert (
        result["evaluation"]["env_runners"]["episode_return_mean"]
        == result["evaluation"]["episode_reward_mean"]
    )
    assert result["num_env_steps_sampled_lifetime"] == result["timesteps_total"]
    assert result["info"]["num_steps_sampled"] == result["timesteps_since_restore"]
    assert trainer.evaluate()["evaluation"]["episode_len_mean"] == 4
    trainer.stop()


def test_a_policy_has_rllibs_methods() -> None:
    algo = PPO({**QUICK, "seed": 0}, Count)
    policy, obs = algo.get_policy(), np.zeros((5, 1), np.float32)
    actions, state, told = policy.compute_actions(obs, explore=False)
    assert actions.shape == (5,)
    assert state == []
    expected = policy.own(policy.own.prepare({"value": torch.zeros(5, 1)}))
    np.testing.assert_allclose(told["action_dist_inputs"], expected[0].detach(), atol=1e-6)
    np.testing.assert_allclose(told["vf_preds"], expected[1].detach(), atol=1e-6)
    action, _, _ = policy.compute_single_action(obs[0], explore=False)
    assert action == actions[0] == np.argmax(told["action_dist_inputs"][0])
    weights = {name: value * 0 for name, value in policy.get_weights().items()}
    algo.set_weights({"default_policy": weights})
    assert not any(np.any(value) for value in algo.get_weights()["default_policy"].values())
    assert not policy.compute_actions(obs)[2]["action_dist_inputs"].any()
    with pytest.raises(ConfigError, match="These weights are not this policy's"):
        policy.set_weights({"w": 1})
    assert isinstance(policy.model, nn.Module)
    assert algo.workers.local_worker().get_policy().action_space == Count.action_space
    inputs = algo.get_module().forward_inference({"obs": torch.zeros(2, 1)})["action_dist_inputs"]
    assert inputs.shape == (2, 2)
    algo.stop()


def test_environments_are_reached_as_rllibs_workers_were() -> None:
    class Harder(DefaultCallbacks):
        def on_train_result(self, *, algorithm: Any, result: Any, **_: Any) -> None:
            algorithm.workers.foreach_worker(lambda w: w.foreach_env(lambda env: env.set_level(3)))

    algo = PPO({**QUICK, "callbacks": Harder}, Count)
    algo.train()
    assert set(algo.trainer.get_env_attr("level")) == {3}
    context = algo.trainer.get_env_attr("context")[0]
    assert isinstance(context, EnvContext)
    assert (context.worker_index, context.num_workers) == (0, 0)
    algo.stop()


def test_checkpoints_go_by_the_paths_that_ray_wrote(tmp_path: Path) -> None:
    algo = PPO({**QUICK, "seed": 0}, "CartPole-v1")
    algo.train()
    saved = algo.save(str(tmp_path))
    assert saved.checkpoint.path == saved == str(tmp_path / "checkpoint_000001")
    again = Algorithm.from_checkpoint(saved.checkpoint)
    assert isinstance(again, PPO)
    other = PPO({**QUICK, "seed": 1}, "CartPole-v1")
    other.restore(f"{saved}/checkpoint-1")
    for one in (again, other):
        own, theirs = one.get_weights()["default_policy"], algo.get_weights()["default_policy"]
        assert all(np.array_equal(own[key], theirs[key]) for key in theirs)
    assert other.train()["iterations_since_restore"] == 1
    (tmp_path / "checkpoint_5").mkdir()
    (tmp_path / "checkpoint_5" / "checkpoint-5").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="RLlib's own checkpoint, which is pickled"):
        other.restore(str(tmp_path / "checkpoint_5" / "checkpoint-5"))
    from poise.compat.rllib.scripts import rollout

    done = CliRunner().invoke(rollout, [f"{saved}/checkpoint-1", "--run", "PPO", "--episodes", "2"])
    assert done.output.count("reward: ") == 2, done.output
    assert "2 episodes, " in done.output


def test_the_checkpoint_of_a_run_is_found_by_rllibs_name(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "000010").mkdir(parents=True)
    for name in ("checkpoint_10/checkpoint-10", "checkpoint_000010", "checkpoint-10"):
        assert old_path(tmp_path / name) == str(tmp_path / "checkpoints" / "000010")
    assert old_path(tmp_path / "checkpoint_11") == str(tmp_path / "checkpoint_11")


def test_what_changes_an_algorithm_is_refused() -> None:
    class Mine(PPO):
        def training_step(self) -> None: ...

    with pytest.raises(AbsentError, match=r"Mine\.training_step is never called here"):
        Mine(QUICK, Count)
    with pytest.raises(AbsentError, match="with_updates has no equivalent here"):
        PPOTrainer.with_updates(name="Mine")


# --- names ----------------------------------------------------------------------------------------


def test_a_name_that_is_not_here_says_whether_it_is_misspelt_or_missing() -> None:
    from poise.compat.ray.rllib.agents.pg import PGTrainer
    from poise.compat.ray.rllib.core.rl_module import RLModule

    class Mine(RLModule):
        """One may derive from it, as scripts do that use it on one of two ways only."""

    with pytest.raises(NotImplementedError, match=r"RLModule is not carried over\. A network of"):
        Mine()

    with pytest.raises(NotImplementedError, match=r"PGTrainer is not carried over\. PPO is near"):
        PGTrainer(env="CartPole-v1")
    with pytest.raises(ImportError, match=r"no 'PPOTriner'.* Did you mean 'PPOTrainer'"):
        from poise.compat.ray.rllib.agents.ppo import PPOTriner  # noqa: F401
    with pytest.raises(ImportError, match=r"no module 'rllib.modls'.* Did you mean 'models'"):
        import poise.compat.ray.rllib.modls  # noqa: F401
    assert try_import_torch() == (torch, nn)
    assert try_import_tf() == (None, None, None)


def test_every_name_of_the_tables_is_there() -> None:
    import importlib

    from poise.compat.names import ROOMS, ROOT, names_of

    for module in ROOMS:
        found = importlib.import_module(f"{ROOT}.{module}".rstrip("."))
        for name in names_of(module):
            assert type(getattr(found, name)).__name__ != "Absent", (module, name)


# --- models ---------------------------------------------------------------------------------------


class Net(TorchModelV2, nn.Module):
    """A network with RLlib's layers in it, and what it was told."""

    told: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, obs_space: Any, action_space: Any, num_outputs: int, model_config: Any, name: str,
        scale: float = 1.0,
    ) -> None:  # fmt: skip
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        self.inside = FullyConnectedNetwork(
            obs_space, action_space, num_outputs, model_config, f"{name}_inside"
        )
        Net.told = {"action_space": action_space, "scale": scale, "config": model_config}

    def forward(self, input_dict: Any, state: Any, seq_lens: Any) -> Any:
        assert input_dict["obs"].shape == input_dict["obs_flat"].shape
        return self.inside(input_dict, state, seq_lens)

    def value_function(self) -> torch.Tensor:
        return self.inside.value_function()


def test_a_model_of_rllibs_kind_learns_and_is_told_what_it_was() -> None:
    ModelCatalog.register_custom_model("net", Net)
    model = {
        "custom_model": "net", "fcnet_hiddens": [12], "custom_model_config": {"scale": 2.0},
    }  # fmt: skip
    algo = PPO({**QUICK, "model": model}, Count)
    assert Net.told["action_space"] == Count.action_space
    assert (Net.told["scale"], Net.told["config"]["fcnet_hiddens"]) == (2.0, [12])
    own = algo.get_policy().model
    assert isinstance(own, Net)
    before = [p.detach().clone() for p in own.parameters()]
    algo.train()
    assert all(not torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    algo.stop()
    with pytest.raises(poise.ModelError, match=r"'other' is no torch\.nn\.Module"):
        ModelCatalog.register_custom_model("other", object)


class Remembering(RecurrentNetwork, nn.Module):
    """The sum of what was seen since the episode's beginning, as its only feature."""

    def __init__(self, obs_space: Any, action_space: Any, num_outputs: int, *more: Any) -> None:
        nn.Module.__init__(self)
        super().__init__(obs_space, action_space, num_outputs, *more)
        self.out, self.value = nn.Linear(1, num_outputs), nn.Linear(1, 1)

    def get_initial_state(self) -> list[torch.Tensor]:
        return [torch.zeros(1)]

    def forward_rnn(self, inputs: Any, state: list[Any], seq_lens: Any) -> Any:
        sums = state[0] + inputs[:, 0]
        self.seen = sums
        return self.out(sums).unsqueeze(1), [sums]

    def value_function(self) -> torch.Tensor:
        return self.value(self.seen).reshape(-1)


def test_a_model_with_a_memory_keeps_it_within_an_episode() -> None:
    ModelCatalog.register_custom_model("sum", Remembering)
    once = {"num_sgd_iter": 1, "sgd_minibatch_size": 64, "seed": 0}
    algo = PPO({**QUICK, **once, "model": {"custom_model": "sum"}}, Count)
    network = algo.trainer.policy.network
    first = torch.tensor([[True, True], [False, True], [False, False]])
    seen = torch.tensor([[1.0], [10.0], [2.0], [20.0], [3.0], [30.0]])  # T steps of B slots
    outputs, values, after = network(seen, network.initial_state(2), first)
    sums = torch.tensor([[1.0], [10.0], [3.0], [20.0], [6.0], [50.0]])
    torch.testing.assert_close(outputs, network.old.out(sums))
    torch.testing.assert_close(values, network.old.value(sums).reshape(-1))
    torch.testing.assert_close(after[0], sums[-2:])
    algo.train()
    policy = algo.get_policy()
    assert policy.is_recurrent()
    _, state, _ = policy.compute_single_action([2.0], policy.get_initial_state())
    _, state, _ = policy.compute_single_action([3.0], state)
    np.testing.assert_allclose(state[0], [5.0])
    algo.stop()


# --- several agents -------------------------------------------------------------------------------


def test_agents_and_spaces_that_an_old_environment_does_not_name_are_found() -> None:
    spec = (None, gymnasium.spaces.Box(0, 1, (1,), np.float32), gymnasium.spaces.Discrete(2), {})
    config = {
        **QUICK,
        "multiagent": {
            "policies": {"one": spec, "two": spec, "spare": spec},
            "policy_mapping_fn": lambda agent_id: {"left": "one", "right": "two"}[agent_id],
            "policies_to_train": ["one", "spare"],
        },
    }
    with pytest.warns(poise.PoiseWarning, match="'spare' acts for no agent and is left out"):
        trainer = PPOTrainer(config, Pair)
    result = trainer.train()
    assert {*result["policy_reward_mean"]} == {*result["info"]["learner"]} == {"one", "two"}
    assert result["episode_len_mean"] == 3
    assert trainer.trainer.config.policies_to_train == ["one"]
    assert trainer.compute_action(np.zeros(1, np.float32), policy_id="two") in (0, 1)
    assert trainer.get_policy("two").own is trainer.trainer.algorithm.policies["two"]
    trainer.stop()


def test_a_policy_that_would_act_by_a_class_of_its_own_is_refused() -> None:
    from poise.compat.ray.rllib.agents.ppo import PPOTorchPolicy
    from poise.compat.ray.rllib.policy.policy import Policy, PolicySpec

    class Heuristic(Policy):
        """It would be silently replaced by a policy that learns."""

    for spec in (PolicySpec(policy_class=Heuristic), (Heuristic, None, None, {})):
        with pytest.raises(ConfigError, match="'rules' is to act by 'Heuristic', and every policy"):
            PPO({**QUICK, "multiagent": {"policies": {"rules": spec}}}, Pair)
    translated("PPO", {"policies": {"own": PolicySpec(policy_class=PPOTorchPolicy)}}, Pair)


def test_environments_play_side_by_side() -> None:
    both = make_multi_agent(lambda config: Count(config))({"num_agents": 2})
    obs, _ = both.reset(seed=0)
    assert set(obs) == {0, 1}
    for t in range(4):
        _, rewards, ends, _, _ = both.step({0: 1, 1: 0})
        assert ends["__all__"] == (t == 3)
    assert rewards == {0: 1.0, 1: 0.0}
    config = PPOConfig().environment(make_multi_agent(Count), env_config={"num_agents": 2})
    algo = config.training(train_batch_size=64).multi_agent(
        policies={"p0", "p1"}, policy_mapping_fn=lambda aid, *args, **kw: f"p{aid}"
    ).build()  # fmt: skip
    assert {*algo.train()["learners"]} - {"__all_modules__"} == {"p0", "p1"}
    algo.stop()


# --- tune -----------------------------------------------------------------------------------------


def halving(config: dict[str, Any]) -> None:
    """Reports how far `x` is from 3, less and less of noise."""
    for step in range(4):
        tune.report({"loss": abs(config["x"] - 3) + 1 / (step + 1)})


def test_trials_of_a_function(tmp_path: Path) -> None:
    tuner = tune.Tuner(
        halving,
        param_space={"x": tune.grid_search([1, 3, 4])},
        tune_config=tune.TuneConfig(metric="loss", mode="min"),
        run_config=air.RunConfig(storage_path=str(tmp_path), name="f", verbose=0),
    )
    grid = tuner.fit()
    assert (len(grid), grid.num_errors, grid.num_terminated) == (3, 0, 3)
    best = grid.get_best_result()
    assert best.config == {"x": 3}
    assert best.metrics["loss"] == 0.25
    assert list(best.metrics_dataframe["loss"]) == [1.0, 0.5, 1 / 3, 0.25]
    assert list(grid.get_dataframe()["config/x"]) == [1, 3, 4]
    lines = (Path(best.path) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["training_iteration"] for line in lines] == [1, 2, 3, 4]


def test_scopes_stops_and_errors_of_trials(tmp_path: Path) -> None:
    def rises(config: dict[str, Any], reporter: Any) -> None:
        for value in config["values"]:
            if value is None:
                raise OSError("gone")
            reporter(score=value)

    values = [[9, 1, 1, 1], [2, 3, 4, 5], [3, 3, None, 3]]
    found = tune.run(
        rises, config={"values": tune.grid_search(values)}, metric="score", mode="max",
        stop=lambda trial_id, result: result["training_iteration"] == 3, local_dir=str(tmp_path),
        verbose=0,
    )  # fmt: skip
    lengths = [len(trial.rows) for trial in found.trials]
    assert lengths == [3, 3, 2]
    chosen = [found.get_best_config(scope=scope)["values"][0] for scope in ("last", "all", "avg")]
    assert chosen == [2, 9, 9]
    assert found.get_best_trial(scope="last-2-avg").config["values"][0] == 2
    assert [trial.status for trial in found.trials] == ["TERMINATED", "TERMINATED", "ERROR"]
    assert found.trials[2].error == "OSError: gone"
    assert "gone" in (Path(found.trials[2].logdir) / "error.txt").read_text()
    assert found.best_result["score"] == 4
    assert found.results_df["score"].tolist() == [1, 4, 3]
    with pytest.raises(RunError, match="scope='first' is not allowed"):
        found.get_best_trial(scope="first")


class Walk(tune.Trainable):
    """Goes `step` further with each iteration; it is written down as a number."""

    def setup(self, config: dict[str, Any]) -> None:
        self.at = 0.0

    def step(self) -> dict[str, float]:
        self.at += self.config["step"]
        return {"at": self.at}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, float]:
        return {"at": self.at}

    def load_checkpoint(self, checkpoint: dict[str, float]) -> None:
        self.at = checkpoint["at"]


def test_a_population_of_trials_goes_on_from_the_best(tmp_path: Path) -> None:
    plan = PopulationBasedTraining(
        perturbation_interval=2, hyperparam_mutations={"step": [1, 100]}, metric="at", mode="max",
        custom_explore_fn=lambda config: {**config, "step": 50},
    )  # fmt: skip
    found = tune.run(
        Walk, config={"step": tune.grid_search([1, 100])}, scheduler=plan, verbose=0,
        stop={"training_iteration": 6}, local_dir=str(tmp_path),
    )  # fmt: skip
    slow, fast = found.trials
    assert [row["at"] for row in fast.rows] == [100, 200, 300, 400, 500, 600]
    # After two steps, the slow one is where the fast one is, with the step that it was given.
    assert [row["at"] for row in slow.rows] == [1, 2, 250, 300, 450, 500]
    assert found.get_best_trial() is fast


@pytest.mark.slow
def test_searches_of_an_algorithm_have_tunes_analysis(tmp_path: Path) -> None:
    with pytest.warns(
        poise.PoiseWarning, match="AsyncHyperBandScheduler: grace_period=1 is left out"
    ):
        plan = ASHAScheduler(max_t=2, grace_period=1)
    found = tune.run(
        "PPO", config={"env": "CartPole-v1", **QUICK, "lr": tune.loguniform(1e-4, 1e-2)},
        num_samples=2, scheduler=plan, metric="env_runners/episode_return_mean", mode="max",
        local_dir=str(tmp_path), name="s", verbose=0, checkpoint_freq=1,
    )  # fmt: skip
    search = found.study.search
    assert (search.sampler, search.scheduler, search.metric) == (
        "random", "asha", "episode_reward_mean",
    )  # fmt: skip
    assert search.stop == {"training_iteration": 2}
    best = found.best_trial
    assert best.config["lr"] == found.best_config["lr"]
    assert found.best_result["env_runners"]["episode_return_mean"] == max(
        trial.last_result["episode_reward_mean"] for trial in found.trials
    )
    assert len(found.results_df) == len(found.trials) == 2
    paths = found.get_trial_checkpoints_paths(best, metric="training_iteration")
    assert [number for _, number in paths][-1] == 2
    # What begins from a checkpoint is where that was.
    again = tune.run(
        PPO, config={"env": "CartPole-v1", **QUICK}, stop={"training_iteration": 3}, verbose=0,
        restore=found.get_last_checkpoint(best), local_dir=str(tmp_path),
    )  # fmt: skip
    assert [row["training_iteration"] for row in again.trials[0].rows] == [3]


def test_stoppers_stop() -> None:
    plateau = stopper.TrialPlateauStopper("r", std=0.1, num_results=3, grace_period=4)
    both = stopper.CombinedStopper(stopper.MaximumIterationStopper(6), plateau)
    rows = [{"training_iteration": i + 1, "r": r} for i, r in enumerate([5, 5, 5, 1, 1, 1])]
    assert [both("a", row) for row in rows] == [False, False, False, False, False, True]
    assert plateau.seen["a"][-1] == 1


def test_tasks_of_ray_run_at_once() -> None:
    with pytest.warns(poise.PoiseWarning, match="ray.remote runs tasks and actors at once"):

        @ray.remote
        class Counter:
            def __init__(self, start: int) -> None:
                self.n = start

            def add(self, k: int) -> int:
                self.n += k
                return self.n

    counter = Counter.remote(ray.put(3))
    assert ray.get([counter.add.remote(1), counter.add.remote(ray.put(2))]) == [4, 6]


def test_a_prioritized_replay_is_one_by_its_type() -> None:
    buffer = {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 5000, "alpha": 0.5, "beta": 0.3}
    settings = settings_of("DQN", {"env": "CartPole-v1", "replay_buffer_config": buffer})
    config, _ = resolve("DQN", None, settings, preset=None)
    found = config.prioritized_replay, config.prioritized_replay_alpha, config.buffer_size
    assert found == (True, 0.5, 5000)
    assert config.prioritized_replay_beta == 0.3


def test_results_of_several_agents_are_by_policy() -> None:
    result = {"timesteps_total": 10, "agent_timesteps_total": 20}
    made = layouts({**result, "policy/p0/episode_reward_mean": 1.5})
    assert made["policy_reward_mean"] == {"p0": 1.5}
    assert made["num_agent_steps_sampled_lifetime"] == 20
