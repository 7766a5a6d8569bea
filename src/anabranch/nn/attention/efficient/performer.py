"""Performer (Choromanski et al. 2021, arXiv 2009.14794): linear attention whose random features approach softmax."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.attention.base import Projected, no_autocast
from anabranch.nn.attention.linear import LinearAttention
from anabranch.nn.mixing.base import Grid
from anabranch.spaces import Choice, Space


class PositiveFeatures(nn.Module):
    """``exp(W x - |x|^2 / 2) / sqrt(m)`` with random orthogonal rows in ``W``; their dot products average ``exp(x . y)``.

    Arguments:
        dim: channels of a head.
        features: ``m``.
    """

    directions: Float[Tensor, "features dim"]

    def __init__(self, dim: int, features: int):
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1; got {features}")
        self.register_buffer("directions", torch.empty(features, dim))
        self.draw()

    @torch.no_grad()
    def draw(self) -> None:
        """Draw the directions anew: orthogonal within blocks of ``dim``, as long as normal vectors are."""
        features, dim = self.directions.shape
        blocks = []
        for _ in range(-(-features // dim)):
            rotation, upper = torch.linalg.qr(torch.randn(dim, dim))
            blocks.append(rotation * upper.diagonal().sign())  # without the signs not every rotation is as likely
        self.directions.copy_(torch.cat(blocks)[:features] * torch.randn(features, dim).norm(dim=1, keepdim=True))

    def exponent(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch features"]:
        return x @ self.directions.mT.to(x.dtype) - x.square().sum(-1, keepdim=True) / 2

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch features"]:
        return self.exponent(x).exp() * len(self.directions) ** -0.5


class Performer(LinearAttention):
    """Linear attention with features of which the products are an unbiased estimate of ``exp(q . k / sqrt(d))``.

    An approximation of softmax attention: the error falls with the square root of the number of features. Causal and
    streaming forms are those of :class:`LinearAttention`. The features are drawn once and saved with the model.

    A key's features are as large as ``exp(k . w - |k|^2 / 2)`` for the direction ``w`` next to it, so those of long keys
    are all but zero. Where all keys are known at once, what they have in common moves to the queries, and any size will
    do. A causal one cannot: once ``|k|^2 / sqrt(d)`` is some tens more than ``-log(eps)``, nothing is read.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        causal: read no later token; such an attention reads its own sequence only.
        features: random features of a head; four times its channels if not given.
        bias: whether the linear maps have biases.
        eps: added to the sum that the weights are divided by.
    """

    feature_map: PositiveFeatures
    space: ClassVar[Space] = {"features": Choice(None, 32, 128)}

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        causal: bool = False,
        features: int | None = None,
        bias: bool = True,
        eps: float = 1e-8,
    ):
        head_dim = max(1, dim // max(heads, 1))
        feature_map = PositiveFeatures(head_dim, 4 * head_dim if features is None else features)
        super().__init__(dim, heads=heads, causal=causal, feature_map=feature_map, bias=bias, eps=eps)

    def read(self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"]) -> Projected:
        # float16 has no exponentials above that of 11.
        query, key, value = super(LinearAttention, self).read(x, context).exact()
        scale = self.head_dim**-0.25
        with no_autocast(x):
            query, key = self.feature_map.exponent(query * scale), self.feature_map.exponent(key * scale)
        if not self.causal:
            # Of every feature the largest key is made 1, and the queries take over what it was.
            largest = key.detach().amax(-2, keepdim=True)
            query, key = query + largest, key - largest
        # A factor on all of a query's features cancels in the quotient, so the largest can be made 1.
        return Projected((query - query.detach().amax(-1, keepdim=True)).exp(), key.exp(), value)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        if mask is not None and not self.causal:
            # The largest key must be one that exists: hidden tokens become copies of the first that does.
            first = mask.int().argmax(-1)[:, None, None].expand(-1, 1, context.shape[-1])
            context = context.where(mask[..., None], context.gather(1, first))
        return super().mix(x, context, mask, grid)

    def cost(self, n: int) -> int:
        return super().cost(n) + 2 * n * self.features * self.dim
