"""What RLlib and Ray Tune have and Poise has not, with the nearest: one sentence each.

Such a name can be imported and derived from, as scripts do that then use it on one of two ways
only. Whoever calls it, or asks it for something, is told.
"""

from __future__ import annotations

import re
from abc import ABCMeta
from typing import Any, NoReturn

from poise.config.hints import ALGORITHMS
from poise.errors import PoiseError

_NETWORKS = "a network of your own is a torch.nn.Module, for poise.register_model (docs/models.md)"
_LOSS = "a loss of your own is a method of an algorithm that derives from Poise's (docs/ppo.md)"
_WRAP = "observations, actions and rewards are changed by wrappers of Gymnasium's (`wrappers`)"
_TF = "everything is PyTorch: give the torch model, framework='torch'"
_DATA = "nothing is learnt from recorded data here; see 'warm start' in docs/how-do-i.md"
_POLICY = "agents that follow rules of your own belong into the environment"

ABSENT: dict[str, str] = {
    r"(Multi|Torch|Tf|PPOTorch|DefaultPPOTorch|SACTorch)?(Multi)?RLModule(Spec|Config)?|"
    r"(Single|Multi)AgentRLModuleSpec|TorchMultiRLModule|Catalog|PPOCatalog|ActorCriticEncoder"
    r"Config|MLPHeadConfig|Columns|ValueFunctionAPI": _NETWORKS,
    r"(PPO|DQN|SAC|IMPALA|APPO|Torch|PPOTorch)?Learner(Group|HyperParameters)?|"
    r"(PPO|DQN|SAC|A3C|Impala|PG)(TF1|TF2|Torch|TF)Policy|ppo_surrogate_loss|KLCoeffMixin|"
    r"build_(torch|tf)_policy|build_policy_class|build_trainer|build_tf_policy|"
    r"EntropyCoeffSchedule|LearningRateSchedule|TorchPolicy(V2)?|TFPolicy|"
    r"compute_advantages|compute_gae_for_sample_batch|discount_cumsum|Postprocessing|"
    r"ParallelRollouts|TrainOneStep|StandardMetricsReporting|ConcatBatches|"
    r"synchronous_parallel_sample|train_one_step|multi_gpu_train_one_step": _LOSS,
    r"ConnectorV2|.*Connector|FrameStackingEnvToModule|FlattenObservations|MeanStdFilter|Filter|"
    r"Preprocessor|get_preprocessor|NoPreprocessor|wrap_deepmind|FrameStack|WarpFrame": _WRAP,
    r"TFModelV2|tf_.*|TF.*|Keras.*|DistributionalQTFModel": _TF,
    r"(Json|Dataset|D4RL)(Reader|Writer)|InputReader|IOContext|ShuffledInput|"
    r"ImportanceSampling|WeightedImportanceSampling|register_input|SampleBatchBuilder|"
    r"OutputWriter|OfflineData|OfflinePreLearner": _DATA,
    r"Policy|RandomPolicy": _POLICY,
    r"BaseEnv|ExternalEnv|ExternalMultiAgentEnv|PolicyServerInput|PolicyClient|Unity3DEnv":
        "environments are stepped by Poise: write one whose step() waits for the other side",
    r"VectorEnv": "a vector environment is Gymnasium's: env=lambda config: one of its VectorEnv",
    r"RolloutWorker|WorkerSet|EnvRunner(Group)?|SingleAgentEnvRunner|MultiAgentEnvRunner":
        "environments are reached by trainer.call_envs, and policies by get_policy()",
    r"MultiAgentEpisode|SingleAgentEpisode|Episode(V2)?":
        "episodes are handed to callbacks, and are not made",
    r"Torch\w*Distribution\w*|(Torch)?(Categorical|DiagGaussian|MultiCategorical|Deterministic|"
    r"Dirichlet|SquashedGaussian|Beta)|ActionDistribution":
        "distributions follow from the action space: model.action_distribution chooses for Box",
    r"Exploration|EpsilonGreedy|StochasticSampling|GaussianNoise|OrnsteinUhlenbeckNoise|Curiosity":
        "exploration is a setting: final_epsilon (DQN), exploration_noise (TD3), entropy_coeff",
    r"ViewRequirement|restore_original_dimensions|AttentionWrapper|GTrXLNet":
        "a model sees its observation in the structure of its space, and may have a memory",
    r"Repeated": "sequences are no observations here: give a Box with a mask",
    r"serve|data|workflow": "it has nothing to do with training",
    r"ResourceChangingScheduler|PB2|PopulationBasedTrainingReplay|Repeater|BOHB|DragonflySearch|"
    r"SigOptSearch|SkOptSearch|ZOOptSearch|CFO|BlendSearch|FlamlSearch":
        "searches have sampler='tpe', 'random', 'gp', 'cmaes' or 'qmc', and scheduler='asha', "
        "'hyperband', 'median' or 'pbt'",
    r"ActorPool|named_actors|Queue|placement_group\w*|local|DistributedTrainableCreator|"
    r"get_actor|method|timeline|get_gpu_ids|ObjectRef|exceptions":
        "Ray itself is beside Poise: import ray for it",
    r"durable|ExperimentTerminationReporter|TrialProgressCallback|Trial|TrialRunner|Syncer":
        "runs are kept in folders that poise.tune.load reads",
}  # fmt: skip
"""Names, as patterns, and what Poise has in their place."""


class AbsentError(PoiseError, ImportError):
    """A name or a use of RLlib's or Ray Tune's that is not here."""


PACKAGES = {
    "tf": _TF, "tf_ops": _TF, "tf_utils": _TF, "iter": _LOSS,
    "execution": _LOSS, "offline": _DATA, "connectors": _WRAP, "core": _NETWORKS,
    "evaluation": "environments are reached by trainer.call_envs, and policies by get_policy()",
    "exploration": "exploration is a setting, such as final_epsilon (DQN)", "serve": "it is Ray's",
    "dqn_torch_model": _NETWORKS, "sac_torch_model": _NETWORKS, "slateq": "DQN is near",
    "replay_buffers": "a replay is a setting: buffer_size, prioritized, n_step", "cql": _DATA,
}  # fmt: skip
"""Packages of which Poise has little, and what there is in the place of the rest."""


def instead_of(name: str, module: str = "") -> str | None:
    """What to take instead of a name that RLlib or Tune has and Poise has not; else None."""
    whole = [instead for pattern, instead in ABSENT.items() if re.fullmatch(pattern, name)]
    whole += [PACKAGES[part] for part in module.split(".") if part in PACKAGES]
    bare = re.sub(r"(Trainer|Agent|Config)$|_DEFAULT_CONFIG$", "", name)
    known = {re.sub(r"\W", "", each).lower(): hint for each, hint in ALGORITHMS.items()}
    if (hint := known.get(bare.lower().replace("_", ""))) is not None:
        return hint
    return f"{whole[0][0].upper()}{whole[0][1:]}." if whole else None


class Refusing(ABCMeta):
    """A class that says so where it is asked for something."""

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotImplementedError(cls.__doc__)


def absent_class(name: str, instead: str) -> Any:
    """A class that scripts may derive from; none of them can be made."""
    said = f"{name} is not carried over. {instead}"

    def refuse(cls: type, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(said)

    return Refusing(name.rpartition(".")[2], (), {"__new__": refuse, "__doc__": said})
