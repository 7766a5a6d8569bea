"""BigBird (Zaheer et al. 2020, arXiv 2007.14062): blocks that read their neighbours, the first, and a few drawn ones."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anabranch.nn.attention.base import MultiHead
from anabranch.nn.attention.efficient.segments import default_size, existing
from anabranch.nn.attention.masking import masked_attention, masked_softmax
from anabranch.nn.mixing.base import Grid
from anabranch.spaces import Choice, Space


class BigBird(MultiHead):
    """Tokens in blocks: each block reads itself, both neighbours, the first block and some blocks drawn at random.

    The first block is global and reads everything. A new model rather than an approximation; softmax attention where
    the blocks read are all there are. The draw is saved with the model. There is no causal form.

    Arguments:
        dim: channels of a token.
        length: number of tokens.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        block: tokens of a block; 16, or a sixth of the length, if not given.
        drawn: random blocks that each block reads; 3 in the paper, with 64 blocks or more.
        bias: whether the linear maps have biases.

    Raises: ``ValueError`` if another number of tokens comes.
    """

    fixed_length = True
    table: Int[Tensor, "blocks read"]
    space: ClassVar[Space] = {"drawn": Choice(1, 3)}

    def __init__(
        self,
        dim: int,
        *,
        length: int,
        heads: int = 4,
        block: int | None = None,
        drawn: int = 1,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, bias=bias)
        self.cross = self.equivariant = False
        self.length, self.block = length, default_size(length, 16, share=6) if block is None else block
        if length < 1 or self.block < 1 or drawn < 0:
            raise ValueError(f"expected length, block >= 1 and drawn >= 0; got {length}, {block}, {drawn}")
        blocks = -(-length // self.block)
        rows = []
        for q in range(blocks):
            near = sorted({0, q - 1, q, q + 1} & set(range(blocks)))
            others = [b for b in range(blocks) if b not in near]
            drawn_here = [others[i] for i in torch.randperm(len(others)).tolist()[:drawn]]
            row = near + sorted(drawn_here)
            rows.append(row + [-1] * (4 + drawn - len(row)))  # -1: nothing more to read
        self.register_buffer("table", torch.tensor(rows))

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        if x.shape[1] != self.length:
            raise ValueError(f"BigBird was built for {self.length} tokens; got {x.shape[1]}")
        query, key, value = self.read(x, x)
        exists = existing(mask, x)
        blocks = len(self.table)
        missing = blocks * self.block - self.length

        def gathered(part: Tensor) -> Tensor:
            cut = F.pad(part, (0, 0, 0, missing)).unflatten(2, (-1, self.block))
            return cut[:, :, self.table.clamp(min=0)].flatten(3, 4)  # (batch, heads, blocks, read * block, dim)

        there = gathered(exists[:, None, :, None])[..., 0] & (self.table >= 0).repeat_interleave(self.block, 1)
        cut = F.pad(query, (0, 0, 0, missing)).unflatten(2, (-1, self.block))
        mixed = masked_attention(cut, gathered(key), gathered(value), there[..., None, :])
        first = masked_attention(query[:, :, : self.block], key, value, exists[:, None, None])
        return self.project(torch.cat([first, mixed.flatten(2, 3)[:, :, self.block : self.length]], 2))

    def readable(self) -> Bool[Tensor, "time time"]:
        """The dense pattern: which token (row) reads which (column)."""
        blocks = len(self.table)
        read = torch.zeros(blocks, blocks + 1, dtype=torch.bool, device=self.table.device)
        read = read.scatter(1, self.table.where(self.table >= 0, blocks), True)[:, :blocks]
        read[0] = True
        return read.repeat_interleave(self.block, 0).repeat_interleave(self.block, 1)[: self.length, : self.length]

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        query, key, _ = self.read(x, x)
        return masked_softmax(query @ key.mT * self.head_dim**-0.5, self.readable())

    def cost(self, n: int) -> int:
        blocks, read = self.table.shape
        return 4 * n * self.dim**2 + 2 * self.dim * self.block * (blocks * read * self.block + n)
