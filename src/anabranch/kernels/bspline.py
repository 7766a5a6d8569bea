"""B-spline bases and their derivatives at many points, one row of knots per feature.

At any point only ``order + 1`` of the basis functions differ from zero, so the compiled path computes those and writes
zeros elsewhere. Both operators here are linear in everything but the points, and the derivative of a B-spline is made
of B-splines, so that their gradients are these same two operators: they can be differentiated any number of times.
"""

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor


def bspline_basis_reference(
    x: Float[Tensor, "batch features"], knots: Float[Tensor, "features knots"], order: int, derivative: int = 0
) -> Float[Tensor, "batch features basis"]:
    """The Cox-de Boor recursion, written as in the textbook; what :func:`bspline_basis` is tested against."""
    x = x.unsqueeze(-1)
    basis = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for degree in range(1, order + 1):
        left = basis[..., :-1] / (knots[:, degree:-1] - knots[:, : -degree - 1])
        right = basis[..., 1:] / (knots[:, degree + 1 :] - knots[:, 1:-degree])
        if degree <= order - derivative:
            basis = (x - knots[:, : -degree - 1]) * left + (knots[:, degree + 1 :] - x) * right
        else:
            basis = degree * (left - right)
    return basis


def bspline_basis(
    x: Float[Tensor, "batch features"], knots: Float[Tensor, "features knots"], order: int, derivative: int = 0
) -> Float[Tensor, "batch features basis"]:
    """Values of all B-splines, or of a derivative of them, at every point.

    Arguments:
        x: points, each feature on its own knots; zero comes back for points outside all knots.
        knots: strictly increasing along the last axis. Not differentiated.
        order: degree of the polynomials, 3 for cubic splines.
        derivative: which derivative with respect to ``x``; 0 for the values themselves.

    Returns: one value per basis function, ``knots - order - 1`` of them.
    """
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return _basis(x, knots, order, derivative)
    return bspline_basis_reference(x, knots, order, derivative)


_compiled = njit(cache=True, nogil=True, error_model="numpy")
_inlined = njit(cache=True, nogil=True, error_model="numpy", inline="always")


@_compiled
def _pieces(knots, order, derivative):  # pragma: no cover
    """Coefficients of the polynomials that the splines are made of: ``(feature, interval, power, spline)``.

    In an interval the variable runs from 0 to 1, and the splines are those ``order + 1`` that may differ from zero
    there. The recursion is that of Cox and de Boor, on polynomials in place of values.
    """
    features, count = knots.shape
    pieces = np.zeros((features, count - 1, order + 1, order + 1), knots.dtype)
    t = np.empty(count + 2 * order, knots.dtype)  # more knots at both ends, so that no border is a special case
    share, carry = np.empty(order + 1, knots.dtype), np.empty(order + 1, knots.dtype)
    for i in range(features):
        t[order : order + count] = knots[i]
        for j in range(1, order + 1):
            t[order - j] = knots[i, 0] - j * (knots[i, 1] - knots[i, 0])
            t[order + count - 1 + j] = knots[i, -1] + j * (knots[i, -1] - knots[i, -2])
        for m in range(count - 1):
            piece, here, width = pieces[i, m], t[m + order], t[m + order + 1] - t[m + order]
            piece[0, 0] = 1
            for degree in range(1, order + 1):
                carry[:] = 0
                for j in range(degree):
                    low, high = t[m + order + 1 + j - degree], t[m + order + 1 + j]
                    share[:] = piece[:, j] / (high - low)
                    if degree <= order - derivative:  # times (high - x) and (x - low)
                        piece[:, j] = carry + (high - here) * share
                        carry[:] = (here - low) * share
                        piece[1:, j] -= width * share[:-1]
                        carry[1:] += width * share[:-1]
                    else:  # the derivative of the spline of this degree
                        piece[:, j] = carry - degree * share
                        carry[:] = degree * share
                piece[:, degree] = carry
    return pieces


@_inlined
def _interval(value, knots, i, per_interval):  # pragma: no cover
    """Which interval a value inside the knots lies in. The guess is right on even knots, and near otherwise."""
    m = min(np.int64((value - knots[i, 0]) * per_interval[i]), knots.shape[1] - 2)
    while value < knots[i, m]:
        m -= 1
    while value >= knots[i, m + 1]:
        m += 1
    return m


@_inlined
def _polynomial(pieces, i, m, j, u, order):  # pragma: no cover
    if order == 3:  # by far the most used; written out it is three times as fast
        return ((pieces[i, m, 3, j] * u + pieces[i, m, 2, j]) * u + pieces[i, m, 1, j]) * u + pieces[i, m, 0, j]
    value = pieces[i, m, order, j]
    for power in range(order - 1, -1, -1):
        value = value * u + pieces[i, m, power, j]
    return value


@_compiled
def _fill(x, knots, order, derivative, out):  # pragma: no cover
    pieces, last, size = _pieces(knots, order, derivative), knots.shape[1] - 1, out.shape[2]
    per_interval, per_width = last / (knots[:, -1] - knots[:, 0]), 1 / (knots[:, 1:] - knots[:, :-1])
    out[:] = 0
    for n in range(x.shape[0]):
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


@_compiled
def _contract(weight, x, knots, order, derivative, out):  # pragma: no cover
    pieces, last, size = _pieces(knots, order, derivative), knots.shape[1] - 1, weight.shape[2]
    per_interval, per_width = last / (knots[:, -1] - knots[:, 0]), 1 / (knots[:, 1:] - knots[:, :-1])
    out[:] = 0
    for n in range(x.shape[0]):
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


@torch.library.custom_op("anabranch::bspline_basis", mutates_args=())
def _basis(x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    out = x.new_empty((*x.shape, knots.shape[-1] - order - 1))
    _fill(x.detach().contiguous().numpy(), knots.detach().contiguous().numpy(), order, derivative, out.numpy())
    return out


@torch.library.custom_op("anabranch::bspline_contract", mutates_args=())
def _contraction(weight: Tensor, x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    """The bases summed with a weight each: ``(batch, features, basis) -> (batch, features)``."""
    out = x.new_empty(x.shape)
    arrays = [each.detach().contiguous().numpy() for each in (weight, x, knots)]
    _contract(*arrays, order, derivative, out.numpy())
    return out


@_basis.register_fake
def _(x, knots, order, derivative):
    return x.new_empty((*x.shape, knots.shape[-1] - order - 1))


@_contraction.register_fake
def _(weight, x, knots, order, derivative):
    return x.new_empty(x.shape)


def _remember(ctx, inputs, output):
    *tensors, ctx.order, ctx.derivative = inputs
    ctx.save_for_backward(*tensors)


def _basis_backward(ctx, grad):
    x, knots = ctx.saved_tensors
    return _contraction(grad, x, knots, ctx.order, ctx.derivative + 1), None, None, None


def _contraction_backward(ctx, grad):
    weight, x, knots = ctx.saved_tensors
    for_weight = for_x = None
    if ctx.needs_input_grad[0]:
        for_weight = grad.unsqueeze(-1) * _basis(x, knots, ctx.order, ctx.derivative)
    if ctx.needs_input_grad[1]:
        for_x = grad * _contraction(weight, x, knots, ctx.order, ctx.derivative + 1)
    return for_weight, for_x, None, None, None


_basis.register_autograd(_basis_backward, setup_context=_remember)
_contraction.register_autograd(_contraction_backward, setup_context=_remember)
