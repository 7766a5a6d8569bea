"""No mixing at all: what the rest of a network is worth without its token mixer."""

from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.streaming import State


class IdentityMixing(TokenMixer):
    """Give every token back as it came (the identity arm of MetaFormer, Yu et al. 2022, arXiv 2111.11418, table 7).

    Arguments:
        dim: channels of a token.
    """

    equivariant = True
    causal = True

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        return x

    def initial_state(self, batch: int) -> State:
        return ()

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        return x_t, state

    def cost(self, n: int) -> int:
        return 0
