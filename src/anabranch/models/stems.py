"""Stems: from images, sequences, tables and bytes to tokens."""

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.models.network import Stem, Tokens
from anabranch.models.positions import LearnedPositions
from anabranch.nn.mixing.grid import to_tokens
from anabranch.nn.streaming import State
from anabranch.slots import fill

Positions = Callable[..., nn.Module] | None


class PatchEmbed(Stem):
    """Cut images into patches and map each linearly to a token; the tokens lie on a grid, row by row.

    Arguments:
        channels: channels of the images.
        dim: channels of a token.
        size: ``(height, width)`` of the images, or one number for both.
        patch: distance from one patch to the next, in pixels.
        kernel: side of a patch where patches overlap; ``patch`` if not given. 7 with patch 4 in PoolFormer.
        positions: what is added to tell places apart, for example ``LearnedPositions``; None for nothing.

    Shapes: ``(batch, channels, height, width)``. Without learned positions, images of any size may come.
    Raises: ``ValueError`` if an image is smaller than a patch.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        size: int | tuple[int, int],
        patch: int = 4,
        kernel: int | None = None,
        positions: Positions = LearnedPositions,
    ):
        super().__init__()
        kernel = patch if kernel is None else kernel
        if patch < 1 or kernel < patch:
            raise ValueError(f"expected 1 <= patch <= kernel; got {patch} and {kernel}")
        size = (size, size) if isinstance(size, int) else size
        self.dim, self.channels = dim, channels
        # An overlapping patch is padded so that the grid is as large as without the overlap.
        self.project = nn.Conv2d(channels, dim, kernel, stride=patch, padding=(kernel - patch + 1) // 2)
        self.grid = self.grid_of(size)
        if min(self.grid) < 1:
            raise ValueError(f"the patch ({kernel} pixels) is larger than the image {size}")
        self.length = prod(self.grid)
        self.positions = positions and fill("positions", positions, dim=dim, length=self.length)

    def grid_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        conv = self.project
        return tuple(
            (s + 2 * int(p) - k) // t + 1
            for s, p, k, t in zip(size, conv.padding, conv.kernel_size, conv.stride, strict=True)
        )

    def forward(
        self, x: Float[Tensor, "batch channels height width"], lengths: Int[Tensor, "batch"] | None = None
    ) -> Tokens:
        if lengths is not None:
            raise ValueError("images have no lengths")
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"PatchEmbed expected (batch, {self.channels}, height, width); got {tuple(x.shape)}")
        grid = self.grid_of(tuple(x.shape[2:]))
        tokens = to_tokens(self.project(x))
        if self.positions:
            tokens = tokens + self.positions(tokens.shape[1])
        return Tokens(tokens, None, grid)


class FrameEmbed(Stem):
    """Map each frame of a sequence, or each run of ``patch`` frames, linearly to a token.

    Arguments:
        channels: channels of a frame.
        dim: channels of a token.
        length: number of frames, the largest where it varies.
        patch: frames that make one token; a sequence is filled up with zero frames to a multiple of it.
        positions: what is added to tell places apart, for example ``SinusoidalPositions``; None for nothing.

    Shapes: ``(batch, time, channels)``; ``lengths`` counts frames.
    """

    def __init__(
        self, channels: int, dim: int, *, length: int, patch: int = 1, positions: Positions = LearnedPositions
    ):
        super().__init__()
        if patch < 1 or length < 1:
            raise ValueError(f"patch and length must be at least 1; got {patch} and {length}")
        self.channels, self.dim, self.patch = channels, dim, patch
        self.length = -(-length // patch)
        self.project = nn.Linear(channels * patch, dim)
        self.positions = positions and fill("positions", positions, dim=dim, length=self.length)

    def forward(self, x: Float[Tensor, "batch time channels"], lengths: Int[Tensor, "batch"] | None = None) -> Tokens:
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise ValueError(f"FrameEmbed expected (batch, time, {self.channels}); got {tuple(x.shape)}")
        mask = None
        if lengths is not None:
            # Frames beyond the length must not reach the token that they share with existing ones.
            existing = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = x.masked_fill(~existing[:, :, None], 0)
            mask = existing[:, :: self.patch]
        if self.patch > 1:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.patch)).unflatten(1, (-1, self.patch)).flatten(2)
        tokens = self.project(x)
        if self.positions:
            tokens = tokens + self.positions(tokens.shape[1])
        return Tokens(tokens, mask)

    @property
    def streams(self) -> bool:
        return self.patch == 1

    def initial_state(self, batch: int) -> State:
        return count(batch, self.project.weight)

    def step(self, x_t: Float[Tensor, "batch channels"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(
        self, x: Float[Tensor, "batch time channels"], state: State
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        tokens = self.project(x)
        if self.positions:
            tokens = tokens + self.positions(x.shape[1], state)
        return tokens, state + x.shape[1]


class FeatureEmbed(Stem):
    """Make each feature of a table row a token: its value times a learned vector, plus another (FT-Transformer).

    From Gorishniy et al. 2021, arXiv 2106.11959, section 3.3. The learned vectors tell the features apart.

    Arguments:
        features: number of features.
        dim: channels of a token.

    Shapes: ``(batch, features)``.
    """

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.dim, self.length = dim, features
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(features, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(features, dim).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "batch features"], lengths: Int[Tensor, "batch"] | None = None) -> Tokens:
        if lengths is not None:
            raise ValueError("table rows have no lengths")
        if x.ndim != 2 or x.shape[1] != self.length:
            raise ValueError(f"FeatureEmbed expected (batch, {self.length}); got {tuple(x.shape)}")
        return Tokens(x[:, :, None] * self.weight + self.bias)


class ByteEmbed(Stem):
    """Look up a learned vector for every byte, or other small integer.

    Arguments:
        dim: channels of a token.
        length: number of bytes, the largest where it varies.
        vocabulary: number of different tokens; 256 for bytes.
        positions: what is added to tell places apart; None for nothing.

    Shapes: ``(batch, time)`` of integers.
    """

    def __init__(self, dim: int, *, length: int, vocabulary: int = 256, positions: Positions = LearnedPositions):
        super().__init__()
        self.dim, self.length = dim, length
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = positions and fill("positions", positions, dim=dim, length=length)

    def forward(self, x: Int[Tensor, "batch time"], lengths: Int[Tensor, "batch"] | None = None) -> Tokens:
        if x.ndim != 2 or x.is_floating_point():
            raise ValueError(f"ByteEmbed expected (batch, time) of integers; got {tuple(x.shape)} of {x.dtype}")
        mask = None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        tokens = self.embedding(x)
        if self.positions:
            tokens = tokens + self.positions(x.shape[1])
        return Tokens(tokens, mask)

    def initial_state(self, batch: int) -> State:
        return count(batch, self.embedding.weight)

    def step(self, x_t: Int[Tensor, "batch"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Int[Tensor, "batch time"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        tokens = self.embedding(x)
        if self.positions:
            tokens = tokens + self.positions(x.shape[1], state)
        return tokens, state + x.shape[1]


def count(batch: int, like: Tensor) -> Int[Tensor, "batch"]:
    """Frames read so far, for streams: none."""
    return torch.zeros(batch, dtype=torch.long, device=like.device)
