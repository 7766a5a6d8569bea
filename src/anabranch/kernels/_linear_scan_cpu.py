"""The linear recurrence and its gradient on a CPU: one pass over memory, compiled by numba on first use.

Imported only when a kernel runs, since numba takes half a second to import. Tensors are shaped as for the operator in
:mod:`anabranch.kernels._linear_scan`; the loops see them as matrices with a row for every frame of every sequence.
"""

from typing import Any, no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor

from anabranch.kernels._threads import in_threads

_SERIAL_BELOW = 1 << 19  # elements; a smaller scan is over before a second thread has woken up
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True}


def scan(a: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Tensor:
    """States ``(outer, time, rows, columns)``."""
    outer, time, rows, columns = b.shape
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    loop = _elementwise if columns == 1 else _by_rows
    _run(loop, (a, b, h0, h), a, reverse, outer, time, lanes=rows if columns == 1 or rows > 1 else columns, work=b)
    return h


def scan_backward(a: Tensor, h: Tensor, h0: Tensor, grad: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients of ``a (outer, time, rows, 1)``, not yet summed over what was broadcast, and of ``b``."""
    outer, time, rows, columns = h.shape
    grad_a = torch.empty(outer, time, rows, 1, dtype=h.dtype)
    grad_b = torch.empty_like(h, memory_format=torch.contiguous_format)
    loop = _elementwise_backward if columns == 1 else _by_rows_backward
    _run(loop, (a, h, h0, grad, grad_a, grad_b), a, reverse, outer, time, lanes=rows, work=h)
    return grad_a, grad_b


def _run(
    loop: Any, tensors: tuple[Tensor, ...], a: Tensor, reverse: bool, outer: int, time: int, *, lanes: int, work: Tensor
) -> None:
    """Run a loop over all sequences and lanes, split over threads along whichever of the two splits better."""
    arrays = [_matrix(tensor) for tensor in tensors]
    steps = (a.shape[1] if a.shape[0] > 1 else 0, 1 if a.shape[1] > 1 else 0)
    pieces = 1 if work.numel() < _SERIAL_BELOW else torch.get_num_threads()
    if outer % pieces == 0 or outer >= 4 * pieces or lanes < 16 * pieces:
        in_threads(lambda first, last: loop(*arrays, time, *steps, reverse, first, last, 0, lanes), outer, pieces)
    else:
        in_threads(lambda first, last: loop(*arrays, time, *steps, reverse, 0, outer, first, last), lanes, pieces)


def _matrix(tensor: Tensor) -> np.ndarray:
    """A row for every frame of every sequence; ``h0``, which has no time, gets a row for every sequence."""
    frames = tensor.shape[0] * tensor.shape[1] if tensor.ndim == 4 else tensor.shape[0]
    return tensor.detach().reshape(frames, -1).contiguous().numpy()


# In all loops: a is a matrix whose row for frame t of sequence o is o * by_sequence + t * by_time, so that one row can
# serve all sequences or all times. Rows are sliced before the inner loop, which then runs from 0: only so does the
# compiler know that no index is negative, and vectorises. "contract" lets it fuse a multiplication and an addition.


@no_type_check
@njit(fastmath={"contract"}, **_OPTIONS)
def _elementwise(a, b, h0, h, time, by_sequence, by_time, reverse, first, last, low, high):
    for o in range(first, last):
        before = h0[o][low:high]
        for s in range(time):
            t = time - 1 - s if reverse else s
            a_t = a[o * by_sequence + t * by_time][low:high]
            b_t = b[o * time + t][low:high]
            h_t = h[o * time + t][low:high]
            for i in range(high - low):
                h_t[i] = a_t[i] * before[i] + b_t[i]
            before = h_t


@no_type_check
@njit(fastmath={"contract"}, **_OPTIONS)
def _by_rows(a, b, h0, h, time, by_sequence, by_time, reverse, first, last, low, high):
    rows = a.shape[1]
    columns = b.shape[1] // rows
    if rows == 1:
        start, stop, low, high = low, high, 0, 1
    else:
        start, stop = 0, columns
    for o in range(first, last):
        before = h0[o]
        for s in range(time):
            t = time - 1 - s if reverse else s
            a_t = a[o * by_sequence + t * by_time]
            b_t = b[o * time + t]
            h_t = h[o * time + t]
            for j in range(low, high):
                factor = a_t[j]
                old = before[j * columns + start : j * columns + stop]
                new = h_t[j * columns + start : j * columns + stop]
                add = b_t[j * columns + start : j * columns + stop]
                for i in range(stop - start):
                    new[i] = factor * old[i] + add[i]
            before = h_t


@no_type_check
@njit(fastmath={"contract"}, **_OPTIONS)
def _elementwise_backward(a, h, h0, grad, grad_a, grad_b, time, by_sequence, by_time, reverse, first, last, low, high):
    width = high - low
    for o in range(first, last):
        a_after = np.zeros(width, a.dtype)
        g_after = np.zeros(width, h.dtype)
        for s in range(time - 1, -1, -1):
            t = time - 1 - s if reverse else s
            earlier = t + 1 if reverse else t - 1
            before = h0[o][low:high] if s == 0 else h[o * time + earlier][low:high]
            grad_t = grad[o * time + t][low:high]
            g = grad_b[o * time + t][low:high]
            g_a = grad_a[o * time + t][low:high]
            for i in range(width):
                g[i] = a_after[i] * g_after[i] + grad_t[i]
                g_a[i] = g[i] * before[i]
            a_after = a[o * by_sequence + t * by_time][low:high]
            g_after = g


@no_type_check
@njit(fastmath={"contract", "reassoc"}, **_OPTIONS)
def _by_rows_backward(a, h, h0, grad, grad_a, grad_b, time, by_sequence, by_time, reverse, first, last, low, high):
    columns = h.shape[1] // a.shape[1]
    for o in range(first, last):
        a_after = np.zeros(a.shape[1], a.dtype)
        g_after = np.zeros(h.shape[1], h.dtype)
        for s in range(time - 1, -1, -1):
            t = time - 1 - s if reverse else s
            earlier = t + 1 if reverse else t - 1
            before = h0[o] if s == 0 else h[o * time + earlier]
            grad_t = grad[o * time + t]
            g = grad_b[o * time + t]
            g_a = grad_a[o * time + t]
            for j in range(low, high):
                factor = a_after[j]
                old = before[j * columns : (j + 1) * columns]
                later = g_after[j * columns : (j + 1) * columns]
                new = g[j * columns : (j + 1) * columns]
                add = grad_t[j * columns : (j + 1) * columns]
                total = factor * 0
                for i in range(columns):
                    value = factor * later[i] + add[i]
                    new[i] = value
                    total += value * old[i]
                g_a[j] = total
            a_after = a[o * by_sequence + t * by_time]
            g_after = g
