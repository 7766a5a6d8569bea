"""The linear recurrence ``h_t = a_t h_{t-1} + b_t``, the one hot loop that linear RNNs and state-space models share.

This file is the pattern for the kernels of this folder: one public function; a reference in plain torch
(``_linear_scan_torch``); a fast CPU path (``_linear_scan_cpu``) behind a torch operator with its own gradient, so that
``torch.compile``, ``torch.func`` and the FLOP counter know it; and one place, :func:`_method`, that chooses by device
and shape. On other devices than the CPU the operator runs the reference; a Triton path would go there.
"""

import math
from typing import Literal, no_type_check

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from anabranch.kernels import _linear_scan_torch as reference

Method = Literal["auto", "operator", "loop", "two_level", "associative"]
_METHODS = ("auto", "operator", "loop", "two_level", "associative")
_HALF = (torch.bfloat16, torch.float16)


def linear_scan(
    a: Tensor,
    b: Shaped[Tensor, "batch time *dim"],
    h0: Tensor | None = None,
    reverse: bool = False,
    method: Method = "auto",
) -> Shaped[Tensor, "batch time *dim"]:
    """Solve ``h_t = a_t * h_{t-1} + b_t`` for all ``t``.

    Arguments:
        a: the factors, real or complex; broadcast to ``b`` by torch's rule. What is broadcast over time, batch or the
            last dimensions is not copied.
        b: what is added, ``(batch, time, *dim)``.
        h0: the state before the first frame, broadcast to ``(batch, *dim)``; zeros if not given.
        reverse: run from the last frame to the first: ``h_t = a_t * h_{t+1} + b_t``, with ``h0`` after the last.
        method: ``"auto"`` chooses by device and shape. ``"operator"`` is the compiled kernel. ``"loop"``,
            ``"two_level"`` and ``"associative"`` are the references, whose memory in training is several times larger.

    Returns: every state, ``(batch, time, *dim)``, in the promoted type of the inputs; half precision is accumulated in
    float32.

    Gradients run the same recurrence backwards (``g_t = dL/dh_t + conj(a_{t+1}) g_{t+1}``, ``db = g``,
    ``da_t = g_t conj(h_{t-1})``), so they, too, take one pass; second derivatives work.

    Raises: ``ValueError`` for shapes that do not fit, no frames, integers, or an unknown method.
    """
    if method not in _METHODS:
        raise ValueError(f"method is one of {', '.join(_METHODS)}; got {method!r}")
    if b.ndim < 2 or b.shape[1] == 0:
        raise ValueError(f"b must be (batch, time, *dim) with at least one frame; got {tuple(b.shape)}")
    shape, state_shape = b.shape, b.shape[:1] + b.shape[2:]
    if not _broadcasts(a.shape, shape):
        raise ValueError(f"a must broadcast to b's {tuple(shape)}; got {tuple(a.shape)}")
    if h0 is not None and not _broadcasts(h0.shape, state_shape):
        raise ValueError(f"h0 must broadcast to (batch, *dim) = {tuple(state_shape)}; got {tuple(h0.shape)}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    if h0 is not None:
        dtype = torch.promote_types(dtype, h0.dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"a linear scan needs real or complex numbers; got {dtype}")
    if b.numel() == 0:
        return b.to(dtype)
    work = torch.float32 if dtype in _HALF else dtype

    b = b.to(work)
    h0 = b.new_zeros(state_shape) if h0 is None else h0.to(work).expand(state_shape)
    a = _fold(a.to(work), shape)
    rows = a.shape[2]
    b, h0 = b.reshape(shape[0], shape[1], rows, -1), h0.reshape(shape[0], rows, -1)
    if method == "auto":
        method = _method(b)
    if method == "operator":
        h = _Scan.apply(a, b, h0, reverse)
    else:
        solve = getattr(reference, method)
        h = solve(a.flip(1), b.flip(1), h0).flip(1) if reverse else solve(a, b, h0)
    return h.reshape(shape).to(dtype)


def _method(b: Tensor) -> Method:
    """The choice by shape: what the operator costs to call is more than four plain steps."""
    return "loop" if b.shape[1] <= 4 else "operator"


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _fold(a: Tensor, shape: torch.Size) -> Shaped[Tensor, "#outer #time rows 1"]:
    """View ``a`` as one factor per row, where a row is all the trailing elements that share a factor."""
    a = a.reshape((1,) * (len(shape) - a.ndim) + a.shape)
    kept = len(shape)
    while kept > 2 and a.shape[kept - 1] == 1:
        kept -= 1
    a = a.expand(*a.shape[:2], *shape[2:kept], *a.shape[kept:])
    return a.reshape(a.shape[0], a.shape[1], math.prod(shape[2:kept]), 1)


# The operator. a (outer | 1, time | 1, rows, 1); b (outer, time, rows, columns); h0 (outer, rows, columns); one dtype.


@torch.library.custom_op(
    "anabranch::linear_scan", mutates_args=(), schema="(Tensor a, Tensor b, Tensor h0, bool reverse) -> Tensor"
)
def _scan(a, b, h0, reverse):
    if b.device.type == "cpu":
        from anabranch.kernels import _linear_scan_cpu

        return _linear_scan_cpu.scan(a, b, h0, reverse)
    h = reference.associative(a.flip(1), b.flip(1), h0).flip(1) if reverse else reference.associative(a, b, h0)
    return h.contiguous()


@torch.library.custom_op(
    "anabranch::linear_scan_backward",
    mutates_args=(),
    schema="(Tensor a, Tensor h, Tensor h0, Tensor grad, bool reverse) -> (Tensor, Tensor)",
)
def _scan_backward(a, h, h0, grad, reverse):
    if h.device.type == "cpu":
        from anabranch.kernels import _linear_scan_cpu

        return _linear_scan_cpu.scan_backward(a, h, h0, grad, reverse)
    grad_a, grad_b = _differentiable_backward(a, h, h0, grad, reverse)
    return grad_a.contiguous(), grad_b.contiguous()


def _differentiable_backward(a: Tensor, h: Tensor, h0: Tensor, grad: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """The gradient as another linear scan: slower by a few passes, and can itself be differentiated.

    For complex numbers it takes and returns the conjugates of the gradients, as does the operator: they need no
    conjugation on the way.
    """
    start = torch.zeros_like(h0)
    if reverse:
        grad_b = _Scan.apply(a.roll(1, 1), grad, start, False)
        before = torch.cat((h[:, 1:], h0[:, None]), dim=1)
    else:
        grad_b = _Scan.apply(a.roll(-1, 1), grad, start, True)
        before = torch.cat((h0[:, None], h[:, :-1]), dim=1)
    return (grad_b * before).sum(-1, keepdim=True), grad_b


@no_type_check
class _Scan(torch.autograd.Function):
    """The operator with its gradient: as a Function it also works under ``torch.func``'s transforms."""

    @staticmethod
    def forward(a, b, h0, reverse):
        return _scan(a, b, h0, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, _, h0, ctx.reverse = inputs
        ctx.save_for_backward(a, output, h0)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        a, h, h0 = ctx.saved_tensors
        # In grad mode someone will differentiate this gradient.
        backward = _differentiable_backward if torch.is_grad_enabled() else _scan_backward
        grad_a, grad_b = backward(a, h, h0, grad.conj().resolve_conj(), ctx.reverse)
        last = -1 if ctx.reverse else 0
        grad_h0 = a[:, last] * grad_b[:, last]
        return grad_a.sum_to_size(a.shape).conj(), grad_b.conj(), grad_h0.conj(), None

    @staticmethod
    def vmap(info, in_dims, a, b, h0, reverse):
        """A batch of scans is a scan over a larger batch."""
        a, b, h0 = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip((a, b, h0), in_dims[:3], strict=True)
        )
        a = a.expand(-1, b.shape[1], -1, -1, -1)
        h = _Scan.apply(a.flatten(0, 1), b.flatten(0, 1), h0.flatten(0, 1), reverse)
        return h.unflatten(0, (info.batch_size, -1)), 0


_scan.register_fake(lambda a, b, h0, reverse: torch.empty_like(b, memory_format=torch.contiguous_format))
_scan_backward.register_fake(
    lambda a, h, h0, grad, reverse: (
        h.new_empty(*h.shape[:3], 1),
        torch.empty_like(h, memory_format=torch.contiguous_format),
    )
)


@register_flop_formula([torch.ops.anabranch.linear_scan])
def _flops(a_shape, b_shape, *args, **kwargs) -> int:
    return 2 * math.prod(b_shape)


@register_flop_formula([torch.ops.anabranch.linear_scan_backward])
def _backward_flops(a_shape, h_shape, *args, **kwargs) -> int:
    return 4 * math.prod(h_shape)
