"""Optimisers over one flat vector of parameters.

Small networks are bound by the number of tensor operations, and a network of ten tensors costs an optimiser ten times
what one vector does. So all parameters of a policy live in one vector (`Flat`), its gradients in another, and Adam is
one operation, whatever the network. It also makes weights one buffer to copy, send or save. (The first use of
`torch.optim` imports a compiler, which takes a second: longer than CartPole takes to learn.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Flat:
    """The parameters of a module as views of one vector, and their gradients as views of another.

    Attributes:
        data: all parameters, `[P]`.
        grad: all gradients, `[P]`; `backward()` adds to it, `zero_grad` clears it.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        total = sum(p.numel() for p in parameters)
        like = parameters[0] if parameters else torch.empty(0)
        self.data = torch.empty(total, dtype=like.dtype, device=like.device)
        self.grad = torch.zeros_like(self.data)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            view = self.data[start:end].view_as(parameter)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self.grad[start:end].view_as(parameter)
            start = end

    def zero_grad(self) -> None:
        self.grad.zero_()

    def clip_grad_norm(self, limit: float | None) -> float:
        """Scales the gradient so that its Euclidean norm is at most `limit`; returns the norm before."""
        norm = math.sqrt(torch.dot(self.grad, self.grad).item())
        if limit is not None and norm > limit:
            self.grad.mul_(limit / (norm + 1e-6))
        return norm


class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1).

        m ← β₁ m + (1 - β₁) g          p ← p - lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + ε)
        v ← β₂ v + (1 - β₂) g²

    The step is the kernel behind `torch.optim.AdamW(fused=True)`: one pass over memory instead of seven.

    Args:
        flat: what it moves.
        betas, eps: β and ε.
        weight_decay: λ of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101): first, p ← p - lr λ p.
        amsgrad: v never falls (Reddi, Kale & Kumar 2018, arXiv 1904.09237).
    """

    def __init__(
        self,
        flat: Flat,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        self.flat, self.betas, self.eps, self.weight_decay = flat, betas, eps, weight_decay
        self.first = torch.zeros_like(flat.data)
        self.second = torch.zeros_like(flat.data)
        self.largest = torch.zeros_like(flat.data) if amsgrad else None
        self.steps = torch.zeros((), device=flat.data.device)

    def step(self, lr: float) -> None:
        """One update of the parameters from the gradient that is there."""
        self.steps += 1
        torch._fused_adamw_(
            [self.flat.data],
            [self.flat.grad],
            [self.first],
            [self.second],
            [] if self.largest is None else [self.largest],
            [self.steps],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=self.largest is not None,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        moments = {"first": self.first, "second": self.second, "steps": self.steps}
        return moments if self.largest is None else {**moments, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            value.copy_(state[name])


class RMSProp:
    """RMSProp (Tieleman & Hinton 2012): v ← α v + (1 - α) g²;  p ← p - lr · g / (√v + ε)."""

    def __init__(self, flat: Flat, *, decay: float = 0.99, eps: float = 1e-5) -> None:
        self.flat, self.decay, self.eps = flat, decay, eps
        self.second = torch.zeros_like(flat.data)

    def step(self, lr: float) -> None:
        """One update of the parameters from the gradient that is there."""
        grad = self.flat.grad
        self.second.mul_(self.decay).addcmul_(grad, grad, value=1 - self.decay)
        self.flat.data.addcdiv_(grad, self.second.sqrt().add_(self.eps), value=-lr)

    def state_dict(self) -> dict[str, Tensor]:
        return {"second": self.second}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.second.copy_(state["second"])
