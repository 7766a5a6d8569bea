"""A fixed random mixing matrix: mixing that knows nothing and learns nothing."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.mixing.grid import hide


class RandomMixing(TokenMixer):
    """Average the tokens with weights drawn once (the random arm of MetaFormer, Yu et al. 2022, arXiv 2111.11418).

    Each row of the matrix is the softmax of uniform random numbers; it is saved with the model and never trained.
    Where tokens are masked, the weights of the others are scaled up to sum to 1 again.

    Arguments:
        dim: channels of a token.
        length: number of tokens.

    Raises: ``ValueError`` if another number of tokens comes.
    """

    fixed_length = True
    matrix: Float[Tensor, "length length"]

    def __init__(self, dim: int, *, length: int):
        super().__init__(dim)
        if length < 1:
            raise ValueError(f"length must be at least 1; got {length}")
        self.register_buffer("matrix", torch.rand(length, length).softmax(-1))

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        if x.shape[1] != len(self.matrix):
            raise ValueError(f"RandomMixing was built for {len(self.matrix)} tokens; got {x.shape[1]}")
        if mask is None:
            return self.matrix @ x
        kept = (mask.to(self.matrix.dtype) @ self.matrix.T)[:, :, None]  # share of each row's weight that is left
        return (self.matrix @ hide(x, mask)) / kept.where(kept > 0, 1)

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch 1 time source"]:
        return self.matrix.expand(x.shape[0], 1, -1, -1)

    def cost(self, n: int) -> int:
        return n * n * self.dim
