"""B-spline bases on a CPU: every spline as a table of polynomials, one per interval; compiled by numba on first use.

Imported only when a kernel runs, since numba takes half a second to import.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor

from anabranch.kernels._threads import in_threads

_SERIAL_BELOW = 1 << 16  # points; fewer are done before a second thread has woken up
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


def basis(x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    """Values ``(batch, features, basis)`` at ``x (batch, features)``."""
    out = torch.zeros(*x.shape, knots.shape[-1] - order - 1, dtype=x.dtype)
    points, t = _array(x), _array(knots)
    pieces, filled = _pieces(t, order, derivative), out.numpy()
    _in_threads(lambda first, last: _fill(points, t, pieces, filled, first, last), x)
    return out


def contraction(weight: Tensor, x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    """The values summed with ``weight (batch, features, basis)``: ``(batch, features)``."""
    out = torch.zeros(x.shape, dtype=x.dtype)
    weights, points, t = _array(weight), _array(x), _array(knots)
    pieces, filled = _pieces(t, order, derivative), out.numpy()
    _in_threads(lambda first, last: _contract(weights, points, t, pieces, filled, first, last), x)
    return out


def _in_threads(loop: Callable[[int, int], None], x: Tensor) -> None:
    """Run a loop over all samples, by several threads where there is work for more than one."""
    in_threads(loop, len(x), None if x.numel() >= _SERIAL_BELOW else 1)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@no_type_check
@njit(**_OPTIONS)
def _pieces(knots, order, derivative):
    """Coefficients of the polynomials that the splines are made of: ``(feature, interval, power, spline)``.

    In an interval the variable runs from 0 to 1, and the splines are those ``order + 1`` that may differ from zero
    there. The recursion is that of Cox and de Boor, on polynomials in place of values.
    """
    features, count = knots.shape
    pieces = np.zeros((features, count - 1, order + 1, order + 1), knots.dtype)
    t = np.empty(count + 2 * order, knots.dtype)  # more knots at both ends, so that no border is a special case
    carry = np.empty(order + 1, knots.dtype)
    for i in range(features):
        for j in range(count):
            t[order + j] = knots[i, j]
        for j in range(1, order + 1):
            t[order - j] = knots[i, 0] - j * (knots[i, 1] - knots[i, 0])
            t[order + count - 1 + j] = knots[i, count - 1] + j * (knots[i, count - 1] - knots[i, count - 2])
        for m in range(count - 1):
            here, width = t[m + order], t[m + order + 1] - t[m + order]
            pieces[i, m, 0, 0] = derivative <= order
            for degree in range(1, order + 1):
                for power in range(order + 1):
                    carry[power] = 0
                for j in range(degree):
                    low, high = t[m + order + 1 + j - degree], t[m + order + 1 + j]
                    below = low - low  # the coefficient of the next lower power
                    for power in range(order + 1):
                        share = pieces[i, m, power, j] / (high - low)
                        if degree <= order - derivative:  # times (high - x) and (x - low)
                            pieces[i, m, power, j] = carry[power] + (high - here) * share - width * below
                            carry[power] = (here - low) * share + width * below
                            below = share
                        else:  # the derivative of the spline of this degree
                            pieces[i, m, power, j] = carry[power] - degree * share
                            carry[power] = degree * share
                for power in range(order + 1):
                    pieces[i, m, power, degree] = carry[power]
    return pieces


@no_type_check
@njit(inline="always", **_OPTIONS)
def _interval(value, knots, i, per_interval):
    """Which interval a value inside the knots lies in. The guess is right on even knots, and near otherwise."""
    m = min(np.int64((value - knots[i, 0]) * per_interval[i]), knots.shape[1] - 2)
    while value < knots[i, m]:
        m -= 1
    while value >= knots[i, m + 1]:
        m += 1
    return m


@no_type_check
@njit(inline="always", **_OPTIONS)
def _polynomial(pieces, i, m, j, u, order):
    if order == 3:  # by far the most used; written out it is three times as fast
        return ((pieces[i, m, 3, j] * u + pieces[i, m, 2, j]) * u + pieces[i, m, 1, j]) * u + pieces[i, m, 0, j]
    value = pieces[i, m, order, j]
    for power in range(order - 1, -1, -1):
        value = value * u + pieces[i, m, power, j]
    return value


@no_type_check
@njit(**_OPTIONS)
def _fill(x, knots, pieces, out, first, stop):
    order, last, size = pieces.shape[3] - 1, knots.shape[1] - 1, out.shape[2]
    per_interval, per_width = last / (knots[:, -1] - knots[:, 0]), 1 / (knots[:, 1:] - knots[:, :-1])
    for n in range(first, stop):
        for i in range(x.shape[1]):
            value = x[n, i]
            if not (knots[i, 0] <= value < knots[i, last]):
                continue
            m = _interval(value, knots, i, per_interval)
            u, start = (value - knots[i, m]) * per_width[i, m], m - order
            if order == 3 and start >= 0 and start + 3 < size:
                for j in range(4):
                    out[n, i, start + j] = _polynomial(pieces, i, m, j, u, 3)
            else:
                for j in range(max(0, -start), min(order + 1, size - start)):
                    out[n, i, start + j] = _polynomial(pieces, i, m, j, u, order)


@no_type_check
@njit(**_OPTIONS)
def _contract(weight, x, knots, pieces, out, first, stop):
    order, last, size = pieces.shape[3] - 1, knots.shape[1] - 1, weight.shape[2]
    per_interval, per_width = last / (knots[:, -1] - knots[:, 0]), 1 / (knots[:, 1:] - knots[:, :-1])
    for n in range(first, stop):
        for i in range(x.shape[1]):
            value = x[n, i]
            if not (knots[i, 0] <= value < knots[i, last]):
                continue
            m = _interval(value, knots, i, per_interval)
            u, start, total = (value - knots[i, m]) * per_width[i, m], m - order, value - value
            if order == 3 and start >= 0 and start + 3 < size:
                for j in range(4):
                    total += weight[n, i, start + j] * _polynomial(pieces, i, m, j, u, 3)
            else:
                for j in range(max(0, -start), min(order + 1, size - start)):
                    total += weight[n, i, start + j] * _polynomial(pieces, i, m, j, u, order)
            out[n, i] = total
