"""Optimisers over one flat vector of parameters.

Small networks are bound by the number of tensor operations, and a network of ten tensors costs an
optimiser ten times what one vector does. So all parameters of a policy live in one vector (`Flat`),
its gradients in another, and Adam is one operation, whatever the network. It also makes weights one
buffer to copy, send or save. (The first use of `torch.optim` imports a compiler, which takes a
second: longer than CartPole takes to learn.)
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from poise.errors import ModelError

Places = dict[str, tuple[int, torch.Size]]
"""Where each parameter begins in a vector, and its shape, by name."""


@dataclass
class Change:
    """What `Flat.bind` found to be other than before.

    Attributes:
        places: where the parameters that learnt were, if now others learn, or in other places; None
            if not.
        replaced: names of parameters that are other tensors.
        rebuilt: whether modules, buffers or shapes are others: copies of the module are no longer
            its like.
    """

    places: Places | None
    replaced: list[str]
    rebuilt: bool


class Flat:
    """The parameters of a module as views of one vector, and their gradients as views of another.

    Frozen parameters (`requires_grad_(False)`) have no gradient there, so that no optimiser moves
    them.

    Args:
        module: theirs.
        learning: names of the parameters that learn, unless those that are not frozen: the vectors
            of a copy are in the order of its original's.

    Attributes:
        data: all parameters that learn, `[P]`.
        grad: their gradients, `[P]`; `backward()` adds to it, `zero_grad` clears it.
        whole: `data` and the frozen parameters behind it.
        beside: what has no place there: buffers, and frozen parameters of another type.
        places: of the parameters that learn.
    """

    def __init__(self, module: nn.Module, learning: Collection[str] | None = None) -> None:
        self.module, self._learning = module, learning
        self.places: Places = {}
        self._held: dict[str, tuple[int, torch.Size]] = {}
        self._parts: list[object] = []
        self._seen: list[object] = []
        self.bind()

    def bind(self) -> Change | None:
        """Makes the parameters that the module has now views of the vectors, with the values that
        they have now. Where they are already, that takes a few microseconds, and None is returned.

        Raises:
            ModelError: parameters that cannot be learnt, or not side by side.
        """
        if self._look() == self._seen:
            return None
        places, held, parts = self.places, self._held, self._parts
        parameters = dict(self.module.named_parameters())
        learning = {
            n: p
            for n, p in parameters.items()
            if (p.requires_grad if self._learning is None else n in self._learning)
        }
        like = next(iter([*learning.values(), *parameters.values()]), torch.empty(0))
        _check(learning, like)
        frozen = {n: p for n, p in parameters.items() if n not in learning and _alike(p, like)}
        values = {n: p.detach().reshape(-1) for n, p in {**learning, **frozen}.items()}
        replaced = [
            n for n, p in parameters.items() if n in held and held[n] != (p.data_ptr(), p.shape)
        ]
        self.whole = torch.cat([*values.values()]) if values else torch.empty(0)
        self.data = self.whole[: sum(p.numel() for p in learning.values())]
        self.grad = torch.zeros_like(self.data)
        self.places, start = {}, 0
        for name, value in values.items():
            parameter, end = parameters[name], start + len(value)
            parameter.data = self.whole[start:end].view(parameter.shape)
            parameter.grad = (
                self.grad[start:end].view(parameter.shape) if name in learning else None
            )
            if name in learning:
                self.places[name] = start, parameter.shape
            start = end
        self.beside = [p.data for n, p in parameters.items() if n not in values] + [
            *self.module.buffers()
        ]
        self._held = {n: (p.data_ptr(), p.shape) for n, p in parameters.items()}
        self._parts = [*self.module.modules(), *self.module.buffers()]
        self._seen = self._look()
        same = len(parts) == len(self._parts) and all(
            a is b for a, b in zip(parts, self._parts, strict=True)
        )
        return Change(
            places=places if places != self.places else None,
            replaced=replaced,
            rebuilt=not same or {n: shape for n, (_, shape) in held.items()} != self.shapes,
        )

    def _look(self) -> list[object]:
        """All by which one can tell that nothing has been replaced, frozen or taken away."""
        seen: list[object] = []
        for module in self.module.modules():
            seen.append(id(module))
            for parameter in module._parameters.values():
                if parameter is not None:
                    grad = parameter.grad
                    seen += id(parameter), parameter.data_ptr(), parameter.requires_grad
                    seen.append(None if grad is None else grad.data_ptr())
            seen += map(id, module._buffers.values())
        return seen

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Of all parameters, by name."""
        return {name: shape for name, (_, shape) in self._held.items()}

    @property
    def frozen(self) -> list[str]:
        """Names of the parameters that do not learn."""
        return [name for name in self._held if name not in self.places]

    def zero_grad(self) -> None:
        self.grad.zero_()

    def clip_grad_norm(self, limit: float | None = None) -> float:
        """Scales the gradient so that its Euclidean norm is at most `limit`; returns the norm
        before."""
        norm = math.sqrt(torch.dot(self.grad, self.grad).item())
        if limit is not None and norm > limit:
            self.grad.mul_(limit / (norm + 1e-6))
        return norm


def _alike(parameter: Tensor, like: Tensor) -> bool:
    return parameter.dtype == like.dtype and parameter.device == like.device


def _check(learning: dict[str, nn.Parameter], like: Tensor) -> None:
    for name, parameter in learning.items():
        if parameter.is_inference():
            raise ModelError(
                f"The parameter {name!r} was made under torch.inference_mode() and cannot learn:"
                " make it outside."
            )
        if not _alike(parameter, like):
            one, other = (
                f"{str(p.dtype).removeprefix('torch.')} on {p.device}" for p in (parameter, like)
            )
            raise ModelError(
                f"The parameter {name!r} is {one}, and others are {other}: all that learn must be"
                " of one type, on one device (or frozen by requires_grad_(False))."
            )


class Optimizer:
    """What is remembered of the gradients of a vector of parameters, one number for each.

    Args:
        flat: what it moves.
        moments: names of the attributes that remember, vectors `[P]` that begin at 0.
    """

    def __init__(self, flat: Flat, *moments: str) -> None:
        self.flat, self.moments = flat, moments
        for name in moments:
            setattr(self, name, torch.zeros_like(flat.data))

    def rearrange(self, before: Places) -> None:
        """Follows the parameters to other places in the vector; those that did not learn before
        begin anew.

        Args:
            before: where they were.
        """
        for moment in self.moments:
            old, new = getattr(self, moment), torch.zeros_like(self.flat.data)
            for name, (start, shape) in self.flat.places.items():
                if before.get(name, (0, None))[1] == shape:
                    new[start : start + shape.numel()] = old[before[name][0] :][: shape.numel()]
            setattr(self, moment, new)

    @property
    def overflown(self) -> str | None:
        """The first of `moments` that holds what is not finite; None without any."""
        return next(
            (name for name in self.moments if not torch.isfinite(getattr(self, name)).all()), None
        )

    def step(self, lr: float) -> None:
        """One update of the parameters from the gradient that is there."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.moments}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            if state[name].shape != value.shape:  # copying would stretch a single number
                raise ValueError(
                    f"{name} has the shape {list(state[name].shape)} instead of {list(value.shape)}"
                )
            value.copy_(state[name])


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1).

        m ← β₁ m + (1 - β₁) g          p ← p - lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + ε)
        v ← β₂ v + (1 - β₂) g²

    The step is the kernel behind `torch.optim.AdamW(fused=True)`: one pass over memory instead of
    seven. t counts from where a parameter began to learn, as there.

    Args:
        flat: what it moves.
        betas, eps: β and ε.
        weight_decay: λ of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101): first, p ← p - lr λ p.
        amsgrad: v never falls (Reddi, Kale & Kumar 2018, arXiv 1904.09237).
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor

    def __init__(
        self,
        flat: Flat,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(flat, "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else []))
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps = torch.zeros((), device=flat.data.device)
        self.joined: dict[str, float] = {}
        """Steps before a parameter began to learn, where it did so later than others."""

    def rearrange(self, before: Places) -> None:
        super().rearrange(before)
        steps, places = self.steps.item(), self.flat.places
        new = {
            name for name, (_, shape) in places.items() if before.get(name, (0, None))[1] != shape
        }
        self.joined = {
            name: steps if name in new else self.joined.get(name, 0.0) for name in places
        }

    def step(self, lr: float) -> None:
        self.steps += 1
        vectors = [self.flat.data, self.flat.grad, *(getattr(self, name) for name in self.moments)]
        if not any(self.joined.values()):
            self._move(vectors, self.steps, lr)
            return
        start = 0
        for joined, names in groupby(self.flat.places, key=lambda name: self.joined.get(name, 0.0)):
            end = start + sum(self.flat.places[name][1].numel() for name in names)
            self._move([vector[start:end] for vector in vectors], self.steps - joined, lr)
            start = end

    def _move(self, vectors: list[Tensor], steps: Tensor, lr: float) -> None:
        data, grad, exp_avg, exp_avg_sq, *max_exp_avg_sq = vectors
        torch._fused_adamw_(
            [data],
            [grad],
            [exp_avg],
            [exp_avg_sq],
            max_exp_avg_sq,
            [steps],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=bool(max_exp_avg_sq),
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        joined = [self.joined.get(name, 0.0) for name in self.flat.places]
        return {
            **super().state_dict(),
            "steps": self.steps,
            **({"joined": torch.tensor(joined, dtype=torch.float64)} if any(joined) else {}),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.joined = {}
        super().load_state_dict(state)
        if "joined" in state:
            self.joined = dict(zip(self.flat.places, state["joined"].tolist(), strict=True))


class RMSProp(Optimizer):
    """RMSProp (Tieleman & Hinton 2012): v ← α v + (1 - α) g²;  p ← p - lr · g / (√v + ε)."""

    square_avg: Tensor

    def __init__(self, flat: Flat, *, decay: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__(flat, "square_avg")
        self.decay, self.eps = decay, eps

    def step(self, lr: float) -> None:
        grad = self.flat.grad
        self.square_avg.mul_(self.decay).addcmul_(grad, grad, value=1 - self.decay)
        self.flat.data.addcdiv_(grad, self.square_avg.sqrt().add_(self.eps), value=-lr)
