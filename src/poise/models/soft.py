"""Actions as SAC learns from them: numbers that a gradient passes through, and choices by odds.

The numbers c of an action (of `Box` leaves) are sampled, c = tanh(u) with u = μ + σ ε, so that a
gradient by c is one by μ and σ. Its choices d (of all other leaves; a bit is a choice of two) are
not sampled but weighed: a critic puts out a value for each of them.

    Q(s, c, d) = Σₖ qₖ(s, c)[dₖ]        E_d Q(s, c, d) = Σₖ Σⱼ πₖ(j|s) qₖ(s, c)[j]

With a single `Discrete`, that is Christodoulou 2019 (arXiv 1910.07207); with numbers as well,
Delalleau et al. 2019 (arXiv 1912.11077). Several choices add up as in Tavakoli et al. 2018 (arXiv
1711.08946). Without any choice, q has a single output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from gymnasium import spaces
from torch import Tensor

from poise.learning.distributions import MASKED, Gaussian, MultiCategorical, log_tanh_derivative
from poise.models.actions import Actions
from poise.models.features import categories

_LOG_2PI = math.log(2 * math.pi)


@dataclass
class Drawn:
    """Actions of the policy as it is now, for N observations.

    Attributes:
        numbers: c, `[N, D]`.
        spread: σ ε, `[N, D]`: how u moves with log σ.
        log_prob: log π(c|s), `[N]`; 0 without numbers.
        odds: π(j|s) of each choice, `[N, W]`; 1 without choices.
        log_odds: their logarithms, `[N, W]`; 0 without choices.
    """

    numbers: Tensor
    spread: Tensor
    log_prob: Tensor
    odds: Tensor
    log_odds: Tensor


class SoftActions:
    """The two parts of a policy's actions.

    Args:
        actions: of the policy.

    Attributes:
        size: D, the numbers of an action.
        columns: W, the outputs of a critic: K choices of n each, or one without choices. Choices
            that have fewer than n leave some unused: their odds are 0.
        kinds: which kinds of leaves there are, of `choices`, `bits` and `numbers`: each has an
            entropy, and a temperature, of its own.
    """

    def __init__(self, actions: Actions) -> None:
        sizes: list[int] = []
        bits = 0
        for leaf in actions.layout.leaves:
            if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
                sizes += categories(leaf).tolist()
            elif isinstance(leaf.space, spaces.MultiBinary):
                bits += math.prod(leaf.shape)
        self.size, self._choices, self._bits = actions.dim, sizes, bits
        every = sizes + [2] * bits
        self._dist = MultiCategorical(every) if every else None
        self._wide = max(every, default=1)
        self.columns = len(every) * self._wide or 1
        there = {"choices": len(sizes), "bits": bits, "numbers": self.size}
        self.kinds = [kind for kind, count in there.items() if count]
        kind_of = [
            self.kinds.index(k) for k in self.kinds if k != "numbers" for _ in range(there[k])
        ]
        self._kind = torch.tensor(kind_of or [0]).repeat_interleave(self._wide)
        # Which of the columns belong to which kind, `[W, kinds]`, of all kinds but numbers.
        self._of_kind = torch.nn.functional.one_hot(self._kind, len({*kind_of}) or 1).float()
        # Where the logit of each choice is among the columns; of a bit, there is that of a one.
        starts = [row * self._wide for row in range(len(every))]
        places = [at + j for at, n in zip(starts, sizes, strict=False) for j in range(n)]
        self._places = torch.tensor(places + [at + 1 for at in starts[len(sizes) :]])
        self._starts = torch.tensor(starts)
        self._gaussian = Gaussian(self.size)
        self._squashed = None if actions.squashed is None else actions.squashed.float()

    def replayed(self, action: Tensor) -> tuple[Tensor, Tensor | None]:
        """Splits actions as the distribution sampled them, `[N, ...]`.

        Returns:
            c, `[N, D]`; and which columns were chosen, `[N, K]`, None without choices.
        """
        action = action.reshape(len(action), -1)
        if self._dist is None:
            return self.squash(action), None
        count = len(self._starts)
        chosen = action[:, :count].long() + self._starts.to(action.device)
        numbers = action[:, count:] if action.is_floating_point() else action[:, :0].float()
        return self.squash(numbers), chosen

    def squash(self, u: Tensor) -> Tensor:
        """The numbers of samples u as the critics see them."""
        if self._squashed is None:
            return u
        return torch.lerp(u, u.tanh(), self._squashed.to(u))

    def anything(self, noise: Tensor) -> Tensor:
        """Samples u whose numbers are uniform within their bounds, by standard normal noise z.

        erf(z / √2) is uniform within -1 and 1. Numbers without bounds are z.
        """
        if self._squashed is None:
            return noise
        flat = torch.erf(noise * math.sqrt(0.5)).clamp_(-1 + 1e-6, 1 - 1e-6)
        return torch.where(self._squashed > 0, flat.atanh_(), noise)

    def drawn(self, inputs: Tensor, noise: Tensor) -> Drawn:
        """Actions by a policy's outputs.

        Args:
            inputs: of the distribution, `[N, num_inputs]`.
            noise: ε, standard normal, `[N, D]`.
        """
        none = inputs.new_zeros(len(inputs))
        odds, log_odds = (none + 1).unsqueeze(1), none.unsqueeze(1)
        if self._dist is not None:
            log_odds = self._logits(inputs).log_softmax(-1).flatten(1)
            odds = log_odds.exp()
            log_odds = log_odds.clamp(min=MASKED)  # times 0, this is 0
        if not self.size:
            return Drawn(inputs[:, :0], inputs[:, :0], none, odds, log_odds)
        mean, log_std = self._gaussian.split(inputs[:, -2 * self.size :])
        spread = log_std.exp() * noise
        u = mean + spread
        log_prob = torch.addcmul(log_std, noise, noise, value=0.5)  # (u - μ) / σ is ε
        if self._squashed is not None:
            log_prob.addcmul_(log_tanh_derivative(u), self._squashed.to(u))
        log_prob = log_prob.sum(-1).neg_().sub_(0.5 * _LOG_2PI * self.size)
        return Drawn(self.squash(u), spread, log_prob, odds, log_odds)

    def _logits(self, inputs: Tensor) -> Tensor:
        """The logits of all choices and bits, `[N, K, n]`."""
        assert self._dist is not None
        end = sum(self._choices)
        logits = inputs[:, :end]
        if self._bits:
            ones = inputs[:, end : end + self._bits]
            both = torch.stack([torch.zeros_like(ones), ones], -1)
            logits = torch.cat([logits, both.flatten(1)], 1)
        return self._dist.grid(logits)

    def bounded(self, numbers: Tensor) -> Tensor:
        """Those of the numbers `[N, D]` that have bounds, `[N, ...]`."""
        if self._squashed is None:
            return numbers[:, :0]
        return numbers[:, self._squashed.to(numbers.device) > 0]

    def expected(self, drawn: Drawn, q: Tensor) -> Tensor:
        """E Q, `[N, ...]`, from the values of each choice, `[N, W, ...]`."""
        if self._dist is None:
            return q[:, 0]
        odds = drawn.odds
        return (q * odds.view(*odds.shape, *[1] * (q.ndim - 2))).sum(1)

    def bonus(self, drawn: Drawn, alpha: Tensor) -> Tensor:
        """What the entropy of the actions is worth, `[N]`: α H, by -α log π(c|s) for numbers.

        Args:
            drawn: the actions.
            alpha: the temperature of each kind, `[kinds]`.
        """
        return self.entropies(drawn) @ alpha

    def entropies(self, drawn: Drawn) -> Tensor:
        """How uncertain the actions are, by kind, `[N, kinds]`; of numbers, -log π(c|s)."""
        numbers = [-drawn.log_prob.unsqueeze(1)] if self.size else []
        if self._dist is None:
            return numbers[0] if numbers else drawn.numbers  # an action of nothing, `[N, 0]`
        each = drawn.odds * drawn.log_odds
        return torch.cat([-(each @ self._of_kind.to(each)), *numbers], 1)

    def gradient(self, drawn: Drawn, q: Tensor, pull: Tensor, alpha: Tensor) -> Tensor:
        """The derivative of the soft value E Q + α H by the policy's outputs, `[N, num_inputs]`.

        Of numbers, with c = tanh(u):

            ∂/∂μ = ∂/∂u = (1 - c²) ∂Q/∂c - 2 α c        ∂/∂log σ = ∂/∂u σ ε + α

        Of a choice's logits l, with t = q - α log π:   ∂/∂lᵢ = πᵢ (tᵢ - Σⱼ πⱼ tⱼ)

        Args:
            drawn: the actions.
            q: of each choice, `[N, W]`.
            alpha: the temperature of each kind, `[kinds]`.
            pull: ∂ E Q / ∂c, `[N, D]`.
        """
        parts = []
        if self._dist is not None:
            soft = q - alpha.to(q)[self._kind.to(q.device)] * drawn.log_odds
            shape = len(q), -1, self._wide
            soft, odds = soft.view(shape), drawn.odds.view(shape)
            by_logit = odds * (soft - (odds * soft).sum(-1, keepdim=True))
            parts.append(by_logit.flatten(1)[:, self._places.to(q.device)])
        if self.size:
            by_u = pull
            if self._squashed is not None:
                c, squashed = drawn.numbers, self._squashed.to(q)
                by_u = pull - squashed * c * torch.addcmul(2 * alpha[-1], pull, c)
            parts += [by_u, torch.addcmul(alpha[-1], by_u, drawn.spread)]
        return torch.cat(parts, 1) if parts else drawn.numbers

    def most(self, forbidden: Tensor | None, kind: str) -> Tensor | float:
        """The largest entropy of the choices or bits: log of how many there are to choose from.

        Args:
            forbidden: which logits a mask rules out, `[N, n]`; None without a mask.
            kind: `choices` or `bits`.
        """
        if kind == "bits":
            return self._bits * math.log(2)
        if forbidden is None:
            return sum(map(math.log, self._choices))
        allowed = torch.split(~forbidden, self._choices, 1)
        return torch.stack([part.sum(1).clamp(min=1).log() for part in allowed]).sum(0)


class SureActions(SoftActions):
    """The numbers of a deterministic policy, whose samples are those after squashing."""

    def replayed(self, action: Tensor) -> tuple[Tensor, Tensor | None]:
        return action, None

    def anything(self, noise: Tensor) -> Tensor:
        flat = torch.erf(noise * math.sqrt(0.5))
        return noise if self._squashed is None else torch.where(self._squashed > 0, flat, noise)

    def drawn(self, inputs: Tensor, noise: Tensor | None) -> Drawn:
        """c = tanh(u), with the policy's output u itself; `noise` is not used."""
        none = inputs.new_zeros(len(inputs))
        one = (none + 1).unsqueeze(1)
        return Drawn(self.squash(inputs), torch.zeros_like(inputs), none, one, none.unsqueeze(1))

    def gradient(self, drawn: Drawn, q: Tensor, pull: Tensor, alpha: Tensor) -> Tensor:
        """∂Q/∂u = (1 - c²) ∂Q/∂c, `[N, D]`."""
        if self._squashed is None:
            return pull
        return pull - self._squashed.to(pull) * pull * drawn.numbers**2

    def clipped(self, numbers: Tensor) -> Tensor:
        """Numbers within their bounds."""
        if self._squashed is None:
            return numbers
        return torch.where(self._squashed.to(numbers) > 0, numbers.clamp(-1, 1), numbers)
