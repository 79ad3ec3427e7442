"""Hyper-parameters of RL Baselines3 Zoo as presets, from a file of theirs (`ppo.yml`).

The file is read and never run. Each key of an entry means here what it means there, or is named in
one warning as left out.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable
from typing import Any

from poise.config.atari import atari_name
from poise.config.reading import read_file
from poise.config.types import PositiveInt, brief, coerce
from poise.errors import ConfigError, PoiseWarning, nearest

_SAME = {"gamma": 0.99, "n_envs": 1}
_REPLAY = {
    **_SAME, "train_freq": 1, "gradient_steps": 1, "batch_size": 256, "buffer_size": 1_000_000,
    "learning_starts": 100,
}  # fmt: skip
_SOFT = {**_REPLAY, "tau": 0.005, "ent_coef": "auto", "learning_rate": 3e-4}
_NOISY = {
    **_REPLAY, "tau": 0.005, "policy_delay": 2, "target_policy_noise": 0.2,
    "target_noise_clip": 0.5, "learning_rate": 1e-3, "noise_type": None, "noise_std": 0.0,
}  # fmt: skip
_ON_POLICY = {**_SAME, "max_grad_norm": 0.5, "ent_coef": 0.0, "vf_coef": 0.5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "PPO": {
        **_ON_POLICY, "n_steps": 2048, "batch_size": 64, "n_epochs": 10, "gae_lambda": 0.95,
        "clip_range": 0.2, "learning_rate": 3e-4,
    },
    "A2C": {**_ON_POLICY, "n_steps": 5, "gae_lambda": 1.0, "learning_rate": 7e-4},
    "DQN": {
        **_SAME, "train_freq": 4, "gradient_steps": 1, "batch_size": 32, "buffer_size": 1_000_000,
        "tau": 1.0, "learning_starts": 100, "target_update_interval": 10_000,
        "max_grad_norm": 10.0, "double_q": False, "exploration_initial_eps": 1.0,
        "exploration_final_eps": 0.05, "exploration_fraction": 0.1, "learning_rate": 1e-4,
        "adam_epsilon": 1e-8,
    },
    "SAC": _SOFT,
    "TQC": {**_SOFT, "top_quantiles_to_drop_per_net": 2},
    "CrossQ": {**_REPLAY, "ent_coef": "auto", "policy_delay": 3, "learning_rate": 1e-3},
    "TD3": _NOISY,
    "DDPG": {**_NOISY, "policy_delay": 1, "target_policy_noise": 0.0},
}  # fmt: skip
"""What Stable-Baselines3 does where a file of the Zoo says nothing."""
# The Zoo's DQN begins with PyTorch's own weights, its PPO and A2C with orthogonal ones, as here.
MODELS: dict[str, dict[str, Any]] = {
    "DQN": {"initializer": "uniform"},
    "CrossQ": {"net_arch": {"pi": [256, 256], "qf": [1024, 1024]}},
    "TD3": {"net_arch": [400, 300]},
    "DDPG": {"net_arch": [400, 300]},
}
"""Its networks, where they are others than here."""
_PULL = 0.15 * 0.01
NOISES: dict[Any, tuple[float, float]] = {
    None: (0.0, 0.0),
    "normal": (0.0, 1.0),
    "ornstein-uhlenbeck": (1 - _PULL, 0.1 / math.sqrt(1 - (1 - _PULL) ** 2)),
}
"""What a `noise_type` shares from step to step, and its width for a `noise_std` of 1."""
ACTIVATIONS = {
    "ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "SiLU": "silu", "GELU": "gelu",
    "LeakyReLU": "leaky_relu",
}  # fmt: skip
ATARI_WRAPPER = "AtariWrapper"
AS_ALWAYS = {
    "policy": ("MlpPolicy", "MultiInputPolicy"),
    "use_rms_prop": (True,),
    "optimize_memory_usage": (True, False),
    "use_sde": (False,),
}
"""Keys with the values that ask for what Poise does anyway."""
RECURRENT = {"MlpLstmPolicy": False, "MultiInputLstmPolicy": False, "CnnLstmPolicy": True}
"""The recurrent policies of SB3-contrib, and whether they see pictures."""
RECURRENT_DEFAULTS = {"n_steps": 128, "batch_size": 128}
RECURRENT_AS_ALWAYS = (
    ("policy_kwargs.n_lstm_layers", 1), ("policy_kwargs.enable_critic_lstm", True),
    ("policy_kwargs.shared_lstm", False),
)  # fmt: skip


def zoo_preset(
    path: str, algorithm: str, env: str, known: Callable[[str], bool], length: Any = None
) -> dict[str, Any]:
    """Settings for an environment from a file of the Zoo.

    A warning names the keys that Poise has nothing for.

    Args:
        path: the YAML file, with an entry for each environment.
        algorithm: the algorithm that it is for.
        env: the environment. Without an entry of its own, an Atari game takes `atari`, and another
            environment `default`.
        known: tells whether Poise has a setting of this name.
        length: steps that schedules last, in place of the entry's `n_timesteps`.

    Raises:
        ConfigError: the file cannot be read, or has no entry for the environment.
    """
    entry = _entry(path, env)
    if length is not None:
        entry["n_timesteps"] = coerce(PositiveInt, length, "timesteps_total")
    reader = Reader(algorithm, known, is_game=atari_name(env) is not None)
    every = {"policy": "MlpPolicy", **DEFAULTS.get(algorithm, {})}
    every |= {**(RECURRENT_DEFAULTS if entry.get("policy") in RECURRENT else {}), **entry}
    if "episode" in str(every.get("train_freq")) and every["gradient_steps"] != -1:
        reader.leave_out("gradient_steps", every.pop("gradient_steps"))  # after each episode
    for key, value in every.items():
        try:
            reader.read(key, value, float(entry.get("n_timesteps") or 0))
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
            raise ConfigError(f"{key}={brief(value)} of {path} cannot be read.") from None
    if reader.left_out:
        missing = ", ".join(reader.left_out)
        shown = f"{path} asks for what has no equivalent here and is left out: {missing}."
        warnings.warn(shown, PoiseWarning, stacklevel=4)
    return reader.settings


def _entry(path: str, env: str) -> dict[str, Any]:
    """The entry of an environment in a file; its own, else one that it shares with others."""
    entries = read_file(path)
    names = [str(name) for name in entries] if isinstance(entries, dict) else []
    shared = "atari" if atari_name(env) else "default"
    found = next((name for name in (env, env.rpartition(":")[2], shared) if name in names), None)
    entry = entries[found] if found else None
    if not isinstance(entry, dict):
        raise ConfigError(f"The preset {path} has nothing for {env}.{nearest(env, names)}")
    return {str(key): value for key, value in entry.items()}


class Reader:
    """Turns an entry's keys into settings.

    Attributes:
        settings: what the keys become.
        left_out: keys and values that became nothing, in words.
    """

    def __init__(self, algorithm: str, known: Callable[[str], bool], *, is_game: bool) -> None:
        self.algorithm, self.known, self.is_game = algorithm, known, is_game
        self.critics = known("num_critics")
        self.model: dict[str, Any] = dict(MODELS.get(algorithm, {}))
        self.env_config: dict[str, Any] = {}
        self.settings: dict[str, Any] = {"model": self.model, "env_config": self.env_config}
        self.left_out: list[str] = []
        self.sees_pictures = False
        self.noise = 1.0

    def read(self, key: str, value: Any, steps: float) -> None:
        """Takes one key; `steps` is the length of the run, or 0."""
        if key in AS_ALWAYS and value in AS_ALWAYS[key]:
            return
        if key == "policy" and value in RECURRENT and self.algorithm == "PPO":
            self._remember(RECURRENT[value])
        elif key == "policy" and value == "CnnPolicy":
            self._pictures()
        elif key == "policy_kwargs":
            self._policy(_literal(value))
        elif key == "normalize":
            self._normalize(_literal(value))
        elif key == "env_kwargs":
            self.env_config.update(_literal(value))
        elif key == "env_wrapper":
            self._wrap(value)
        elif key == "frame_stack" and self.is_game:
            self.env_config["stack"] = value
        elif key == "replay_buffer_class" and value == "HerReplayBuffer" and self.known("her"):
            self.settings["her"] = True
        elif key == "replay_buffer_kwargs" and self.known("her"):
            self._goals(_literal(value))
        elif key == "noise_type" and self.known("exploration_noise") and value in NOISES:
            self._noise(value)
        elif key == "noise_std" and self.known("exploration_noise"):
            self.settings["exploration_noise"] = _number(value, steps) * self.noise
        elif key == "n_timesteps":
            self.settings["total_timesteps"] = int(steps)
        elif key == "exploration_fraction":
            if steps:
                self.settings["epsilon_timesteps"] = max(1, int(steps * value))
        elif key == "train_freq" and isinstance(value, (list, tuple)) and [*value[1:]] == ["step"]:
            self.settings[key] = value[0]
        elif key == "frame_stack" or isinstance(value, (list, tuple, dict)) or not self.known(key):
            self.leave_out(key, value)
        else:
            self.settings[key] = _number(value, steps)

    def leave_out(self, key: str, value: Any) -> None:
        """Notes what becomes nothing."""
        self.left_out.append(f"{key}={brief(value)}")

    def _remember(self, pictures: bool) -> None:
        """SB3-contrib's recurrent policies: an LSTM of 256 each, and hidden layers behind them."""
        if pictures:
            self._pictures()
            self.model.pop("vf_share_layers", None)
            self.left_out.append("a layer of 512 in front of the LSTM (it is behind it)")
        self.model.update({"memory": "lstm", "lstm_cell_size": 256})

    def _pictures(self) -> None:
        """The Zoo's `CnnPolicy`: shared convolutions, and a layer of 512 units behind them."""
        self.sees_pictures = True
        self.model.pop("net_arch", None)
        self.model.update({"fcnet_hiddens": [512], "fcnet_activation": "relu"})
        if self.algorithm != "DQN" and not self.critics:
            self.model["vf_share_layers"] = True

    def _policy(self, given: dict[str, Any]) -> None:
        """The Zoo's `policy_kwargs`, which are settings of the model here."""
        for key, value in given.items():
            if key == "net_arch":
                self._layers(value)
            elif key == "activation_fn" and value in ACTIVATIONS:
                self.model["fcnet_activation"] = ACTIVATIONS[value]
            elif key == "ortho_init":
                self.model["initializer"] = "orthogonal" if value else "uniform"
            elif key == "lstm_hidden_size" and "memory" in self.model:
                self.model["lstm_cell_size"] = value
            elif (f"policy_kwargs.{key}", value) in RECURRENT_AS_ALWAYS and "memory" in self.model:
                continue
            elif key == ("log_std_init" if not self.critics else "n_critics") or (
                key == "n_quantiles" and self.critics
            ):
                self.model[key] = value
            else:
                self.leave_out(f"policy_kwargs.{key}", value)

    def _layers(self, given: Any) -> None:
        """Widths of layers, shared or by tower.

        They are written `[64, 64]`, `dict(pi=[64], vf=[64])`, `[dict(pi=[64], vf=[64])]` or
        `[64, dict(pi=[64], vf=[64])]`.
        """
        if not self.sees_pictures:
            self.model["net_arch"] = given
        elif given:
            parts = given if isinstance(given, list) else [given]
            first = [512, *(width for width in parts if not isinstance(width, dict))]
            own = next((part for part in parts if isinstance(part, dict)), {})
            names = "pi", "qf" if "qf" in own else "vf"
            self.model["net_arch"] = {name: [*first, *own.get(name, [])] for name in names}
            self.model.pop("fcnet_hiddens")
            self.model.pop("vf_share_layers", None)
            if not self.critics:
                self.left_out.append(
                    "convolutions shared by policy and value function (each has its own)"
                )

    def _normalize(self, given: Any) -> None:
        """`true`, or `{'norm_obs': true, 'norm_reward': false}`."""
        both = {"norm_obs": bool(given), "norm_reward": bool(given)}
        chosen = dict(given) if isinstance(given, dict) else both
        self.settings["normalize_observations"] = bool(chosen.pop("norm_obs", True))
        self.settings["normalize_rewards"] = bool(chosen.pop("norm_reward", True))
        for key, value in chosen.items():
            self.leave_out(f"normalize.{key}", value)

    def _noise(self, given: str | None) -> None:
        """The Zoo's `noise_type`: one that is correlated in time has another width, too."""
        self.settings["exploration_correlation"], self.noise = NOISES[given]
        if self.settings["exploration_correlation"]:
            self.left_out.append("noise that begins anew, at 0, with each episode (it goes on)")

    def _goals(self, given: dict[str, Any]) -> None:
        """`dict(goal_selection_strategy='future', n_sampled_goal=4)`."""
        for key, value in given.items():
            if key == "n_sampled_goal" or value in ("future", "final"):
                self.settings[key] = value
            elif key != "online_sampling":  # goals are drawn with the steps
                self.leave_out(f"replay_buffer_kwargs.{key}", value)

    def _wrap(self, given: Any) -> None:
        """A wrapper's `module.Class`, `{module.Class: arguments}`, or several of them."""
        for wrapper in given if isinstance(given, list) else [given]:
            [(name, options)] = wrapper.items() if isinstance(wrapper, dict) else [(wrapper, {})]
            if name.endswith(ATARI_WRAPPER) and self.is_game:
                options = dict(options)
                self.settings["clip_rewards"] = options.pop("clip_reward", True)
                sticky = options.pop("action_repeat_probability", None)
                self.env_config["episodic_life"] = True
                if sticky is not None:
                    self.env_config["sticky_actions"] = sticky
                self.env_config.update(options)
            else:
                # Code that a file names is not run: the user may name it instead.
                module, _, last = name.rpartition(".")
                own = [f"{module}:{last}", options] if options else f"{module}:{last}"
                self.left_out.append(
                    f"env_wrapper={brief(wrapper)} (which you may give: wrappers=[{own!r}])"
                )


def _number(value: Any, steps: float) -> Any:
    """The number or schedule that a text of the Zoo means; anything else as it is.

    `lin_0.001` falls from there to 0 over the run; YAML takes `1e-4` and `1e6` for texts.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("lin_"):
        if not steps:
            raise ValueError
        return [[0, float(value[4:])], [int(steps), 0.0]]
    try:
        return float(value)
    except ValueError:
        return value


def _literal(text: Any) -> Any:
    """`dict(net_arch=[64], activation_fn=nn.ReLU)` as values; names become their last word.

    Nothing is run.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(text, str):
        return text

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
            return {str(keyword.arg): value(keyword.value) for keyword in node.keywords}
        if isinstance(node, ast.Dict):
            keys = [ast.literal_eval(key) for key in node.keys if key is not None]
            return dict(zip(keys, map(value, node.values), strict=True))
        if isinstance(node, (ast.List, ast.Tuple)):
            return [value(item) for item in node.elts]
        if isinstance(node, ast.Attribute):
            return node.attr
        return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)

    try:
        return value(ast.parse(" ".join(text.split()), mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(text) from error
