"""A policy as one function of tensors, which is what all exports are made of.

    observation leaves, memory, [reward] -> action leaves, numbers of the distribution, memory

It is the policy's own modules, rearranged: nothing depends on what is observed but by arithmetic,
so that `torch.export` can follow it.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.learning.distributions import (
    Bernoulli,
    Categorical,
    EpsilonGreedy,
    Gaussian,
    MultiCategorical,
    Product,
)
from poise.learning.running import FAR, RunningMoments
from poise.models.actions import Whole
from poise.models.cells import Cells
from poise.models.encoders import ImageEncoder
from poise.models.policy import Policy
from poise.models.recurrent import Remembering, _squashed
from poise.models.soft_policy import SoftPolicy
from poise.sampling.rollout import stored_dtype
from poise.spaces.layout import ROOT, Leaf


class Exported(nn.Module):
    """A policy's greedy actions and what they follow from.

    Args:
        policy: is copied. Its convolutions are computed in float32.

    Attributes:
        policy: the copy.
        inputs: the names of what `forward` takes, in order, and an example of each, `[2, ...]`.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = frozen(policy)
        self.inputs = {
            name_in("obs", leaf.name): _lowest(leaf) for leaf in policy.obs_layout.leaves
        }
        memory = self.policy.initial_state(2)
        self._memory = [f"state_in_{i}" for i in range(len(memory))]
        self.inputs |= dict(zip(self._memory, memory, strict=True))
        if policy.hears_rewards:
            self.inputs["reward"] = torch.zeros(2)

    @torch.no_grad()
    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        """Acts on a batch.

        Args:
            given: a tensor `[N, ...]` for each of `inputs`.

        Returns:
            `action` (of nested spaces, `action/<leaf>`) as the environment takes it;
            `probabilities` of all choices, `bits`, `mean` and `std` of the numbers before they are
            squashed and scaled, or `q`; `value`; and the memory after, `state_out_0`, ...
        """
        policy, inputs = self.policy, dict(zip(self.inputs, given, strict=True))
        obs = {
            leaf.name: inputs[name_in("obs", leaf.name)].to(
                stored_dtype(leaf.dtype.name, wide=policy.wide)
            )
            for leaf in policy.obs_layout.leaves
        }
        x = policy.prepare(obs)
        memory = tuple(inputs[name] for name in self._memory)
        value: Tensor | None = None
        if isinstance(policy, Remembering):
            outputs, value, memory, action, leaves = self._remembering(policy, x, memory, inputs)
        else:
            outputs = policy.actor(x)
            value = policy.critic(x) if values(policy) else None
            action = policy.dist.mode(outputs)
            leaves = self._decoded(action)
        found = {name_in("action", name): leaf for name, leaf in leaves.items()}
        found |= numbers(policy.dist, outputs)
        if value is not None and values(policy):
            found["value"] = value
        return found | {f"state_out_{i}": part for i, part in enumerate(memory)}

    def _remembering(self, policy: Any, x: Any, memory: Any, inputs: Any) -> Any:
        previous = policy._previous
        if policy.hears_rewards:
            earned = _squashed(inputs["reward"]).to(memory[-1].dtype).unsqueeze(1)
            memory = (*memory[:-1], torch.cat([memory[-1][:, :-1], earned], 1))
        if previous.size:
            x = policy._beside(x, memory[-1])
        outputs, value, memory = policy.run(
            x, memory, torch.zeros(1, memory[0].shape[0], dtype=torch.bool)
        )
        action = policy.dist.mode(outputs)
        leaves = self._decoded(action)
        if previous.size:
            shown = []
            if previous.features is not None:
                whole = {k: v if v.is_floating_point() else v.long() for k, v in leaves.items()}
                shown.append(previous.features.gather(whole, policy.dtype))
            if previous.reward:
                shown.append(torch.zeros_like(memory[0].flatten(1)[:, :1]))
            memory = (*memory, torch.cat(shown, 1))
        return outputs, value, memory, action, leaves

    def _decoded(self, action: Tensor) -> dict[str, Tensor]:
        """What the environment takes, by leaf: `Actions.to_env` as operations on tensors."""
        actions = self.policy.actions
        alone = len(actions.decoders) == 1 and action.ndim == 1
        return {
            name: decoded(decoder, action if alone else action[:, actions.columns[name]])
            for name, decoder in actions.decoders.items()
        }


def values(policy: Policy) -> bool:
    """Whether a policy tells the value of what it sees; a central value function sees more."""
    return not (isinstance(policy, SoftPolicy) or policy.obs_layout.beside)


def name_in(kind: str, leaf: str) -> str:
    return kind if leaf == ROOT else f"{kind}/{leaf}"


def _lowest(leaf: Leaf) -> Tensor:
    """Two of what a leaf may be: zeros, or the choices that its numbers begin with."""
    start = np.asarray(getattr(leaf.space, "start", 0), leaf.dtype)
    return torch.as_tensor(np.zeros((2, *leaf.shape), leaf.dtype) + start)


def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def frozen(policy: Policy) -> Policy:
    """A copy of a policy whose operations do not depend on values."""
    policy = copy.deepcopy(policy).cpu()
    if policy.normalizer is not None:
        policy.normalizer = Fixed(policy.normalizer)  # type: ignore[assignment]
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            # A layer with a hook is called as it is, instead of a whole stack in place.
            module.register_forward_hook(lambda *_: None)
        elif isinstance(module, ImageEncoder):
            module.reduced = False
        elif isinstance(module, Cells):
            module.forward = partial(step, module)  # type: ignore[method-assign]
    return policy


class Fixed(nn.Module):
    """Moments that do not change any more; see `RunningMoments`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, moments: RunningMoments) -> None:
        super().__init__()
        self.far = bool(moments.mean.abs().max() >= FAR)
        self.register_buffer("mean", moments.mean)
        self.register_buffer("scale", (moments.var + 1e-8).rsqrt())

    def normalize(self, x: Tensor, limit: float = 10.0) -> Tensor:
        """As `RunningMoments.normalize`."""
        if x.dtype == torch.float64 and self.far:
            return ((x - self.mean) * self.scale).clamp(-limit, limit).float()
        return ((x.float() - self.mean.float()) * self.scale.float()).clamp(-limit, limit)


def step(cells: Cells, x: Tensor, state: Any, first: Tensor) -> tuple[Tensor, Any]:
    """One step of `Cells.forward`, cell by cell, as its equations are: nothing in place."""
    hs, afters = [], []
    for g in range(cells.count):
        h, *cell = (part[:, g] for part in state)
        given = x[g if len(x) > 1 else 0].to(h.dtype)
        from_x = F.linear(given, cells.weight_ih[g], cells.bias_ih[g])
        from_h = F.linear(h, cells.weight_hh[g], cells.bias_hh[g])
        if cells.kind == "lstm":
            i, f, new, o = (from_x + from_h).chunk(4, -1)
            cell = [f.sigmoid() * cell[0] + i.sigmoid() * new.tanh()]
            h = o.sigmoid() * cell[0].tanh()
        else:
            (r, z, n), (hr, hz, hn) = from_x.chunk(3, -1), from_h.chunk(3, -1)
            n = torch.tanh(n + (r + hr).sigmoid() * hn)
            h = n + (z + hz).sigmoid() * (h - n)
        hs.append(h)
        afters.append((h, *cell))
    return torch.stack(hs), tuple(torch.stack(parts, 1) for parts in zip(*afters, strict=True))


def decoded(decoder: Any, action: Tensor) -> Tensor:
    """The samples of a leaf as the environment takes them; see `poise.models.actions`."""
    kind = _torch_type(decoder.dtype)
    if isinstance(decoder, Whole):
        chosen = action.reshape(-1, *decoder.shape)
        if decoder.start is None:
            return chosen.to(kind)
        return (chosen.long() + torch.as_tensor(decoder.start.astype(np.int64))).to(kind)
    values = (action.tanh() if decoder.squashed else action).reshape(-1, *decoder.shape)
    if decoder.bounds is not None:
        low, high = map(torch.as_tensor, decoder.bounds)
        values = low + (values.clamp(-1, 1) + 1).double() * (0.5 * (high - low))
    if decoder.rounds:
        least, most = map(torch.as_tensor, decoder.limits)
        values = torch.minimum(torch.maximum(values.double().round(), least), most)
        low, high = (torch.as_tensor(end.astype(np.int64)) for end in (decoder.low, decoder.high))
        return torch.minimum(torch.maximum(values.long(), low), high).to(kind)
    low, high = map(torch.as_tensor, (decoder.low, decoder.high))
    return torch.minimum(torch.maximum(values, low.to(values.dtype)), high.to(values.dtype)).to(
        kind
    )


def numbers(dist: Any, inputs: Tensor) -> dict[str, Tensor]:
    """What a distribution is made of, by name."""
    if isinstance(dist, Product):
        parts = zip(
            dist.parts, torch.split(inputs, [p.num_inputs for p in dist.parts], -1), strict=True
        )
        return {name: x for part, own in parts for name, x in numbers(part, own).items()}
    if isinstance(dist, EpsilonGreedy):
        return {"q": inputs}
    if isinstance(dist, Categorical):
        return {"probabilities": inputs.softmax(-1)}
    if isinstance(dist, MultiCategorical):
        odds = dist.grid(inputs).softmax(-1)
        return {"probabilities": odds}
    if isinstance(dist, Bernoulli):
        return {"bits": inputs.sigmoid()}
    if isinstance(dist, Gaussian):
        mean, log_std = dist.split(inputs)
        return {"mean": mean, "std": log_std.exp()}
    return {}
