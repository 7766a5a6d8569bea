"""A recurrent cell in the token mixer's place."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.recurrent.base import Recurrence
from anabranch.nn.streaming import State
from anabranch.slots import fill


class RecurrentMixing(TokenMixer):
    """Mix tokens by reading them in order with a recurrent cell, so that cells and attention can be compared.

    A causal mixer is the cell itself. Otherwise two cells share the channels: one reads forwards, the other backwards.

    Arguments:
        dim: channels of a token; at least 2 if not causal.
        cell: name, class or factory of a part for the slot ``cell``.
        causal: whether to read forwards only.
    """

    def __init__(self, dim: int, *, cell: str | Callable[..., Recurrence] = "gru", causal: bool = True):
        super().__init__(dim)
        if not causal and dim < 2:
            raise ValueError(f"two directions need at least 2 channels; got {dim}")
        self.causal = causal
        half = 0 if causal else dim // 2
        self.forwards: Recurrence = fill("cell", cell, in_dim=dim, dim=dim - half)
        self.backwards: Recurrence | None = None if causal else fill("cell", cell, in_dim=dim, dim=half)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        forwards = read(self.forwards, x, mask)
        if self.backwards is None:
            return forwards
        backwards = read(self.backwards, x.flip(1), None if mask is None else mask.flip(1)).flip(1)
        return torch.cat([forwards, backwards], dim=2)

    def initial_state(self, batch: int) -> State:
        return self.forwards.initial_state(batch)

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        return self.forwards.step(x_t, state)

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        return self.forwards.chunk(x, state)

    def cost(self, n: int) -> int:
        return self.forwards.cost(n) + (0 if self.backwards is None else self.backwards.cost(n))


def read(
    cell: nn.Module, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch time width"]:
    """Outputs of a cell that passes over the tokens that do not exist as if they were not there."""
    if mask is None:
        return cell(x)[0]
    # Sorted behind the others, the missing tokens are read last and influence nothing.
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    y, _ = cell(torch.take_along_dim(x, order[..., None], dim=1))
    return torch.take_along_dim(y, order.argsort(dim=1)[..., None], dim=1)
