"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1801.01290 and 1812.05905), with later options.

choices             Christodoulou 2019 (arXiv 1910.07207); see `poise.models.soft`
num_quantiles       distributions as values: TQC, Kuznetsov et al. 2020 (arXiv 2005.04269)
target_networks     Q instead of Q⁻, with batch norms: CrossQ, Bhatt et al. 2024 (arXiv 1902.05605)
critic_norm         see `poise.models.norm`
prioritized_replay  Schaul et al. 2016 (arXiv 1511.05952)

    repeat:
        sample T steps in each of B environments by π, and add them to the replay
        for each gradient step:
            draw steps (s, a, r, s') from the replay
            a' ~ π(s');   y ← r + γ (1 - terminated) (min Q⁻(s', a') - α log π(a'|s'))
            critics:      one step along  -∇ (Q(s, a) - y)² / 2
            ã ~ π(s);     one step along   ∇ (min Q(s, ã) - α log π(ã|s))
            temperature:  one step along  -∇ log α (H(π(s)) - H̄)
            θ⁻ ← τ θ + (1 - τ) θ⁻
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from poise.algorithms.off_policy import Minibatch, OffPolicy
from poise.config.sac import SACConfig
from poise.errors import ConfigError
from poise.learning.device import fastest_dtype
from poise.learning.learner import Learner
from poise.learning.losses import quantile_slopes
from poise.learning.optimizers import Adam, Flat
from poise.models.critics import Critics
from poise.models.policy import Policy, length
from poise.models.soft import Drawn, SoftActions
from poise.models.soft_policy import SoftPolicy
from poise.sampling.replay import Batch, Replay
from poise.spaces.layout import Layout


class SAC(OffPolicy):
    """Soft actor-critic, for actions of any kind.

    Attributes:
        critics: Q₁, Q₂, ...
        temperature: α, one for each kind of actions.
        hidden_dtype: the type in which hidden layers multiply while learning.
        improved: what the policy's latest gradient step has shown.
    """

    config: SACConfig
    policy: SoftPolicy
    improved: Improved | None = None

    def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
        config = self.config
        normalize = config.normalize_observations
        policy = SoftPolicy(
            obs_layout, action_layout, config.model, normalize_observations=normalize
        )
        kinds, wanted = policy.soft.kinds, config.target_entropy
        if isinstance(wanted, float) and len(kinds) > 1:
            raise ConfigError(
                f"target_entropy={wanted:g} is for actions of one kind, and there are "
                f"{' and '.join(kinds)}: leave it out, and each has its own (of choices and bits, "
                "target_entropy_share)."
            )
        self.make_critics(policy)
        self.temperature = Temperature(policy.soft, config.initial_alpha).to(self.device)
        return policy

    def make_critics(self, policy: SoftPolicy) -> None:
        """Makes the critics of a policy, and decides on the type in which they multiply."""
        config, soft = self.config, policy.soft
        outputs = soft.columns * config.num_quantiles
        encoder = policy.make_encoder(config.model)
        critics = Critics(
            encoder, soft.size, outputs, config.num_critics, config.model, config.critic_norm
        )
        self.critics = critics.to(self.device).eval()
        if config.learner_dtype == "auto":
            config.learner_dtype = fastest_dtype(self.device)
        self.hidden_dtype = torch.bfloat16 if config.learner_dtype == "bfloat16" else None

    @property
    def alpha(self) -> Tensor:
        """α of each kind of actions, `[kinds]`."""
        alpha: Tensor = self.temperature()
        return alpha

    def make_learners(self) -> dict[str, Learner]:
        parts: dict[str, nn.Module] = {"policy": self.policy, "critics": self.critics}
        if self.config.learn_alpha:
            parts["temperature"] = self.temperature
        return {name: Learner(part, self.make_optimizer, self.clip) for name, part in parts.items()}

    @property
    def followed(self) -> Iterable[str]:
        return ("critics",) if self.config.target_networks else ()

    def make_optimizer(self, flat: Flat) -> Adam:
        return Adam(flat, betas=(self.config.adam_beta1, 0.999), eps=self.config.adam_epsilon)

    def explore(self, sampling: bool) -> None:
        self.policy.uniform.fill_(sampling and self.timesteps < self.config.learning_starts)

    def draw(self, replay: Replay, count: int) -> tuple[Batch, Tensor]:
        """Draws steps whose n-step rewards hold what the entropy on the way is worth.

        r₀ + Σₖ γᵏ (rₖ + α H(π(sₖ)))     for the steps k = 1 ... n - 1
        """
        batch, weight = super().draw(replay, count)
        for index, worth in batch.later:
            x = self.policy.prepare(replay.observations(index))
            batch.reward += worth.to(self.device) * self.policy.soft.bonus(
                self.act_on(x), self.alpha
            )
        return batch, weight

    # --- a gradient step -------------------------------------------------------------------------

    def update(self, minibatch: Minibatch) -> Learnt:
        config = self.config
        learnt = self.update_critics(minibatch)
        if self.learners["critics"].updates % config.policy_delay == 0:
            self.improved = self.update_actor(minibatch)
        return learnt

    def update_critics(self, minibatch: Minibatch) -> Learnt:
        """One step of all critics towards the same targets."""
        config, soft = self.config, self.policy.soft
        drawn = self.following(minibatch.next_x)
        numbers, chosen = soft.replayed(minibatch.action)
        q, backward, next_q = self.values(minibatch, numbers, drawn.numbers)
        target = self.td_target(minibatch, drawn, next_q)
        each = q.view(*q.shape[:2], soft.columns, config.num_quantiles)
        if chosen is None:
            index, value = None, each[:, :, 0]
        else:
            shape = (*q.shape[:2], chosen.shape[1], config.num_quantiles)
            index = chosen.view(1, *chosen.shape, 1).expand(shape)
            value = each.gather(2, index).sum(2)
        if config.num_quantiles == 1:
            error = value[..., 0] - target[:, 0]
            slope = (error * minibatch.weight).unsqueeze(-1)
        else:
            slope = quantile_slopes(value, target) * (minibatch.weight / len(q)).unsqueeze(-1)
            error = value.mean(-1) - target.mean(1)
        if index is not None:
            slope = torch.zeros_like(each).scatter_(2, index, slope.unsqueeze(2).expand(shape))
        learner = self.learners["critics"]
        learner.flat.zero_grad()
        backward(slope.reshape(q.shape))
        norm = learner.step(self.scheduled(self._critic_lr))
        return Learnt(error, value, norm)

    def values(
        self, minibatch: Minibatch, numbers: Tensor, next_numbers: Tensor
    ) -> tuple[Tensor, Callable[..., Tensor], Tensor]:
        """Q(s, a), a function that backpropagates a gradient of it, and Q⁻(s', a').

        Without target networks, Q takes the place of Q⁻, in one pass over both pairs: they differ,
        and batch norms have to see both.
        """
        x, next_x = self._seen(minibatch.x), self._seen(minibatch.next_x)
        if not self.config.target_networks:
            return self.critics.trace_both(x, numbers, next_x, next_numbers, self.hidden_dtype)
        target: Critics = self.targets["critics"].module  # type: ignore[assignment]
        next_q, _ = target.trace(next_x, next_numbers, self.hidden_dtype)
        return *self.critics.trace(x, numbers, self.hidden_dtype), next_q

    def td_target(self, minibatch: Minibatch, drawn: Drawn, q: Tensor) -> Tensor:
        """y = r + γⁿ (1 - terminated) (min Q⁻(s', a') - α log π(a'|s')), `[N, quantiles]`.

        Args:
            minibatch: r and γⁿ (1 - terminated).
            drawn: a'.
            q: Q⁻(s', a'), `[C, N, columns]`.
        """
        soft = self.policy.soft
        value = soft.expected(drawn, self.lowest(q))
        value = value + soft.bonus(drawn, self.alpha).unsqueeze(1)
        return torch.addcmul(minibatch.reward.unsqueeze(1), minibatch.discount.unsqueeze(1), value)

    def lowest(self, q: Tensor) -> Tensor:
        """The least of what the critics say, since the most are too high.

        Args:
            q: `[C, N, columns]`.

        Returns:
            The least value, `[N, W, 1]`; of distributions, the quantiles of all critics together
            without the largest, `[N, W, quantiles]`.
        """
        config = self.config
        if config.num_quantiles == 1:
            return q.amin(0).unsqueeze(-1)
        atoms = q.view(*q.shape[:2], -1, config.num_quantiles).permute(1, 2, 0, 3).flatten(2)
        kept = atoms.shape[-1] - config.top_quantiles_to_drop * len(q)
        return atoms.sort(-1).values[..., :kept]

    def following(self, x: Any) -> Drawn:
        """Actions of which targets are taken, where the steps led to: those of the policy now."""
        return self.act_on(x)

    def act_on(self, x: Any) -> Drawn:
        """Actions of the policy as it is now."""
        return self.policy.soft.drawn(self.policy.trace(x, self.hidden_dtype)[0], self.noise(x))

    def noise(self, x: Any) -> Tensor:
        """ε for the actions of these observations, `[N, D]`."""
        shape = length(x), self.policy.soft.size
        return torch.randn(shape, generator=self.generator).to(self.device)

    def update_actor(self, minibatch: Minibatch) -> Improved:
        """One step of the policy up the critics' values, and one of the temperature."""
        config, soft, n = self.config, self.policy.soft, len(minibatch.reward)
        inputs, backward = self.policy.trace(minibatch.x, self.hidden_dtype)
        drawn = soft.drawn(inputs, self.noise(minibatch.x))
        q, to_numbers = self.critics.trace(
            self._seen(minibatch.x), drawn.numbers, self.hidden_dtype
        )
        value, slope = self.worth(q, drawn.odds)
        pull = to_numbers(slope, learns=False, to_input=True) if soft.size else drawn.numbers
        self.learner.flat.zero_grad()
        backward(soft.gradient(drawn, value, pull, self.alpha).mul_(-1 / n))
        norm = self.learner.step(self.scheduled(config.lr))
        if "temperature" in self.learners:
            self.update_temperature(soft.entropies(drawn), minibatch)
        return Improved(soft, drawn, value, norm)

    def worth(self, q: Tensor, odds: Tensor) -> tuple[Tensor, Tensor]:
        """What the policy strives for.

        Args:
            q: `[C, N, columns]`.
            odds: of the choices, `[N, W]`.

        Returns:
            The value of each choice, `[N, W]`; and the derivative of their expectation by `q`.
        """
        if self.config.num_quantiles == 1:
            value = q.amin(0)
            return value, (q == value) * odds
        each = q.view(*q.shape[:2], -1, self.config.num_quantiles)
        share = odds.unsqueeze(-1) / (len(q) * self.config.num_quantiles)
        return each.mean((0, 3)), share.expand(each.shape).reshape(q.shape)

    def update_temperature(self, entropy: Tensor, minibatch: Minibatch) -> None:
        """One step along -∇ log α (H - H̄), which raises α where there is too little entropy.

        Args:
            entropy: H of each kind of actions, `[N, kinds]`.
            minibatch: whose masks H̄ depends on.
        """
        learner = self.learners["temperature"]
        forbidden = minibatch.x[1] if self.policy.masked else None
        for i, kind in enumerate(self.policy.soft.kinds):
            excess = entropy[:, i] - self.target_entropy(kind, forbidden)
            learner.flat.grad[i] = excess.mean()
        learner.step(self.scheduled(self._alpha_lr))

    def target_entropy(self, kind: str, forbidden: Tensor | None) -> Tensor | float:
        """H̄: -1 for each number, and a share of the largest possible for choices and bits."""
        config, soft = self.config, self.policy.soft
        wanted = config.target_entropy
        if wanted is not None and wanted != "auto":
            return wanted
        if kind == "numbers":
            return -float(soft.size)
        return soft.most(forbidden, kind) * config.target_entropy_share

    def _seen(self, x: Any) -> Any:
        """Prepared observations as the critics see them: without a mask."""
        return x[0] if self.policy.masked else x

    @property
    def _critic_lr(self) -> Any:
        return self.config.lr if self.config.critic_lr is None else self.config.critic_lr

    @property
    def _alpha_lr(self) -> Any:
        return self.config.lr if self.config.alpha_lr is None else self.config.alpha_lr

    def statistics(self, learnt: Learnt | None) -> dict[str, float]:
        known = learnt.statistics() if learnt else dict.fromkeys(Learnt.NAMES, math.nan)
        better = self.improved.statistics() if self.improved and learnt else {}
        known |= dict.fromkeys(Improved.NAMES, math.nan) | better
        kinds = self.policy.soft.kinds
        names = [f"alpha_{kind}" for kind in kinds] if len(kinds) != 1 else ["alpha"]
        alphas = dict(zip(names, self.alpha.tolist(), strict=True))
        return {**known, **alphas, "cur_lr": self.scheduled(self.config.lr)}


@dataclass
class Improved:
    """What a gradient step of the policy has shown.

    Attributes:
        soft, drawn: the policy's own actions.
        value: what the critics say of each choice, `[N, W]`.
        grad_norm: of the policy's gradient, before clipping.
    """

    NAMES: ClassVar = ("entropy", "policy_q", "policy_grad_norm", "saturation")
    soft: SoftActions
    drawn: Drawn
    value: Tensor
    grad_norm: float

    def statistics(self) -> dict[str, float]:
        """The entropy, the value, the norm, and the share of numbers that are at their bounds."""
        entropy = self.soft.entropies(self.drawn).sum(1).mean().item()
        value = self.soft.expected(self.drawn, self.value).mean().item()
        share = (self.soft.bounded(self.drawn.numbers).abs() > 0.99).float().mean().item()
        return dict(zip(self.NAMES, (entropy, value, self.grad_norm, share), strict=True))


@dataclass
class Learnt:
    """What a gradient step of the critics has shown.

    Attributes:
        errors: Q(s, a) - y of each critic, `[C, N]`.
        q: Q(s, a) of each critic, `[C, N, quantiles]`.
        grad_norm: of the critics' gradient, before clipping.
    """

    NAMES: ClassVar = ("td_error", "q", "grad_norm")
    errors: Tensor
    q: Tensor
    grad_norm: float

    @property
    def error(self) -> Tensor:
        """The mean size over critics, `[N]`: errors of opposite sign do not cancel."""
        return self.errors.abs().mean(0)

    def statistics(self) -> dict[str, float]:
        """Mean |δ|, mean Q(s, a) and the gradient's norm."""
        found = self.error.mean().item(), self.q.mean().item(), self.grad_norm
        return dict(zip(self.NAMES, found, strict=True))


class Temperature(nn.Module):
    """α = exp(log α), one for each kind of actions: how much entropy is worth in units of reward.

    Args:
        soft: the actions.
        initial: α at first.
    """

    def __init__(self, soft: SoftActions, initial: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((len(soft.kinds),), math.log(initial)))

    def forward(self) -> Tensor:
        """α of each kind, `[kinds]`."""
        return self.log_alpha.detach().exp()
