"""Pooling as a token mixer (MetaFormer, Yu et al. 2022, arXiv 2111.11418, equation 4)."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.mixing.grid import AVERAGES, check_rank, hide, to_grid, to_tokens
from anabranch.spaces import Choice, Space


class PoolMixing(TokenMixer):
    """Replace each token by its neighbourhood's mean, minus the token itself.

    The subtraction cancels the residual connection around the mixer, so that a block adds only what the neighbours
    say. Has no parameters. Neighbours outside the grid, and masked ones, are not counted.

    Arguments:
        dim: channels of a token.
        window: side of the odd window over the grid, as long as the grid has sides. 3 in the paper.

    Raises: ``ValueError`` if the window is even.
    """

    space: ClassVar[Space] = {"window": Choice(3, 5, 7)}

    def __init__(self, dim: int, *, window: int = 3):
        super().__init__(dim)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd, so that it has a centre; got {window}")
        self.window = window

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        grid = check_rank(grid or (x.shape[1],))
        if mask is None:
            return self.mean(x, grid, count_padding=False) - x
        # Both means divide by the whole window, which cancels: what is left is a mean over the tokens that exist.
        share = self.mean(mask[:, :, None].to(x.dtype), grid, count_padding=True)
        return self.mean(hide(x, mask), grid, count_padding=True) / share.where(share > 0, 1) - x

    def mean(
        self, x: Float[Tensor, "batch time channels"], grid: Grid, *, count_padding: bool
    ) -> Float[Tensor, "batch time channels"]:
        average = AVERAGES[len(grid)]
        image = average(
            to_grid(x, grid), self.window, stride=1, padding=self.window // 2, count_include_pad=count_padding
        )
        return to_tokens(image)

    def cost(self, n: int) -> int:
        """Multiply-adds for ``n`` tokens on a grid of two sides."""
        return n * self.dim * (self.window**2 + 1)
