"""A small residual convolutional trunk, for images and sequences: the baseline without tokens in mind."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.errors import InputError
from anabranch.models.downsample import Downsample
from anabranch.models.network import Trunk
from anabranch.nn.block.base import normalise
from anabranch.nn.mixing.base import Grid
from anabranch.nn.mixing.grid import CONVOLUTIONS, hide, to_grid, to_tokens
from anabranch.slots import fill

Filler = str | Callable[..., Any]


class ConvNet(Trunk):
    """Stages of residual convolutions, 3 along each axis; between stages the grid is halved.

    Stands behind a stem that gives pixels or small patches as tokens, for example
    ``PatchEmbed(channels, 32, size=28, patch=2, positions=None)``.

    Arguments:
        dim: channels, one number a stage.
        depth: convolutions in each stage, one number a stage or one for all.
        activation, norm: what fills these slots.
        length: number of tokens, where it is fixed.
        grid: how the tokens lie; in one line if not given.
    """

    def __init__(
        self,
        dim: int | Sequence[int],
        depth: int | Sequence[int] = 1,
        *,
        activation: Filler = "relu",
        norm: Filler = "groupnorm",
        length: int | None = None,
        grid: Grid | None = None,
    ):
        super().__init__()
        dims = [dim] if isinstance(dim, int) else list(dim)
        depths = [depth] * len(dims) if isinstance(depth, int) else list(depth)
        if len(dims) != len(depths) or not dims:
            raise InputError(f"expected a width and a depth for each stage; got dim={dim} and depth={depth}")
        self.grid, self.dims, self.out_dim = grid, tuple(dims), dims[-1]
        sides = 1 if grid is None else len(grid)
        here = grid or ((length,) if length is not None else None)
        self.downs, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(dims, depths, strict=True)):
            if i > 0:
                self.downs.append(Downsample(dims[i - 1], width, sides=sides))
                here = Downsample.grid_after(here) if here is not None else None
            self.stages.append(
                nn.ModuleList(ConvBlock(width, activation=activation, norm=norm, sides=sides) for _ in range(blocks))
            )
        self.out_length = prod(here) if here is not None else None

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "batch out_time out_dim"]:
        if x.ndim != 3 or x.shape[-1] != self.dims[0]:
            raise ValueError(f"ConvNet expected (batch, time, {self.dims[0]}); got {tuple(x.shape)}")
        grid = grid or self.grid or (x.shape[1],)
        for i, stage in enumerate(self.stages):
            if i > 0:
                down = self.downs[i - 1]
                assert isinstance(down, Downsample)
                x, mask, grid = down(x, mask=mask, grid=grid), down.mask_after(mask, grid), down.grid_after(grid)
            for block in stage:  # pyright: ignore
                x = block(x, mask, grid)
        return x

    def mask_after(
        self, mask: Bool[Tensor, "batch time"] | None, grid: Grid | None = None
    ) -> Bool[Tensor, "batch out_time"] | None:
        if mask is None:
            return None
        grid = grid or self.grid or (mask.shape[1],)
        for down in self.downs:
            assert isinstance(down, Downsample)
            mask, grid = down.mask_after(mask, grid), down.grid_after(grid)
        return mask


class ConvBlock(nn.Module):
    """``x + activation(norm(conv(x)))``."""

    def __init__(self, dim: int, *, activation: Filler, norm: Filler, sides: int):
        super().__init__()
        self.sides = sides
        self.conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[sides](dim, dim, 3, padding=1)
        self.norm = fill("norm", norm, dim=dim)
        self.activation = fill("activation", activation, dim=dim)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None, grid: Grid
    ) -> Float[Tensor, "batch time dim"]:
        image = to_grid(hide(x, mask), grid)
        y = to_tokens(CONVOLUTIONS[self.sides](image, self.conv.weight, self.conv.bias, padding=1))
        return x + self.activation(normalise(self.norm, y, mask))
