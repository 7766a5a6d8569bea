"""Running results of any associative operation, and attention with a fixed query as one (Feng et al. 2024, 2405.13956).

Attention to what was read so far is a running weighted mean. The sums it needs, scaled by the largest score so far so
that no exponential overflows, can be merged in any grouping: all at once, one token at a time, or piece by piece.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from anabranch.kernels._linear_scan import linear_scan

Parts = tuple[Tensor, ...]
_HALF = (torch.bfloat16, torch.float16)


def prefix_scan(op: Callable[[Parts, Parts], Parts], leaves: Parts, dim: int = 1) -> Parts:
    """``x_1``, ``op(x_1, x_2)``, ``op(op(x_1, x_2), x_3)``, ... in about ``2 log2(n)`` calls of ``op``.

    Neighbours are joined in pairs, the pairs are scanned, and what lies between is filled in (Blelloch 1990): about
    twice the work of a loop, in long operations instead of many short ones. Gradients are those of ``op``.

    Arguments:
        op: joins an earlier and a later element, place by place; associative, but not necessarily commutative.
        leaves: the tensors that an element consists of, all of one length along ``dim``.
        dim: the axis to scan along, the same in all tensors.

    Raises: ``ValueError`` if there is no tensor, or their lengths differ.
    """
    lengths = {leaf.shape[dim] for leaf in leaves}
    if len(lengths) != 1:
        raise ValueError(f"expected tensors of one length along axis {dim}; got {sorted(lengths)}")
    n = lengths.pop()
    if n < 2:
        return leaves

    def every_other(parts: Parts, start: int, stop: int) -> Parts:
        return tuple(part.movedim(dim, 0)[start:stop:2].movedim(0, dim) for part in parts)

    even_end = n - n % 2
    odd = prefix_scan(op, op(every_other(leaves, 0, even_end), every_other(leaves, 1, n)), dim)
    first = tuple(leaf.narrow(dim, 0, 1) for leaf in leaves)
    if n == 2:
        return tuple(torch.cat(pair, dim) for pair in zip(first, odd, strict=True))
    before = tuple(part.narrow(dim, 0, (n - 1) // 2) for part in odd)
    even = op(before, every_other(leaves, 2, n))
    return tuple(_interleave(torch.cat((f, e), dim), o, dim) for f, e, o in zip(first, even, odd, strict=True))


def _interleave(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    axis = dim % even.ndim
    paired = odd.shape[axis]
    joined = torch.stack((even.narrow(axis, 0, paired), odd), axis + 1).flatten(axis, axis + 1)
    return joined if even.shape[axis] == paired else torch.cat((joined, even.narrow(axis, paired, 1)), axis)


class AttentionSums(NamedTuple):
    """What attention with one query needs to know of the tokens it has read; ``w / u`` is what it gives.

    ``m`` is the largest score, ``u`` the sum of ``exp(score - m)``, ``w`` the sum of ``exp(score - m) * value``.
    """

    m: Float[Tensor, "*batch"]
    u: Float[Tensor, "*batch"]
    w: Float[Tensor, "*batch value"]


def attention_combine(earlier: Parts, later: Parts) -> AttentionSums:
    """Join the sums of two sets of tokens (``(m, u, w)`` in the paper); associative and commutative.

    A single token is ``(score, 1, value)``, no token ``(smallest number, 0, 0)``.
    """
    (m_a, u_a, w_a), (m_b, u_b, w_b) = earlier, later
    m = torch.maximum(m_a, m_b)
    a, b = (m_a - m).exp(), (m_b - m).exp()
    return AttentionSums(m, u_a * a + u_b * b, w_a * a[..., None] + w_b * b[..., None])


def attention_scan(
    score: Float[Tensor, "batch time *heads"],
    value: Float[Tensor, "batch time *heads value"],
    state: AttentionSums | None = None,
) -> tuple[Float[Tensor, "batch time *heads value"], AttentionSums]:
    """Softmax attention with one query to every prefix: ``y_i = sum_{j<=i} e^{s_j} v_j / sum_{j<=i} e^{s_j}``.

    The same as ``prefix_scan(attention_combine, ...)``, solved faster: once the running maximum is known, which the
    result does not depend on and which therefore needs no gradient, the two sums are linear recurrences.

    Arguments:
        score: ``s``, of any size; minus infinity for a token that does not exist. Where none exists the output is 0.
        value: ``v``.
        state: the sums over what was read before; nothing was, if not given.

    Returns: the outputs, in the type of ``value``, and the sums after the last token, at least in float32. Gradients
    are right for what is made of ``w / u``; as ``m`` is a constant to them, ``u`` alone has none that means anything.
    Raises: ``ValueError`` for shapes that do not fit.
    """
    if score.ndim < 2 or value.shape[:-1] != score.shape:
        raise ValueError(
            "expected scores (batch, time, *heads) and values (batch, time, *heads, value); "
            f"got {tuple(score.shape)} and {tuple(value.shape)}"
        )
    dtype = torch.promote_types(score.dtype, value.dtype)
    s, v = (x.to(torch.float32 if dtype in _HALF else dtype) for x in (score, value))
    if state is None:
        state = no_attention(v[:, 0])
    m_before = state.m.detach()[:, None]
    with torch.no_grad():
        m = torch.maximum(s.cummax(1).values, m_before)
        decay = (torch.cat((m_before, m[:, :-1]), 1) - m).exp()
    gain = (s - m).exp()
    u = linear_scan(decay, gain, state.u)
    w = linear_scan(decay[..., None], gain[..., None] * v, state.w)
    # The largest score alone adds 1 to u, so only where nothing was read is it smaller.
    y = w / u.clamp(min=1)[..., None]
    return y.to(value.dtype), AttentionSums(m[:, -1], u[:, -1], w[:, -1])


def no_attention(like: Float[Tensor, "*batch value"]) -> AttentionSums:
    """The sums over no token. The maximum is finite, because infinity minus infinity is not a number."""
    none = like.new_zeros(like.shape[:-1])
    return AttentionSums(torch.full_like(none, torch.finfo(like.dtype).min), none, torch.zeros_like(like))
