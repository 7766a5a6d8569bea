"""Where a query may look: everywhere, near its own place, or near a place that it predicts (Luong et al. 2015, arXiv
1508.04025, section 3.2).

A reach maps queries and ``readable`` (True where something may be read) to a narrower ``readable``, and to factors on
the weights, or None. Places are counted from 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.errors import unknown


class Everywhere(nn.Module):
    """Global attention: all that is readable."""

    def __init__(self, dim: int, *, heads: int = 1, window: int = 4):
        super().__init__()
        self.window = window

    def forward(
        self,
        query: Float[Tensor, "batch heads time dim"],
        readable: Bool[Tensor, "samples #heads time source"],
        first: int,
    ) -> tuple[Bool[Tensor, "any #heads time source"], Float[Tensor, "batch heads time source"] | None]:
        """Narrow what can be read.

        Arguments:
            query: the queries.
            readable: what could be read.
            first: place of the first query.
        """
        return readable, None


class NearMonotonic(Everywhere):
    """Local attention, monotonic: the ``2 * window + 1`` tokens around the query's own place."""

    def forward(self, query: Tensor, readable: Tensor, first: int) -> tuple[Tensor, Tensor | None]:
        place = first + torch.arange(query.shape[2], device=query.device)[:, None]
        source = torch.arange(readable.shape[-1], device=query.device)
        return readable & ((source - place).abs() <= self.window), None


class NearPredicted(Everywhere):
    """Local attention, predictive: around ``p = S sigmoid(v^T tanh(W q))``, where ``S`` tokens can be read.

    Weights outside of ``p - window`` to ``p + window`` are zero, those inside are multiplied by ``exp(-(s - p)^2 / (2
    sigma^2))`` with ``sigma = window / 2``, after they were shared out.
    """

    def __init__(self, dim: int, *, heads: int = 1, window: int = 4):
        super().__init__(dim, heads=heads, window=window)
        bound = dim**-0.5
        self.W = nn.Parameter(torch.empty(heads, dim, dim).uniform_(-bound, bound))
        self.v = nn.Parameter(torch.empty(heads, dim, 1).uniform_(-bound, bound))

    def forward(self, query: Tensor, readable: Tensor, first: int) -> tuple[Tensor, Tensor | None]:
        source = torch.arange(readable.shape[-1], device=query.device)
        size = (source * readable).amax(-1, keepdim=True) + 1
        share = ((query @ self.W).tanh() @ self.v).sigmoid()
        # bfloat16 counts to 256.
        distance = source - size * share.to(torch.promote_types(share.dtype, torch.float32))
        factor = torch.exp(-2 * (distance / self.window).square()).to(share.dtype)
        return readable & (distance.detach().abs() <= self.window), factor


REACHES: dict[str, type[Everywhere]] = {"global": Everywhere, "local-m": NearMonotonic, "local-p": NearPredicted}


def reach(which: str) -> type[Everywhere]:
    """A reach's class by its name."""
    if which not in REACHES:
        raise unknown("reach of attention", which, REACHES)
    return REACHES[which]
