"""Splines as coefficients on a grid: making the knots, and carrying a spline over to another grid."""

import torch
from jaxtyping import Float
from torch import Tensor

from anabranch.kernels.bspline import bspline_basis


def extend(grid: Float[Tensor, "features points"], order: int) -> Float[Tensor, "features knots"]:
    """Add ``order`` knots at both ends, at the grid's mean spacing, so that the splines sum to 1 all over the grid."""
    step = (grid[:, -1:] - grid[:, :1]) / (grid.shape[1] - 1)
    beyond = step * torch.arange(1, order + 1, dtype=grid.dtype, device=grid.device)
    return torch.cat([grid[:, :1] - beyond.flip(1), grid, grid[:, -1:] + beyond], dim=1)


def subdivide(grid: Float[Tensor, "features points"], intervals: int) -> Float[Tensor, "features finer"]:
    """A grid of another number of intervals that is as dense where the old one was; nested if the ratio is whole."""
    place = torch.linspace(0, grid.shape[1] - 1, intervals + 1, dtype=grid.dtype, device=grid.device)
    left = place.floor().long().clamp(max=grid.shape[1] - 2)
    return torch.lerp(grid[:, left], grid[:, left + 1], place - left)


def quantile_grid(
    x: Float[Tensor, "batch features"], intervals: int, uniform: float
) -> Float[Tensor, "features points"]:
    """Grid through equally many samples per interval, mixed with a share of the even grid over the same range.

    A feature that hardly varies, or so little for its size that knots would coincide by rounding, gets an even grid
    that begins and ends half a unit beyond its values, or further where even these knots would coincide.
    """
    share = torch.linspace(0, 1, intervals + 1, dtype=x.dtype, device=x.device)
    grid = torch.quantile(x, share, dim=0).T
    low, high = grid[:, :1], grid[:, -1:]
    size = torch.maximum(low.abs(), high.abs())
    grid = uniform * (low + (high - low) * share) + (1 - uniform) * grid
    apart = 8 * torch.finfo(x.dtype).eps * size
    flat = (high - low <= 1e-6 * size.clamp(min=1)) | (grid.diff().amin(1, keepdim=True) <= apart)
    beyond = (intervals * apart).clamp(min=0.5)
    return torch.where(flat, low - beyond + (high - low + 2 * beyond) * share, grid)


def refit(
    coefficients: Float[Tensor, "out features basis"],
    knots: Float[Tensor, "features knots"],
    new_knots: Float[Tensor, "features new_knots"],
    order: int,
) -> Float[Tensor, "out features new_basis"]:
    """Coefficients on new knots that come nearest to the same spline, in least squares.

    The points are spread evenly inside every interval of the new grid, so that there is one solution. Where every old
    knot is also a new one, the function stays as it was.
    """
    old, new = knots.double(), new_knots.double()
    grid = new[:, order:-order]
    inside = torch.linspace(0, 1, 4 * (order + 1), dtype=old.dtype, device=old.device)
    points = torch.lerp(grid[:, :-1, None], grid[:, 1:, None], inside).flatten(1).T.contiguous()
    values = torch.einsum("pib,oib->ipo", bspline_basis(points, old, order), coefficients.double())
    design = bspline_basis(points, new, order).transpose(0, 1)
    return torch.linalg.lstsq(design, values).solution.permute(2, 0, 1).to(coefficients.dtype).contiguous()
