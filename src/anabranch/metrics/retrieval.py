"""Where the right thing stands when all are ordered by likeness."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def retrieval_ranks(
    found: Float[Tensor, "queries dim"], known: Float[Tensor, "things dim"], right: Int[Tensor, "queries"]
) -> Int[Tensor, "queries"]:
    """Place, from 1, of the right thing among all known ones, by the cosine of their vectors with the vector found.

    Of equals the right one has the last place, so that a constant vector earns nothing.
    """
    scores = F.normalize(found, dim=-1) @ F.normalize(known, dim=-1).mT
    return (scores >= scores.gather(1, right[:, None])).sum(1)
