"""The poolings of common use."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.mixing.grid import hide
from anabranch.nn.pool.base import Pool


class MeanPool(Pool):
    """The mean of the tokens that exist."""

    def pool(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch out"]:
        if mask is None:
            return x.mean(1)
        return hide(x, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class MaxPool(Pool):
    """The largest value of every channel among the tokens that exist."""

    def pool(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch out"]:
        if mask is None:
            return x.amax(1)
        largest = x.masked_fill(~mask[:, :, None], torch.finfo(x.dtype).min).amax(1)
        return largest.where(mask.any(1, keepdim=True), 0)


class LastPool(Pool):
    """The last token that exists."""

    def pool(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch out"]:
        if mask is None:
            return x[:, -1]
        position = torch.arange(x.shape[1], device=x.device)
        last = (position * mask).amax(1)
        return x[torch.arange(len(x), device=x.device), last].where(mask.any(1, keepdim=True), 0)


class FlattenPool(Pool):
    """All tokens side by side, those that do not exist as zeros.

    Arguments:
        dim: channels of a token.
        length: number of tokens.
    """

    def __init__(self, dim: int, *, length: int):
        super().__init__(dim)
        self.length, self.out_dim = length, dim * length

    def pool(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch out"]:
        if x.shape[1] != self.length:
            raise ValueError(f"FlattenPool was built for {self.length} tokens; got {x.shape[1]}")
        return hide(x, mask).flatten(1)
