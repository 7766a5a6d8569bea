"""MetaFormer: a transformer whose parts are all left open (Yu et al. 2022, arXiv 2111.11418, section 3)."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.errors import InputError
from anabranch.models.downsample import Downsample
from anabranch.models.network import Trunk
from anabranch.nn.block.base import Block, tokenwise
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State
from anabranch.slots import fill

Filler = str | Callable[..., Any]


class MetaFormer(Trunk):
    """A stack of blocks, each of which mixes tokens and channels: the skeleton of most token mixers.

    With one ``dim`` and one ``depth`` all blocks are alike. With several, the trunk is a pyramid: between stages, a
    convolution (3 along each axis, stride 2) halves the grid and changes the width. There is no norm after the last
    block: heads begin with one.

    Arguments:
        dim: channels of a token; for a pyramid one number a stage.
        depth: number of blocks; for a pyramid one number a stage.
        mixer, channel, norm, block: what fills these slots: a name, a class, or a factory. One part is built per
            place; a factory that names ``depth`` is told the index of its block, and may so choose between parts. A
            channel mixer, which treats each token by itself, is told nothing of where the tokens lie.
        causal: no token sees a later one.
        length: number of tokens, where it is fixed; mixers such as ``TokenMLP`` need it.
        grid: how the tokens lie, for example ``(height, width)``; in one line if not given.
        layer_scale: first value of a learned factor per channel on what each branch adds. 1e-5 in PoolFormer.
        drop_path: share of samples for which a branch is left out of a training step, rising linearly from 0 in the
            first block to this in the last.

    Raises:
        InputError: if a mixer or norm that sees later tokens is to stand in a causal trunk, or if a causal trunk is to
            be a pyramid.
    """

    def __init__(
        self,
        dim: int | Sequence[int],
        depth: int | Sequence[int],
        *,
        mixer: Filler = "attention",
        channel: Filler = "mlp",
        norm: Filler = "layernorm",
        block: Filler = "prenorm",
        causal: bool = False,
        length: int | None = None,
        grid: Grid | None = None,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        dims = [dim] if isinstance(dim, int) else list(dim)
        depths = [depth] if isinstance(depth, int) else list(depth)
        if len(dims) != len(depths) or not dims:
            raise InputError(f"expected a width and a depth for each stage; got dim={dim} and depth={depth}")
        if causal and len(dims) > 1:
            raise InputError("a causal trunk cannot be a pyramid: its convolutions between stages see later tokens")
        if grid is not None and length not in (None, prod(grid)):
            raise InputError(f"the grid {grid} holds {prod(grid)} tokens, but length is {length}")
        self.causal = causal
        self.grid = tuple(grid) if grid is not None else None
        self.dims, self.out_dim = tuple(dims), dims[-1]
        # A pyramid of unknown length still lies on some number of axes: one, if nothing else is said.
        sides = len(grid) if grid is not None else 1
        here = self.grid or ((length,) if length is not None else None)
        self.downs, self.stages = nn.ModuleList(), nn.ModuleList()
        index, total = 0, sum(depths)
        for i, (width, blocks) in enumerate(zip(dims, depths, strict=True)):
            if i > 0:
                down = Downsample(dims[i - 1], width, sides=sides)
                self.downs.append(down)
                here = down.grid_after(here) if here is not None else None
            facts: dict[str, Any] = {"dim": width, "causal": causal}
            if here is not None:
                facts["length"] = prod(here)
            if here is not None and self.grid is not None:
                facts["grid"] = here
            stage = nn.ModuleList()
            for _ in range(blocks):
                places = facts | {"depth": index}
                stage.append(
                    fill(
                        "block",
                        block,
                        **places,
                        blocks=total,
                        mixer=partial(fill, "mixer", mixer, **places),
                        channel=partial(fill, "channel", channel, dim=width, depth=index),
                        norm=partial(fill, "norm", norm, **places),
                        layer_scale=layer_scale,
                        drop_path=drop_path * index / max(1, total - 1),
                    )
                )
                index += 1
            self.stages.append(stage)
        self.out_length = prod(here) if here is not None else None
        if causal:
            self.check_causal()

    def check_causal(self) -> None:
        for block in self.blocks:
            if not block.mixer.causal:
                raise InputError(f"{type(block.mixer).__name__} sees later tokens and cannot stand in a causal trunk")
            if not tokenwise(block):
                culprit = next(part for part in block.modules() if not getattr(part, "tokenwise", True))
                raise InputError(f"{type(culprit).__name__} looks at all tokens and cannot stand in a causal trunk")

    @property
    def blocks(self) -> list[Block]:
        """All blocks in order, whatever their stage."""
        return [block for stage in self.stages for block in stage]  # pyright: ignore

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "batch out_time out_dim"]:
        """Run the stack; ``grid`` may differ from the one it was built for, where the mixers allow it."""
        if x.ndim != 3 or x.shape[-1] != self.dims[0]:
            raise ValueError(f"MetaFormer expected (batch, time, {self.dims[0]}); got {tuple(x.shape)}")
        grid = self.grid if grid is None else grid
        for i, stage in enumerate(self.stages):
            if i > 0:
                down = self.downs[i - 1]
                assert isinstance(down, Downsample)
                line = (x.shape[1],) if grid is None else grid
                x, mask = down(x, mask=mask, grid=line), down.mask_after(mask, line)
                grid = None if grid is None else down.grid_after(grid)
            earlier = [x]
            for block in stage:  # pyright: ignore
                x = block(x, mask=mask, grid=grid, earlier=earlier)
        return x

    def mask_after(
        self, mask: Bool[Tensor, "batch time"] | None, grid: Grid | None = None
    ) -> Bool[Tensor, "batch out_time"] | None:
        if mask is None:
            return None
        grid = grid or self.grid or (mask.shape[1],)
        for down in self.downs:
            assert isinstance(down, Downsample)
            mask, grid = down.mask_after(mask, grid), down.grid_after(grid)
        return mask

    @property
    def streams(self) -> bool:
        return self.causal and all(block.streams for block in self.blocks)

    def initial_state(self, batch: int) -> State:
        return [block.initial_state(batch) for block in self.blocks]

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch out"], State]:
        y, state = self.run(x_t[:, None], state, single=True)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time out"], State]:
        return self.run(x, state, single=False)

    def run(self, x: Tensor, state: State, *, single: bool) -> tuple[Tensor, State]:
        earlier, new = [x], []
        for block, old in zip(self.blocks, state, strict=True):
            if single:
                x_t, after = block.step(x[:, 0], old, earlier)
                x = x_t[:, None]
            else:
                x, after = block.chunk(x, old, earlier)
            new.append(after)
        return x, new
