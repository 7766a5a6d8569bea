"""B-spline bases and their derivatives at many points, one row of knots per feature.

At any point only ``order + 1`` of the basis functions differ from zero, so the compiled path computes those and writes
zeros elsewhere. Both operators here are linear in everything but the points, and the derivative of a B-spline is made
of B-splines, so that their gradients are these same two operators: they can be differentiated any number of times.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def bspline_basis_reference(
    x: Float[Tensor, "batch features"], knots: Float[Tensor, "features knots"], order: int, derivative: int = 0
) -> Float[Tensor, "batch features basis"]:
    """The Cox-de Boor recursion, written as in the textbook; what :func:`bspline_basis` is tested against."""
    x = x.unsqueeze(-1)
    basis = ((x >= knots[:, :-1]) & (x < knots[:, 1:]) & (derivative <= order)).to(x.dtype)
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


@torch.library.custom_op("anabranch::bspline_basis", mutates_args=())
def _basis(x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    from anabranch.kernels import _bspline_cpu

    return _bspline_cpu.basis(x, knots, order, derivative)


@torch.library.custom_op("anabranch::bspline_contract", mutates_args=())
def _contraction(weight: Tensor, x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    """The bases summed with a weight each: ``(batch, features, basis) -> (batch, features)``."""
    from anabranch.kernels import _bspline_cpu

    return _bspline_cpu.contraction(weight, x, knots, order, derivative)


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
