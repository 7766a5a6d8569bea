"""Causal products on a CPU: one pass over the tokens with the running sum in the cache, compiled by numba on first use.

Token by token costs fewer multiplications than any chunked form and moves nothing through memory but the inputs and
the output. Imported only when the kernel runs, since numba takes half a second to import.
"""

from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from anabranch.kernels._threads import in_threads

_SERIAL_BELOW = 1 << 21  # multiply-adds; a smaller product is over before a second thread has woken up
_LANES = 8  # columns are worked on in multiples of this
_CACHED = 1 << 12  # numbers of the running sum that are worked on at a time


def products(q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, reverse: bool) -> Tensor:
    """As the operator in :mod:`anabranch.kernels._linear_attention`."""
    rows, time, columns = v.shape
    # Columns do not know of each other: as many at a time as the cache holds sums for.
    width = max(_LANES, _CACHED // max(q.shape[2], 1) // _LANES * _LANES)
    blocks = -(-columns // width)
    width = -(-columns // (blocks * _LANES)) * _LANES if columns > _LANES else columns
    if blocks * width > columns:
        v = F.pad(v, (0, blocks * width - columns))
    v = v.unflatten(2, (blocks, width)).transpose(1, 2)
    y = torch.empty(rows, blocks, time, width, dtype=v.dtype)
    factors = torch.ones(rows, dtype=v.dtype) if decay is None else _factors(decay).to(v.dtype).contiguous()
    q_, k_ = (x.detach().flatten(0, 1).contiguous().numpy() for x in (q, k))
    v_, y_ = (x.detach().flatten(0, 2).contiguous().numpy() for x in (v, y))

    def work(first: int, last: int) -> None:
        _loop(q_, k_, v_, y_, factors.numpy(), time, blocks, reverse, first, last)

    in_threads(work, rows * blocks, 1 if q.numel() * columns < _SERIAL_BELOW else torch.get_num_threads())
    return y.transpose(1, 2).flatten(2)[..., :columns].contiguous()


def _factors(decay: Tensor) -> Tensor:
    if not ((decay > 0) & (decay <= 1)).all():
        raise ValueError(f"expected decays above 0 and at most 1; got {decay.min():g} to {decay.max():g}")
    return decay


@no_type_check
@njit(fastmath={"contract"}, nogil=True, cache=True)
def _loop(q, k, v, y, decay, time, blocks, reverse, first, last):
    keys, columns = q.shape[1], v.shape[1]
    even = keys - keys % 2
    S = np.zeros((keys, columns), v.dtype)
    for piece in range(first, last):
        row = piece // blocks
        factor = decay[row]
        S[:] = 0
        for s in range(time):
            t = time - 1 - s if reverse else s
            q_t, k_t = q[row * time + t], k[row * time + t]
            v_t, y_t = v[piece * time + t], y[piece * time + t]
            y_t[:] = 0
            # Two keys at a time halve the traffic of y; with more, the compiler gives up proving that rows are apart.
            for i in range(0, even, 2):
                q_0, q_1, k_0, k_1 = q_t[i], q_t[i + 1], k_t[i], k_t[i + 1]
                S_0, S_1 = S[i], S[i + 1]
                for j in range(columns):
                    a = factor * S_0[j] + k_0 * v_t[j]
                    b = factor * S_1[j] + k_1 * v_t[j]
                    S_0[j] = a
                    S_1[j] = b
                    y_t[j] += q_0 * a + q_1 * b
            if even < keys:
                S_0 = S[even]
                for j in range(columns):
                    a = factor * S_0[j] + k_t[even] * v_t[j]
                    S_0[j] = a
                    y_t[j] += q_t[even] * a
