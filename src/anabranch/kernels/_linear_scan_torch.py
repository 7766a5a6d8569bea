"""The linear recurrence ``h_t = a_t h_{t-1} + b_t`` in plain torch, three ways: the truth for the fast kernels.

All take ``a (outer | 1, time | 1, rows, 1)``, ``b (outer, time, rows, columns)`` and ``h0 (outer, rows, columns)``, go
forwards in time, and can be differentiated any number of times. None divides by a cumulative product, which would
underflow.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

Coefficients = Shaped[Tensor, "#outer #time rows 1"]
Inputs = Shaped[Tensor, "outer time rows columns"]
Start = Shaped[Tensor, "outer rows columns"]


def loop(a: Coefficients, b: Inputs, h0: Start) -> Inputs:
    """One step after the other."""
    h, out = h0, []
    for a_t, b_t in zip(a.expand(-1, b.shape[1], -1, -1).unbind(1), b.unbind(1), strict=True):
        h = torch.addcmul(b_t, a_t, h)
        out.append(h)
    return torch.stack(out, dim=1)


def associative(a: Coefficients, b: Inputs, h0: Start) -> Inputs:
    """Pairs of steps are joined into one, and so on: about ``2 log2(time)`` passes over ``2 time`` elements in all."""
    a = a.expand(-1, b.shape[1], -1, -1)
    first = torch.addcmul(b[:, :1], a[:, :1], h0[:, None])
    return _join_pairs(a, torch.cat((first, b[:, 1:]), dim=1))


def _join_pairs(a: Tensor, b: Tensor) -> Tensor:
    time = b.shape[1]
    if time == 1:
        return b
    a_even, a_odd = a[:, 0 : time - 1 : 2], a[:, 1::2]
    odd = _join_pairs(a_odd * a_even, torch.addcmul(b[:, 1::2], a_odd, b[:, 0 : time - 1 : 2]))
    later_even = torch.addcmul(b[:, 2::2], a[:, 2::2], odd[:, : (time - 1) // 2])
    even = torch.cat((b[:, :1], later_even), dim=1)
    if time % 2:
        odd = F.pad(odd, (0, 0, 0, 0, 0, 1))
    return torch.stack((even, odd), dim=2).flatten(1, 2)[:, :time]


def two_level(a: Coefficients, b: Inputs, h0: Start) -> Inputs:
    """Blocks of about ``sqrt(time)`` steps side by side, then what each block hands to the next."""
    time = b.shape[1]
    length = math.isqrt(time - 1) + 1
    blocks = -(-time // length)
    missing = blocks * length - time
    a = F.pad(a.expand(-1, time, -1, -1), (0, 0, 0, 0, 0, missing)).unflatten(1, (blocks, length))
    b = F.pad(b, (0, 0, 0, 0, 0, missing)).unflatten(1, (blocks, length))
    local, kept = [b[:, :, 0]], [a[:, :, 0]]  # a block's own part; what is left of the state it started from
    for t in range(1, length):
        local.append(torch.addcmul(b[:, :, t], a[:, :, t], local[-1]))
        kept.append(a[:, :, t] * kept[-1])
    starts = [h0]
    for block in range(blocks - 1):
        starts.append(torch.addcmul(local[-1][:, block], kept[-1][:, block], starts[-1]))
    h = torch.addcmul(torch.stack(local, dim=2), torch.stack(kept, dim=2), torch.stack(starts, dim=1)[:, :, None])
    return h.flatten(1, 2)[:, :time]
