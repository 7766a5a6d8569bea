"""Stems that cut images and sequences into patches and map each linearly to a token."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.models.network import Stem, Tokens
from anabranch.models.positions import LearnedPositions, count
from anabranch.nn.mixing.grid import to_tokens
from anabranch.nn.norm import LayerNorm
from anabranch.nn.streaming import State
from anabranch.slots import fill

Positions = Callable[..., nn.Module] | None
PatchNorm = Literal["pre", "post", "dual"] | None


class PatchStem(Stem):
    """What both stems share: the layer norms around the linear map (Dual PatchNorm, arXiv 2302.01327, section 4).

    A layer norm takes the place of ``None`` where it is asked for, so that a stem without norms has no more weights.
    """

    before: LayerNorm | None
    after: LayerNorm | None

    def place_norms(self, norm: PatchNorm, patch_dim: int, dim: int) -> None:
        """Make the norms: ``"pre"`` over the numbers of a patch, ``"post"`` over its token, ``"dual"`` both."""
        if norm not in (None, "pre", "post", "dual"):
            raise ValueError(f"norm must be 'pre', 'post', 'dual' or None; got {norm!r}")
        self.before = LayerNorm(patch_dim) if norm in ("pre", "dual") else None
        self.after = LayerNorm(dim) if norm in ("post", "dual") else None


class PatchEmbed(PatchStem):
    """Cut images into patches and map each linearly to a token; the tokens lie on a grid, row by row.

    Arguments:
        channels: channels of the images.
        dim: channels of a token.
        size: ``(height, width)`` of the images, or one number for both.
        patch: distance from one patch to the next, in pixels.
        kernel: side of a patch where patches overlap; ``patch`` if not given. 7 with patch 4 in PoolFormer.
        scales: sides of several windows around the same centre, read side by side by one linear map (RaftMLP,
            arXiv 2108.04384, section 3.2: 4 and 8 with patch 4), in the place of ``kernel``. Each differs from
            ``patch`` by an even number.
        norm: layer norm over the pixels of each patch (``"pre"``), over its token (``"post"``), or both (``"dual"``,
            arXiv 2302.01327), before the positions are added; None for none. The first forgets how bright a patch is
            beside the others, which small patches cannot afford.
        positions: what is added to tell places apart, for example ``LearnedPositions``; None for nothing.

    Shapes: ``(batch, channels, height, width)``. Without positions, images of any size may come. Rows and columns of
        pixels at the end that do not fill a patch are left out.
    Raises: ``ValueError`` if an image is smaller than a patch, or, with positions, its grid of patches is not the one
        that the stem was built for.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        size: int | tuple[int, int],
        patch: int = 4,
        kernel: int | None = None,
        scales: Sequence[int] | None = None,
        norm: PatchNorm = None,
        positions: Positions = LearnedPositions,
    ):
        super().__init__()
        if scales is not None and (kernel is not None or not scales):
            raise ValueError(f"expected either a kernel or one scale and more; got {kernel} and {scales}")
        sides = tuple(scales) if scales is not None else (patch if kernel is None else kernel,)
        if patch < 1 or min(sides) < patch:
            raise ValueError(f"expected 1 <= patch <= kernel; got {patch} and {min(sides)}")
        if scales is not None and any((side - patch) % 2 for side in sides):
            raise ValueError(f"a scale must differ from the patch ({patch}) by an even number; got {sides}")
        size = (size, size) if isinstance(size, int) else size
        self.dim, self.channels, self.patch, self.sides = dim, channels, patch, sides
        if len(sides) == 1:
            self.project = nn.Conv2d(channels, dim, sides[0], stride=patch, padding=self.padding(sides[0]))
        else:
            self.project = nn.Linear(channels * sum(side**2 for side in sides), dim)
        self.grid = self.grid_of(size)
        self.length = prod(self.grid)
        self.place_norms(norm, channels * sum(side**2 for side in sides), dim)
        self.positions = positions and fill("positions", positions, dim=dim, length=self.length)

    def padding(self, side: int) -> int:
        """An overlapping patch is padded so that the grid is as large as without the overlap."""
        return (side - self.patch + 1) // 2

    def grid_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        side = self.sides[0]
        grid = tuple((s + 2 * self.padding(side) - side) // self.patch + 1 for s in size)
        if min(grid) < 1:
            raise ValueError(f"the patch ({side} pixels) is larger than the image {size}")
        return grid

    def forward(
        self, x: Float[Tensor, "batch channels height width"], lengths: Int[Tensor, "batch"] | None = None
    ) -> Tokens:
        if lengths is not None:
            raise ValueError("images have no lengths")
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"PatchEmbed expected (batch, {self.channels}, height, width); got {tuple(x.shape)}")
        grid = self.grid_of(tuple(x.shape[2:]))
        if self.positions and grid != self.grid:
            raise ValueError(f"PatchEmbed with positions expected images of {self.grid} patches; got {grid}")
        if self.before is None and isinstance(self.project, nn.Conv2d):
            tokens = to_tokens(self.project(x))
        else:
            patches = self.cut(x)
            patches = patches if self.before is None else self.before(patches)
            tokens = F.linear(patches, self.project.weight.flatten(1), self.project.bias)
        tokens = tokens if self.after is None else self.after(tokens)
        if self.positions:
            tokens = tokens + self.positions(tokens.shape[1])
        return Tokens(tokens, None, grid)

    def cut(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch time pixels"]:
        """The pixels of each patch in a row: scale by scale, channel by channel, line by line."""
        cuts = [F.unfold(x, side, stride=self.patch, padding=self.padding(side)) for side in self.sides]
        return torch.cat(cuts, dim=1).transpose(1, 2)


class FrameEmbed(PatchStem):
    """Map each frame of a sequence, or each run of ``patch`` frames, linearly to a token.

    Arguments:
        channels: channels of a frame.
        dim: channels of a token.
        length: number of frames, the largest where it varies.
        patch: frames that make one token; a sequence is filled up with zero frames to a multiple of it.
        norm: layer norm over the numbers of each run of frames (``"pre"``), over its token (``"post"``), or both
            (``"dual"``, arXiv 2302.01327), before the positions are added; None for none.
        positions: what is added to tell places apart, for example ``SinusoidalPositions``; None for nothing.

    Shapes: ``(batch, time, channels)``; ``lengths`` counts frames.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        length: int,
        patch: int = 1,
        norm: PatchNorm = None,
        positions: Positions = LearnedPositions,
    ):
        super().__init__()
        if patch < 1 or length < 1:
            raise ValueError(f"patch and length must be at least 1; got {patch} and {length}")
        self.channels, self.dim, self.patch = channels, dim, patch
        self.length = -(-length // patch)
        self.project = nn.Linear(channels * patch, dim)
        self.place_norms(norm, channels * patch, dim)
        self.positions = positions and fill("positions", positions, dim=dim, length=self.length)

    def embed(self, runs: Float[Tensor, "batch time numbers"]) -> Float[Tensor, "batch time dim"]:
        """The norms and the linear map, on each run of frames by itself."""
        tokens = self.project(runs if self.before is None else self.before(runs))
        return tokens if self.after is None else self.after(tokens)

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
        tokens = self.embed(x)
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
        tokens = self.embed(x)
        if self.positions:
            tokens = tokens + self.positions(x.shape[1], state)
        return tokens, state + x.shape[1]
