"""How well a key answers a query: the first half of every attention (table 1 of Chaudhari et al. 2019, arXiv 1904.02874).

A score maps queries ``(batch, heads, time, dim)`` and keys ``(batch, heads, source, dim)`` to ``(batch, heads, time,
source)``, each head with weights of its own. Those that end in a vector ``v`` of weights can have ``outs`` of them, and
then give ``heads * outs`` scores: with one for every feature of the values, attention is multi-dimensional.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.errors import InputError, unknown
from anabranch.nn.attention.feature_maps import elu_plus_one


class Score(nn.Module):
    """Contract of a score.

    Arguments:
        dim: features of a query and of a key.
        heads: sets of weights side by side.
        outs: scores for each query and key; more than one only where ``many`` says so.
        length: most keys there can be, for scores that number them.
    """

    many: ClassVar[bool] = False

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__()
        if outs > 1 and not self.many:
            known = ", ".join(name for name, score in SCORES.items() if score.many)
            raise InputError(f"{type(self).__name__} gives one score for a query and a key; several give: {known}")
        self.dim, self.heads, self.outs = dim, heads, outs

    def weight(self, inputs: int, outputs: int) -> nn.Parameter:
        """A matrix for every head, of the size that nn.Linear starts with."""
        bound = 1 / math.sqrt(inputs)
        return nn.Parameter(torch.empty(self.heads, inputs, outputs).uniform_(-bound, bound))

    def forward(
        self, query: Float[Tensor, "batch heads time dim"], key: Float[Tensor, "batch heads source dim"]
    ) -> Float[Tensor, "batch scores time source"]:
        raise NotImplementedError

    def cost(self, time: int, source: int) -> int:
        """Multiply-adds of all heads."""
        return self.heads * time * source * self.dim


class Dot(Score):
    """``q . k``"""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.mT


class Scaled(Score):
    """``q . k / sqrt(dim)``"""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * self.dim**-0.5) @ key.mT


class Cosine(Score):
    """``q . k / (|q| |k|)``"""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT


class General(Score):
    """``k^T W q``"""

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        self.W = self.weight(dim, dim)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ self.W.mT @ key.mT

    def cost(self, time: int, source: int) -> int:
        return super().cost(time, source) + self.heads * time * self.dim**2


class Biased(General):
    """``k^T (W q + b)``"""

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        self.b = nn.Parameter(torch.zeros(heads, 1, dim))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return (query @ self.W.mT + self.b) @ key.mT


class Activated(General):
    """``tanh(k^T W q + b)``"""

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        self.b = nn.Parameter(torch.zeros(heads, 1, 1))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return (super().forward(query, key) + self.b).tanh()


class Kernel(Score):
    """``phi(q) . phi(k)`` with ``phi = elu + 1``; shared out by a distribution, unlike in linear attention."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return elu_plus_one(query) @ elu_plus_one(key).mT


def of_pairs(
    query: Float[Tensor, "batch heads time dim"], key: Float[Tensor, "batch heads source dim"]
) -> Float[Tensor, "batch heads dim time source"]:
    """The sum for every pair of a query and a key."""
    return query.mT[..., None] + key.mT[..., None, :]


def times(
    weight: Float[Tensor, "heads dim out"], pairs: Float[Tensor, "batch heads dim time source"]
) -> Float[Tensor, "batch heads out time source"]:
    """Every head's matrix, for every pair."""
    return (weight.mT @ pairs.flatten(3)).unflatten(-1, pairs.shape[3:])


class Additive(Score):
    """``v^T tanh(W1 q + W2 k + b)``"""

    many = True

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        self.W1, self.W2 = self.weight(dim, dim), self.weight(dim, dim)
        self.b = nn.Parameter(torch.zeros(heads, 1, dim))
        self.v = self.weight(dim, outs)

    def hidden(self, query: Tensor, key: Tensor) -> Float[Tensor, "batch heads dim time source"]:
        """``W1 q + W2 k + b`` of every pair: each product is formed once, not once a pair.

        The pairs come last, so that what follows is few large products whose results lie as the weights do.
        """
        return of_pairs(query @ self.W1 + self.b, key @ self.W2)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return self.readout(self.hidden(query, key).tanh())

    def readout(self, hidden: Float[Tensor, "batch heads dim time source"]) -> Tensor:
        return times(self.v, hidden).flatten(1, 2)

    def cost(self, time: int, source: int) -> int:
        return self.heads * self.dim * ((time + source) * self.dim + time * source * self.outs)


class Concat(Additive):
    """``v^T tanh(W [q; k] + b)``: the additive score with both matrices in one."""

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        del self.W1, self.W2
        self.W = self.weight(2 * dim, dim)

    def hidden(self, query: Tensor, key: Tensor) -> Float[Tensor, "batch heads dim time source"]:
        W1, W2 = self.W.chunk(2, dim=1)
        return of_pairs(query @ W1 + self.b, key @ W2)


class Deep(Concat):
    """``v^T gelu(U gelu(W [q; k] + b) + c)``: a perceptron with two hidden layers on every pair."""

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        self.U = self.weight(dim, dim)
        self.c = nn.Parameter(torch.zeros(heads, dim, 1, 1))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return self.readout(F.gelu(times(self.U, F.gelu(self.hidden(query, key))) + self.c))

    def cost(self, time: int, source: int) -> int:
        return super().cost(time, source) + self.heads * time * source * self.dim**2


class Location(Score):
    """``(W q)_j``: where to read follows from the query alone, whatever stands there (Luong et al. 2015).

    Arguments:
        length: most keys there can be.
    """

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        if length is None:
            raise InputError("the score 'location' has a weight for every place: give it the largest length")
        self.length = length
        self.W = self.weight(dim, length)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        if key.shape[2] > self.length:
            raise ValueError(f"the score 'location' was built for {self.length} tokens; got {key.shape[2]}")
        return query @ self.W[:, :, : key.shape[2]]


class Feature(Score):
    """``v^T tanh(W k + b)``: how important a key is, whatever the query."""

    many = True

    def __init__(self, dim: int, *, heads: int = 1, outs: int = 1, length: int | None = None):
        super().__init__(dim, heads=heads, outs=outs)
        self.W = self.weight(dim, dim)
        self.b = nn.Parameter(torch.zeros(heads, 1, dim))
        self.v = self.weight(dim, outs)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        scores = (key @ self.W + self.b).tanh() @ self.v
        return scores.mT.flatten(1, 2)[:, :, None].expand(-1, -1, query.shape[2], -1)

    def cost(self, time: int, source: int) -> int:
        return self.heads * source * self.dim * (self.dim + self.outs)


SCORES: dict[str, type[Score]] = {
    "dot": Dot,
    "scaled": Scaled,
    "cosine": Cosine,
    "general": General,
    "biased": Biased,
    "activated": Activated,
    "kernel": Kernel,
    "concat": Concat,
    "additive": Additive,
    "deep": Deep,
    "location": Location,
    "feature": Feature,
}


def score(which: str | Callable[..., Score]) -> Callable[..., Score]:
    """A score's class by its name, or any factory with the same arguments."""
    if not isinstance(which, str):
        return which
    if which not in SCORES:
        raise unknown("score of attention", which, SCORES)
    return SCORES[which]
