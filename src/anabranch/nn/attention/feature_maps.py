"""Feature maps: what turns a dot product into a kernel, ``phi(q) . phi(k)``. They act on the last dimension."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FeatureMap = Callable[[Tensor], Tensor]


def elu_plus_one(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """``elu(x) + 1``: positive, as many features as channels (arXiv 2006.16236, eq. 7)."""
    return F.elu(x) + 1


def outer_square(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch features"]:
    """All products ``x_a x_b``: ``dim ** 2`` features, for which ``phi(q) . phi(k) = (q . k) ** 2`` exactly."""
    return (x[..., :, None] * x[..., None, :]).flatten(-2)
