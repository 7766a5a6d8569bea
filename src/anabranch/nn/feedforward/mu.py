"""A channel mixer of products instead of activations (MONet, Cheng et al. 2024, arXiv 2401.17992)."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.nn.feedforward.base import ChannelMixer
from anabranch.slots import fill
from anabranch.spaces import Choice, Space


class MuLayer(ChannelMixer):
    """``C(a + alpha a * b)`` with ``a = norm(A x)`` and ``b = norm(B D x)``: a polynomial of second degree, no activation.

    ``D`` narrows to an eighth of the hidden width and so keeps the second factor cheap (section 3.1). With norms the
    layer is no polynomial in the strict sense; ``norm="identity"`` makes it one, as far as it stays finite.

    Arguments:
        dim: channels of a token.
        ratio: hidden width in multiples of ``dim``; 3 in the paper's channel mixers.
        norm: what fills the slot ``norm`` on both factors; it must treat each token by itself.

    Raises: ``ValueError`` if the norm looks at several tokens.
    """

    space: ClassVar[Space] = {"ratio": Choice(3, 1)}

    def __init__(self, dim: int, *, ratio: float = 3, norm: str | Callable[..., nn.Module] = "layernorm"):
        super().__init__(dim)
        self.hidden = max(1, round(ratio * dim))
        self.rank = max(1, self.hidden // 8)
        self.first = nn.Linear(dim, self.hidden)  # A in the paper
        self.narrow = nn.Linear(dim, self.rank)  # D
        self.widen = nn.Linear(self.rank, self.hidden)  # B
        self.norm1, self.norm2 = (fill("norm", norm, dim=self.hidden) for _ in range(2))
        if not getattr(self.norm1, "tokenwise", True):
            raise ValueError(f"expected a norm that treats each token by itself; got {type(self.norm1).__name__}")
        self.alpha = nn.Parameter(torch.ones(1))
        self.last = nn.Linear(self.hidden, dim)  # C
        for linear in (self.first, self.narrow, self.widen):
            nn.init.kaiming_normal_(linear.weight)
            nn.init.ones_(linear.bias)

    def transform(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return self.product(self.first(x), self.narrow(x))

    def product(
        self, first: Float[Tensor, "*batch hidden"], narrow: Float[Tensor, "*batch rank"]
    ) -> Float[Tensor, "*batch out_dim"]:
        """The layer from ``A x`` and ``D x`` on; between them and here a mixer may move them about."""
        a, b = self.norm1(first), self.norm2(self.widen(narrow))
        return self.last(torch.addcmul(a, self.alpha * a, b))

    def cost(self) -> int:
        return self.hidden * (2 * self.dim + self.rank) + self.dim * self.rank
