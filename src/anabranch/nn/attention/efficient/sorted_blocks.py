"""Sparse Sinkhorn attention (Tay et al. 2020, arXiv 2002.11296): blocks are sorted by a learned, soft permutation."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.kernels import sinkhorn_log
from anabranch.nn.attention.base import MultiHead
from anabranch.nn.attention.efficient.segments import default_size, existing
from anabranch.nn.attention.masking import masked_attention
from anabranch.nn.mixing.base import Grid
from anabranch.spaces import Choice, Space


class SortedBlocks(MultiHead):
    """Every token reads its own block, and the block that a sorting network puts in the same place.

    Each block's sum is mapped to a score for every block; Sinkhorn's algorithm makes a doubly stochastic matrix of the
    scores, which mixes blocks of keys and values. A new model rather than an approximation; softmax attention with one
    block. No noise is added to the scores. There is no causal form here: sums hold later tokens.

    Arguments:
        dim: channels of a token.
        length: number of tokens.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels, and sorts.
        block: tokens of a block; 32, or half of the length, if not given.
        iterations: of Sinkhorn's algorithm, rows and columns counted apart.
        temperature: divides the scores; a lower one sorts harder.
        bias: whether the linear maps have biases.

    Raises: ``ValueError`` if another number of tokens comes.
    """

    fixed_length = True
    space: ClassVar[Space] = {"temperature": Choice(0.75, 0.25)}

    def __init__(
        self,
        dim: int,
        *,
        length: int,
        heads: int = 4,
        block: int | None = None,
        iterations: int = 10,
        temperature: float = 0.75,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, bias=bias)
        self.cross = self.equivariant = False
        self.length, self.block = length, default_size(length, 32) if block is None else block
        if length < 1 or self.block < 1 or temperature <= 0:
            raise ValueError(f"expected length, block >= 1 and a temperature > 0; got {length}, {block}, {temperature}")
        self.iterations, self.temperature = iterations, temperature
        self.count = -(-length // self.block)
        self.sort = nn.Linear(dim, heads * self.count, bias=bias)

    def permutation(
        self, x: Float[Tensor, "batch blocks place dim"], there: Bool[Tensor, "rows blocks place"]
    ) -> Float[Tensor, "batch heads blocks blocks"]:
        """How much of each block (column) comes to each place (row); nothing of and to blocks without tokens."""
        scores = self.sort(x.sum(2)).unflatten(-1, (self.heads, self.count)).transpose(1, 2) / self.temperature
        alive = there.any(-1)[:, None].to(scores.dtype)
        return sinkhorn_log(scores, iterations=self.iterations, rows=alive, columns=alive).exp().to(x.dtype)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        if x.shape[1] != self.length:
            raise ValueError(f"SortedBlocks was built for {self.length} tokens; got {x.shape[1]}")
        exists, missing = existing(mask, x), self.count * self.block - self.length

        def blocks(part: Tensor) -> Tensor:
            part = part if mask is None else part.masked_fill(~mask[:, None, :, None], 0)
            return F.pad(part, (0, 0, 0, missing)).unflatten(2, (-1, self.block))

        there = F.pad(exists, (0, missing)).unflatten(1, (-1, self.block))
        permutation = self.permutation(blocks(x[:, None])[:, 0], there)

        def sort(part: Tensor) -> Tensor:
            return torch.einsum("bhqk,bhkpd->bhqpd", permutation, part)

        query, key, value = (blocks(part) for part in self.read(x, x))
        arrived = torch.einsum("bhqk,bkp->bhqp", permutation, there.expand(len(x), -1, -1).to(x.dtype)) > 0
        readable = torch.cat([there[:, None].expand_as(arrived), arrived], -1)
        key, value = (torch.cat([part, sort(part)], 3) for part in (key, value))
        mixed = masked_attention(query, key, value, readable[..., None, :])
        return self.project(mixed.flatten(2, 3)[:, :, : self.length])

    def cost(self, n: int) -> int:
        padded = self.count * self.block
        sorting = self.count * self.dim * self.heads * self.count + 3 * padded * self.count * self.dim
        return 4 * n * self.dim**2 + 4 * padded * self.block * self.dim + sorting
