"""Chunked attention (Rabe and Staats 2021, arXiv 2112.05682): exact softmax attention in memory that grows with n."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anabranch.nn.attention.efficient.segments import existing
from anabranch.nn.attention.softmax import SoftmaxAttention
from anabranch.nn.mixing.base import Grid


class Chunked(SoftmaxAttention):
    """Softmax attention, always exactly, that never holds more of its matrix than one chunk of queries by one of keys.

    Keys come chunk after chunk, and what was summed up before is scaled down when a larger score comes (equation in
    section 2 of the paper). For the gradient each chunk of queries is computed again. Saves memory, not products.

    Arguments:
        chunk: tokens of a chunk, of queries and of keys.
        others: see :class:`SoftmaxAttention`.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        causal: bool = False,
        chunk: int = 512,
        bias: bool = True,
        max_len: int = 4096,
    ):
        super().__init__(dim, heads=heads, causal=causal, bias=bias, max_len=max_len)
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        self.chunk_size = chunk

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, context)
        exists = existing(mask, context)[:, None, None]
        mixed = []
        for start in range(0, x.shape[1], self.chunk_size):
            arguments = query[:, :, start : start + self.chunk_size], key, value, exists, start
            if torch.is_grad_enabled():
                mixed.append(checkpoint(self.rows, *arguments, use_reentrant=False))
            else:
                mixed.append(self.rows(*arguments))
        return self.project(torch.cat(mixed, 2))

    def rows(
        self,
        query: Float[Tensor, "batch heads rows head_dim"],
        key: Float[Tensor, "batch heads source head_dim"],
        value: Float[Tensor, "batch heads source head_dim"],
        exists: Bool[Tensor, "#batch 1 1 source"],
        first: int,
    ) -> Float[Tensor, "batch heads rows head_dim"]:
        """What some queries read, the first of which stands at ``first``."""
        kind = torch.promote_types(query.dtype, torch.float32)  # of sums that grow long
        lowest = torch.finfo(kind).min
        last = first + query.shape[2]
        place = torch.arange(first, last, device=query.device)[:, None]
        query = query * self.head_dim**-0.5
        largest = query.new_full((*query.shape[:3], 1), lowest, dtype=kind)
        total, summed = torch.zeros_like(largest), torch.zeros_like(query, dtype=kind)
        for start in range(0, min(key.shape[2], last) if self.causal else key.shape[2], self.chunk_size):
            part = slice(start, start + self.chunk_size)
            readable = exists[..., part]
            if self.causal:
                readable = readable & (start + torch.arange(readable.shape[-1], device=query.device) <= place)
            scores = (query @ key[:, :, part].mT).to(kind).masked_fill(~readable, lowest)
            higher = torch.maximum(largest, scores.detach().amax(-1, keepdim=True))
            weights = (scores - higher).exp().masked_fill(~readable, 0)
            shrink = (largest - higher).exp()
            total = total * shrink + weights.sum(-1, keepdim=True)
            summed = summed * shrink + weights.to(value.dtype) @ value[:, :, part]
            largest = higher
        return (summed / total.where(total > 0, 1)).to(value.dtype)
