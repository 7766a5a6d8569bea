"""The skeleton with the slot ``dense``: a stack of dense layers and a linear readout."""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from anabranch.slots import fill


class MLP(nn.Module):
    """``depth`` dense layers of width ``dim``, then a linear readout.

    The readout is linear whatever fills the slot, so that contenders differ in the hidden layers alone; a network that
    is Kolmogorov-Arnold to the last layer is :class:`anabranch.models.KAN`.

    Arguments:
        in_dim, out_dim: channels of the input and the output.
        dim: width of the hidden layers.
        depth: number of hidden layers; 0 leaves the readout alone, a linear model.
        dense: fills the slot ``dense``.
        activation: passed on to dense layers that take one.
        norm: fills the slot ``norm`` before every dense layer but the first and before the readout; None: no norm.
        dropout: share of the hidden channels that are dropped after each layer while training.
        residual: add a layer's input to its output, from the second layer on.

    Shapes: ``(..., in_dim) -> (..., out_dim)``.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        dim: int,
        depth: int,
        dense: str | Callable[..., nn.Module] = "perceptron",
        activation: str | Callable[..., nn.Module] = "relu",
        norm: str | Callable[..., nn.Module] | None = None,
        dropout: float = 0.0,
        residual: bool = False,
    ):
        super().__init__()
        if depth < 0:
            raise ValueError(f"depth must not be negative; got {depth}")
        widths = [in_dim, *[dim] * depth]
        self.layers = nn.ModuleList(
            fill("dense", dense, in_dim=wide, out_dim=out, activation=activation) for wide, out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.Identity() if norm is None else fill("norm", norm, dim=dim) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(widths[-1], out_dim)
        self.residual = residual

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        for place, layer in enumerate(self.layers):
            y = self.dropout(layer(self.norms[place - 1](x) if place else x))
            x = x + y if self.residual and place else y
        return self.readout(self.norms[-1](x) if self.norms else x)
