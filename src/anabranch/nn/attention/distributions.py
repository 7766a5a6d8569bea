"""From scores to weights: the second half of every attention.

All take scores whose last axis runs over what can be read, and ``readable``, True where something may be read (None:
everywhere). The weights are zero elsewhere, so that a row with nothing to read is all zeros.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.errors import unknown
from anabranch.nn.attention.masking import masked_softmax

Distribution = Callable[[Tensor, Tensor | None], Tensor]


def softmax(
    scores: Float[Tensor, "*rows source"], readable: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows source"]:
    """``exp(s_j) / sum_i exp(s_i)``: every weight is positive."""
    if readable is None:
        return scores.softmax(-1)
    # Half precision can turn a score into -inf, below which nothing can be hidden: weights are zero there whatever happens.
    return masked_softmax(scores, readable).where(readable, 0)


def sigmoid(
    scores: Float[Tensor, "*rows source"], readable: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows source"]:
    """``1 / (1 + exp(-s_j))``: each weight for itself; they need not add up to one."""
    weights = scores.sigmoid()
    return weights if readable is None else weights.masked_fill(~readable, 0)


def sparsemax(
    scores: Float[Tensor, "*rows source"], readable: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows source"]:
    """The point of the simplex nearest to the scores: low scores get no weight (Martins and Astudillo 2016,
    arXiv 1602.02068, algorithm 1)."""
    z = below_zero(scores, readable)
    with torch.no_grad():
        ordered = z.sort(-1, descending=True).values
        rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        size = (1 + rank * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
        support = z >= ordered.gather(-1, size - 1)
    # The support is locally constant: the threshold's gradient is that of a mean over it.
    threshold = ((z * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    return finish((z - threshold).clamp(min=0), scores, readable)


def entmax15(
    scores: Float[Tensor, "*rows source"], readable: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows source"]:
    """1.5-entmax, between softmax and sparsemax: ``max(s_j / 2 - tau, 0)^2`` with ``tau`` so that the weights add up to
    one (Peters et al. 2019, arXiv 1905.05702, algorithm 2)."""
    z = below_zero(scores / 2, readable)
    with torch.no_grad():
        ordered = z.sort(-1, descending=True).values
        rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        mean, square = ordered.cumsum(-1) / rank, ordered.square().cumsum(-1) / rank
        thresholds = mean - ((1 - rank * (square - mean.square())) / rank).clamp(min=0).sqrt()
        size = (thresholds <= ordered).sum(-1, keepdim=True)
        support = z >= ordered.gather(-1, size - 1)
    count = support.sum(-1, keepdim=True)
    mean = (z * support).sum(-1, keepdim=True) / count
    spread = ((z - mean).square() * support).sum(-1, keepdim=True)
    # At the least 1 / count of the root's argument is left where the support is one score: no gradient is infinite.
    threshold = mean - ((1 - spread).clamp(min=torch.finfo(z.dtype).eps) / count).sqrt()
    return finish((z - threshold).clamp(min=0).square(), scores, readable)


def hard(
    scores: Float[Tensor, "*rows source"], readable: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows source"]:
    """All weight on the highest score; the gradient is softmax's (the straight-through estimator)."""
    soft = softmax(scores, readable)
    best = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1)
    if readable is not None:
        best = best.masked_fill(~readable, 0)
    return best + (soft - soft.detach())


def below_zero(scores: Tensor, readable: Tensor | None) -> Tensor:
    """Scores less the highest of their row, at least in float32. What cannot be read gets -2: thresholds are above -1."""
    z = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    if readable is None:
        return z - z.detach().amax(-1, keepdim=True)
    highest = z.detach().masked_fill(~readable, torch.finfo(z.dtype).min).amax(-1, keepdim=True)
    return (z - highest).masked_fill(~readable, -2)


def finish(weights: Tensor, scores: Tensor, readable: Tensor | None) -> Tensor:
    weights = weights.to(scores.dtype)
    return weights if readable is None else weights.masked_fill(~readable, 0)


DISTRIBUTIONS: dict[str, Distribution] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
    "hard": hard,
}


def distribution(which: str | Distribution) -> Distribution:
    """A distribution by its name, or any function of scores and ``readable``."""
    if not isinstance(which, str):
        return which
    if which not in DISTRIBUTIONS:
        raise unknown("distribution of attention", which, DISTRIBUTIONS)
    return DISTRIBUTIONS[which]
