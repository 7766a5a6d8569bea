"""A perceptron over the tokens whose weights the tokens make: HyperMixer (Mai et al. 2022, arXiv 2203.03691)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.mixing.grid import hide
from anabranch.nn.sinusoids import sinusoids
from anabranch.spaces import Choice, Space


class HyperMixing(TokenMixer):
    """Mix the tokens with a perceptron ``W2 gelu(W1^T V)`` whose weights are made from the tokens, then normalise.

    Each token makes its row of ``W1`` where it is read and of ``W2`` where it is written (section 3 of the paper). So,
    unlike in MLP-Mixer, any number of tokens may come and the weights depend on what they say, at a cost that grows
    with their number. Positions, and the tokens scaled by the root of ``dim``, enter only where the weights are made.
    The norm of the output is essential for training. Masked tokens have rows of zeros in ``W1``, and so in ``W2`` where
    the two are tied; where nothing is left to read, the output is the norm's bias.

    The networks that make the weights have GELU and no biases, as in the authors' layer. There, positions count from 1
    and have other frequencies than the usual ones used here; and the networks start with smaller weights, since the
    matrices of all heads are drawn as one array of three axes, here each by itself.

    Arguments:
        dim: channels of a token.
        hidden: hidden width of the perceptron over the tokens, summed over the heads, ``d'`` in the paper; twice
            ``dim`` if not given, as there.
        heads: perceptrons side by side, each on ``dim / heads`` channels and with ``hidden / heads`` hidden units.
        tied: use ``W1`` as ``W2`` too; such a mixer reads its own sequence only.
        positions: whether positions take part; without them, permuting the tokens permutes the output.

    Raises: ``ValueError`` if ``dim`` or ``hidden`` is not a multiple of ``heads``.
    """

    space: ClassVar[Space] = {"hidden": Choice(None, 32, 128), "tied": Choice(False, True)}

    def __init__(
        self, dim: int, *, hidden: int | None = None, heads: int = 1, tied: bool = False, positions: bool = True
    ):
        super().__init__(dim)
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads; got {dim} and {heads}")
        hidden = 2 * dim if hidden is None else hidden
        if hidden < 1 or hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads; got {hidden} and {heads}")
        self.heads, self.hidden, self.tied, self.positions = heads, hidden, tied, positions
        self.equivariant, self.cross = not positions, not tied
        self.reader = HyperNetwork(dim, hidden, heads=heads)
        self.writer = self.reader if tied else HyperNetwork(dim, hidden, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        source = hide(context, mask)
        read = self.reader(self.placed(source))
        if mask is not None:
            read = read.masked_fill(~mask[:, :, None], 0)
        write = read if self.tied else self.writer(self.placed(x))
        # Heads stand first, so that each product below is one batch of contiguous matrices.
        value = source.unflatten(-1, (self.heads, -1)).movedim(2, 0)
        mixed = write @ F.gelu(read.mT @ value)
        return self.norm(mixed.movedim(0, 2).flatten(2))

    def placed(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """What the weights are made from: the scaled tokens, with sines and cosines of their places."""
        scaled = x * self.dim**0.5
        if not self.positions:
            return scaled
        return scaled + sinusoids(torch.arange(x.shape[1], device=x.device), self.dim, x.dtype)

    def cost(self, n: int) -> int:
        made = (self.dim**2 + self.dim * self.hidden) // self.heads
        return n * ((1 if self.tied else 2) * made + 2 * self.dim * self.hidden // self.heads)


class HyperNetwork(nn.Module):
    """From tokens to rows of weights: ``B gelu(A x)`` for each token, on each head's channels by themselves.

    Arguments:
        dim: channels of a token, ``dim / heads`` for each head.
        hidden: length of a row, ``hidden / heads`` for each head.
        heads: networks side by side.
    """

    def __init__(self, dim: int, hidden: int, *, heads: int = 1):
        super().__init__()
        inside = dim // heads
        self.first = nn.Parameter(torch.empty(heads, inside, inside))
        self.second = nn.Parameter(torch.empty(heads, inside, hidden // heads))
        for weight in (self.first, self.second):
            for matrix in weight:
                nn.init.xavier_uniform_(matrix, gain=2**0.5)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "heads batch time row"]:
        inputs = x.flatten(0, 1).unflatten(-1, (len(self.first), -1)).transpose(0, 1)
        return (F.gelu(inputs @ self.first) @ self.second).unflatten(1, x.shape[:2])
