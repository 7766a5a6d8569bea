"""Positions: what a stem adds so that the tokens know where they stand."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.nn.sinusoids import sinusoids


class LearnedPositions(nn.Module):
    """A learned vector for every place, drawn from a normal of deviation 0.02.

    Arguments:
        dim: channels of a token.
        length: number of places.
    """

    def __init__(self, dim: int, *, length: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, dim).normal_(std=0.02))

    def forward(
        self, time: int, start: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "time dim"] | Float[Tensor, "batch time dim"]:
        """Vectors for ``time`` places in a row, from ``start`` in each sample, else from the first.

        Raises: ``ValueError`` if there are not so many places.
        """
        last = time if start is None else int(start.max()) + time
        if last > len(self.table):
            raise ValueError(f"positions were learned for {len(self.table)} places; got {last}")
        if start is None:
            return self.table[:time]
        return self.table[start[:, None] + torch.arange(time, device=start.device)]


class SinusoidalPositions(nn.Module):
    """Sines and cosines of geometrically spaced frequencies (arXiv 1706.03762, section 3.5); any number of places.

    Arguments:
        dim: channels of a token.
    """

    like: Float[Tensor, "0"]

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        # Holds nothing but the type and the device of what is given.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(
        self, time: int, start: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "time dim"] | Float[Tensor, "batch time dim"]:
        places = torch.arange(time, device=self.like.device)
        if start is not None:
            places = start[:, None] + places
        return sinusoids(places, self.dim, self.like.dtype)


class GridPositions(nn.Module):
    """A learned vector for every coordinate of a place on a grid, added up (arXiv 1904.10509, section 5.3).

    For an image in reading order the sides are rows, columns and channels; for text ``(length / stride, stride)``, with
    the stride of the attention that follows. Each of ``k`` tables is drawn with deviation ``0.125 / sqrt(dim k)``.

    Arguments:
        dim: channels of a token.
        length: number of places, in reading order.
        sides: places along each side of the grid; together at least ``length``.
    """

    def __init__(self, dim: int, *, length: int, sides: tuple[int, ...]):
        super().__init__()
        if math.prod(sides) < length:
            raise ValueError(
                f"expected a grid of {length} places or more; the sides {sides} hold {math.prod(sides)} places"
            )
        self.dim, self.length, self.sides = dim, length, tuple(sides)
        self.tables = nn.ParameterList(nn.Parameter(torch.empty(side, dim)) for side in sides)
        self.draw()

    @torch.no_grad()
    def draw(self) -> None:
        """Draw the tables anew."""
        for table in self.tables:
            table.normal_(std=0.125 * (self.dim * len(self.sides)) ** -0.5)

    def forward(
        self, time: int, start: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "time dim"] | Float[Tensor, "batch time dim"]:
        last = time if start is None else int(start.max()) + time
        if last > self.length:
            raise ValueError(f"positions were learned for {self.length} places; got {last}")
        places = torch.arange(time, device=self.tables[0].device)
        if start is not None:
            places = start[:, None] + places
        total = torch.zeros((), device=places.device, dtype=self.tables[0].dtype)
        for side, table in zip(reversed(self.sides), reversed(list(self.tables)), strict=True):
            total, places = total + table[places % side], places // side
        return total


def count(batch: int, like: Tensor) -> Int[Tensor, "batch"]:
    """Frames read so far, for streams: none."""
    return torch.zeros(batch, dtype=torch.long, device=like.device)
