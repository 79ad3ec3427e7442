"""What to write instead of words that other libraries have and Poise has not.

One table serves Python, files and flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from poise.errors import nearest

SETTINGS: dict[str, str] = {
    "framework": "Everything is PyTorch.",
    "clip_vloss": "Give vf_clip_param: how far a value may move, or null.",
    "observation_filter": "Give normalize_observations.",
    "anneal_lr": "Give lr as a schedule: [[0, 2.5e-4], [500000, 0]].",
    "num_minibatches": "Give sgd_minibatch_size: steps in one of them.",
    "num_atoms": "Values are expectations, not distributions, in this version.",
    "noisy": (
        "Exploration is by epsilon: give initial_epsilon, final_epsilon and epsilon_timesteps."
    ),
    "policy": (
        "The network follows from the spaces; model holds its settings, "
        "and model.custom_model one of your own."
    ),
    "policy_class": (
        "The network follows from the spaces; model.custom_model names one of your own."
    ),
    "ortho_init": "Give model.initializer: 'orthogonal' or 'uniform'.",
    "features_extractor_class": (
        "Give model.custom_model, a module of your own that poise.register_model knows."
    ),
    "features_extractor_kwargs": "Give model.custom_model_config.",
    "post_fcnet_hiddens": "Give model.fcnet_hiddens: layers behind the convolutions.",
    "dim": "Pictures belong to the environment: give env_config={'size': 84}.",
    "framestack": "Pictures belong to the environment: give env_config={'stack': 4}.",
    "head_fcnet_hiddens": "Give model.fcnet_hiddens: all hidden layers.",
    **dict.fromkeys(
        ("clip_actions", "normalize_actions"),
        "Actions of the policy are scaled to their bounds, and never beyond them.",
    ),
    "max_episode_steps": "Give it in env_config: env_config={'max_episode_steps': 200}.",
    "env_kwargs": "Give env_config.",
    "num_cpus": "Give num_workers: processes that step environments.",
    "torch_deterministic": "Equal seeds give equal runs: give seed.",
    "capture_video": (
        "poise.record films a policy; poise.run(..., video=True) "
        "or {flag}video does it while training."
    ),
    "track": (
        "Runs go to Weights & Biases or MLflow with loggers=['wandb'], of poise.run "
        "({flag}log wandb in the command)."
    ),
    "wandb_project_name": (
        "Give loggers=['wandb'], of poise.run ({flag}log wandb in the command), "
        "and set WANDB_PROJECT."
    ),
    "tensorboard_log": (
        "Runs (poise.run, poise train) write TensorBoard events by themselves: set tensorboard."
    ),
    "exp_name": (
        "Give experiment and name, of poise.run ({flag}experiment and {flag}name in the command)."
    ),
    "algo": "The algorithm stands by itself: poise.PPO(...), or poise train PPO.",
    "save_freq": "Give checkpoint_freq, of poise.run ({flag}checkpoint-freq in the command).",
    "eval_freq": "Give evaluation_interval: iterations between evaluations.",
    "n_eval_episodes": "Give evaluation_duration: episodes in one evaluation.",
    **dict.fromkeys(
        ("kl_coeff", "kl_target"),
        "The clipped surrogate is used without a KL penalty; target_kl ends an update early (PPO).",
    ),
    **dict.fromkeys(
        ("use_sde", "sde_sample_freq", "use_sde_at_warmup", "use_expln"),
        "Give exploration_correlation: noise that is correlated in time (not DQN).",
    ),
    **dict.fromkeys(
        ("use_attention", "use_transformer"),
        "A memory is an LSTM or a GRU: give model.memory.",
    ),
    "n_lstm_layers": "A memory has one layer; model.fcnet_hiddens says those behind it.",
    **dict.fromkeys(
        ("enable_critic_lstm", "shared_lstm"),
        "Policy and value function have a memory each, or share it with model.vf_share_layers.",
    ),
    **dict.fromkeys(
        ("verbose", "log_level"),
        "Progress is shown in terminals and notebooks; poise.PPO(..., progress=False) "
        "or {flag}quiet is silent.",
    ),
    **dict.fromkeys(
        ("optimizer_class", "optimizer_kwargs"),
        "The optimiser is chosen: set lr, and adam_epsilon (DQN, SAC) or rms_prop_eps (A2C, "
        "IMPALA).",
    ),
    **dict.fromkeys(
        ("local_dir", "storage_path", "log_dir", "save_path"),
        "Say where runs are kept by folder ({flag}folder in the command).",
    ),
    **dict.fromkeys(
        ("device", "cuda"),
        "Give num_gpus: 0 computes on the processor, 1 on the GPU, 'auto' chooses.",
    ),
}
"""What has no counterpart under any name. `{flag}` is `--` where a flag was typed."""

ALGORITHMS: dict[str, str] = {
    **dict.fromkeys(
        ("REDQ", "DroQ", "RLPD"),
        "SAC is near: with num_critics, gradient_steps, policy_delay and critic_norm='layer'.",
    ),
    "D4PG": "TQC is near: SAC with distributions as values.",
    **dict.fromkeys(("TRPO", "ARS", "ES", "PG", "REINFORCE", "VPG", "PPG"), "PPO is nearest."),
    **dict.fromkeys(
        ("RecurrentPPO", "PPO_LSTM"), "It is a setting of PPO: give model.memory: 'lstm' or 'gru'."
    ),
    **dict.fromkeys(
        ("R2D2", "DRQN"), "It is a setting of DQN: give model.memory: 'lstm' or 'gru'."
    ),
    **dict.fromkeys(
        ("QRDQN", "QR-DQN", "C51", "Rainbow", "ApexDQN", "SimpleQ", "DoubleDQN", "DuelingDQN"),
        "DQN has double, dueling, prioritized and n-step learning as options.",
    ),
    "MaskablePPO": "PPO takes action masks by itself.",
    "A3C": "A2C is its synchronous form, and IMPALA the asynchronous one.",
    "HER": "It is a setting of SAC, TQC, CrossQ, TD3, DDPG and DQN: give her=True.",
    **dict.fromkeys(
        ("DreamerV3", "MuZero"), "Models of the world are not learnt here; PPO and DQN are near."
    ),
    **dict.fromkeys(
        ("BC", "MARWIL", "CQL", "GAIL"),
        "Nothing is learnt from recorded data here; "
        "see 'warm start' in 'How do I ...' of the documentation.",
    ),
    **dict.fromkeys(
        ("MAPPO", "CentralizedCritic"), "It is a setting of PPO: give central_critic=True."
    ),
    **dict.fromkeys(
        ("QMIX", "MADDPG", "VDN"), "PPO is near, for several agents with central_critic=True."
    ),
    "IPPO": "PPO with several agents is that.",
}
"""Algorithms that others have, and what is near."""


def setting_hint(key: str, special: dict[str, str], known: Iterable[str], *, flag: str = "") -> str:
    """What to do instead of a setting that does not exist; empty where nothing is near.

    It begins with a space, so that it can follow a sentence.

    Args:
        key: as given; of a nested key, the last part counts as well.
        special: the algorithm's own sentences.
        known: names of settings.
        flag: `--` where it was a flag.
    """
    table = {**SETTINGS, **special}
    for name in (key, key.rpartition(".")[2]):
        if name in table:
            return " " + table[name].replace("{flag}", flag)
    hint = nearest(key, known)
    return hint.replace("'", f"'{flag}", 1)


def algorithm_hint(name: str, known: Iterable[str]) -> str:
    """What is near an algorithm that does not exist, with a space in front."""
    if re.search(r"-v\d+$|[:/]", name):
        return (
            " It looks like an environment: say the algorithm, too, "
            "as in poise train PPO --env CartPole-v1."
        )
    by_lower = {_letters(other): text for other, text in ALGORITHMS.items()}
    found = by_lower.get(_letters(name))
    return f" {found}" if found else nearest(name, known)


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
