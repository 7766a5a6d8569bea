"""The recurrent skeleton: a stack of recurrent cells with norms and residual connections, which streams."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.errors import InputError
from anabranch.models.network import Trunk
from anabranch.nn.block.base import tokenwise
from anabranch.nn.mixing.base import Grid
from anabranch.nn.recurrent.base import Recurrence
from anabranch.nn.recurrent.mixing import read
from anabranch.nn.streaming import State
from anabranch.slots import fill


class RecurrentNet(Trunk):
    """Trunk of recurrent layers: tokens ``(batch, time, dim)`` to tokens ``(batch, time, dim)``, causal.

    A layer is ``x + dropout(cell(norm(x)))``, or ``dropout(cell(norm(x)))`` without residual connections. There is no
    norm after the last layer: heads begin with one.

    Arguments:
        dim: channels of a token.
        depth: number of layers, at least 1.
        cell: name, class or factory of a part for the slot ``cell``.
        norm: the same for the slot ``norm``; ``"identity"`` for none.
        residual: whether a layer adds to its input.
        dropout: share of a layer's output that is dropped in training.

    Raises:
        InputError: if the norm looks at several tokens at once, and so at later ones.
    """

    causal = True

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        cell: str | Callable[..., Recurrence] = "gru",
        norm: str | Callable[..., nn.Module] = "layernorm",
        residual: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dim < 1 or depth < 1:
            raise ValueError(f"dim and depth must be at least 1; got {dim} and {depth}")
        self.dim, self.out_dim, self.residual = dim, dim, residual
        self.cells: Any = nn.ModuleList(fill("cell", cell, in_dim=dim, dim=dim, depth=i) for i in range(depth))
        self.norms = nn.ModuleList(fill("norm", norm, dim=dim) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        if not tokenwise(self):
            raise InputError(f"{type(self.norms[0]).__name__} looks at all tokens and cannot stand in a causal trunk")

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Read the tokens in order.

        Arguments:
            x: the tokens.
            mask: True for the tokens that exist; the others are passed over.
            grid: how the tokens lie; not used, since they are read in one line.
        """
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"RecurrentNet expected (batch, time, {self.dim}); got {tuple(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"the mask must be {tuple(x.shape[:2])}, one entry a token; got {tuple(mask.shape)}")
        for cell, norm in zip(self.cells, self.norms, strict=True):
            x = self.join(x, read(cell, norm(x), mask))
        return x

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """What a layer makes of its input and its cell's output."""
        return x + self.dropout(y) if self.residual else self.dropout(y)

    def initial_state(self, batch: int) -> State:
        return tuple(cell.initial_state(batch) for cell in self.cells)

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        new = []
        for cell, norm, before in zip(self.cells, self.norms, state, strict=True):
            y, after = cell.chunk(norm(x), before)
            x = self.join(x, y)
            new.append(after)
        return x, tuple(new)

    def cost(self, n: int) -> int:
        """Multiply-adds of the cells over ``n`` tokens of one sample."""
        return sum(cell.cost(n) for cell in self.cells)
