"""Optimisers over one flat vector of parameters.

How fast a small network learns depends on the number of tensor operations, and an optimiser needs
ten times as many for a network of ten tensors as for one vector. So all parameters of a policy live
in one vector (`Flat`), its gradients in another, and Adam is one operation, whatever the network.
The weights are also one buffer to copy, send or save. (`torch.optim` is not used because its first
use imports a compiler, which takes a second: longer than CartPole takes to learn.)
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
    """What `Flat.bind` found changed in a module.

    Attributes:
        places: where the parameters that learn were before, if others learn now or their places are
            others; None if not.
        replaced: names of the parameters that are other tensors now.
        rebuilt: whether modules, buffers or shapes are others, so that copies of the module no
            longer match it.
    """

    places: Places | None
    replaced: list[str]
    rebuilt: bool


class Flat:
    """The parameters of a module as views of one vector, and their gradients as views of another.

    Frozen parameters (`requires_grad_(False)`) have no gradient there, so that no optimiser moves
    them.

    Args:
        module: whose parameters they are.
        learning: names of the parameters that learn; by default, those that are not frozen. A copy
            is given the names of its original's, so that both vectors have the same order.

    Attributes:
        data: all parameters that learn, `[P]`.
        grad: their gradients, `[P]`; `backward()` adds to it, `zero_grad` clears it.
        whole: `data`, followed by the frozen parameters.
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
        """Makes the parameters that the module has now views of the vectors; values stay.

        Where they are views already, that takes a few microseconds.

        Returns:
            What was changed; None if nothing was.

        Raises:
            ModelError: a parameter cannot learn, or not in one vector with the others.
        """
        if self._look() == self._seen:
            return None
        places, held, parts = self.places, self._held, self._parts
        parameters = dict(self.module.named_parameters())
        names = self._learning
        if names is None:
            names = {name for name, p in parameters.items() if p.requires_grad}
        learning = {name: p for name, p in parameters.items() if name in names}
        like = next(iter([*learning.values(), *parameters.values()]), torch.empty(0))
        _check(learning, like)
        frozen = {n: p for n, p in parameters.items() if n not in learning and _alike(p, like)}
        values = {n: p.detach().reshape(-1) for n, p in {**learning, **frozen}.items()}
        now = {n: (p.data_ptr(), p.shape) for n, p in parameters.items()}
        replaced = [name for name in now if name in held and held[name] != now[name]]
        self.whole = torch.cat([*values.values()]) if values else torch.empty(0)
        self.data = self.whole[: sum(p.numel() for p in learning.values())]
        self.grad = torch.zeros_like(self.data)
        self.places, start = {}, 0
        for name, value in values.items():
            parameter, end = parameters[name], start + len(value)
            parameter.data = self.whole[start:end].view(parameter.shape)
            parameter.grad = None
            if name in learning:
                parameter.grad = self.grad[start:end].view(parameter.shape)
                self.places[name] = start, parameter.shape
            start = end
        buffers = [*self.module.buffers()]
        self.beside = [*(p.data for n, p in parameters.items() if n not in values), *buffers]
        self._held = {n: (p.data_ptr(), p.shape) for n, p in parameters.items()}
        # The objects themselves, because the id of one that is gone may be given to another.
        self._parts = [*self.module.modules(), *buffers]
        self._seen = self._look()
        same = list(map(id, parts)) == list(map(id, self._parts))
        shapes = {name: shape for name, (_, shape) in held.items()}
        return Change(
            places=places if places != self.places else None,
            replaced=replaced,
            rebuilt=not same or shapes != self.shapes,
        )

    def _look(self) -> list[object]:
        """All by which to tell whether something was replaced, frozen or taken away since."""
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
        """The shapes of all parameters, by name."""
        return {name: shape for name, (_, shape) in self._held.items()}

    @property
    def frozen(self) -> list[str]:
        """Names of the parameters that do not learn."""
        return [name for name in self._held if name not in self.places]

    @property
    def overflown(self) -> str | None:
        """The first parameter that holds a number which is not finite; None if all are."""
        if torch.isfinite(self.whole).all():
            return None
        parameters = self.module.named_parameters()
        return next((name for name, p in parameters if not torch.isfinite(p).all()), None)

    def zero_grad(self) -> None:
        self.grad.zero_()

    def clip_grad_norm(self, limit: float | None = None) -> float:
        """Scales the gradient so that its Euclidean norm is at most `limit`.

        Returns:
            The norm before.
        """
        norm = math.sqrt(torch.dot(self.grad, self.grad).item())
        if limit is not None and norm > limit:
            self.grad.mul_(limit / (norm + 1e-6))
        return norm


def _alike(parameter: Tensor, like: Tensor) -> bool:
    return parameter.dtype == like.dtype and parameter.device == like.device


def _kind(parameter: Tensor) -> str:
    return f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device}"


def _check(learning: dict[str, nn.Parameter], like: Tensor) -> None:
    """Raises `ModelError` for a parameter that cannot learn in one vector with the others."""
    for name, parameter in learning.items():
        if parameter.is_inference():
            raise ModelError(
                f"The parameter {name!r} was made under torch.inference_mode() and cannot learn: "
                "make it outside."
            )
        if not _alike(parameter, like):
            raise ModelError(
                f"The parameter {name!r} is {_kind(parameter)}, and others are {_kind(like)}: "
                "all that learn must be of one type, on one device "
                "(or frozen by requires_grad_(False))."
            )


class Optimizer:
    """Moves a vector of parameters by its gradient, and by what it remembers of earlier ones.

    Args:
        flat: the parameters.
        moments: names of the attributes that remember: vectors `[P]`, which begin at 0.
    """

    def __init__(self, flat: Flat, *moments: str) -> None:
        self.flat, self.moments = flat, moments
        for name in moments:
            setattr(self, name, torch.zeros_like(flat.data))

    def rearrange(self, before: Places) -> None:
        """Follows the parameters to other places in the vector.

        Those that did not learn before, or have another shape now, begin anew.

        Args:
            before: the places where they were.
        """
        for moment in self.moments:
            old, new = getattr(self, moment), torch.zeros_like(self.flat.data)
            for name, (start, shape) in self.flat.places.items():
                if before.get(name, (0, None))[1] == shape:
                    new[start : start + shape.numel()] = old[before[name][0] :][: shape.numel()]
            setattr(self, moment, new)

    @property
    def overflown(self) -> str | None:
        """The first of `moments` that holds a number which is not finite; None if all are."""
        for name in self.moments:
            if not torch.isfinite(getattr(self, name)).all():
                return name
        return None

    def step(self, lr: float) -> None:
        """Updates the parameters once, by the gradient that is there."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.moments}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            # Without this, `copy_` would stretch a single number.
            if state[name].shape != value.shape:
                raise ValueError(
                    f"{name} has the shape {list(state[name].shape)} instead of {list(value.shape)}"
                )
            value.copy_(state[name])


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1).

        m ← β₁ m + (1 - β₁) g          p ← p - lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + ε)
        v ← β₂ v + (1 - β₂) g²

    The step is the kernel behind `torch.optim.AdamW(fused=True)`: one pass over memory instead of
    seven. As there, t counts from when a parameter began to learn.

    Args:
        flat: the parameters.
        betas, eps: β₁, β₂ and ε.
        weight_decay: λ of AdamW, which first does p ← p - lr λ p (Loshchilov & Hutter 2019, arXiv
            1711.05101).
        amsgrad: whether v never falls (Reddi, Kale & Kumar 2018, arXiv 1904.09237).

    Attributes:
        steps: t of the parameters that have learnt from the beginning.
        joined: the value of `steps` when a parameter began to learn, by its name.
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

    def rearrange(self, before: Places) -> None:
        super().rearrange(before)
        joined = {}
        for name, (_, shape) in self.flat.places.items():
            is_new = before.get(name, (0, None))[1] != shape
            joined[name] = self.steps.item() if is_new else self.joined.get(name, 0.0)
        self.joined = joined

    def step(self, lr: float) -> None:
        self.steps += 1
        vectors = [self.flat.data, self.flat.grad, *(getattr(self, name) for name in self.moments)]
        if not any(self.joined.values()):
            self._move(vectors, self.steps, lr)
            return
        # Neighbours that began to learn at the same time are moved together.
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
        state = {**super().state_dict(), "steps": self.steps}
        joined = [self.joined.get(name, 0.0) for name in self.flat.places]
        if any(joined):
            state["joined"] = torch.tensor(joined, dtype=torch.float64)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.joined = {}
        super().load_state_dict(state)
        if "joined" in state:
            self.joined = dict(zip(self.flat.places, state["joined"].tolist(), strict=True))


class RMSProp(Optimizer):
    """RMSProp (Tieleman & Hinton 2012, lecture 6e).

        v ← α v + (1 - α) g²
        p ← p - lr · g / (√v + ε)

    Args:
        flat: the parameters.
        decay: α.
        eps: ε.
    """

    square_avg: Tensor

    def __init__(self, flat: Flat, *, decay: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__(flat, "square_avg")
        self.decay, self.eps = decay, eps

    def step(self, lr: float) -> None:
        grad = self.flat.grad
        self.square_avg.mul_(self.decay).addcmul_(grad, grad, value=1 - self.decay)
        self.flat.data.addcdiv_(grad, self.square_avg.sqrt().add_(self.eps), value=-lr)


def replaced(name: str, change: Change) -> str:
    """Says which parameters were replaced, of which learner."""
    sentence = (
        f"Parameters of the {name} were replaced ({listed(change.replaced)}): "
        "training goes on with those that are there now."
    )
    if change.places is not None:
        sentence += " The optimiser remembers nothing of those that are new to it."
    return sentence


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
