"""Attention between a context's tokens and whole candidates: Poly-encoders (Humeau et al. 2019, arXiv 1905.01969)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class PolyAttention(nn.Module):
    """Read a context once through learned codes; let every candidate weigh what the codes have read.

    Each code is a query, ``y^i = sum_j softmax_j(c_i . h_j) h_j``, and each candidate ``y`` attends to the results,
    ``sum_i softmax_i(y . y^i) y^i``, all by plain dot products without scaling (section 4.4 of the paper). So the
    context need not be encoded again for another candidate. With one code, it is attention pooling that no candidate
    influences. In the paper's variant without codes, candidates weigh the context's first tokens instead.

    Arguments:
        dim: channels of a token and of a candidate.
        codes: number of learned codes, ``m`` in the paper (16, 64 or 360), drawn uniformly from 0 to 1 at first.
        learned: whether there are codes; if not, the first ``codes`` tokens stand for what codes read.
    """

    def __init__(self, dim: int, *, codes: int = 64, learned: bool = True):
        super().__init__()
        if dim < 1 or codes < 1:
            raise ValueError(f"dim and codes must be at least 1; got {dim} and {codes}")
        self.dim, self.count = dim, codes
        self.codes = nn.Parameter(torch.rand(codes, dim)) if learned else None

    def summaries(
        self, tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch codes dim"]:
        """What each code reads from a context, or its first tokens; zeros where no token exists."""
        if tokens.ndim != 3 or tokens.shape[-1] != self.dim:
            raise ValueError(f"PolyAttention expected tokens (batch, time, {self.dim}); got {tuple(tokens.shape)}")
        if self.codes is None:
            first = tokens[:, : self.count]
            return first if mask is None else first.masked_fill(~mask[:, : self.count, None], 0)
        scores = self.codes @ tokens.mT
        if mask is None:
            return scores.softmax(-1) @ tokens
        exists = mask[:, None]
        weights = scores.masked_fill(~exists, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~exists, 0)
        return weights @ tokens.masked_fill(~mask[..., None], 0)

    def summarised(self, mask: Bool[Tensor, "batch time"] | None) -> Bool[Tensor, "batch codes"] | None:
        """Which summaries of contexts with this mask exist: None for all, as with codes."""
        return None if mask is None or self.codes is not None else mask[:, : self.count]

    def attend(
        self,
        summaries: Float[Tensor, "batch codes dim"],
        candidates: Float[Tensor, "candidates dim"] | Float[Tensor, "batch candidates dim"],
        mask: Bool[Tensor, "batch codes"] | None = None,
    ) -> Float[Tensor, "batch candidates dim"]:
        """The context as each candidate sees it; the candidates are every context's own, or the same for all.

        ``mask`` is True for the summaries that exist, as :meth:`summarised` gives it.
        """
        return _masked(candidates @ summaries.mT, mask).softmax(-1) @ summaries

    def score(
        self,
        summaries: Float[Tensor, "batch codes dim"],
        candidates: Float[Tensor, "candidates dim"] | Float[Tensor, "batch candidates dim"],
        mask: Bool[Tensor, "batch codes"] | None = None,
    ) -> Float[Tensor, "batch candidates"]:
        """Dot product of each candidate and the context as it sees it: a softmax-weighted mean of the codes' scores."""
        scores = candidates @ summaries.mT
        return (_masked(scores, mask).softmax(-1) * scores).sum(-1)

    def forward(
        self,
        tokens: Float[Tensor, "batch time dim"],
        candidates: Float[Tensor, "candidates dim"] | Float[Tensor, "batch candidates dim"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch candidates dim"]:
        """The contexts as each candidate sees them; ``mask`` is True for the context's tokens that exist."""
        return self.attend(self.summaries(tokens, mask), candidates, self.summarised(mask))


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores that leave no weight to summaries that do not exist."""
    return scores if mask is None else scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
