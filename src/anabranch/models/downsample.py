"""Between the stages of a pyramid: a strided convolution that halves the grid and changes the width."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import Grid
from anabranch.nn.mixing.grid import CONVOLUTIONS, hide, to_grid, to_tokens


class Downsample(nn.Module):
    """Convolve 3 tokens along each axis with stride 2 (PoolFormer, arXiv 2111.11418, table 1).

    Tokens that do not exist count as zeros. An output token exists if the one at its centre does.

    Arguments:
        in_dim, out_dim: channels before and after.
        sides: number of sides of the grid.
    """

    def __init__(self, in_dim: int, out_dim: int, *, sides: int = 2):
        super().__init__()
        kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
        if sides not in kinds:
            raise ValueError(f"a grid has one to three sides; got {sides}")
        self.sides = sides
        # The module holds the weights and their initial values; it is applied by hand, on views of the tokens.
        self.conv = kinds[sides](in_dim, out_dim, 3, stride=2, padding=1)

    def forward(
        self, x: Float[Tensor, "batch time dim"], *, mask: Bool[Tensor, "batch time"] | None, grid: Grid
    ) -> Float[Tensor, "batch out_time out_dim"]:
        if len(grid) != self.sides:
            raise ValueError(f"built for a grid of {self.sides} sides; got {grid}")
        image = to_grid(hide(x, mask), grid)
        return to_tokens(CONVOLUTIONS[self.sides](image, self.conv.weight, self.conv.bias, stride=2, padding=1))

    def mask_after(self, mask: Bool[Tensor, "batch time"] | None, grid: Grid) -> Bool[Tensor, "batch out_time"] | None:
        if mask is None:
            return None
        image = mask.unflatten(1, grid)
        return image[(slice(None), *[slice(None, None, 2)] * len(grid))].flatten(1)

    @staticmethod
    def grid_after(grid: Grid) -> Grid:
        return tuple((side + 1) // 2 for side in grid)
