"""Kolmogorov-Arnold networks (KAN, Liu et al. 2024, arXiv 2404.19756): made finer, made smaller, read as formulas."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.models.kan_fit import fit_lbfgs
from anabranch.models.kan_plot import draw
from anabranch.models.kan_symbolic import LIBRARY, SymbolicKAN, snap
from anabranch.nn.feedforward.kan import KANLinear


class KAN(nn.Module):
    """Kolmogorov-Arnold layers one after the other, and nothing else: every nonlinearity is a curve on an edge.

    The paper's way from data to a formula: :meth:`fit` with a ``penalty``, :meth:`prune`, :meth:`fit`,
    :meth:`refine` and fit again, :meth:`symbolic`.

    Arguments:
        widths: number of nodes of each layer, from the input to the output.
        grid, order, span, base, noise: of every layer, see :class:`anabranch.nn.feedforward.KANLinear`.

    Shapes: ``(..., widths[0]) -> (..., widths[-1])``.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        grid: int = 5,
        order: int = 3,
        span: tuple[float, float] = (-1.0, 1.0),
        base: str | Callable[..., nn.Module] = "silu",
        noise: float = 0.1,
    ):
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths must hold at least the input's and the output's; got {list(widths)}")
        self.layers = nn.ModuleList(
            KANLinear(wide, out, grid=grid, order=order, span=span, base=base, noise=noise)
            for wide, out in pairwise(widths)
        )

    @property
    def widths(self) -> list[int]:
        layers = self._kan_layers()
        return [layers[0].in_dim, *(layer.out_dim for layer in layers)]

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        for layer in self.layers:
            x = layer(x)
        return x

    def update_grid(self, x: Float[Tensor, "*batch in_dim"], *, uniform: float = 0.02) -> None:
        """Move every layer's grid to where its inputs are, from the first layer to the last."""
        for layer in self._kan_layers():
            layer.update_grid(x, uniform=uniform)
            with torch.no_grad():
                x = layer(x)

    def refine(self, grid: int, x: Float[Tensor, "batch in_dim"] | None = None, *, uniform: float = 0.02) -> None:
        """Give every layer another number of intervals and keep the function: grid extension, section 2.4.

        Arguments:
            grid: the new number of intervals.
            x: typical inputs, which the grids then move to as well. Without them, what a hidden node sends beyond the
                next layer's grid changes.
            uniform: see :meth:`update_grid`.
        """
        for layer in self._kan_layers():
            if x is None:
                layer.refine(grid)
            else:
                layer.update_grid(x, grid=grid, uniform=uniform)
                with torch.no_grad():
                    x = layer(x)

    def penalty(
        self, x: Float[Tensor, "batch in_dim"], *, magnitude: float = 1.0, entropy: float = 1.0
    ) -> Float[Tensor, ""]:
        """What makes most edges vanish: per layer, the edges' mean absolute outputs and the entropy of their shares.

        Equations 2.17 to 2.20; multiply by the paper's lambda, about 1e-3 to 1e-2, and add it to the loss.
        """
        total = x.new_zeros(())
        for size in self._edge_sizes(x):
            share = size / size.sum().clamp(min=torch.finfo(x.dtype).tiny)
            total = total + magnitude * size.sum() + entropy * torch.special.entr(share).sum()
        return total

    def fit(
        self,
        x: Float[Tensor, "batch in_dim"],
        y: Float[Tensor, "batch out_dim"],
        *,
        steps: int = 200,
        penalty: float = 0.0,
        entropy: float = 1.0,
        grid_updates: int = 0,
        uniform: float = 0.02,
    ) -> float:
        """Least squares by L-BFGS over all samples, for small problems; best in float64 (``model.double()``).

        Arguments:
            penalty: weight of :meth:`penalty`.
            entropy: weight of the entropy within it; more drives the edges of a layer to few large ones.
            grid_updates: how many times, evenly spread over the first half of the steps, the grids follow the data.
            uniform: see :meth:`update_grid`.

        Returns: the mean squared error at the end.
        """

        def loss() -> Tensor:
            error = (self(x) - y).square().mean()
            return error + penalty * self.penalty(x, entropy=entropy) if penalty else error

        done = 0
        for update in range(grid_updates):
            self.update_grid(x, uniform=uniform)
            until = steps * (update + 1) // (2 * grid_updates)
            fit_lbfgs(self.parameters(), loss, steps=until - done)
            done = until
        fit_lbfgs(self.parameters(), loss, steps=steps - done)
        with torch.no_grad():
            return float((self(x) - y).square().mean())

    @torch.no_grad()
    def prune(self, x: Float[Tensor, "batch in_dim"], *, threshold: float = 1e-2) -> "KAN":
        """A smaller network, without the hidden nodes whose largest incoming or outgoing edge is small (section 2.5.1).

        Arguments:
            x: typical inputs, which an edge's size is the mean absolute output over.
            threshold: size below which an edge counts as small.
        """
        sizes = self._edge_sizes(x)
        keep = [torch.arange(self.widths[0], device=x.device)]
        for into, out in pairwise(sizes):
            score = torch.minimum(into.amax(1), out.amax(0))
            chosen = torch.nonzero(score > threshold).flatten()
            keep.append(chosen if len(chosen) else score.argmax().reshape(1))
        keep.append(torch.arange(self.widths[-1], device=x.device))
        smaller = KAN([len(nodes) for nodes in keep])
        layers = [
            layer.select(into, out) for layer, (into, out) in zip(self._kan_layers(), pairwise(keep), strict=True)
        ]
        smaller.layers = nn.ModuleList(layers)
        return smaller

    def symbolic(
        self, x: Float[Tensor, "batch in_dim"], *, functions: Iterable[str] = tuple(LIBRARY), threshold: float = 1e-2
    ) -> SymbolicKAN:
        """The formula nearest to this network: every edge becomes ``c f(a x + b) + d``, ``f`` by name (section 2.5.1).

        Arguments:
            x: typical inputs, over which the edges' curves are compared with the candidates.
            functions: names of the candidates, of those in ``LIBRARY``.
            threshold: edges whose standard deviation is below this share of the layer's largest become constants.
        """
        choices = []
        with torch.no_grad():
            for layer in self._kan_layers():
                choices.append(snap(x, layer.edges(x), tuple(functions), threshold))
                x = layer(x)
        return SymbolicKAN(choices)

    def plot(self, x: Float[Tensor, "batch in_dim"]) -> str:
        """A drawing of the network with the curve of every edge, the darker the larger: the text of an SVG file."""
        curves = []
        with torch.no_grad():
            for layer in self._kan_layers():
                low, high = x.amin(0), x.amax(0)
                at = torch.lerp(low, high, torch.linspace(0, 1, 41, dtype=x.dtype, device=x.device).unsqueeze(1))
                curves.append((at, layer.edges(at), layer.edges(x).abs().mean(0)))
                x = layer(x)
        return draw(curves)

    def _edge_sizes(self, x: Tensor) -> list[Tensor]:
        """Mean absolute output of every edge, a matrix ``(out, in)`` per layer."""
        sizes = []
        for layer in self._kan_layers():
            edges = layer.edges(x)
            sizes.append(edges.abs().mean(0))
            x = edges.sum(-1)
        return sizes

    def _kan_layers(self) -> list[KANLinear]:
        return [layer for layer in self.layers if isinstance(layer, KANLinear)]
