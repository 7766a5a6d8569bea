"""Between tokens in a row and tokens on a grid: views where memory allows, never a needless copy."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.mixing.base import Grid

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def to_grid(x: Float[Tensor, "batch time dim"], grid: Grid) -> Float[Tensor, "batch dim *sides"]:
    """Lay the tokens out; the memory stays channels-last, which convolutions and pooling like."""
    return x.transpose(1, 2).unflatten(2, grid)


def to_tokens(image: Float[Tensor, "batch dim *sides"]) -> Float[Tensor, "batch time dim"]:
    """The inverse of :func:`to_grid`."""
    return image.flatten(2).transpose(1, 2)


def check_rank(grid: Grid) -> Grid:
    """The grid, if it has one to three sides."""
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"a grid has one to three sides of at least 1; got {grid}")
    return grid


def hide(
    x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch time dim"]:
    """Zeros in the place of the tokens that do not exist."""
    return x if mask is None else x.masked_fill(~mask[:, :, None], 0)
