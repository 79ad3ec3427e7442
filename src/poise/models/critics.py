"""Critics: the value of an action in a state, estimated several times over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from poise.config.model import ModelConfig
from poise.models.mlp import MLP, by_autograd, traced
from poise.models.norm import BatchRenorm, NormedMLP
from poise.models.policy import together


class Critics(nn.Module):
    """C networks over an observation and the numbers of an action, side by side.

    Pictures and tables go through one encoder, which all share.

    Args:
        encoder: turns prepared observations into a vector, None if they are one; and its length.
        numbers: how many numbers an action has.
        columns: outputs of each network: one per choice of an action, times the quantiles of each.
        count: C.
        config: the layers; `vf_fcnet_hiddens` are theirs, if set.
        norm: `none`, `layer` or `batch`: what normalises them, see `poise.models.norm`.
    """

    def __init__(
        self,
        encoder: tuple[nn.Module | None, int],
        numbers: int,
        columns: int,
        count: int,
        config: ModelConfig,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.encoder, size = encoder
        hiddens = config.vf_fcnet_hiddens
        hiddens = config.fcnet_hiddens if hiddens is None else hiddens
        sizes = [size + numbers, *hiddens, columns]
        plain, activation = norm == "none", config.fcnet_activation
        self.q = nn.ModuleList(
            MLP(sizes, activation) if plain else NormedMLP(sizes, activation, norm)
            for _ in range(count)
        )
        if config.initializer == "uniform":
            for layer in self.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d)):
                    layer.reset_parameters()

    def forward(self, x: Any, numbers: Tensor) -> Tensor:
        """The outputs of all critics.

        Args:
            x: prepared observations, without a mask.
            numbers: of actions, `[N, D]`.

        Returns:
            `[C, N, columns]`.
        """
        joined = self._joined(x, numbers)
        return torch.stack([q(joined) for q in self.q])

    def _joined(self, x: Any, numbers: Tensor) -> Tensor:
        encoded = x if self.encoder is None else self.encoder(x)
        return torch.cat([encoded, numbers.to(encoded.dtype)], 1)

    def trace(
        self, x: Any, numbers: Tensor, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Callable[..., Tensor]]:
        """What `forward` returns, and a function that backpropagates a gradient of it.

        The function is `backward(grad, learns=True, to_input=False)`: it adds to the parameters'
        gradients, or overwrites them, if it `learns` (they must be 0 before), and returns the
        gradient by `numbers`, if it goes `to_input`.

        Args:
            x, numbers: as for `forward`.
            dtype: the type in which hidden layers multiply, where they are traced.
        """
        width = numbers.shape[1]
        if self.encoder is None:
            joined = self._joined(x, numbers)
            traces = [trace for q in self.q if (trace := traced(q, joined, dtype)) is not None]
            if len(traces) == len(self.q):
                outputs, backwards = zip(*traces, strict=True)

                def backward(grad: Tensor, learns: bool = True, to_input: bool = False) -> Tensor:
                    parts = [
                        each(g, learns, to_input) for each, g in zip(backwards, grad, strict=True)
                    ]
                    if not to_input:
                        return grad
                    return torch.stack([part[:, -width:] for part in parts]).sum(0)

                return torch.stack(outputs), backward
        return by_autograd(lambda given: self(x, given), numbers)

    def trace_both(
        self,
        x: Any,
        numbers: Tensor,
        next_x: Any,
        next_numbers: Tensor,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Callable[..., Tensor], Tensor]:
        """One pass over two batches: batch norms take the statistics of both, and learn from them.

        Args:
            x, numbers, next_x, next_numbers, dtype: as for `trace`.

        Returns:
            What `trace` returns of the first batch, and the outputs of the second, `[C, N,
            columns]`.
        """
        norms = [module for module in self.modules() if isinstance(module, BatchRenorm)]
        for norm in norms:
            norm.train()
        both = together(x, next_x), torch.cat([numbers, next_numbers])
        outputs, backward = self.trace(*both, dtype)
        for norm in norms:
            norm.eval()
        q, next_q = outputs.chunk(2, 1)
        return q, lambda grad: backward(torch.cat([grad, torch.zeros_like(grad)], 1)), next_q
