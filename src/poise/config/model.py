"""The settings of the networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from poise.config.checked import Checked
from poise.config.types import PositiveInt, Range, coerce

Activation = Literal[
    "linear", "relu", "tanh", "elu", "silu", "swish", "gelu", "leaky_relu", "sigmoid"
]

SPELLINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "model.use_lstm": lambda on: {
        "model.memory": "lstm" if coerce(bool, on, "model.use_lstm") else None
    },
    "model.lstm_use_prev_action_reward": lambda on: {
        "model.lstm_use_prev_action": on,
        "model.lstm_use_prev_reward": on,
    },
}
"""Settings of the networks as RLlib says them."""


@dataclass
class ModelConfig(Checked):
    """The networks of a policy."""

    fcnet_hiddens: list[PositiveInt] = field(default_factory=lambda: [64, 64])
    """Widths of the hidden layers; `[]` makes the policy linear."""

    vf_fcnet_hiddens: list[PositiveInt] | None = None
    """Widths of the value function's own hidden layers; null takes fcnet_hiddens.

    In DQN, these are the layers of V(s) in a dueling network.
    """

    fcnet_activation: Activation = "tanh"
    """Activation after each hidden layer."""

    initializer: Literal["orthogonal", "uniform"] = "orthogonal"
    """How the default networks are initialised.

    They begin with orthogonal weights and zero biases, or with PyTorch's own weights and biases,
    which are smaller: uniform within 1/sqrt(inputs).
    """

    vf_share_layers: bool = False
    """Whether policy and value function share their hidden layers."""

    conv_filters: list[tuple[PositiveInt, PositiveInt, PositiveInt]] | None = None
    """Convolutions `[channels, kernel, stride]` for images; null fits a stack to the image's size.
    """

    conv_activation: Activation = "relu"
    """Activation after each convolution."""

    conv_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the numbers in which pictures of bytes are convolved.

    Parameters and all later layers stay float32. `auto` takes bfloat16 if this processor has
    instructions for it, which halves the time, and writes down its choice.
    """

    action_distribution: Literal["gaussian", "squashed_gaussian"] = "gaussian"
    """For `Box` actions: a Gaussian clipped to the bounds, or one squashed into them by tanh."""

    free_log_std: bool = True
    """Whether a Gaussian's log standard deviation is a parameter, and no output of the network."""

    log_std_init: Annotated[float, Range(-20, 2)] = 0.0
    """Initial log standard deviation, in units in which finite action bounds are -1 and 1."""

    memory: Literal["lstm", "gru"] | None = None
    """Recurrent cells in front of the hidden layers, for environments whose observations do not
    tell all; null has none. PPO, A2C, IMPALA, APPO and DQN can have them.

    With vf_share_layers, policy and value function have them in common, else one each.
    """

    lstm_cell_size: PositiveInt = 64
    """Numbers that such a cell puts out, a GRU's, too."""

    lstm_use_prev_action: bool = False
    """Whether cells see the previous action beside the observation."""

    lstm_use_prev_reward: bool = False
    """Whether cells see the previous reward r, as sign(r) log(1 + |r|)."""

    max_seq_len: PositiveInt = 32
    """Steps through which PPO, APPO and DQN backpropagate at most.

    Longer rollouts are cut into parts of equal length, and minibatches are drawn from these. A2C
    and IMPALA go through whole rollouts.
    """

    custom_model: str | None = None
    """A module of your own: `module:Class`, or a name given to `poise.register_model`."""

    custom_model_config: dict = field(default_factory=dict)
    """Keyword arguments for the custom model."""

    custom_preprocessor: str | None = None
    """An observation preprocessor of your own.

    It is `module:Class`, or a name given to `poise.register_preprocessor`.
    """
