"""Causal linear attention in time and memory linear in the number of tokens (Katharopoulos et al. 2020, 2006.16236).

All of it, gradients too, is one product: queries read a running sum of keys times values (:class:`_Products`). With a
decay the sum forgets: retention. On a CPU a compiled loop keeps the sum in the cache (``_linear_attention_cpu``); other
devices run the chunked form in plain torch (``_linear_attention_torch``).
"""

import math
from functools import reduce
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from anabranch.kernels import _linear_attention_torch as reference
from anabranch.kernels._linear_scan import linear_scan


def causal_linear_attention(
    q: Float[Tensor, "*batch time key"],
    k: Float[Tensor, "*batch time key"],
    v: Float[Tensor, "*batch time value"],
    *,
    eps: float = 1e-6,
) -> Float[Tensor, "*batch time value"]:
    """``y_i = sum_{j<=i} (q_i . k_j) v_j / (eps + sum_{j<=i} q_i . k_j)``: eq. 12 of the paper.

    Arguments:
        q, k: queries and keys, to which the feature map has been applied: not negative, so that the sum is not.
        v: values.
        eps: keeps the quotient finite where all scores vanish.

    Raises: ``ValueError`` for shapes that do not fit.
    """
    numerator, denominator = causal_linear_sums(q, k, v)
    return (numerator / (denominator + eps)[..., None]).to(_common(q, k, v))


def causal_linear_sums(
    q: Float[Tensor, "*batch time key"],
    k: Float[Tensor, "*batch time key"],
    v: Float[Tensor, "*batch time value"],
) -> tuple[Float[Tensor, "*batch time value"], Float[Tensor, "*batch time"]]:
    """Numerator ``sum_{j<=i} (q_i . k_j) v_j`` and denominator ``sum_{j<=i} q_i . k_j`` for every token ``i``.

    Sums of inputs in half precision are float32, also under autocast: in float16 some 1000 tokens are too large a sum.
    Training keeps the inputs alone (eqs. 13 to 15 of the paper), and second derivatives work.

    Raises: ``ValueError`` for shapes that do not fit.
    """
    _check(q, k, v)
    return _apply(q, k, v, None), _weigh(q, k)


def retention(
    q: Float[Tensor, "*batch time key"],
    k: Float[Tensor, "*batch time key"],
    v: Float[Tensor, "*batch time value"],
    decay: Float[Tensor, "*heads"] | None = None,
) -> Float[Tensor, "*batch time value"]:
    """``y_i = sum_{j<=i} decay^{i-j} (q_i . k_j) v_j``: retention in its chunkwise form (Sun et al. 2023, 2307.08621).

    Arguments:
        q, k: queries and keys, of any sign.
        v: values.
        decay: above 0 and at most 1, which is checked on a CPU alone; broadcast to ``*batch``, for example one a head;
            a constant, without gradient. Without it nothing is forgotten: the numerator of linear attention.

    Sums, memory and derivatives are as in :func:`causal_linear_sums`; the result has the type of the inputs.

    Raises: ``ValueError`` for shapes that do not fit, or a decay that asks for a gradient or has no such size.
    """
    if decay is not None and decay.requires_grad:
        raise ValueError("the decay is a constant and gets no gradient; detach it")
    _check(q, k, v)
    if decay is not None and not _broadcasts(decay.shape, q.shape[:-2]):
        raise ValueError(f"the decay must broadcast to {tuple(q.shape[:-2])}; got {tuple(decay.shape)}")
    return _apply(q, k, v, decay).to(_common(q, k, v))


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.ndim < 2 or q.shape != k.shape or v.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            "expected q and k (..., time, key) and v (..., time, value); "
            f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )


def _apply(q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None) -> Tensor:
    """Fold all that stands before the time into rows, and sum at least in float32."""
    batch, time = q.shape[:-2], q.shape[-2]
    rows, work = math.prod(batch), _common(q, k, v, torch.float32)
    q, k, v = (x.to(work).reshape(rows, time, x.shape[-1]) for x in (q, k, v))
    decay = None if decay is None else decay.expand(batch).reshape(rows)
    if time == 1:  # while streaming; an operator would cost more than the work
        y = (q * k).sum(-1, keepdim=True) * v
    else:
        y = _Products.apply(q, k, v, decay, False)
    return y.reshape(*batch, time, v.shape[-1])


def _weigh(q: Tensor, k: Tensor) -> Tensor:
    """``sum_{j<=i} q_i . k_j`` for every token ``i``: a product whose values are all 1, without these values."""
    batch, (time, key) = q.shape[:-2], q.shape[-2:]
    work = _common(q, k, torch.float32)
    q, k = (x.to(work).reshape(math.prod(batch), time, key) for x in (q, k))
    sums = _Weights.apply(q, k) if q.numel() else q.sum(-1)
    return sums.reshape(*batch, time)


def _common(*given: Tensor | torch.dtype) -> torch.dtype:
    """The type that holds all of these."""
    return reduce(torch.promote_types, (x.dtype if isinstance(x, Tensor) else x for x in given))


# The operator: y_i = sum over j <= i of decay^(i - j) (q_i . k_j) v_j, or over j >= i of decay^(j - i) if reverse.
# q, k (rows, time, key); v (rows, time, value); decay (rows,), if any.


@torch.library.custom_op(
    "anabranch::causal_products",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? decay, bool reverse) -> Tensor",
)
def _products(q, k, v, decay, reverse):
    if q.device.type == "cpu":
        from anabranch.kernels import _linear_attention_cpu

        return _linear_attention_cpu.products(q, k, v, decay, reverse)
    with torch.autocast(q.device.type, enabled=False):
        return reference.products(q, k, v, decay, reverse).contiguous()


@no_type_check
class _Products(torch.autograd.Function):
    """The operator with its gradients, which are products again: of the same kind, by eqs. 13 to 15 of the paper."""

    @staticmethod
    def forward(q, k, v, decay, reverse):
        return _products(q, k, v, decay, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *saved, ctx.reverse = inputs
        ctx.save_for_backward(*saved)

    @staticmethod
    def backward(ctx, G):
        q, k, v, decay = ctx.saved_tensors
        by_q = _Products.apply(G, v, k, decay, ctx.reverse)
        by_k = _Products.apply(v, G, q, decay, not ctx.reverse)
        by_v = _Products.apply(k, q, G, decay, not ctx.reverse)
        return by_q, by_k, by_v, None, None

    @staticmethod
    def vmap(info, in_dims, q, k, v, decay, reverse):
        """A batch of products is a product of more rows."""
        q, k, v, decay = (
            None if x is None else x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip((q, k, v, decay), in_dims[:4], strict=True)
        )
        rows = [None if x is None else x.flatten(0, 1) for x in (q, k, v, decay)]
        return _Products.apply(*rows, reverse).unflatten(0, (info.batch_size, -1)), 0


@no_type_check
class _Weights(torch.autograd.Function):
    """Sums of the scores, of which training keeps the inputs alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q, k):
        return (q * _running(k)).sum(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, G):
        q, k = ctx.saved_tensors
        return G[..., None] * _running(k), _running(G[..., None] * q, reverse=True)


def _running(x: Float[Tensor, "rows time key"], reverse: bool = False) -> Float[Tensor, "rows time key"]:
    """The sum up to each token, or from each on."""
    return linear_scan(x.new_ones(()), x, reverse=reverse)


_products.register_fake(lambda q, k, v, decay, reverse: torch.empty_like(v, memory_format=torch.contiguous_format))


@register_flop_formula([torch.ops.anabranch.causal_products])
def _flops(q_shape, k_shape, v_shape, *args, **kwargs) -> int:
    return 4 * math.prod(q_shape) * v_shape[-1]
