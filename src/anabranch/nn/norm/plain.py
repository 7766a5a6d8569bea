"""The norms of common use: over a token's channels, over a whole sample, or none."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.norm.base import Norm


class LayerNorm(Norm):
    """Each token to mean 0 and variance 1 over its channels, then a learned scale and shift (arXiv 1607.06450).

    Arguments:
        dim: channels of a token.
        epsilon: added to the variance.
    """

    def __init__(self, dim: int, *, epsilon: float = 1e-5):
        super().__init__(dim)
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def normalise(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None
    ) -> Float[Tensor, "*batch dim"]:
        return F.layer_norm(x, (self.dim,), self.weight, self.bias, self.epsilon)


class RMSNorm(Norm):
    """Each token to root mean square 1 over its channels, then a learned scale (arXiv 1910.07467).

    Arguments:
        dim: channels of a token.
        epsilon: added to the mean square.
    """

    def __init__(self, dim: int, *, epsilon: float = 1e-6):
        super().__init__(dim)
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(dim))

    def normalise(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None
    ) -> Float[Tensor, "*batch dim"]:
        return F.rms_norm(x, (self.dim,), self.weight, self.epsilon)


class GroupNorm(Norm):
    """Each sample to mean 0 and variance 1 over all its tokens and channels, then a scale and shift per channel.

    Group normalisation (arXiv 1803.08494) with a single group, the norm of PoolFormer (arXiv 2111.11418). Unlike
    :class:`LayerNorm` it ties the tokens of a sample together.

    Arguments:
        dim: channels of a token.
        epsilon: added to the variance.
    """

    tokenwise = False

    def __init__(self, dim: int, *, epsilon: float = 1e-5):
        super().__init__(dim)
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def normalise(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None
    ) -> Float[Tensor, "*batch dim"]:
        # Half precision can hold neither a sum over many tokens nor their number.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if mask is None:
            variance, mean = torch.var_mean(wide, dim=(-2, -1), correction=0, keepdim=True)
        else:
            absent = ~mask[..., None]
            count = (mask.sum(-1)[..., None, None] * self.dim).clamp(min=1)
            mean = wide.masked_fill(absent, 0).sum((-2, -1), keepdim=True) / count
            deviation = (wide - mean).masked_fill(absent, 0)
            variance = deviation.square().sum((-2, -1), keepdim=True) / count
        return ((wide - mean) * (variance + self.epsilon).rsqrt()).to(x.dtype) * self.weight + self.bias


class IdentityNorm(Norm):
    """No norm.

    Arguments:
        dim: channels of a token.
    """

    def normalise(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None
    ) -> Float[Tensor, "*batch dim"]:
        return x
