"""B-splines on a CPU: every spline as a table of polynomials, one per interval; compiled by numba on first use.

Imported only when a kernel runs, since numba takes half a second to import.
"""

from collections.abc import Callable
from typing import Any, cast, no_type_check

import numpy as np
import torch
from numba import njit, uint64
from torch import Tensor

from anabranch.kernels._threads import in_threads

_SERIAL_BELOW = 1 << 18  # multiply-adds; fewer are done before a second thread has woken up
_ROWS = 64  # samples whose outputs stay in the cache while the weights of one feature after the other pass by
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


def basis(x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    """Values ``(batch, features, basis)`` at ``x (batch, features)``."""
    out = torch.zeros(*x.shape, knots.shape[-1] - order - 1, dtype=x.dtype)
    points, t = _array(x), _array(knots)
    pieces, filled = _pieces(t, order, derivative), out.numpy()
    _in_threads(lambda first, last: _fill(points, t, pieces, filled, first, last), len(x), x.numel() * order**2)
    return out


def edges(
    x: Tensor, base: Tensor, knots: Tensor, base_weight: Tensor, scale: Tensor, coefficients: Tensor, order: int
) -> Tensor:
    """Sums of ``base_weight base + scale spline(x)`` over the features, ``(batch, out)``."""
    points, bases, t = _array(x), _array(base), _array(knots)
    out = np.zeros((len(x), len(scale)), points.dtype)
    packed = np.empty((scale.shape[1], coefficients.shape[2] + 1, len(scale)), points.dtype)
    parameters = _array(base_weight), _array(scale), _array(coefficients)
    _in_threads(lambda first, last: _pack(*parameters, packed, first, last), len(packed), packed.size)
    pieces = _pieces(t, order, 0)
    _in_threads(
        lambda first, last: _multiply(points, bases, t, pieces, packed, out, first, last),
        len(x),
        x.numel() * (order + 2) * (order + len(scale)),
    )
    return torch.from_numpy(out)


def edges_backward(
    grad: Tensor,
    x: Tensor,
    base: Tensor,
    knots: Tensor,
    base_weight: Tensor,
    scale: Tensor,
    coefficients: Tensor,
    order: int,
) -> tuple[Tensor, ...]:
    """Gradients of ``x``, ``base``, ``base_weight``, ``scale`` and ``coefficients``."""
    given = [_array(t) for t in (grad, x, base, knots, base_weight, scale, coefficients)]
    found = [np.empty_like(a) for a in (*given[1:3], *given[4:])]
    arrays, loop = (*given, _pieces(given[3], order, 0), *found), cast(Any, _multiply_backward)
    _in_threads(  # a thread has features of its own, since all samples add to a feature's weights
        lambda first, last: loop(*arrays, first, last),
        x.shape[1],
        2 * x.numel() * (order + 2) * (order + len(scale)),
    )
    return tuple(torch.from_numpy(a) for a in found)


def _in_threads(loop: Callable[[int, int], None], length: int, work: int) -> None:
    """Run a loop over a range, by several threads where there is work for more than one."""
    in_threads(loop, length, None if work >= _SERIAL_BELOW else 1)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy(force=True)


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
@njit(**_OPTIONS)
def _densities(knots):
    """Intervals per unit of ``x``, over all knots of a feature, and within each interval."""
    overall, each = np.empty(len(knots), knots.dtype), np.empty((len(knots), knots.shape[1] - 1), knots.dtype)
    for i in range(len(knots)):
        overall[i] = (knots.shape[1] - 1) / (knots[i, -1] - knots[i, 0])
        for m in range(each.shape[1]):
            each[i, m] = 1 / (knots[i, m + 1] - knots[i, m])
    return overall, each


@no_type_check
@njit(inline="always", **_OPTIONS)
def _interval(value, knots, i, overall):
    """Which interval a value inside the knots lies in. The guess is right on even knots, and near otherwise."""
    m = max(0, min(np.int64((value - knots[i, 0]) * overall[i]), knots.shape[1] - 2))
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
@njit(inline="always", **_OPTIONS)
def _with_slope(pieces, i, m, j, u, order):
    """The polynomial and its derivative by ``u``."""
    if order == 3:
        a, b, c, d = pieces[i, m, 3, j], pieces[i, m, 2, j], pieces[i, m, 1, j], pieces[i, m, 0, j]
        value = a * u + b
        slope = a * u + value
        value = value * u + c
        return value * u + d, slope * u + value
    value, slope = pieces[i, m, order, j], u - u
    for power in range(order - 1, -1, -1):
        slope = slope * u + value
        value = value * u + pieces[i, m, power, j]
    return value, slope


@no_type_check
@njit(**_OPTIONS)
def _fill(x, knots, pieces, out, first, stop):
    order, last, size = pieces.shape[3] - 1, knots.shape[1] - 1, out.shape[2]
    overall, each = _densities(knots)
    for n in range(first, stop):
        for i in range(x.shape[1]):
            value = x[n, i]
            if not (knots[i, 0] <= value < knots[i, last]):
                continue
            m = _interval(value, knots, i, overall)
            u, start = (value - knots[i, m]) * each[i, m], m - order
            if order == 3 and start >= 0 and start + 3 < size:
                for j in range(4):
                    out[n, i, start + j] = _polynomial(pieces, i, m, j, u, 3)
            else:
                for j in range(max(0, -start), min(order + 1, size - start)):
                    out[n, i, start + j] = _polynomial(pieces, i, m, j, u, order)


@no_type_check
@njit(**_OPTIONS)
def _pack(base_weight, scale, coefficients, packed, first, stop):
    """The weights ``(feature, spline, out)``, the base's last of each feature, so that a loop over outputs is a row."""
    out, _, size = coefficients.shape
    for i in range(first, stop):
        for o in range(out):
            for b in range(size):
                packed[i, b, o] = scale[o, i] * coefficients[o, i, b]
            packed[i, size, o] = base_weight[o, i]


# An index that is known to be unsigned cannot count from the end: only so does the compiler vectorise the loops below.


@no_type_check
@njit(fastmath={"contract"}, **_OPTIONS)
def _multiply(x, base, knots, pieces, weight, out, first, stop):
    order, last, size, width = pieces.shape[3] - 1, knots.shape[1] - 1, weight.shape[1] - 1, uint64(weight.shape[2])
    overall, each = _densities(knots)
    e = uint64(size)
    for top in range(first, stop, _ROWS):
        for i in range(uint64(x.shape[1])):
            for n in range(uint64(top), uint64(min(top + _ROWS, stop))):
                value, t = x[n, i], base[n, i]
                if not (knots[i, 0] <= value < knots[i, last]):
                    for o in range(width):
                        out[n, o] += t * weight[i, e, o]
                    continue
                m = _interval(value, knots, i, overall)
                u, start = (value - knots[i, m]) * each[i, m], m - order
                if order == 3 and start >= 0 and start + 3 < size:
                    p, q = _polynomial(pieces, i, m, 0, u, 3), _polynomial(pieces, i, m, 1, u, 3)
                    r, s = _polynomial(pieces, i, m, 2, u, 3), _polynomial(pieces, i, m, 3, u, 3)
                    a = uint64(start)
                    b, c, d = a + uint64(1), a + uint64(2), a + uint64(3)
                    for o in range(width):
                        out[n, o] += (
                            p * weight[i, a, o]
                            + q * weight[i, b, o]
                            + r * weight[i, c, o]
                            + s * weight[i, d, o]
                            + t * weight[i, e, o]
                        )
                else:
                    for o in range(width):
                        out[n, o] += t * weight[i, e, o]
                    for j in range(max(0, -start), min(order + 1, size - start)):
                        p, a = _polynomial(pieces, i, m, j, u, order), uint64(start + j)
                        for o in range(width):
                            out[n, o] += p * weight[i, a, o]


@no_type_check
@njit(fastmath={"contract", "reassoc"}, **_OPTIONS)
def _multiply_backward(
    grad,
    x,
    base,
    knots,
    base_weight,
    scale,
    coefficients,
    pieces,
    grad_x,
    grad_base,
    grad_base_weight,
    grad_scale,
    grad_coefficients,
    first,
    stop,
):
    order, last, size, width = pieces.shape[3] - 1, knots.shape[1] - 1, coefficients.shape[2], uint64(grad.shape[1])
    overall, each = _densities(knots)
    weight = np.empty((len(scale[0]), size + 1, len(scale)), x.dtype)
    grad_weight = np.zeros_like(weight)
    _pack(base_weight, scale, coefficients, weight, first, stop)
    e = uint64(size)
    for top in range(0, len(x), _ROWS):
        for i in range(uint64(first), uint64(stop)):
            for n in range(uint64(top), uint64(min(top + _ROWS, len(x)))):
                value, t = x[n, i], base[n, i]
                slope = flat = value - value
                if not (knots[i, 0] <= value < knots[i, last]):
                    for o in range(width):
                        flat += grad[n, o] * weight[i, e, o]
                        grad_weight[i, e, o] += t * grad[n, o]
                    grad_x[n, i], grad_base[n, i] = slope, flat
                    continue
                m = _interval(value, knots, i, overall)
                u, start = (value - knots[i, m]) * each[i, m], m - order
                if order == 3 and start >= 0 and start + 3 < size:
                    (p, dp), (q, dq) = _with_slope(pieces, i, m, 0, u, 3), _with_slope(pieces, i, m, 1, u, 3)
                    (r, dr), (s, ds) = _with_slope(pieces, i, m, 2, u, 3), _with_slope(pieces, i, m, 3, u, 3)
                    a = uint64(start)
                    b, c, d = a + uint64(1), a + uint64(2), a + uint64(3)
                    for o in range(width):
                        slope += grad[n, o] * (
                            dp * weight[i, a, o] + dq * weight[i, b, o] + dr * weight[i, c, o] + ds * weight[i, d, o]
                        )
                        flat += grad[n, o] * weight[i, e, o]
                    for o in range(width):
                        grad_weight[i, a, o] += p * grad[n, o]
                        grad_weight[i, b, o] += q * grad[n, o]
                        grad_weight[i, c, o] += r * grad[n, o]
                        grad_weight[i, d, o] += s * grad[n, o]
                        grad_weight[i, e, o] += t * grad[n, o]
                else:
                    for o in range(width):
                        flat += grad[n, o] * weight[i, e, o]
                        grad_weight[i, e, o] += t * grad[n, o]
                    for j in range(max(0, -start), min(order + 1, size - start)):
                        (p, dp), a = _with_slope(pieces, i, m, j, u, order), uint64(start + j)
                        for o in range(width):
                            slope += dp * weight[i, a, o] * grad[n, o]
                            grad_weight[i, a, o] += p * grad[n, o]
                grad_x[n, i], grad_base[n, i] = slope * each[i, m], flat
    for i in range(first, stop):
        for o in range(len(scale)):
            total = scale[o, i] - scale[o, i]
            for b in range(size):
                total += coefficients[o, i, b] * grad_weight[i, b, o]
                grad_coefficients[o, i, b] = scale[o, i] * grad_weight[i, b, o]
            grad_scale[o, i] = total
            grad_base_weight[o, i] = grad_weight[i, size, o]
