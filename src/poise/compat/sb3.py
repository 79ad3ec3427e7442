"""Policies of Stable-Baselines3, read from its `.zip` files.

algo = poise.load_sb3("ppo_cartpole.zip", "CartPole-v1")

Nothing in the file is run (see `sb3_file`). Networks follow from the tensors' shapes, and spaces
from the environment.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from poise.api import make_trainer
from poise.compat.sb3_file import Layers, Saved, read
from poise.config.algorithms import algorithm_spec
from poise.config.resolve import canonical
from poise.config.types import a_path, brief
from poise.config.zoo import ACTIVATIONS, DEFAULTS
from poise.errors import CheckpointError, ConfigError, PoiseWarning, SpaceError
from poise.models.actions import finite_bounds
from poise.models.encoders import ImageEncoder, byte_limit
from poise.models.features import Features, categories
from poise.models.mlp import MLP
from poise.models.policy import Policy
from poise.spaces.layout import Leaf
from poise.training.trainer import Trainer

STRIDES = (4, 2, 1)
"""Of its convolutions (`NatureCNN`), which the file does not say."""

_UNREAD = {"noise_type", "noise_std", "exploration_fraction", "exploration_initial_eps"}


def load_sb3(
    path: str | Path,
    env: Any,
    *,
    obs_rms: tuple[Any, Any] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Trainer:
    """A trainer with the policy of a file of Stable-Baselines3's, which acts as it did there.

    PPO, A2C, DQN, SAC, TD3 and DDPG are read, over vectors and `Dict`s of them, and PPO, A2C and
    DQN over pictures. Critics, target networks and SAC's temperature come along, and the settings
    that are readable; optimisers and the replay begin anew. Its `notes` say what was left out.

    Args:
        path: the `.zip` file that `model.save` wrote.
        env: the environment, as for `make_trainer`: its spaces must be those of the file.
        obs_rms: mean and variance of each number of the observations, of a `VecNormalize`: its
            file is a pickle, which is not read. In Stable-Baselines3, they are
            `vec_env.obs_rms.mean` and `.var`.
        progress: as for `make_trainer`.
        settings: other settings to go on with.

    Raises:
        CheckpointError: it is no such file, or holds what cannot be read; the sentence says what.
        SpaceError: the environment has other spaces than the policy was trained with.
        ConfigError: a setting that is none, or that would make another network.
    """
    saved = read(a_path(path))
    name = _algorithm(saved)
    left_out: list[str] = []
    kind = algorithm_spec(name)[1].config
    own = canonical(kind, settings)
    if wrong := [key for key in own if key.startswith("model.")]:
        raise ConfigError(f"{wrong[0]} is not allowed: the network is the one in {saved.path}.")
    tower = _towers(saved, name)
    there = canonical(kind, {**_settings(saved, name, left_out), "model": tower.model(saved)})
    if obs_rms is not None:
        there["normalize_observations"] = True
    every = {**there, **own}
    batch: list[Any] = [every.get(k) for k in ("rollout_fragment_length", "num_envs_per_worker")]
    if name == "PPO" and "sgd_minibatch_size" not in own and all(isinstance(n, int) for n in batch):
        # There, a minibatch may be larger than the batch that it is of.
        every["sgd_minibatch_size"] = min(every["sgd_minibatch_size"], batch[0] * batch[1])
    trainer = make_trainer(name, env, preset=None, progress=progress, config=every)
    try:
        _Filling(saved, trainer, tower).fill()
        if obs_rms is not None:
            _normalize(trainer.policy, obs_rms)
    except BaseException:
        trainer.close()
        raise
    steps = saved.data.get("num_timesteps")
    trainer.notes.append(
        f"{name} of Stable-Baselines3, {steps} steps: its optimisers begin anew"
        + (", and so does its replay." if hasattr(trainer.algorithm, "targets") else ".")
    )
    if left_out:
        trainer.notes.append(f"Not read, and as by default: {', '.join(left_out)}.")
    if obs_rms is None and any(saved.path.parent.glob("*vecnormalize*.pkl")):
        warnings.warn(
            f"Beside {saved.path.name} lies a pickle of VecNormalize, which is not read: if the "
            "policy saw normalised observations, give obs_rms=(mean, variance).",
            PoiseWarning,
            stacklevel=2,
        )
    return trainer


def _algorithm(saved: Saved) -> str:
    """The algorithm that the parameters are of."""
    names = saved.tensors
    if saved.data.get("use_sde"):
        raise CheckpointError(
            f"{saved.path} explores by use_sde, whose actions Poise has no distribution for."
        )
    if any(".extractors." in name for name in names):
        raise CheckpointError(
            f"{saved.path} sees pictures within a Dict, by a network that Poise has not."
        )
    for name in names:
        inside = re.search(r"features_extractor\.(?!cnn\.\d+\.|linear\.0\.)(.*)", name)
        if inside or "lstm" in name or "quantile" in name:
            raise CheckpointError(
                f"{saved.path} holds {name!r}: only PPO, A2C, DQN, SAC, TD3 and DDPG with the "
                "networks that they have by default are read."
            )
    if "action_net.weight" in names:
        return "PPO" if "n_epochs" in saved.data else "A2C"
    if "q_net.q_net.0.weight" in names:
        return "DQN"
    if "actor.log_std.weight" in names:
        return "SAC"
    if "actor.mu.0.weight" in names:
        return "TD3" if "critic.qf1.0.weight" in names else "DDPG"
    raise CheckpointError(
        f"{saved.path} holds no policy of PPO, A2C, DQN, SAC, TD3 or DDPG, but: "
        f"{brief(sorted(names)[:3])}."
    )


def _settings(saved: Saved, name: str, left_out: list[str]) -> dict[str, Any]:
    """The settings in the JSON, by Stable-Baselines3's names; those that are pickled are named."""
    found = {key: value for key, value in DEFAULTS[name].items() if key not in _UNREAD}
    data = saved.data
    data.setdefault("learning_rate", data.get("lr_schedule"))
    for key in [*found, "n_steps", "target_kl"]:
        value = data.get(key)
        if isinstance(value, dict):  # pickled; a constant schedule says its value beside
            said = re.search(r"val=([-+.\de]+)\)", str(value.get("value_schedule")))
            value = float(said[1]) if said else None
            if value is None:
                left_out.append(key)
        if isinstance(value, (int, float, str)):
            found[key] = value
    kind = algorithm_spec(name)[1].config
    if name == "DQN":
        found["exploration_initial_eps"] = found["exploration_final_eps"]  # it has explored
    if "noise_std" in DEFAULTS[name]:
        found["noise_std"] = 0.0
        left_out += ["action_noise"] if data.get("action_noise") is not None else []
    for key in list(found):
        try:
            canonical(kind, {key: found[key]})
        except ConfigError:
            left_out.append(f"{key}={brief(found.pop(key))}")
    return found


# --- networks -------------------------------------------------------------------------------------


@dataclass
class _Towers:
    """The layers of a policy, and of what stands beside it.

    Attributes:
        convolutions: of the policy, if it sees pictures.
        policy: its linear layers.
        beside: those of a value function, or of the first critic; empty without one.
        shared: whether policy and value function share all but the last layer.
    """

    convolutions: Layers
    policy: Layers
    beside: Layers
    shared: bool = False

    def model(self, saved: Saved) -> dict[str, Any]:
        """The settings that make such networks."""
        widths = [[len(weight) for weight, _ in tower[:-1]] for tower in (self.policy, self.beside)]
        made: dict[str, Any] = {"fcnet_hiddens": widths[0], "vf_share_layers": self.shared}
        if self.beside and not self.shared:
            made["vf_fcnet_hiddens"] = widths[1]
        given = saved.data.get("policy_kwargs")
        given = given if isinstance(given, dict) else {}
        on_policy = "action_net.weight" in saved.tensors
        said = str(given.get("activation_fn", "Tanh" if on_policy else "ReLU"))
        activation = [said, *re.findall(r"\w+", said)][-1]
        if self.convolutions:
            if max(map(len, widths)) > 1 and activation != "ReLU":
                raise CheckpointError(
                    f"{saved.path} has layers of {activation} behind one of ReLU, which sees "
                    "pictures: in Poise, one activation is for all."
                )
            activation = "ReLU"
            made["conv_dtype"] = "float32"
            shapes = (weight.shape for weight, _ in self.convolutions)
            filters = zip(shapes, STRIDES, strict=True)
            made["conv_filters"] = [(shape[0], shape[2], stride) for shape, stride in filters]
        if activation not in ACTIVATIONS:
            raise CheckpointError(
                f"{saved.path} has activation_fn={said}; Poise has {', '.join(ACTIVATIONS)}."
            )
        made["fcnet_activation"] = ACTIVATIONS[activation]
        if given.get("normalize_images") is False and self.convolutions:
            raise CheckpointError(f"{saved.path} has normalize_images=False, which is not read.")
        return made


def _towers(saved: Saved, name: str) -> _Towers:
    """The layers of an algorithm's networks."""
    if name in ("PPO", "A2C"):
        own, other = ("features_extractor", "features_extractor")
        if "vf_features_extractor.cnn.0.weight" in saved.tensors:
            own, other = "pi_features_extractor", "vf_features_extractor"
        policy, value = [
            saved.layers(f"{features}.linear") + saved.layers(hidden) + saved.layers(last)
            for features, hidden, last in (
                (own, "mlp_extractor.policy_net", "action_net"),
                (other, "mlp_extractor.value_net", "value_net"),
            )
        ]
        convolutions = saved.layers(f"{own}.cnn", 4)
        pairs = zip(convolutions, saved.layers(f"{other}.cnn", 4), strict=True)
        alike = all(bool((a[0] == b[0]).all()) for a, b in pairs)
        if convolutions and not (alike and len(policy) == len(value) == 2):
            raise CheckpointError(
                f"{saved.path} has layers of its own behind convolutions that policy and value "
                "function share, or convolutions for each: that is not read."
            )
        return _Towers(convolutions, policy, value, shared=bool(convolutions))
    if name == "DQN":
        return _dqn(saved, "q_net")
    if "actor.features_extractor.cnn.0.weight" in saved.tensors:
        raise CheckpointError(f"{saved.path}: {name} over pictures has other networks in Poise.")
    return _Towers([], _actor(saved, "actor"), saved.layers("critic.qf0"))


def _dqn(saved: Saved, name: str) -> _Towers:
    features = f"{name}.features_extractor"
    layers = saved.layers(f"{features}.linear") + saved.layers(f"{name}.q_net")
    return _Towers(saved.layers(f"{features}.cnn", 4), layers, [])


def _actor(saved: Saved, name: str) -> Layers:
    """The layers of SAC's or TD3's policy; SAC's last two become one."""
    layers = saved.layers(f"{name}.latent_pi") + saved.layers(f"{name}.mu")
    if spread := saved.layers(f"{name}.log_std"):
        layers[-1] = tuple(map(torch.cat, zip(layers[-1], spread[0], strict=True)))  # type: ignore[assignment, arg-type]
    return layers


class _Filling:
    """Puts a file's parameters into a trainer's networks.

    Args:
        saved: the file.
        trainer: made for its networks.
        towers: the file's layers.
    """

    def __init__(self, saved: Saved, trainer: Trainer, towers: _Towers) -> None:
        self.saved, self.trainer, self.towers = saved, trainer, towers
        self.algorithm: Any = trainer.algorithm
        self.policy: Policy = trainer.policy
        self.columns, self.scale = _columns(self.policy)

    @torch.no_grad()
    def fill(self) -> None:
        """Takes all parameters over."""
        algorithm, saved = self.algorithm, self.saved
        if bool(self.policy.features.pictures) != bool(self.towers.convolutions):
            raise SpaceError(
                f"{saved.path} does not fit the environment: one of them is of pictures."
            )
        if "action_net.weight" in saved.tensors:
            self._actor_critic()
        elif self.trainer.name == "DQN":
            for module, name in self._both("policy", "q_net"):
                self._q_network(module, _dqn(saved, name))
        else:
            for module, name in self._both("policy", "actor"):
                self._linear(module.network.pi, _actor(saved, name))
            for module, name in self._both("critics", "critic"):
                for i, q in enumerate(module.q):
                    self._linear(q, saved.layers(f"{name}.qf{i}"), beside=self.policy.actions.dim)
            if (logarithm := saved.variables.get("log_ent_coef")) is not None:
                algorithm.temperature.log_alpha.copy_(logarithm)

    def _both(self, key: str, name: str) -> list[tuple[Any, str]]:
        """A learner's module and its target, with the names that they have in the file."""
        both = [(self.algorithm.learners[key].module, name)]
        if key in self.algorithm.targets:
            both.append((self.algorithm.targets[key].module, f"{name}_target"))
        return both

    def _actor_critic(self) -> None:
        network, policy = self.policy.network, self.policy
        (weight, bias), tower = self.towers.policy[-1], self.towers.policy[:-1]
        log_std = self.saved.tensors.get("log_std")
        if log_std is not None:
            bounds = finite_bounds(policy.action_layout.leaves[0])
            if bounds is not None:  # there, outputs are actions; here, -1 and 1 are their bounds
                low, high = (torch.from_numpy(end.ravel()) for end in bounds)
                self._same(len(weight), len(low), "actions")
                half = 0.5 * (high - low)
                weight = (weight.double() / half.unsqueeze(1)).float()
                bias = ((bias.double() - low) / half - 1).float()
                log_std = log_std - half.log().float()
            self._same(len(log_std), len(getattr(policy, "log_std", ())), "actions")
            policy.log_std.copy_(log_std)
        if not self.towers.shared:
            self._linear(network.pi, [*tower, (weight, bias)])
            self._linear(network.vf, self.towers.beside)
            return
        last = self.towers.beside[-1]
        joined = torch.cat([weight, last[0]]), torch.cat([bias, last[1]])
        self._convolutions(network.pi_encoder)
        self._linear(network.pi, [*tower, joined])

    def _q_network(self, module: Any, towers: _Towers) -> None:
        if towers.convolutions:
            self.towers = towers
            self._convolutions(module.network.encoder)
        self._linear(module.network.q, towers.policy)

    def _convolutions(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, ImageEncoder)
        self._copy(encoder.layers, self.towers.convolutions)

    def _linear(self, mlp: MLP, layers: Layers, beside: int = 0) -> None:
        """Fills linear layers, the first of which sees the observation, and actions beside it."""
        if not layers:
            raise CheckpointError(f"{self.saved.path} is damaged: a network of it has no layers.")
        (weight, bias), *rest = layers
        if self.columns is not None:
            self._same(weight.shape[1], len(self.columns) + beside, "numbers of an observation")
            others = torch.arange(len(self.columns), weight.shape[1])
            scale = torch.cat([self.scale, torch.ones(beside)])
            weight = weight[:, torch.cat([self.columns, others])] * scale
        self._copy(mlp.layers, [(weight, bias), *rest])

    def _copy(self, modules: Iterable[nn.Module], layers: Layers) -> None:
        for module, (weight, bias) in zip(modules, layers, strict=True):
            theirs, ours = tuple(weight.shape), tuple(module.weight.shape)  # type: ignore[operator, arg-type]
            self._same(theirs, ours, "weights of a layer")
            module.weight.copy_(weight)  # type: ignore[operator]
            module.bias.copy_(bias)  # type: ignore[operator]

    def _same(self, theirs: Any, ours: Any, what: str) -> None:
        if theirs != ours:
            raise SpaceError(
                f"{self.saved.path} does not fit the spaces of the environment: its {what} are "
                f"{theirs}, and here they would be {ours}."
            )


def _columns(policy: Policy) -> tuple[Tensor | None, Tensor]:
    """Where the columns of Poise's vector are in Stable-Baselines3's, and by how much they differ.

    There, the parts of a `Dict` stand in its own order, and bytes are not divided.

    Returns:
        The columns, None if the observation is a picture, and factors for their weights.

    Raises:
        SpaceError: the space is none that Stable-Baselines3 takes in this way.
    """
    features: Features = policy.features
    space = policy.obs_layout.space
    if features.pictures:
        return None, torch.ones(0)
    nested = isinstance(space, spaces.Tuple) or any("/" in x.name for x in policy.obs_layout.leaves)
    if nested or features.tables or policy.masked:
        raise SpaceError(f"Stable-Baselines3 sees {space} in another way than Poise.")
    start: dict[str, int] = {}
    end = 0
    for leaf in policy.obs_layout.leaves:
        start[leaf.name], end = end, end + _size(leaf)
    kinds = (spaces.Box, spaces.MultiBinary, (spaces.Discrete, spaces.MultiDiscrete))
    ordered = [x for kind in kinds for x in policy.obs_layout.leaves if isinstance(x.space, kind)]
    columns = [torch.arange(start[x.name], start[x.name] + _size(x)) for x in ordered]
    bytes_ = [isinstance(x.space, spaces.Box) and x.dtype == np.uint8 for x in ordered]
    factors = [byte_limit(x) if byte else 1 for x, byte in zip(ordered, bytes_, strict=True)]
    scale = [torch.full((_size(x),), float(f)) for x, f in zip(ordered, factors, strict=True)]
    return torch.cat(columns), torch.cat(scale)


def _size(leaf: Leaf) -> int:
    """How many columns a leaf has in the vector that a network sees."""
    if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
        return int(categories(leaf).sum())
    return int(np.prod(leaf.shape))


def _normalize(policy: Policy, obs_rms: tuple[Any, Any]) -> None:
    """Gives a policy the moments of a `VecNormalize`."""
    moments = policy.normalizer
    try:
        mean, var = (np.asarray(part, np.float64).ravel() for part in obs_rms)
    except (TypeError, ValueError):
        mean = var = np.zeros(0)
    fits = moments is not None and mean.shape == var.shape == moments.mean.shape
    if moments is None or not (fits and np.isfinite(mean).all() and (var >= 0).all()):
        wanted = None if moments is None else tuple(moments.mean.shape)
        raise SpaceError(
            f"obs_rms={brief(obs_rms)} does not fit: it must be mean and variance, {wanted} each."
        )
    moments.mean.copy_(torch.from_numpy(mean))
    moments.var.copy_(torch.from_numpy(var))
    moments.count.fill_(1e4)  # so many, that new ones change them slowly
