"""Fully connected layers with their backward pass written out.

A policy's networks are so small that PyTorch spends most of an update on bookkeeping between
operations. `MLP` is one node of the autograd graph for the whole stack, instead of two or three per
layer. It works in place if the derivative of the activation follows from its output. Results are
those of the same layers in `nn.Sequential` to 1e-7; what it saves is measured in
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_tanh_backward = torch.ops.aten.tanh_backward
_sigmoid_backward = torch.ops.aten.sigmoid_backward
_threshold_backward = torch.ops.aten.threshold_backward

WORTH = 1 << 22
"""A product of fewer multiplications gains nothing from a shorter type (measured on an AMD EPYC).

Below, to convert, and to prepare the product, takes as long as is saved.
"""

_MINUS_ONE = torch.tensor(-1.0)


def _tanh_of_half_(z: Tensor) -> Tensor:
    """tanh(z / 2) = 2 σ(z) - 1, in place: PyTorch's σ takes an eighth of the time of its tanh."""
    torch.sigmoid_(z)
    return torch.add(_MINUS_ONE, z, alpha=2, out=z)


def _elu_backward(grad: Tensor, y: Tensor) -> Tensor:
    return grad * torch.where(y > 0, 1.0, y + 1)


def _leaky_relu_backward(grad: Tensor, y: Tensor) -> Tensor:
    return grad * torch.where(y > 0, 1.0, 0.01)


_InPlace = tuple[float, Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]

_IN_PLACE: dict[str, _InPlace] = {
    "linear": (1, lambda z: z, lambda grad, y: grad),
    "tanh": (2, _tanh_of_half_, _tanh_backward),
    "relu": (1, torch.relu_, lambda grad, y: _threshold_backward(grad, y, 0)),
    "sigmoid": (1, torch.sigmoid_, _sigmoid_backward),
    "elu": (1, F.elu_, _elu_backward),
    "leaky_relu": (1, F.leaky_relu_, _leaky_relu_backward),
}
"""Activations y = a(z) that a derivative by y is known of.

Each is a scale s, a function that turns s z into y in place, and one that makes the gradient by z
from the gradient by y and y itself.
"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
}
"""All activations, by their name in configurations."""


def linear(x: Tensor, weight: Tensor, bias: Tensor, scale: float = 1) -> Tensor:
    """scale (W x + b), in the parameters' type; if that of x is shorter, W x is computed in it."""
    if x.dtype == bias.dtype:
        if scale == 1:
            return F.linear(x, weight, bias)
        return torch.addmm(bias, x, weight.t(), beta=scale, alpha=scale)
    y = torch.add(bias, x.mm(weight.to(x.dtype).t()))
    return y if scale == 1 else y.mul_(scale)


def _forward(x: Tensor, activation: str, parameters: Sequence[Tensor]) -> Tensor:
    """The output of one stack, without a graph."""
    scale, apply, _ = _IN_PLACE[activation]
    for i in range(0, len(parameters) - 2, 2):
        x = apply(linear(x, parameters[i], parameters[i + 1], scale))
    return linear(x, parameters[-2], parameters[-1])


class _Stacks(torch.autograd.Function):
    """One or more stacks of layers over one input, as one node of the graph.

    y = W_n a(... a(W_1 x + b_1) ...) + b_n
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: str, depths: tuple[int, ...], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        scale, apply, _ = _IN_PLACE[activation]
        saved, outputs = [], []
        rest = iter(parameters)
        for depth in depths:
            h = x
            for _ in range(depth - 1):
                weight, bias = next(rest), next(rest)
                saved += [h, weight]
                h = apply(linear(h, weight, bias, scale))
            weight, bias = next(rest), next(rest)
            saved += [h, weight]
            outputs.append(linear(h, weight, bias))
        ctx.activation, ctx.depths = activation, depths
        ctx.save_for_backward(*saved)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        derivative = _IN_PLACE[ctx.activation][2]
        to_input: Tensor | None = None
        gradients: list[Tensor] = []
        end = len(saved)
        for depth, grad in zip(reversed(ctx.depths), reversed(grads), strict=True):
            for layer in range(depth - 1, -1, -1):
                h, weight = saved[end - 2], saved[end - 1]
                end -= 2
                gradients.append(grad.sum(0))
                grad = grad.to(h.dtype)
                gradients.append(_outer(grad, h).to(weight.dtype))
                if layer:
                    grad = derivative(grad.mm(weight), h)
            if ctx.needs_input_grad[0]:
                weight = weight.to(grad.dtype)
                to_input = grad.mm(weight) if to_input is None else to_input.addmm_(grad, weight)
        return (to_input, None, None, *reversed(gradients))


_stacks: Callable[..., tuple[Tensor, ...]] = _Stacks.apply


def _hooked(layer: nn.Module) -> bool:
    """Whether something else is to happen when the layer is called."""
    before, after = layer._forward_pre_hooks, layer._forward_hooks
    return bool(before or after or layer._backward_hooks or layer._backward_pre_hooks)


def _outer(grad: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """gradᵀ x, or (xᵀ grad)ᵀ if x is narrower.

    BLAS is three times as fast if the matrix on the right is the wide one.
    """
    if x.shape[1] < grad.shape[1]:
        product = x.t().mm(grad).t()
    elif out is None or out.dtype != x.dtype:
        product = torch.mm(grad.t(), x)
    else:
        return torch.mm(grad.t(), x, out=out)
    return product if out is None else out.copy_(product)


class MLP(nn.Module):
    """Linear layers with an activation between them: `[N, sizes[0]]` -> `[N, sizes[-1]]`.

    If the input has a shorter type than the parameters, the first layer multiplies in that type;
    the output has the parameters' type.

    Args:
        sizes: the widths, from the input's to the output's.
        activation: a key of `ACTIVATIONS`.
        output_gain: the gain of the last layer's orthogonal initialisation; biases start at 0.
    """

    def __init__(self, sizes: Sequence[int], activation: str, *, output_gain: float = 1.0) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        for layer in self.layers:
            last = layer is self.layers[-1]
            init_linear(layer, output_gain if last else math.sqrt(2))  # type: ignore[arg-type]

    def stack(self) -> list[Tensor] | None:
        """The parameters as they are now: weight, bias, weight, bias, ...

        It is None if a layer is more than its weight and bias (hooks, parametrizations, a class of
        the user's), so that it has to be called.

        Parameters are looked up in each call, because they may be replaced at any time
        (`torch.func.functional_call` does it for one call). They are looked up in the modules' own
        dictionaries, because an attribute of a module takes as long as a small layer.
        """
        found: list[Tensor] = []
        for layer in self._modules["layers"]._modules.values():  # type: ignore[union-attr]
            own = layer._parameters  # type: ignore[union-attr]
            weight, bias = own.get("weight"), own.get("bias")
            if type(layer) is not nn.Linear or weight is None or bias is None or _hooked(layer):
                return None
            found += weight, bias
        return found

    @property
    def weight(self) -> Tensor:
        """The weights of the last layer, `[sizes[-1], sizes[-2]]`."""
        return self.layers[-1].weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor:
        """The biases of the last layer, `[sizes[-1]]`."""
        return self.layers[-1].bias  # type: ignore[return-value]

    @property
    def is_traceable(self) -> bool:
        """Whether `trace` knows its activation."""
        return self.activation in _IN_PLACE

    def trace(
        self, x: Tensor, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Callable[..., Tensor]] | None:
        """Runs the layers and returns a function that backpropagates, both without autograd.

        On a small batch, autograd would take as long as the matrix products. Both are for use under
        `torch.no_grad()`.

        Args:
            x: `[N, sizes[0]]`, of the parameters' type.
            dtype: the type in which the hidden layers multiply; by default, the parameters'. The
                last layer always has theirs, and so have small ones.

        Returns:
            What `forward` returns, and a function `backward(grad, learns=True, to_input=False)`
            from its gradient. It overwrites the `.grad` of all parameters that are not frozen, if
            it `learns`, and returns the gradient by `x`, if it goes `to_input`. None if there is no
            `stack`.
        """
        if (stack := self.stack()) is None:
            return None
        scale, apply, derivative = _IN_PLACE[self.activation]
        weights, biases = stack[::2], stack[1::2]
        shortens = dtype is not None and dtype != x.dtype
        # What each layer multiplies; and what the hidden ones put out, in the parameters' type.
        inputs, factors, hidden = [], [], []
        h = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            if shortens and len(h) * weight.numel() >= WORTH:
                h, weight = h.to(dtype), weight.to(dtype)
            inputs.append(h)
            factors.append(weight)
            h = apply(linear(h, weight, bias, scale))
            hidden.append(h)
        inputs.append(h)
        factors.append(weights[-1])

        def backward(grad: Tensor, learns: bool = True, to_input: bool = False) -> Tensor:
            for layer in range(len(inputs) - 1, -1, -1):
                weight, bias, factor = weights[layer], biases[layer], factors[layer]
                if learns and bias.requires_grad:
                    torch.sum(grad, 0, out=bias.grad)
                if shortens:
                    grad = grad.to(factor.dtype)
                if learns and weight.requires_grad:
                    _outer(grad, inputs[layer], out=weight.grad)
                if layer or to_input:
                    grad = grad.mm(factor)
                    grad = grad.to(bias.dtype) if shortens else grad
                if layer:
                    grad = derivative(grad, hidden[layer - 1])
            return grad

        return linear(inputs[-1], weights[-1], biases[-1]), backward

    def forward(self, x: Tensor) -> Tensor:
        if self.activation in _IN_PLACE and (stack := self.stack()) is not None:
            if not torch.is_grad_enabled():
                return _forward(x, self.activation, stack)
            return _stacks(x, self.activation, (len(stack) // 2,), *stack)[0]
        x = x.to(next(self.parameters()).dtype)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        y: Tensor = self.layers[-1](x)
        return y


def traced(
    network: nn.Module, x: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Callable[..., Tensor]] | None:
    """What `MLP.trace` returns; None of a network that has none, as one that a user put there."""
    if isinstance(network, MLP) and network.is_traceable:
        return network.trace(x, dtype)
    return None


def by_autograd(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Callable[..., Tensor]]:
    """What `MLP.trace` returns, of any function of x: its value, and what backpropagates.

    Gradients of parameters must be 0 before, since they are added to.
    """
    with torch.enable_grad():
        given = x.detach().requires_grad_()
        y = function(given)

    def backward(grad: Tensor, learns: bool = True, to_input: bool = False) -> Tensor:
        if learns:
            y.backward(grad, retain_graph=to_input)  # type: ignore[no-untyped-call]
        return torch.autograd.grad(y, given, grad)[0] if to_input else grad

    return y.detach(), backward


def parallel(first: MLP, second: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """`(first(x), second(x))`, as one node of the graph if possible, which is faster."""
    if first.activation == second.activation and first.activation in _IN_PLACE:
        one, other = first.stack(), second.stack()
        if one is not None and other is not None:
            outputs = _stacks(x, first.activation, (len(one) // 2, len(other) // 2), *one, *other)
            return outputs[0], outputs[1]
    return first(x), second(x)


def init_linear(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Initialises a layer with orthogonal weights and zero biases.

    PPO's results rest on it (Andrychowicz et al. 2021, arXiv 2006.05990).

    Args:
        layer: the layer.
        gain: what the weights are scaled by.
    """
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
