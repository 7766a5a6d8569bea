"""B-spline bases and their derivatives at many points, one row of knots per feature.

At any point only ``order + 1`` of the basis functions differ from zero, so the compiled path computes those alone. The
derivative of a B-spline is made of B-splines, so that everything here can be differentiated any number of times.
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor


def bspline_basis_reference(
    x: Float[Tensor, "batch features"], knots: Float[Tensor, "features knots"], order: int, derivative: int = 0
) -> Float[Tensor, "batch features basis"]:
    """The Cox-de Boor recursion, written as in the textbook; what :func:`bspline_basis` is tested against.

    A spline all of whose knots coincide is zero, and so is what the recursion adds for it: 0/0 counts as 0.
    """
    x = x.unsqueeze(-1)
    basis = ((x >= knots[:, :-1]) & (x < knots[:, 1:]) & (derivative <= order)).to(x.dtype)
    for degree in range(1, order + 1):
        width = knots[:, degree:] - knots[:, :-degree]
        share = basis / torch.where(width == 0, 1, width)
        left, right = share[..., :-1], share[..., 1:]
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

    Raises: ``ValueError`` for shapes or types that do not fit, or too few knots for one spline.
    """
    _check(x, knots, order, derivative)
    if _compiled(x):
        return _Basis.apply(x, knots, order, derivative)
    return bspline_basis_reference(x, knots, order, derivative)


def kan_linear(
    x: Float[Tensor, "batch features"],
    base: Float[Tensor, "batch features"],
    knots: Float[Tensor, "features knots"],
    base_weight: Float[Tensor, "out features"],
    scale: Float[Tensor, "out features"],
    coefficients: Float[Tensor, "out features basis"],
    order: int,
) -> Float[Tensor, "batch out"]:
    """Sums over the features of ``base_weight base + scale spline(x)``, a spline per feature and output.

    What :func:`bspline_basis` and two matrix products give, without holding the bases, of which most are zeros: memory
    grows with the points, not with the knots, and time with ``order + 1`` in place of their number. On a small layer
    one operator in place of a dozen also saves most of the time.

    Arguments:
        x, knots, order: as for :func:`bspline_basis`.
        base: the other function's values at ``x``.
        base_weight, scale, coefficients: the weights; all tensors have the same floating type.

    Raises: ``ValueError`` for shapes or types that do not fit, or too few knots for one spline.
    """
    _check(x, knots, order, 0)
    _check_weights(x, base, base_weight, scale, coefficients, knots.shape[1] - order - 1)
    if _compiled(x):
        return _KAN.apply(x, base, knots, base_weight, scale, coefficients, order)
    basis = bspline_basis_reference(x, knots, order)
    return base @ base_weight.T + basis.flatten(1) @ (scale[..., None] * coefficients).flatten(1).T


def _check(x: Tensor, knots: Tensor, order: int, derivative: int) -> None:
    if x.ndim != 2 or knots.ndim != 2 or x.shape[1] != knots.shape[0]:
        raise ValueError(
            f"expected x (batch, features) and knots (features, knots); got {tuple(x.shape)} and {tuple(knots.shape)}"
        )
    if x.dtype != knots.dtype or not x.is_floating_point():
        raise ValueError(f"expected x and knots of one floating type; got {x.dtype} and {knots.dtype}")
    if order < 0 or derivative < 0:
        raise ValueError(f"expected an order and a derivative of at least 0; got {order} and {derivative}")
    if knots.shape[1] < order + 2:
        raise ValueError(f"expected at least {order + 2} knots for a spline of order {order}; got {knots.shape[1]}")


def _check_weights(
    x: Tensor, base: Tensor, base_weight: Tensor, scale: Tensor, coefficients: Tensor, splines: int
) -> None:
    features, given = x.shape[1], (base, base_weight, scale, coefficients)
    edges = (len(scale) if scale.ndim else 0, features)
    if [t.shape for t in given] != [x.shape, edges, edges, (*edges, splines)]:
        raise ValueError(
            f"expected base {tuple(x.shape)}, base_weight and scale (out, {features}) and coefficients "
            f"(out, {features}, {splines}); got {', '.join(str(tuple(t.shape)) for t in given)}"
        )
    if any(t.dtype != x.dtype for t in given):
        raise ValueError(f"expected tensors of x's type {x.dtype}; got {', '.join(str(t.dtype) for t in given)}")


def _compiled(x: Tensor) -> bool:
    """Whether to run the compiled code. The transforms of ``torch.func`` take the reference, which they see through:
    what a Function needs to be transformed would cost every call of a small layer a good part of its time."""
    fast = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return fast and not torch._C._are_functorch_transforms_active()


# The operators. They are defined by a schema and a kernel, with an autograd Function in front: torch's shorter way,
# custom_op and register_autograd, costs more time than the kernels themselves at the size of a small network.

_library = torch.library.Library("anabranch", "FRAGMENT")
_library.define("bspline_basis(Tensor x, Tensor knots, int order, int derivative) -> Tensor")
_given = "Tensor x, Tensor base, Tensor knots, Tensor base_weight, Tensor scale, Tensor coefficients, int order"
_library.define(f"kan_linear({_given}) -> Tensor")
_library.define(f"kan_linear_backward(Tensor grad, {_given}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")


def _basis_cpu(x: Tensor, knots: Tensor, order: int, derivative: int) -> Tensor:
    from anabranch.kernels import _bspline_cpu

    return _bspline_cpu.basis(x, knots, order, derivative)


def _kan_cpu(*given: Any) -> Tensor:
    from anabranch.kernels import _bspline_cpu

    return _bspline_cpu.edges(*given)


def _kan_backward_cpu(*given: Any) -> tuple[Tensor, ...]:
    from anabranch.kernels import _bspline_cpu

    return _bspline_cpu.edges_backward(*given)


_library.impl("bspline_basis", _basis_cpu, "CPU")
_library.impl("kan_linear", _kan_cpu, "CPU")
_library.impl("kan_linear_backward", _kan_backward_cpu, "CPU")


@torch.library.register_fake("anabranch::bspline_basis", lib=_library)
def _(x, knots, order, derivative):
    return x.new_empty((*x.shape, knots.shape[-1] - order - 1))


@torch.library.register_fake("anabranch::kan_linear", lib=_library)
def _(x, base, knots, base_weight, scale, coefficients, order):
    return x.new_empty((x.shape[0], scale.shape[0]))


@torch.library.register_fake("anabranch::kan_linear_backward", lib=_library)
def _(grad, x, base, knots, base_weight, scale, coefficients, order):
    return tuple(x.new_empty(t.shape) for t in (x, base, base_weight, scale, coefficients))


@no_type_check
class _Basis(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, knots, order, derivative):
        ctx.save_for_backward(x, knots)
        ctx.order, ctx.derivative = order, derivative
        return torch.ops.anabranch.bspline_basis(x, knots, order, derivative)

    @staticmethod
    def backward(ctx, grad):
        x, knots = ctx.saved_tensors
        return (grad * _Basis.apply(x, knots, ctx.order, ctx.derivative + 1)).sum(-1), None, None, None


@no_type_check
class _KAN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, base, knots, base_weight, scale, coefficients, order):
        ctx.save_for_backward(x, base, knots, base_weight, scale, coefficients)
        ctx.order = order
        return torch.ops.anabranch.kan_linear(x, base, knots, base_weight, scale, coefficients, order)

    @staticmethod
    def backward(ctx, grad):
        x, base, knots, base_weight, scale, coefficients = given = ctx.saved_tensors
        if not torch.is_grad_enabled():
            grads = torch.ops.anabranch.kan_linear_backward(grad, *given, ctx.order)
        else:  # someone will differentiate this gradient
            weight, slopes = scale[..., None] * coefficients, _Basis.apply(x, knots, ctx.order, 1)
            by_weight = torch.einsum("no,nib->oib", grad, _Basis.apply(x, knots, ctx.order, 0))
            grads = (
                torch.einsum("no,oib,nib->ni", grad, weight, slopes),
                grad @ base_weight,
                grad.T @ base,
                (coefficients * by_weight).sum(-1),
                scale[..., None] * by_weight,
            )
        return grads[0], grads[1], None, *grads[2:], None
