"""RLlib's models: `TorchModelV2` in Poise's networks, and the parts that they are built of.

class Mine(TorchModelV2, nn.Module): ...
ModelCatalog.register_custom_model("mine", Mine)        # model={"custom_model": "mine"}
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from poise.compat.ray_missing import AbsentError
from poise.compat.rllib.config import MODEL_DEFAULTS
from poise.errors import ModelError
from poise.models.catalog import register_model, registered_model

ACTIVATIONS = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "swish": nn.SiLU, "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU, "sigmoid": nn.Sigmoid,
}  # fmt: skip
VISION = [[16, 8, 4], [32, 4, 2], [256, 11, 1]]
"""Channels, kernels and strides of RLlib's network for pictures of 84 by 84."""


class TorchModelV2:
    """RLlib's base of networks; derive from it and from `nn.Module`.

    Args:
        obs_space: what it sees, as one vector where it is a structure (`original_space` has that).
        action_space: of the environment.
        num_outputs: distribution inputs that `forward` returns.
        model_config: the `model` settings.
        name: of the model.
    """

    def __init__(self, obs_space: Any, action_space: Any, num_outputs: int,
                 model_config: Mapping[str, Any], name: str = "") -> None:  # fmt: skip
        self.obs_space, self.action_space, self.name = obs_space, action_space, name
        self.num_outputs, self.model_config = num_outputs, model_config
        self.framework = "torch"
        self.view_requirements: dict[str, Any] = {}

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Any) -> Any:
        """Distribution inputs `[N, num_outputs]` and the memory after, a list."""
        raise NotImplementedError

    def value_function(self) -> Tensor:
        """The values `[N]` of what `forward` saw last."""
        raise NotImplementedError

    def get_initial_state(self) -> list[Any]:
        """An empty memory, without an axis of a batch."""
        return []

    def metrics(self) -> dict[str, Any]:
        """Nothing asks for these here."""
        return {}

    def variables(self, as_dict: bool = False) -> Any:
        """Its parameters."""
        own: Any = self
        return dict(own.state_dict()) if as_dict else list(own.parameters())

    trainable_variables = variables

    def import_from_h5(self, *_: Any) -> None:
        """Is not here."""
        raise AbsentError("import_from_h5 has no equivalent here: give weights to set_weights.")


ModelV2 = TorchModelV2


class RecurrentNetwork(TorchModelV2):
    """RLlib's base of networks with a memory: derive from it, with `forward_rnn`."""

    def forward_rnn(self, inputs: Tensor, state: list[Tensor], seq_lens: Any) -> Any:
        """Outputs `[B, T, num_outputs]` of `[B, T, n]`, and the memory after."""
        raise NotImplementedError

    def forward(self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Any) -> Any:
        """One step of each."""
        inputs = input_dict["obs_flat"].float().unsqueeze(1)
        outputs, after = self.forward_rnn(inputs, state, seq_lens)
        return outputs.reshape(-1, self.num_outputs), after


class Adapted(nn.Module):
    """A model of RLlib's as Poise has it: from observations to outputs and values.

    Args:
        cls: its class.
        space: of observations.
        outputs, action_space: as for `TorchModelV2`.
        model_config: the `model` settings.
        custom: keyword arguments of its own.
    """

    def __init__(self, cls: Any, space: spaces.Space, outputs: int, action_space: Any,
                 model_config: Mapping[str, Any], custom: Mapping[str, Any]) -> None:  # fmt: skip
        super().__init__()
        self.space = space
        settings = {**MODEL_DEFAULTS, **_defaults(), **model_config, "custom_model_config":
                    dict(custom), "custom_options": dict(custom)}  # fmt: skip
        given = seen_space(space), action_space, outputs, settings, cls.__name__
        try:
            self.old = cls(*given, **custom)
        except TypeError:  # before 1.0, models found their own settings in model_config
            if not custom:
                raise
            self.old = cls(*given)

    def forward(self, observation: Any) -> tuple[Tensor, Tensor]:
        outputs, _ = self.old(self.entries(observation), [], None)
        return outputs, self.old.value_function().reshape(-1)

    def entries(self, observation: Any) -> dict[str, Any]:
        """The dictionary that a model of RLlib's is given."""
        obs = _encoded(self.space, observation)
        return {"obs": obs, "obs_flat": flattened(obs), "is_training": False}


class AdaptedMemory(Adapted):
    """The same of a model with a memory, which goes step by step."""

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """An empty memory for `batch` slots."""
        parts = [torch.as_tensor(np.asarray(p)) if not isinstance(p, Tensor) else p
                 for p in self.old.get_initial_state()]  # fmt: skip
        return tuple(part.detach().reshape(1, -1).repeat(batch, 1).float() for part in parts)

    def forward(self, observation: Any, state: Any, first: Tensor) -> Any:  # type: ignore[override]
        steps, batch = first.shape
        entries, empty = self.entries(observation), self.initial_state(batch)
        lengths, outputs, values = torch.ones(batch, dtype=torch.long), [], []
        for t in range(steps):
            begins = first[t].unsqueeze(-1)
            state = [torch.where(begins, e.to(s), s) for e, s in zip(empty, state, strict=True)]
            rows = {k: _rows(v, slice(t * batch, (t + 1) * batch)) for k, v in entries.items()}
            found, state = self.old(rows, state, lengths)
            outputs.append(found)
            values.append(self.old.value_function().reshape(-1))
        return torch.cat(outputs), torch.cat(values), tuple(state)


def _rows(value: Any, part: slice) -> Any:
    if isinstance(value, Mapping):
        return {key: _rows(each, part) for key, each in value.items()}
    return value[part] if isinstance(value, Tensor) else value


def _defaults() -> dict[str, Any]:
    """The settings that models look up, where the script says nothing."""
    return {
        "fcnet_hiddens": MODEL_DEFAULTS["fcnet_hiddens"], "fcnet_activation": "tanh",
        "vf_share_layers": False, "no_final_linear": False, "free_log_std": False,
        "conv_filters": None, "conv_activation": "relu", "post_fcnet_hiddens": [],
        "post_fcnet_activation": "relu", "max_seq_len": 20, "lstm_cell_size": 256,
        "use_lstm": False,
    }  # fmt: skip


def seen_space(space: Any) -> Any:
    """The space that RLlib's preprocessors made: a structure is one vector, a choice one-hot."""
    if isinstance(space, spaces.Box):
        return space
    size = spaces.flatdim(space)
    seen: Any = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    seen.original_space = space
    return seen


def _encoded(space: Any, x: Any) -> Any:
    """Observations as RLlib's preprocessors left them: choices are one-hot."""
    if isinstance(space, spaces.Dict):
        return {key: _encoded(inner, x[key]) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [_encoded(inner, x[i]) for i, inner in enumerate(space.spaces)]
    if isinstance(space, spaces.Discrete):
        return nn.functional.one_hot(x.long().view(-1) - int(space.start), int(space.n)).float()
    return x


def flattened(obs: Any) -> Tensor:
    """All numbers of a structure of batches as one matrix, in the order of its keys."""
    if isinstance(obs, Mapping):
        return torch.cat([flattened(obs[key]) for key in obs], 1)
    if isinstance(obs, (list, tuple)):
        return torch.cat([flattened(each) for each in obs], 1)
    found: Tensor = obs.flatten(1).float()
    return found


class ModelCatalog:
    """Where RLlib's scripts register networks of their own."""

    @staticmethod
    def register_custom_model(model_name: str, model_class: Any) -> None:
        """Makes a model known by a name.

        Raises:
            ModelError: it is none of PyTorch.
        """
        if any(type(each).__name__ == "Refusing" for each in getattr(model_class, "__mro__", ())):
            model_class()  # which says what it derives from
        if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)):
            raise ModelError(
                f"The custom model {model_name!r} is no torch.nn.Module: derive it from "
                "TorchModelV2 and nn.Module."
            )
        register_model(model_name, adapter(model_class))

    @staticmethod
    def register_custom_preprocessor(name: str, *_: Any) -> None:
        """Is not here.

        Raises:
            AbsentError: always.
        """
        raise AbsentError(
            f"The preprocessor {name!r} has no equivalent as it is: wrap the environment "
            "(gymnasium.ObservationWrapper), or see poise.register_preprocessor."
        )

    @staticmethod
    def register_custom_action_dist(name: str, *_: Any) -> None:
        """Is not here.

        Raises:
            AbsentError: always.
        """
        raise AbsentError(
            f"The distribution {name!r} has no equivalent here: distributions follow from the "
            "action space; model.action_distribution chooses for Box."
        )


def adapter(cls: Any) -> Any:
    """What Poise makes its network with, of a class of RLlib's."""
    if not issubclass(cls, TorchModelV2):
        return cls
    stateful = issubclass(cls, RecurrentNetwork) or (
        cls.get_initial_state is not TorchModelV2.get_initial_state
    )
    base: Any = AdaptedMemory if stateful else Adapted

    class Made(base):  # type: ignore[misc]
        """A model of RLlib's."""

        def __init__(self, space: Any, outputs: int, *, action_space: Any = None,
                     model_config: Mapping[str, Any] = {}, **custom: Any) -> None:  # fmt: skip
            super().__init__(cls, space, outputs, action_space, model_config, custom)

    Made.__name__ = Made.__qualname__ = cls.__name__
    return Made


def model_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` settings of a script with a model of its own, for Poise."""
    model = dict(given["custom_model"] if isinstance(given["custom_model"], dict) else given)
    chosen = model.pop("custom_model")
    own = dict(model.pop("custom_model_config", None) or model.pop("custom_options", None) or {})
    if isinstance(chosen, type):
        name = chosen.__name__
        ModelCatalog.register_custom_model(name, chosen)
        chosen = name
    made = registered_model(chosen)
    if isinstance(made, type) and issubclass(made, Adapted) and model:
        own["model_config"] = model
    return {"custom_model": chosen, "custom_model_config": own}


def normc_initializer(std: float = 1.0) -> Callable[[Tensor], None]:
    """Normal weights whose rows have the norm `std`."""

    def initialize(weight: Tensor) -> None:
        with torch.no_grad():
            weight.normal_(0, 1)
            weight.mul_(std / weight.pow(2).sum(1, keepdim=True).sqrt())

    return initialize


def same_padding(in_size: Sequence[int], filter_size: Any, stride_size: Any) -> Any:
    """The padding of a convolution that keeps the size but for the stride, and the size after."""
    kernel, stride = (v if isinstance(v, (list, tuple)) else (v, v)
                      for v in (filter_size, stride_size))  # fmt: skip
    outs = [math.ceil(n / s) for n, s in zip(in_size, stride, strict=True)]
    need = [max((o - 1) * s + k - n, 0)
            for o, s, k, n in zip(outs, stride, kernel, in_size, strict=True)]  # fmt: skip
    (top, left), (high, wide) = (n // 2 for n in need), need
    return (left, wide - left, top, high - top), tuple(outs)


def _activation(name: Any) -> nn.Module | None:
    if isinstance(name, type):
        made: nn.Module = name()
        return made
    return ACTIVATIONS[name]() if name not in (None, "linear") else None


class SlimFC(nn.Module):
    """A layer with its activation."""

    def __init__(self, in_size: int, out_size: int, initializer: Any = None,
                 activation_fn: Any = None, use_bias: bool = True, bias_init: float = 0.0
    ) -> None:  # fmt: skip
        super().__init__()
        layer = nn.Linear(in_size, out_size, bias=use_bias)
        (initializer or nn.init.xavier_uniform_)(layer.weight)
        if use_bias:
            nn.init.constant_(layer.bias, bias_init)
        acts = _activation(activation_fn)
        self._model = nn.Sequential(layer, *([acts] if acts else []))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._model(x)
        return found


class SlimConv2d(nn.Module):
    """A convolution with its padding and its activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Any, stride: Any, padding: Any,
                 initializer: Any = None, activation_fn: Any = "relu", **_: Any
    ) -> None:  # fmt: skip
        super().__init__()
        layer = nn.Conv2d(in_channels, out_channels, kernel, stride)
        (initializer if callable(initializer) else nn.init.xavier_uniform_)(layer.weight)
        acts = _activation("relu" if activation_fn == "default" else activation_fn)
        pad = [nn.ZeroPad2d(padding)] if padding else []
        self._model = nn.Sequential(*pad, layer, *([acts] if acts else []))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._model(x)
        return found


class FullyConnectedNetwork(TorchModelV2, nn.Module):
    """RLlib's layers: `fcnet_hiddens` each for the outputs and the values."""

    def __init__(self, obs_space: Any, action_space: Any, num_outputs: int,
                 model_config: Mapping[str, Any], name: str = "") -> None:  # fmt: skip
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        known = {**_defaults(), **model_config}
        sizes = [int(np.prod(obs_space.shape)), *known["fcnet_hiddens"]]
        act = known["fcnet_activation"]

        def tower(outputs: int, last: float) -> nn.Sequential:
            layers = [SlimFC(a, b, normc_initializer(1.0), act)
                      for a, b in itertools.pairwise(sizes)]  # fmt: skip
            return nn.Sequential(*layers, SlimFC(sizes[-1], outputs, normc_initializer(last)))

        outputs = num_outputs or sizes[-1]
        self._logits, self._values = tower(outputs, 0.01), tower(1, 0.01)
        self.num_outputs = outputs
        self._seen: Tensor | None = None

    def forward(self, input_dict: Any, state: Any = None, seq_lens: Any = None) -> Any:
        flat = input_dict.get("obs_flat")
        self._seen = flattened(input_dict["obs"]) if flat is None else flat.float().flatten(1)
        return self._logits(self._seen), state or []

    def value_function(self) -> Tensor:
        assert self._seen is not None, "forward is called first"
        found: Tensor = self._values(self._seen).squeeze(1)
        return found


class VisionNetwork(TorchModelV2, nn.Module):
    """RLlib's convolutions (`conv_filters`) of pictures `[N, H, W, C]`, with both heads."""

    def __init__(self, obs_space: Any, action_space: Any, num_outputs: int,
                 model_config: Mapping[str, Any], name: str = "") -> None:  # fmt: skip
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        height, width, channels = obs_space.shape
        layers, size = [], [height, width]
        for out, kernel, stride in model_config.get("conv_filters") or VISION:
            padding, size = same_padding(size, kernel, stride)
            layers.append(SlimConv2d(channels, out, kernel, stride, padding))
            channels = out
        self._convs = nn.Sequential(*layers, nn.Flatten())
        flat = channels * size[0] * size[1]
        self._logits = SlimFC(flat, num_outputs, normc_initializer(0.01))
        self._values = SlimFC(flat, 1, normc_initializer(0.01))
        self._features: Tensor | None = None

    def forward(self, input_dict: Any, state: Any = None, seq_lens: Any = None) -> Any:
        x = input_dict["obs"]
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        self._features = self._convs(x.permute(0, 3, 1, 2))
        return self._logits(self._features), state or []

    def value_function(self) -> Tensor:
        assert self._features is not None, "forward is called first"
        found: Tensor = self._values(self._features).squeeze(1)
        return found
