"""Policies whose value function sees more than they do (MAPPO; Yu et al. 2022, arXiv 2103.01955).

    own                      -> policy
    own | beside             -> value

What stands beside, such as what other agents see, is in the rollout, and not in what acting is
given: a value is needed only in learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from poise.config.model import ModelConfig
from poise.errors import ConfigError
from poise.learning.running import RunningMoments
from poise.models.features import Features
from poise.models.policy import Policy
from poise.models.recurrent import RecurrentPolicy, has_memory
from poise.spaces.layout import Layout
from poise.spaces.masks import KEY


class Central(Policy):
    """What such policies have in common.

    Attributes:
        whole: how what the value function sees enters it.
        whole_normalizer: moments of its numbers, if they are normalised.

    Raises:
        ConfigError: there can be no value function of this kind.
    """

    def _make_default(
        self, network: Callable[..., Any], outputs: int, config: ModelConfig, *, normalize: bool
    ) -> None:
        leaves = [leaf for leaf in self.obs_layout.leaves if not (self.masked and leaf.name == KEY)]
        seen = [*leaves, *self.obs_layout.beside]
        self.whole = Features(seen, normalize_pictures=normalize)
        super()._make_default(
            partial(network, whole=self.whole), outputs, config, normalize=normalize
        )
        self.whole_normalizer: RunningMoments | None = None
        if normalize and self.whole.width:
            self.whole_normalizer = RunningMoments((self.whole.width,))
            self.moments.append(self.whole_normalizer)
        self.moments += self.whole.pixels.values()

    def prepare(self, obs: Mapping[str, Tensor]) -> Any:
        """As `Policy.prepare`; if what stands beside is given, `{"own": ..., "whole": ...}`."""
        x = super().prepare(obs)
        if self.obs_layout.beside[0].name not in obs:
            return x
        on_device = {name: leaf.to(self.device) for name, leaf in obs.items()}
        with torch.no_grad():
            whole = self.whole.gather(on_device, self.dtype, self.whole_normalizer)
        if self.masked:
            return {"own": x[0], "whole": whole}, x[1]
        return {"own": x, "whole": whole}

    def update_normalizer(self, obs: Mapping[str, Tensor], weight: Tensor) -> None:
        super().update_normalizer(obs, weight)
        self._merge(self.whole, self.whole_normalizer, obs, weight)


class CentralPolicy(Central):
    """A policy with a value function that sees more than it does."""


class CentralRecurrentPolicy(Central, RecurrentPolicy):
    """The same with a memory, which the value function does without: it sees the state."""


def policy_class(layout: Layout, config: ModelConfig) -> Callable[..., Policy]:
    """What makes the policy of an algorithm that has a value function beside it.

    Raises:
        ConfigError: the value function is to see more, and has no layers of its own.
    """
    recurrent = has_memory(config)
    if not layout.beside:
        return RecurrentPolicy if recurrent else Policy
    for key in ("custom_model", "custom_preprocessor", "vf_share_layers"):
        if value := getattr(config, key):
            raise ConfigError(
                f"central_critic=True contradicts model.{key}={value!r}: the value function sees "
                "what the policy does not, and needs the default networks with layers of its own."
            )
    return CentralRecurrentPolicy if recurrent else CentralPolicy
