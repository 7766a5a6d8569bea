"""The dense layer that all others are compared with: an affine map, then an elementwise nonlinearity."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from anabranch.nn.feedforward.base import DenseLayer
from anabranch.slots import fill
from anabranch.spaces import Choice, Space


class PerceptronLayer(DenseLayer):
    """``activation(W x + b)``.

    Arguments:
        activation: fills the slot ``activation``.
        bias: whether ``b`` is there.

    Shapes: ``(..., in_dim) -> (..., out_dim)``.
    """

    space: ClassVar[Space] = {"activation": Choice("relu", "silu")}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        activation: str | Callable[..., nn.Module] = "relu",
        bias: bool = True,
    ):
        super().__init__(in_dim, out_dim)
        self.linear = nn.Linear(in_dim, out_dim, bias=bias)
        self.activation = fill("activation", activation, dim=out_dim)

    def transform(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return self.activation(self.linear(x))

    def cost(self) -> int:
        return self.in_dim * self.out_dim
