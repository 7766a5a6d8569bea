"""A perceptron over the tokens of each channel (MLP-Mixer, Tolstikhin et al. 2021, arXiv 2105.01601)."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.mixing.grid import hide
from anabranch.spaces import Choice, Space


class TokenMLP(TokenMixer):
    """Mix the tokens of every channel with one small perceptron that all channels share.

    ``W2 gelu(W1 x)`` down each column of the tokens (equation 1 of the paper, without the norm and the residual
    connection, which belong to the block). Depends on the number of tokens and on their order. Masked tokens count
    as zeros.

    Arguments:
        dim: channels of a token.
        length: number of tokens, ``S`` in the paper.
        hidden: hidden width, ``D_S`` in the paper; half of ``dim`` if not given, as in the paper's models.

    Raises: ``ValueError`` if another number of tokens comes.
    """

    fixed_length = True
    space: ClassVar[Space] = {"hidden": Choice(None, 32, 128)}

    def __init__(self, dim: int, *, length: int, hidden: int | None = None):
        super().__init__(dim)
        hidden = max(1, dim // 2) if hidden is None else hidden
        if length < 1 or hidden < 1:
            raise ValueError(f"length and hidden must be at least 1; got {length} and {hidden}")
        self.length, self.hidden = length, hidden
        self.widen = nn.Linear(length, hidden)
        self.activation = nn.GELU()
        self.narrow = nn.Linear(hidden, length)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        if x.shape[1] != self.length:
            raise ValueError(f"TokenMLP was built for {self.length} tokens; got {x.shape[1]}")
        columns = hide(x, mask).transpose(1, 2)
        return self.narrow(self.activation(self.widen(columns))).transpose(1, 2)

    def cost(self, n: int) -> int:
        return 2 * n * self.hidden * self.dim
