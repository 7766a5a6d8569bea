"""Longformer (Beltagy et al. 2020, arXiv 2004.05150): a sliding window, and a few tokens that read and are read by all."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.attention.base import MultiHead
from anabranch.nn.attention.efficient.segments import default_size, existing
from anabranch.nn.attention.masking import masked_attention
from anabranch.nn.mixing.base import Grid
from anabranch.spaces import Choice, Space


class Longformer(MultiHead):
    """Every token reads ``window`` tokens on either side; the first few tokens read all, with maps of their own.

    A new model rather than an approximation; with a window over all tokens and no global ones it is softmax attention.
    The causal form with a window is in :class:`anabranch.nn.attention.StridedAttention`.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        window: tokens on either side; 32, or a quarter of the length, if not given.
        dilation: distance from one token of the window to the next.
        globals: number of first tokens that are global.
        length: number of tokens, where it is known; any number may come.
        bias: whether the linear maps have biases.
    """

    space: ClassVar[Space] = {"dilation": Choice(1, 2)}

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        window: int | None = None,
        dilation: int = 1,
        globals: int = 1,
        length: int | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, bias=bias)
        self.cross = self.equivariant = False
        self.window = default_size(length, 32, share=4) if window is None else window
        self.dilation, self.globals = dilation, globals
        if self.window < 1 or dilation < 1 or globals < 0:
            raise ValueError(f"expected window, dilation >= 1 and globals >= 0; got {window}, {dilation}, {globals}")
        if globals:
            self.global_query = nn.Linear(dim, dim, bias=bias)
            self.global_key_value = nn.Linear(dim, 2 * dim, bias=bias)

    def blocks(self, part: Tensor) -> Tensor:
        """Tokens that are ``dilation`` apart, side by side: ``(batch, heads, dilation, blocks, window, dim)``."""
        missing = -part.shape[2] % (self.dilation * self.window)
        part = F.pad(part, (0, 0, 0, missing)).unflatten(2, (-1, self.dilation)).transpose(2, 3)
        return part.unflatten(3, (-1, self.window))

    @staticmethod
    def with_neighbours(part: Tensor) -> Tensor:
        """Each block between the one before and the one after it."""
        wide = F.pad(part, (0, 0, 0, 0, 1, 1))
        return torch.cat([wide[..., :-2, :, :], part, wide[..., 2:, :, :]], -2)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        n, count = x.shape[1], min(self.globals, x.shape[1])
        query, key, value = self.read(x, x)
        exists = existing(mask, x)
        place = torch.arange(n, device=x.device)
        local = self.blocks((exists & (place >= count))[:, None, :, None])  # global ones are read by themselves
        r, c = torch.arange(self.window, device=x.device)[:, None], torch.arange(3 * self.window, device=x.device)
        near = self.with_neighbours(local).mT & (c >= r) & (c <= r + 2 * self.window)
        first = exists[:, None, None, None, None, :count].expand(*near.shape[:-1], -1)

        def read_by_blocks(part: Tensor) -> Tensor:
            near = self.with_neighbours(self.blocks(part))
            return torch.cat([part[:, :, None, None, :count].expand(*near.shape[:4], -1, -1), near], -2)

        mixed = masked_attention(
            self.blocks(query), read_by_blocks(key), read_by_blocks(value), torch.cat([first, near], -1)
        )
        mixed = mixed.flatten(3, 4).transpose(2, 3).flatten(2, 3)[:, :, :n]
        if count:
            mixed = torch.cat([self.read_all(x, count, exists), mixed[:, :, count:]], 2)
        return self.project(mixed)

    def read_all(
        self, x: Float[Tensor, "batch time dim"], count: int, exists: Bool[Tensor, "_ time"]
    ) -> Float[Tensor, "batch heads count head_dim"]:
        """What the global tokens read."""
        key, value = map(self.split, self.global_key_value(x).chunk(2, dim=-1))
        return masked_attention(self.split(self.global_query(x[:, :count])), key, value, exists[:, None, None])

    def cost(self, n: int) -> int:
        padded, count = n + -n % (self.dilation * self.window), min(self.globals, n)
        maps = 4 * n + (2 * n + count if count else 0)
        return maps * self.dim**2 + (6 * padded * self.window + 4 * padded * count) * self.dim
