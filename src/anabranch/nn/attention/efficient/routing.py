"""Routing attention (Roy et al. 2021, arXiv 2003.05997): tokens read those that k-means puts in their cluster."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.attention.base import MultiHead, Projected
from anabranch.nn.attention.efficient.segments import existing
from anabranch.nn.attention.masking import masked_attention
from anabranch.nn.mixing.base import Grid
from anabranch.spaces import Choice, Space


class Routing(MultiHead):
    """Every cluster takes the queries and the keys nearest to its centre, equally many of each, and attends within.

    Queries and keys are scaled to length ``sqrt(d)``; the centres follow their means while training. A token that
    several clusters took reads the mean of what they give, one that none took reads nothing. An approximation of
    attention with normalised queries and keys, exact if a cluster's window holds all. Which tokens a cluster takes
    depends on all of them, so there is no causal form here.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        clusters: the square root of the length if not given.
        window: tokens that a cluster takes; the length over the number of clusters if not given.
        decay: of the running means.
        length: number of tokens, where it is known; any number may come.
        bias: whether the linear maps have biases.
    """

    centres: Float[Tensor, "heads clusters head_dim"]
    no_repeat = "every pass moves the centres, and a second one would route by others"
    space: ClassVar[Space] = {"decay": Choice(0.999, 0.99)}

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        clusters: int | None = None,
        window: int | None = None,
        decay: float = 0.999,
        length: int | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, bias=bias)
        self.cross = False
        length = 1024 if length is None else length
        self.clusters = max(1, round(length**0.5)) if clusters is None else clusters
        if self.clusters < 1 or not 0 <= decay <= 1:
            raise ValueError(f"expected at least 1 cluster, and a decay from 0 to 1; got {clusters} and {decay}")
        self.window = -(-length // self.clusters) if window is None else window
        if self.window < 1:
            raise ValueError(f"window must be at least 1; got {window}")
        self.decay = decay
        self.register_buffer("centres", F.normalize(torch.randn(heads, self.clusters, self.head_dim), dim=-1))

    def read(self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"]) -> Projected:
        query, key, value = super().read(x, context)
        length = self.head_dim**0.5
        return Projected(F.normalize(query, dim=-1) * length, F.normalize(key, dim=-1) * length, value)

    @torch.no_grad()
    def nearest(self, part: Tensor, exists: Tensor) -> Tensor:
        """Indices ``(batch, heads, clusters, window)`` of what each cluster takes."""
        similar = torch.einsum("hkd,bhnd->bhkn", self.centres.to(part.dtype), part)
        similar = similar.masked_fill(~exists[:, None, None], -torch.inf)
        return similar.topk(min(self.window, part.shape[2]), dim=-1).indices

    @torch.no_grad()
    def follow(self, parts: Tensor, exists: Tensor) -> None:
        """Move every centre towards the mean of the queries and keys that are nearest to it."""
        parts = F.normalize(parts, dim=-1).to(self.centres.dtype)
        best = torch.einsum("hkd,bhnd->bhnk", self.centres, parts).argmax(-1)
        member = F.one_hot(best, self.clusters).to(parts.dtype) * exists[:, None, :, None]
        summed, count = torch.einsum("bhnk,bhnd->hkd", member, parts), member.sum((0, 2))[..., None]
        target = torch.where(count > 0, summed / count.clamp(min=1), self.centres)
        self.centres.lerp_(target, 1 - self.decay)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, x)
        exists = existing(mask, x).expand(len(x), -1)
        queries, keys = self.nearest(query, exists), self.nearest(key, exists)
        if self.training:
            self.follow(torch.cat([query, key], 2), torch.cat([exists, exists], 1))

        def taken(part: Tensor, index: Tensor) -> Tensor:
            index = index[..., None].expand(*index.shape, part.shape[-1])
            return part[:, :, None].expand(-1, -1, self.clusters, -1, -1).gather(3, index)

        there = taken(exists[:, None, :, None].expand(-1, self.heads, -1, -1), keys)
        mixed = masked_attention(taken(query, queries), taken(key, keys), taken(value, keys), there.mT)
        index = queries.flatten(2)
        summed = torch.zeros_like(query, dtype=mixed.dtype).scatter_add(
            2, index[..., None].expand(-1, -1, -1, self.head_dim), mixed.flatten(2, 3)
        )
        count = torch.zeros_like(summed[..., 0]).scatter_add(2, index, torch.ones_like(index, dtype=summed.dtype))
        return self.project(summed / count.clamp(min=1)[..., None])

    def cost(self, n: int) -> int:
        window = min(self.window, n)
        return 4 * n * self.dim**2 + 2 * self.clusters * self.dim * (3 * n + window**2)  # training moves the centres
