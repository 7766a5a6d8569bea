"""Depthwise convolution as a token mixer: the plain local baseline, causal where one is needed."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.mixing.grid import CONVOLUTIONS, check_rank, hide, to_grid, to_tokens
from anabranch.nn.streaming import State
from anabranch.spaces import Choice, Space


class ConvMixing(TokenMixer):
    """Each channel is convolved with a small learned window of its own.

    A causal one reads the token and the ``window - 1`` before it, and streams with these as its state. The others
    read around the token, over as many axes as the grid they were built for has.

    Arguments:
        dim: channels of a token.
        window: tokens along each axis that an output sees; odd unless causal.
        causal: see no later token; the tokens then lie in one line.
        grid: how the tokens lie; only its number of sides matters. One line if not given.
    """

    space: ClassVar[Space] = {"window": Choice(7, 3, 15)}

    def __init__(self, dim: int, *, window: int = 7, causal: bool = False, grid: Grid | None = None):
        super().__init__(dim)
        if window < 1 or (window % 2 == 0 and not causal):
            raise ValueError(f"window must be at least 1, and odd unless causal; got {window}")
        self.window, self.causal = window, causal
        self.sides = 1 if causal or grid is None else len(check_rank(grid))
        bound = window ** (-self.sides / 2)
        self.weight = nn.Parameter(torch.empty(dim, 1, *[window] * self.sides).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim))

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        grid = (x.shape[1],) if self.causal or grid is None else grid
        if len(grid) != self.sides:
            raise ValueError(f"ConvMixing was built for a grid of {self.sides} sides; got {grid}")
        image = to_grid(hide(x, mask), grid)
        if self.causal:
            return to_tokens(F.conv1d(F.pad(image, (self.window - 1, 0)), self.weight, self.bias, groups=self.dim))
        convolve = CONVOLUTIONS[self.sides]
        return to_tokens(convolve(image, self.weight, self.bias, padding=self.window // 2, groups=self.dim))

    def initial_state(self, batch: int) -> State:
        return self.zeros(batch, self.window - 1, self.dim)

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        frames = torch.cat([state, x_t[:, None]], dim=1)
        y_t = einsum(frames, self.weight[:, 0], "batch window dim, dim window -> batch dim") + self.bias
        return y_t, frames[:, 1:]

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        frames = torch.cat([state, x], dim=1)
        y = F.conv1d(frames.transpose(1, 2), self.weight, self.bias, groups=self.dim).transpose(1, 2)
        return y, frames[:, x.shape[1] :]

    def cost(self, n: int) -> int:
        return n * self.dim * self.window**self.sides
