"""Where RLlib's and Ray Tune's names are to be found here, and what is said of the others.

Names moved from module to module between RLlib's versions, so that a module here has all names of
its package. No file stands for it: a finder makes a module when it is imported, and the module
looks a name up when it is asked for it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from poise.compat.ray_missing import PACKAGES, AbsentError, absent_class, instead_of
from poise.compat.rllib.registry import ALGORITHMS
from poise.errors import nearest

ROOT = "poise.compat.ray"

HOMES: dict[str, str] = {
    "ray_core": "available_resources cluster_resources get init is_initialized kill nodes put "
    "remote shutdown wait",
    "rllib.algorithm": "Algorithm",
    "rllib.config": "AlgorithmConfig DefaultModelConfig MODEL_DEFAULTS COMMON_CONFIG "
    "with_common_config",
    "rllib.registry": "get_agent_class get_algorithm_class get_trainable_cls get_trainer_class",
    "rllib.hooks": "DefaultCallbacks RLlibCallback",
    "rllib.policy": "PolicySpec",
    "rllib.batches": "SampleBatch MultiAgentBatch DEFAULT_POLICY_ID",
    "rllib.models": "ModelCatalog ModelV2 TorchModelV2 FullyConnectedNetwork VisionNetwork "
    "RecurrentNetwork SlimFC SlimConv2d normc_initializer same_padding",
    "rllib.envs": "EnvContext MultiAgentEnv ParallelPettingZooEnv PettingZooEnv TaskSettableEnv "
    "TaskType make_multi_agent register_env",
    "rllib.utils": "check ENV_STATE get_preprocessor DeveloperAPI Deprecated ExperimentalAPI "
    "FLOAT_MAX FLOAT_MIN OldAPIStack OverrideToImplementCustomMethod PublicAPI "
    "check_learning_achieved convert_to_numpy convert_to_torch_tensor deep_update merge_dicts "
    "one_hot override pretty_print try_import_tf try_import_tfp "
    "try_import_torch AgentID EnvActionType EnvObsType EnvType ModelConfigDict ModelWeights "
    "MultiAgentDict PolicyID ResultDict TensorStructType TensorType TrainerConfigDict "
    "AlgorithmConfigDict PartialAlgorithmConfigDict PartialTrainerConfigDict EnvCreator "
    "ENV_RUNNER_RESULTS EPISODE_RETURN_MEAN EPISODE_LEN_MEAN EVALUATION_RESULTS LEARNER_INFO "
    "LEARNER_RESULTS LEARNER_STATS_KEY NUM_ENV_STEPS_SAMPLED_LIFETIME TRAINING_ITERATION "
    "TIMESTEPS_TOTAL EPISODE_REWARD_MEAN TIME_TOTAL_S DEFAULT_MODULE_ID",
    "rllib.scripts": "create_parser",
    "raytune.space": "choice grid_search lograndint loguniform qlograndint qloguniform qrandint "
    "qrandn quniform randint randn sample_from uniform function",
    "raytune.run": "Experiment run run_experiments",
    "raytune.analysis": "Analysis Checkpoint ExperimentAnalysis Result ResultGrid",
    "raytune.schedulers": "ASHAScheduler AsyncHyperBandScheduler AxSearch BasicVariantGenerator "
    "BayesOptSearch ConcurrencyLimiter FIFOScheduler HEBOSearch HyperBandScheduler HyperOptSearch "
    "MedianStoppingRule NevergradSearch OptunaSearch PopulationBasedTraining TuneBOHB "
    "HyperBandForBOHB create_scheduler create_searcher",
    "raytune.stoppers": "CombinedStopper ExperimentPlateauStopper MaximumIterationStopper Stopper "
    "TimeoutStopper TrialPlateauStopper",
    "raytune.functions": "Trainable checkpoint_dir get_checkpoint get_context get_trial_dir "
    "get_trial_id get_trial_name report session track with_parameters with_resources",
    "raytune.tuner": "CheckpointConfig CLIReporter FailureConfig JupyterNotebookReporter "
    "PlacementGroupFactory ProgressReporter ResumeConfig RunConfig ScalingConfig SyncConfig "
    "TuneConfig Tuner register_trainable",
    "raytune.loggers": "Callback CSVLogger CSVLoggerCallback DEFAULT_LOGGERS JsonLogger "
    "JsonLoggerCallback Logger LoggerCallback MLflowLoggerCallback TBXLogger TBXLoggerCallback "
    "UnifiedLogger WandbLogger WandbLoggerCallback",
}
"""Modules of `poise.compat`, and what they have of RLlib's and Tune's names."""

ROOMS: dict[str, tuple[str, ...]] = {
    "": ("ray_core",),
    "rllib": ("rllib.", "raytune.loggers"),
    "tune": ("raytune.", "rllib.envs", "rllib.registry", "rllib.utils"),
    "train": ("raytune.", "rllib.utils"),
    "air": ("raytune.", "rllib.utils"),
    "util": (),
}
"""Ray's packages, and the beginnings of the modules whose names each has, at any depth."""

_WORDS = (
    "a2c a3c agent agents air algorithm algorithm_config algorithms alpha_star alpha_zero "
    "analysis annotations apex apex_ddpg apex_dqn apis appo ars async_hyperband atari_wrappers ax "
    "bandit base base_env basic_variant bayesopt bc bohb callback callbacks catalog checkpoint "
    "columns common concurrency_ops config connectors constants contrib core cql crr "
    "data_parallel_trainer ddpg ddppo default_model_config deprecation distributional_q_tf_model "
    "dm_control_wrapper dqn dqn_tf_policy dqn_torch_model dqn_torch_policy dreamer dreamerv3 "
    "durable_trainable env env_context env_runner environment episode episode_v2 error es "
    "estimators evaluation examples execution experiment experiment_analysis exploration "
    "external_env external_multi_agent_env fcnet filter framework from_config function_runner "
    "group_agents_wrapper hebo hyperband hyperopt impala input_reader integration integrations "
    "io_context iter json_reader json_writer keras learner learner_group learner_info lightgbm "
    "log logger maddpg maml marl_module marwil mbmpo median_stopping_rule metric_ops metrics misc "
    "mlflow models modelv2 multi_agent multi_agent_env multi_agent_env_runner multi_agent_episode "
    "multi_agent_rl_module multi_rl_module nevergrad numpy offline open_spiel optuna pb2 pbt "
    "pettingzoo_env pg policy policy_client policy_map policy_server_input policy_template "
    "postprocessing ppo ppo_catalog ppo_learner ppo_tf_policy ppo_torch_learner ppo_torch_policy "
    "ppo_torch_rl_module preprocessors progress_reporter pytorch_lightning qmix r2d2 random_agent "
    "recurrent_net registry remote_base_env repeated replay_buffer replay_buffers replay_ops "
    "resource_changing_scheduler result result_grid rl_module rllib rnnsac rollout rollout_ops "
    "rollout_worker sac sac_torch_model sac_torch_policy sample sample_batch sample_batch_builder "
    "schedulers schedules search search_alg search_generator session simple_q "
    "single_agent_env_runner single_agent_episode skopt slateq space_utils spaces stopper suggest "
    "suggestion syncer task_settable_env td3 test_utils tf tf_action_dist tf_modelv2 tf_ops "
    "tf_policy tf_policy_template tf_run_builder tf_utils torch torch_action_dist torch_learner "
    "torch_modelv2 torch_ops torch_policy torch_policy_template torch_policy_v2 torch_rl_module "
    "torch_utils train train_ops trainable trainer trainer_template trial trial_runner "
    "trial_scheduler tune tune_config tuner typing uncertainty_wrappers unity3d_env util utils "
    "variant_generator vector_env view_requirement visionnet wandb worker_set wrappers xgboost "
    "zoopt "
)
WORDS = set(_WORDS.split())
"""The names of their modules."""

_ALGORITHMS = {
    "a2c": "A2C", "a3c": "A3C A2C", "appo": "APPO", "ddpg": "DDPG TD3", "dqn": "DQN",
    "impala": "IMPALA Impala", "ppo": "PPO APPO", "sac": "SAC", "td3": "TD3",
}  # fmt: skip
"""Modules of `rllib.agents` and `rllib.algorithms`, and whose classes they have."""

EXAMPLES = "rllib.examples"
"""RLlib's own examples import each other: that is the folder where the script is, or one above."""


FOLDER = "POISE_RLLIB_EXAMPLES"
"""Variable with that folder, which worker processes inherit."""


def names_of(module: str) -> dict[str, str]:
    """The names that a module has, and where each is."""
    rooms = ROOMS[module.partition(".")[0]]
    homes = {home: names for home, names in HOMES.items() if home.startswith(rooms)}
    return {name: home for home, names in homes.items() for name in names.split()}


def is_module(name: str, *, absent: bool = False) -> bool:
    """Whether there is a module of this name, below `ray`; or one in a package that is `absent`."""
    first, *rest = name.split(".")
    lacking = absent and not PACKAGES.keys().isdisjoint(rest)
    return first in ROOMS and (lacking or WORDS.issuperset(rest))


def find(module: str, name: str) -> Any:
    """What `name` is in a module, which is named as below `ray`.

    Raises:
        AbsentError: there is no such name, here or anywhere; the sentence says which.
        AttributeError: Python asks for a name of its own.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    if (own := _of_algorithm(module, name)) is not None:
        return own
    known = names_of(module)
    if name in known:
        return getattr(importlib.import_module(f"poise.compat.{known[name]}"), name)
    inside = f"{module}.{name}".lstrip(".")
    if is_module(inside):
        return importlib.import_module(f"{ROOT}.{inside}")
    if (instead := instead_of(name, module)) is not None:
        return absent_class(f"ray.{inside}", instead)
    path = f"{ROOT}.{module}".rstrip(".")
    classes = [f"{label}{kind}" for label in ALGORITHMS for kind in ("", "Trainer", "Config")]
    hint = nearest(name, [*known, *classes])
    raise AbsentError(f"{path} has no {name!r}, as far as Poise knows RLlib and Ray.{hint}")


def _of_algorithm(module: str, name: str) -> Any:
    """A trainer, algorithm, configuration or default configuration by RLlib's name; else None."""
    from poise.compat.rllib.registry import of_name

    parts = module.split(".")
    if parts[:2] not in (["rllib", "agents"], ["rllib", "algorithms"]):
        return None
    if name != "DEFAULT_CONFIG":
        return of_name(name)
    labels = _ALGORITHMS.get(parts[-1], "").split()
    return of_name(f"{labels[0]}Config")() if labels else None


class Finder(MetaPathFinder, Loader):
    """Makes the modules of `MODULES` when they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{ROOT}."):
            return None
        name = fullname.removeprefix(f"{ROOT}.")
        if is_module(name, absent=True) and not name.startswith(f"{EXAMPLES}."):
            spec = ModuleSpec(fullname, self, is_package=True)
            if name == EXAMPLES:
                here = str(Path(sys.argv[0] or ".").resolve().parent)
                main = Path(os.environ.setdefault(FOLDER, here))  # of children, too
                spec.submodule_search_locations = [str(main), str(main.parent)]
            return spec
        if name.startswith(EXAMPLES):
            return None
        last = name.rpartition(".")[2]
        raise ModuleNotFoundError(
            f"{ROOT} has no module {name!r}, as far as Poise knows RLlib and Ray."
            f"{nearest(last, {*WORDS, *ROOMS})}",
            name=fullname,
        )

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(f"{ROOT}.")
        module.__doc__ = f"`ray.{name}`, as far as it is here: see `poise.compat.names`."
        module.__dict__["__getattr__"] = lambda attribute: find(name, attribute)
        module.__dict__["__all__"] = []


def install() -> None:
    """Has imports find the modules."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
