"""Causal linear attention in time and memory linear in the number of tokens (Katharopoulos et al. 2020, 2006.16236).

Tokens are cut into chunks: inside a chunk the masked matrix of scores is formed, what lies before a chunk reaches it
through the running sums ``S = sum k v^T`` and ``z = sum k``. All chunks are worked on side by side, in large batched
matrix products, which a loop over chunks did not beat on a CPU. Being plain torch, it runs on any device.
"""

from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK = 64  # tokens; the best or near it for 16 to 64 channels a head and 1k to 8k tokens, measured on two cores
_HALF = (torch.bfloat16, torch.float16)


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
    return numerator / (denominator + eps)[..., None]


def causal_linear_sums(
    q: Float[Tensor, "*batch time key"],
    k: Float[Tensor, "*batch time key"],
    v: Float[Tensor, "*batch time value"],
) -> tuple[Float[Tensor, "*batch time value"], Float[Tensor, "*batch time"]]:
    """Numerator ``sum_{j<=i} (q_i . k_j) v_j`` and denominator ``sum_{j<=i} q_i . k_j`` for every token ``i``.

    Sums are float32 for inputs in half precision, also under autocast. Training keeps the inputs and nothing else
    (eqs. 13 to 15 of the paper), and second derivatives work.

    Raises: ``ValueError`` for shapes that do not fit.
    """
    if q.ndim < 2 or q.shape != k.shape or v.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            "expected q and k (..., time, key) and v (..., time, value); "
            f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    work = torch.float32 if dtype in _HALF else dtype
    numerator, denominator = _CausalSums.apply(q.to(work), k.to(work), v.to(work))
    return numerator.to(dtype), denominator.to(dtype)


@no_type_check
class _CausalSums(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(q, k, v):
        with torch.autocast(q.device.type, enabled=False):
            n = q.shape[-2]
            q, k, v = (_chunks(x) for x in (q, k, v))
            scores = (q @ k.mT).tril()
            numerator, denominator = scores @ v, scores.sum(-1, keepdim=True)
            if n > CHUNK:
                numerator += q @ _sum_before(k.mT @ v)
                denominator += q @ _sum_before(k.sum(-2, keepdim=True)).mT
            return _tokens(numerator, n), _tokens(denominator, n).squeeze(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, by_numerator, by_denominator):
        q, k, v = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            n = q.shape[-2]
            # The denominator is a numerator whose values are all 1.
            q, k, v, G, g = (_chunks(x) for x in (q, k, v, by_numerator, by_denominator[..., None]))
            scores = (q @ k.mT).tril()
            by_scores = (G @ v.mT + g).tril()
            by_q, by_k, by_v = by_scores @ k, by_scores.mT @ q, scores.mT @ G
            if n > CHUNK:
                S, z = _sum_before(k.mT @ v), _sum_before(k.sum(-2, keepdim=True))
                R, r = _sum_after(q.mT @ G), _sum_after((q * g).sum(-2, keepdim=True))
                by_q = by_q + G @ S.mT + g * z
                by_k = by_k + v @ R.mT + r
                by_v = by_v + k @ R
            return _tokens(by_q, n), _tokens(by_k, n), _tokens(by_v, n)


def _chunks(x: Float[Tensor, "*batch time dim"]) -> Float[Tensor, "*batch chunks chunk dim"]:
    """Cut the time, filled up with zeros: these add nothing to a sum."""
    size = min(CHUNK, x.shape[-2])
    missing = -x.shape[-2] % max(size, 1)
    return (F.pad(x, (0, 0, 0, missing)) if missing else x.contiguous()).unflatten(-2, (-1, size))


def _tokens(x: Float[Tensor, "*batch chunks chunk dim"], n: int) -> Float[Tensor, "*batch time dim"]:
    return x.flatten(-3, -2)[..., :n, :]


def _sum_before(x: Float[Tensor, "*batch chunks rows columns"]) -> Float[Tensor, "*batch chunks rows columns"]:
    """Sum over all earlier chunks. Not ``cumsum - x``: rounding would let a large later chunk into an earlier one."""
    return F.pad(x[..., :-1, :, :], (0, 0, 0, 0, 1, 0)).cumsum(-3)


def _sum_after(x: Float[Tensor, "*batch chunks rows columns"]) -> Float[Tensor, "*batch chunks rows columns"]:
    """Sum over all later chunks."""
    return F.pad(x[..., 1:, :, :], (0, 0, 0, 0, 0, 1)).flip(-3).cumsum(-3).flip(-3)
