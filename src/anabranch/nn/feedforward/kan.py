"""Kolmogorov-Arnold layers (KAN, Liu et al. 2024, arXiv 2404.19756): a learned curve on every edge, sums at nodes."""

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.kernels.bspline import bspline_basis, kan_linear
from anabranch.nn.feedforward.base import ChannelMixer, DenseLayer
from anabranch.nn.feedforward.spline import extend, quantile_grid, refit, subdivide
from anabranch.slots import fill
from anabranch.spaces import Choice, Space


class KANLinear(DenseLayer):
    """Output ``j`` is the sum over inputs ``i`` of ``w_b base(x_i) + w_s spline(x_i)``, a curve per edge ``(j, i)``.

    Equations 2.10 to 2.12, all edges at once.
    Outside the grid the splines fade to zero within ``order`` intervals, and only ``base`` is left: call
    :meth:`update_grid` when the inputs' range is not known beforehand.

    Arguments:
        grid: number of intervals, G.
        order: degree of the splines, k.
        span: range of the inputs that the grid covers at first.
        base: w_b's function; fills the slot ``activation``.
        noise: standard deviation of the splines' coefficients at the start.

    Shapes: ``(..., in_dim) -> (..., out_dim)``. An edge has ``grid + order + 2`` parameters.
    Raises: ``ValueError`` if ``grid`` or ``order`` is below 1, or ``span`` is empty.
    """

    space: ClassVar[Space] = {"grid": Choice(5, 3, 10), "order": Choice(3, 2)}
    knots: Tensor

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        grid: int = 5,
        order: int = 3,
        span: tuple[float, float] = (-1.0, 1.0),
        base: str | Callable[..., nn.Module] = "silu",
        noise: float = 0.1,
    ):
        super().__init__(in_dim, out_dim)
        if grid < 1 or order < 1:
            raise ValueError(f"grid and order must be at least 1; got {grid} and {order}")
        if not span[0] < span[1]:
            raise ValueError(f"span must be (low, high) with low < high; got {span}")
        self.grid, self.order = grid, order
        self.base = fill("activation", base, dim=in_dim)
        self.base_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(out_dim, in_dim)))
        self.spline_scale = nn.Parameter(torch.ones(out_dim, in_dim))
        self.coefficients = nn.Parameter(noise * torch.randn(out_dim, in_dim, grid + order))
        self.register_buffer("knots", extend(torch.linspace(*span, grid + 1).expand(in_dim, -1), order))

    def transform(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        if x.ndim != 2:
            return self.transform(x.reshape(-1, self.in_dim)).reshape(*x.shape[:-1], self.out_dim)
        points, knots = self._exact(x)
        base, base_weight, scale, coefficients = (
            t.to(points.dtype) for t in (self.base(x), self.base_weight, self.spline_scale, self.coefficients)
        )
        return kan_linear(points, base, knots, base_weight, scale, coefficients, self.order).to(x.dtype)

    def edges(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim in_dim"]:
        """The curve of every edge at the given inputs; their sum over the last axis is the layer's output."""
        spline = torch.einsum("...ib,oib->...oi", self._basis(x), self.coefficients)
        return self.base_weight * self.base(x).unsqueeze(-2) + self.spline_scale * spline

    @torch.no_grad()
    def update_grid(self, x: Float[Tensor, "*batch in_dim"], *, grid: int | None = None, uniform: float = 0.02) -> None:
        """Move the grid to where the inputs are and refit the splines there (section 2.2).

        Arguments:
            x: typical inputs.
            grid: number of intervals, if it is to change too; see :meth:`refine`.
            uniform: share of the even grid; the rest puts equally many of the inputs into every interval.
        """
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform must lie in (0, 1], so that no two knots coincide; got {uniform}")
        rows = x.reshape(-1, self.in_dim).to(self.knots.dtype)
        self._move(quantile_grid(rows, grid or self.grid, uniform))

    @torch.no_grad()
    def refine(self, grid: int) -> None:
        """Change to another number of intervals and keep the function, by least squares (equation 2.16).

        If the new number is a multiple of the old one, the function stays the same on the grid. Parameters are new
        objects afterwards: make the optimizer anew.
        """
        if grid < 1:
            raise ValueError(f"grid must be at least 1; got {grid}")
        self._move(subdivide(self.knots[:, self.order : -self.order], grid))

    def select(self, inputs: Int[Tensor, "new_in"], outputs: Int[Tensor, "new_out"]) -> "KANLinear":
        """A new layer with some of the inputs and outputs, by index."""
        layer = copy.deepcopy(self)
        layer.in_dim, layer.out_dim = len(inputs), len(outputs)
        for name in ("base_weight", "spline_scale", "coefficients"):
            setattr(layer, name, nn.Parameter(getattr(self, name).detach()[outputs][:, inputs].clone()))
        layer.knots = self.knots[inputs].clone()
        return layer

    def cost(self) -> int:
        return self.in_dim * self.out_dim * (self.grid + self.order + 1) + self.in_dim * self.order * (self.order + 1)

    def _basis(self, x: Tensor) -> Tensor:
        basis = bspline_basis(*self._exact(x.reshape(-1, self.in_dim)), self.order)
        return basis.to(x.dtype).reshape(*x.shape, self.grid + self.order)

    def _exact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The points, and the knots: half precision could not tell neighbouring knots apart."""
        exact = torch.promote_types(x.dtype, torch.float32)
        return x.to(exact), self.knots.to(exact)

    def _move(self, grid: Tensor) -> None:
        knots = extend(grid, self.order)
        coefficients = refit(self.coefficients, self.knots, knots, self.order)
        if grid.shape[1] - 1 == self.grid:
            self.coefficients.copy_(coefficients)
        else:
            self.coefficients = nn.Parameter(coefficients, requires_grad=self.coefficients.requires_grad)
        self.knots, self.grid = knots, grid.shape[1] - 1


class KANMixing(ChannelMixer):
    """Two Kolmogorov-Arnold layers in place of a transformer block's feed-forward half.

    One layer alone would add up functions of single channels; the second one lets them interact.

    Arguments:
        ratio: hidden width over ``dim``. At 0.4 and the default grid there are as many parameters as in the usual
            perceptron of ratio 4.
        grid, order: see :class:`KANLinear`.
        span: range of the grids; tokens come out of a norm, most of them within two standard deviations.

    Shapes: ``(batch, time, dim) -> (batch, time, dim)``.
    """

    space: ClassVar[Space] = KANLinear.space

    def __init__(
        self,
        dim: int,
        *,
        ratio: float = 0.4,
        grid: int = 5,
        order: int = 3,
        span: tuple[float, float] = (-2.0, 2.0),
    ):
        super().__init__(dim)
        hidden = max(1, round(ratio * dim))
        self.expand = KANLinear(dim, hidden, grid=grid, order=order, span=span)
        self.contract = KANLinear(hidden, dim, grid=grid, order=order, span=span)

    def transform(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.contract(self.expand(x))

    def cost(self) -> int:
        return self.expand.cost() + self.contract.cost()
