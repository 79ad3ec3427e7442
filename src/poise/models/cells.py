"""Recurrent cells over sequences, with their backward pass written out.

    LSTM:  i, f, o = σ(W x + b + U h + b'),  g = tanh(W x + b + U h + b')
           c ← f c + i g,  h ← o tanh(c)
    GRU:   r, z = σ(W x + b + U h + b'),  n = tanh(W x + b + r (U h + b'))
           h ← n + z (h - n)

The products W x of all steps are one; a loop over the steps adds U h. What backpropagation
multiplies gradients with is computed for all steps at once, before its own loop. Cells that run
side by side, as a policy's and a value function's do, share all operations. Results are those of
`nn.LSTM` and `nn.GRU`, which cannot be cleared within a sequence: a loop over them with a reset at
each step takes two to five times as long (32 steps of 8 to 32 slots, H = 64, one thread).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
_MINUS_ONE = torch.tensor(-1.0)


class Kind(NamedTuple):
    """A kind of cell.

    Attributes:
        gates: blocks of H rows in its weights.
        parts: tensors in its memory; the first is h.
    """

    gates: int
    parts: int


KINDS = {"lstm": Kind(4, 2), "gru": Kind(3, 1)}


def _lstm(
    z: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, state: State
) -> tuple[State, list[Tensor]]:
    """Goes through the steps of G LSTMs.

    Args:
        z: W x + b, `[G, T, B, 4 H]`, which becomes i, f, g, o.
        weight, bias: U, `[G, 4 H, H]`, and b', `[G, 1, 4 H]`.
        keep: 0 where the memory is cleared before a step, else 1, `[T, B, 1]`; None if nowhere.
        state: the memory before, `[G, B, H]` per part.

    Returns:
        The memory after, and what the backward pass needs: h, c and tanh(c) of all steps,
        `[G, T, B, H]` each.
    """
    h, c = state
    size = h.shape[-1]
    # tanh(z) = 2 σ(2 z) - 1, so that all gates are one call of σ.
    twice = torch.ones_like(bias)
    twice[..., 2 * size : 3 * size] = 2.0
    u = (weight.transpose(1, 2) * twice).contiguous()
    z.add_(bias.unsqueeze(1)).mul_(twice.unsqueeze(1))
    kept = [z.new_empty(*z.shape[:3], size) for _ in range(3)]
    # Views of all steps, taken at once: indexing a tensor costs as much as a small product.
    steps = zip(*(each.unbind(1) for each in (z, *z.chunk(4, -1), *kept)), strict=True)
    for t, (gates, i, f, g, o, now, cell, tanh) in enumerate(steps):
        if keep is not None:
            h, c = h * keep[t], c * keep[t]
        gates.baddbmm_(h, u).sigmoid_()
        torch.add(_MINUS_ONE, g, alpha=2, out=g)
        c = torch.mul(f, c, out=cell).addcmul_(i, g)
        h = torch.mul(o, torch.tanh(c, out=tanh), out=now)
    return (h, c), kept


def _lstm_backward(
    grad: Tensor, z: Tensor, weight: Tensor, keep: Tensor | None, before: State, kept: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Backpropagates through what `_lstm` did.

    Args:
        grad: by h of all steps, `[G, T, B, H]`.
        z, weight, keep: as `_lstm` left them.
        before: the memory in front of each step, `[G, T, B, H]` per part.
        kept: what `_lstm` returned for it.

    Returns:
        The gradients by W x + b and by U h + b', `[G, T, B, 4 H]` each; here they are one.
    """
    tanh = kept[2]
    i, f, g, o = z.chunk(4, -1)
    # What gradients by c, and by h through o, are multiplied with.
    by_cell = torch.stack([g * i * (1 - i), before[1] * f * (1 - f), i * (1 - g * g)], -2)
    by_o, through = tanh * o * (1 - o), o * (1 - tanh * tanh)
    grads = torch.empty_like(z)
    parts = grads.view(*grad.shape[:3], 4, -1)
    dh, dc = torch.zeros_like(grad[:, 0]), torch.zeros_like(grad[:, 0])
    each = (grad, through, by_cell, by_o, f, grads, parts[..., :3, :], parts[..., 3, :])
    steps = [*zip(*(every.unbind(1) for every in each), strict=True)]
    for t in range(len(steps) - 1, -1, -1):
        own, through_t, by_cell_t, by_o_t, f_t, grads_t, to_cell, to_o = steps[t]
        dh = dh.add_(own)
        dc = dc.addcmul_(dh, through_t)
        torch.mul(by_cell_t, dc.unsqueeze(-2), out=to_cell)
        torch.mul(by_o_t, dh, out=to_o)
        dh, dc = torch.bmm(grads_t, weight), dc.mul_(f_t)
        if keep is not None:
            dh, dc = dh.mul_(keep[t]), dc.mul_(keep[t])
    return grads, grads


def _gru(
    z: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, state: State
) -> tuple[State, list[Tensor]]:
    """Goes through the steps of G GRUs; as `_lstm`, but with r, z, n, and h and U h + b' kept."""
    (h,) = state
    size, u = h.shape[-1], weight.transpose(1, 2).contiguous()
    hs, own = z.new_empty(*z.shape[:3], size), torch.empty_like(z)
    gated, to_n = own[..., : 2 * size], own[..., 2 * size :]
    each = (own, gated, to_n, z[..., : 2 * size], *z.chunk(3, -1), hs)
    steps = zip(*(every.unbind(1) for every in each), strict=True)
    for t, (from_h, gated_t, to_n_t, gates, r, update, n, now) in enumerate(steps):
        if keep is not None:
            h = h * keep[t]
        torch.baddbmm(bias, h, u, out=from_h)
        gates.add_(gated_t).sigmoid_()
        n.addcmul_(r, to_n_t).tanh_()
        h = torch.lerp(n, h, update, out=now)
    return (h,), [hs, to_n]


def _gru_backward(
    grad: Tensor, z: Tensor, weight: Tensor, keep: Tensor | None, before: State, kept: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Backpropagates through what `_gru` did; as `_lstm_backward`."""
    r, update, n = z.chunk(3, -1)
    by_n = (1 - update) * (1 - n * n)
    by_r = by_n * kept[1] * r * (1 - r)
    by_update = (before[0] - n) * update * (1 - update)
    by_h = torch.stack([by_r, by_update, by_n * r], -2)
    grads, dhs = torch.empty_like(z), torch.empty_like(grad)
    parts = grads.view(*grad.shape[:3], 3, -1)
    dh = torch.zeros_like(grad[:, 0])
    each = (grad, dhs, by_h, parts, update, grads)
    steps = [*zip(*(every.unbind(1) for every in each), strict=True)]
    for t in range(len(steps) - 1, -1, -1):
        own, now, by_h_t, parts_t, update_t, grads_t = steps[t]
        dh = torch.add(dh, own, out=now)
        torch.mul(by_h_t, dh.unsqueeze(-2), out=parts_t)
        dh = torch.baddbmm(dh * update_t, grads_t, weight)
        if keep is not None:
            dh = dh.mul_(keep[t])
    to_input = grads.clone()
    to_input[..., -dhs.shape[-1] :] = by_n * dhs
    return to_input, grads


_FORWARD = {"lstm": _lstm, "gru": _gru}
_BACKWARD = {"lstm": _lstm_backward, "gru": _gru_backward}


class _Cells(torch.autograd.Function):
    """G cells over T steps, as one node of the graph; see `Cells.forward`."""

    @staticmethod
    def forward(
        ctx: Any, kind: str, x: Tensor, keep: Tensor | None, shape: tuple[int, int], *rest: Tensor
    ) -> tuple[Tensor, ...]:
        weight_ih, weight_hh, bias_ih, bias_hh, *state = rest
        z = torch.matmul(x, weight_ih.transpose(1, 2)).add_(bias_ih.unsqueeze(1))
        z = z.view(len(z), *shape, -1)
        after, kept = _FORWARD[kind](z, weight_hh, bias_hh.unsqueeze(1), keep, tuple(state))
        ctx.kind, ctx.count = kind, len(kept)
        ctx.save_for_backward(x, keep, weight_ih, weight_hh, z, *kept, *state)
        ctx.mark_non_differentiable(*after)
        return kept[0].flatten(1, 2), *after

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, weight_ih, weight_hh, z, *rest = ctx.saved_tensors
        kept, state = rest[: ctx.count], rest[ctx.count :]
        before = []
        for all_steps, start in zip(kept, state, strict=False):
            earlier = torch.cat([start.unsqueeze(1), all_steps[:, :-1]], 1)
            before.append(earlier if keep is None else earlier.mul_(keep))
        grad = grad.view(kept[0].shape)
        to_input, to_hidden = _BACKWARD[ctx.kind](grad, z, weight_hh, keep, tuple(before), kept)
        to_input, to_hidden = to_input.flatten(1, 2), to_hidden.flatten(1, 2)
        to_x = None
        if ctx.needs_input_grad[1]:
            to_x = torch.bmm(to_input, weight_ih)
            to_x = to_x.sum(0, keepdim=True) if len(x) < len(to_x) else to_x
        weights = (
            torch.matmul(to_input.transpose(1, 2), x),
            torch.bmm(to_hidden.transpose(1, 2), before[0].flatten(1, 2)),
            to_input.sum(1),
            to_hidden.sum(1),
        )
        return None, to_x, None, None, *weights, *(None for _ in state)


class Cells(nn.Module):
    """G recurrent cells side by side, over T steps of B slots.

    Parameters are those of `nn.LSTM` or `nn.GRU` of one layer, with an axis of G in front.

    Args:
        kind: a key of `KINDS`.
        inputs: the length of the input vectors.
        size: H, the length of h.
        count: G.
        uniform: whether parameters begin as PyTorch's do, uniform within 1/sqrt(H). Otherwise,
            weights begin orthogonal, gate by gate, and biases at 0, but for 1 at the LSTM's f.
    """

    def __init__(
        self, kind: str, inputs: int, size: int, count: int = 1, *, uniform: bool = False
    ) -> None:
        super().__init__()
        self.kind, self.size, self.count = kind, size, count
        rows = KINDS[kind].gates * size
        self.weight_ih = nn.Parameter(torch.empty(count, rows, inputs))
        self.weight_hh = nn.Parameter(torch.empty(count, rows, size))
        self.bias_ih = nn.Parameter(torch.zeros(count, rows))
        self.bias_hh = nn.Parameter(torch.zeros(count, rows))
        if uniform:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))
            return
        for weight in (self.weight_ih, self.weight_hh):
            for gate in weight.detach().view(-1, size, weight.shape[-1]):
                nn.init.orthogonal_(gate)
        if kind == "lstm":
            # A memory that lasts from the start (Gers et al. 2000).
            self.bias_ih.detach()[:, size : 2 * size] = 1.0

    def initial_state(self, batch: int) -> State:
        """An empty memory, `[batch, G, H]` per part."""
        one = self.weight_hh.new_zeros(batch, self.count, self.size)
        return tuple(one.clone() for _ in range(KINDS[self.kind].parts))

    def forward(self, x: Tensor, state: State, first: Tensor) -> tuple[Tensor, State]:
        """Goes through the steps.

        Args:
            x: the inputs of all cells, `[1, T * B, inputs]`, or of each, `[G, T * B, inputs]`.
            state: the memory before the first step, `[B, G, H]` per part.
            first: where it is cleared before a step, `[T, B]` bool.

        Returns:
            h of all steps, `[G, T * B, H]`, and the memory after the last, which has no gradient.
        """
        keep = (~first).to(self.weight_hh.dtype).unsqueeze(-1) if first.any() else None
        inside = [part.transpose(0, 1).contiguous() for part in state]
        x = x.to(self.weight_ih.dtype)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        h, *after = _cells(self.kind, x, keep, tuple(first.shape), *weights, *inside)
        return h, tuple(part.transpose(0, 1) for part in after)


_cells: Any = _Cells.apply
