"""A flat perceptron over all channels of all tokens, in the place of attention (Bozic et al. 2023, arXiv 2311.10642)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.mixing.grid import hide
from anabranch.spaces import Choice, Space


class FlatFeedForward(TokenMixer):
    """Lay all tokens side by side and map them by one hidden layer: norm, widths to hidden, leaky ReLU, norm, out.

    Sequences are filled up with zeros to ``length``; masked tokens count as zeros and come out as zeros. All interaction
    is in the weights: there are no queries, and the number of parameters grows with the square of ``length * dim``.

    A causal one works for each place on the tokens up to it, with zeros behind, and gives that place's output alone.
    Since the first norm is followed by a linear map, all places take one pass: what the tokens add to the hidden layer,
    to the mean and to the mean square are running sums.

    With a ``source_length`` it reads another sequence beside its own: both go in, one comes out. If causal, too, each
    place reads its own sequence up to it and all of the other.

    Arguments:
        dim: channels of a token.
        length: most tokens, ``L`` in the paper.
        ratio: hidden width over ``length * dim``; at least 2 units, as the norm of one is constant. The paper's sizes XS,
            S, M, L and XL are 1/256, 1/128, 1/8, 1/2, 2.
        causal: no output sees a later token.
        source_length: most tokens of the other sequence; None to mix one sequence with itself.
        out_dim: channels of an output token; ``dim`` if not given.

    Raises: ``ValueError`` if more tokens come than there are places.
    """

    space: ClassVar[Space] = {"ratio": Choice(1 / 8, 1 / 2, 1 / 128)}

    def __init__(
        self,
        dim: int,
        *,
        length: int,
        ratio: float = 1 / 2,
        causal: bool = False,
        source_length: int | None = None,
        out_dim: int | None = None,
    ):
        super().__init__(dim)
        if length < 1 or ratio <= 0 or (source_length is not None and source_length < 1):
            raise ValueError(
                f"length, ratio and source_length must be positive; got {length}, {ratio} and {source_length}"
            )
        self.length, self.source_length, self.causal = length, source_length, causal
        self.longest = length
        self.cross = source_length is not None
        self.out_dim = dim if out_dim is None else out_dim
        self.hidden = max(2, round(ratio * length * dim))
        self.norm = nn.LayerNorm((length + (source_length or 0)) * dim)
        self.widen = nn.Linear(self.norm.normalized_shape[0], self.hidden)
        self.activation = nn.LeakyReLU()
        self.hidden_norm = nn.LayerNorm(self.hidden)
        self.narrow = nn.Linear(self.hidden, self.out_dim * (1 if causal else length))

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time out_dim"]:
        hidden_mask = None if self.cross else mask
        own = self.fill(hide(x, hidden_mask), self.length)
        other = self.fill(hide(context, mask), self.source_length) if self.source_length is not None else None
        hidden = self.prefixes(own, other) if self.causal else self.whole(own, other)
        out = self.narrow(self.hidden_norm(self.activation(hidden)))
        y = out if self.causal else out.unflatten(1, (self.length, self.out_dim))
        return hide(y[:, : x.shape[1]], hidden_mask)

    def fill(self, x: Float[Tensor, "batch time dim"], length: int) -> Float[Tensor, "batch length dim"]:
        if x.shape[1] > length:
            raise ValueError(f"FlatFeedForward was built for at most {length} tokens; got {x.shape[1]}")
        return F.pad(x, (0, 0, 0, length - x.shape[1]))

    def whole(
        self, own: Float[Tensor, "batch length dim"], other: Float[Tensor, "batch source dim"] | None
    ) -> Float[Tensor, "batch hidden"]:
        row = own.flatten(1) if other is None else torch.cat([own.flatten(1), other.flatten(1)], dim=1)
        return self.widen(self.norm(row))

    def prefixes(
        self, own: Float[Tensor, "batch length dim"], other: Float[Tensor, "batch source dim"] | None
    ) -> Float[Tensor, "batch length hidden"]:
        """:meth:`whole` of every prefix: ``W (gain (z - mean) / deviation + offset) + b`` with running sums over ``z``.

        The sums are of at least float32, and of what differs from the first token's mean, which changes no norm: where
        tokens are far from zero, little would be left of their digits. The zeros behind a prefix differ by as much.
        """
        kind = torch.promote_types(own.dtype, torch.float32)
        weight = self.widen.weight * self.norm.weight
        split, width = self.length * self.dim, self.norm.normalized_shape[0]
        by_token = weight[:, :split].unflatten(1, (self.length, self.dim))
        start = own[:, :1].detach().mean(-1, keepdim=True)
        far, left = start[..., 0].to(kind), self.dim * torch.arange(self.length, device=own.device).flip(0)
        behind = by_token.to(kind).sum(2).flip(1).cumsum(1).flip(1) - by_token.to(kind).sum(2)
        own = own - start
        added = torch.einsum("ntd,htd->nth", own, by_token).to(kind).cumsum(1) - far[..., None] * behind.mT
        total = own.to(kind).sum(-1).cumsum(1) - far * left
        square = own.to(kind).square().sum(-1).cumsum(1) + far.square() * left
        if other is not None:
            row = other.flatten(1) - start[:, 0]
            added = added + F.linear(row, weight[:, split:])[:, None]
            row = row.to(kind)
            total, square = total + row.sum(1, keepdim=True), square + row.square().sum(1, keepdim=True)
        mean = total / width
        deviation = ((square / width - mean.square()).clamp(min=0) + self.norm.eps).sqrt()
        centred = (added - mean[..., None] * weight.to(kind).sum(1)) / deviation[..., None]
        return centred.to(own.dtype) + F.linear(self.norm.bias, self.widen.weight, self.widen.bias)

    def cost(self, n: int) -> int:
        offset = self.widen.in_features if self.causal else 0  # of the norm, through the map to the hidden layer
        return self.hidden * (self.widen.in_features + offset + self.length * self.out_dim)
