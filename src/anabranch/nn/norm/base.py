"""The norm: the slot where a block brings its tokens to a common scale."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.spaces import Space


class Norm(nn.Module):
    """Contract of the slot ``norm``: ``(batch, time, dim) -> (batch, time, dim)``.

    The constructor takes ``dim`` first, then keyword-only options. Declared fact, proved by the contract tests:
    ``tokenwise``: each token is normalised by itself. One that is not (its statistics reach over tokens) must leave
    out the tokens that ``mask`` says do not exist, and cannot stand in a causal network.
    """

    tokenwise: bool = True
    no_compile: ClassVar[str | None] = None
    space: ClassVar[Space] = {}

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1; got {dim}")
        self.dim = dim

    def forward(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        if x.shape[-1] != self.dim:
            raise ValueError(f"{type(self).__name__} expected (..., {self.dim}); got {tuple(x.shape)}")
        return self.normalise(x, mask)

    def normalise(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None
    ) -> Float[Tensor, "*batch dim"]:
        """The mechanism, on checked input."""
        raise NotImplementedError
