"""Compressive attention (Rae et al. 2020, arXiv 1911.05507): what leaves the memory is kept on, squeezed together."""

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


class Compressive(MultiHead):
    """Causal attention to one's own segment, the one before, and squeezed tokens of the segments before that.

    ``rate`` tokens in a row become one by a learned map (the paper's convolution), which is then read like a token. The
    distances of Transformer-XL are left out, so the places must be known from the tokens. A new model, and always causal;
    softmax attention if one segment holds all tokens.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        segment: tokens of a segment, a multiple of the rate; about an eighth of the length, at most 64, if not given.
        rate: tokens that become one.
        kept: older segments that are kept squeezed.
        length: number of tokens, where it is known; any number may come.
        bias: whether the linear maps have biases.
    """

    space: ClassVar[Space] = {"rate": Choice(2, 4)}

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        segment: int | None = None,
        rate: int = 2,
        kept: int = 2,
        length: int | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, causal=True, bias=bias)
        if rate < 1 or kept < 1:
            raise ValueError(f"rate and kept must be at least 1; got {rate} and {kept}")
        self.segment = -(-default_size(length, 64, share=8) // rate) * rate if segment is None else segment
        if self.segment < 1 or self.segment % rate:
            raise ValueError(f"segment must be a multiple of the rate {rate}; got {segment}")
        self.rate, self.kept = rate, kept
        self.squeeze = nn.Linear(rate * dim, dim, bias=bias)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        n, size = x.shape[1], self.segment
        exists = existing(mask, x)

        def segments(part: Tensor) -> Tensor:
            return F.pad(part, (0, 0, 0, -n % size)).unflatten(-2, (-1, size))

        def before(part: Tensor, steps: int) -> Tensor:
            """Each segment's place taken by the one so many steps earlier; zeros at the start."""
            return F.pad(part, (0, 0, 0, 0, steps, 0))[..., : part.shape[-3], :, :]

        def old(part: Tensor) -> Tensor:
            return torch.cat([before(part, 1 + steps) for steps in range(1, self.kept + 1)], -2)

        query, key, value = (segments(part) for part in self.read(x, x))
        whole = x if mask is None else x.masked_fill(~mask[..., None], 0)
        groups = segments(whole).unflatten(-2, (-1, self.rate))
        squeezed = self.squeeze(groups.flatten(-2))  # (batch, segments, size / rate, dim)
        old_key, old_value = (
            part.unflatten(-1, (self.heads, -1)).movedim(-2, 1) for part in self.key_value(squeezed).chunk(2, -1)
        )
        there = segments(exists[:, None, :, None])
        old_there = there.unflatten(-2, (-1, self.rate)).any(-2)
        r, c = torch.arange(size, device=x.device)[:, None], torch.arange(size, device=x.device)
        own = (c <= r) & there.mT
        others = torch.cat([before(there, 1), old(old_there)], -2).mT.expand(*own.shape[:-1], -1)
        key = torch.cat([key, before(key, 1), old(old_key)], -2)
        value = torch.cat([value, before(value, 1), old(old_value)], -2)
        mixed = masked_attention(query, key, value, torch.cat([own, others], -1))
        return self.project(mixed.flatten(2, 3)[:, :, :n])

    def cost(self, n: int) -> int:
        padded = n + -n % self.segment
        read = 2 * self.segment + self.kept * (self.segment // self.rate)
        return (4 * n + padded + 2 * padded // self.rate) * self.dim**2 + 2 * padded * read * self.dim
