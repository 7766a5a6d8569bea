"""Attention of every kind that the surveys list, taken apart: a score, a distribution, a reach (Chaudhari et al. 2019,
arXiv 1904.02874)."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.errors import unknown
from anabranch.nn.attention.base import MultiHead, Projected
from anabranch.nn.attention.distributions import Distribution, distribution
from anabranch.nn.attention.reach import Everywhere
from anabranch.nn.attention.reach import reach as find_reach
from anabranch.nn.attention.scores import Location, Score
from anabranch.nn.attention.scores import score as find_score
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State

REPRESENTATIONS = ("shared", "per-feature")


class Alignment(nn.Module):
    """The weights of an attention: how much each query reads of each key. For :class:`Attend`, for encoder-decoders,
    for whatever has queries and keys of its own.

    Arguments:
        dim: features of a query and of a key, in one head.
        score: ``"dot"``, ``"scaled"``, ``"cosine"``, ``"general"``, ``"biased"``, ``"activated"``, ``"kernel"``,
            ``"concat"``, ``"additive"``, ``"deep"``, ``"location"``, ``"feature"``, or a factory of a
            :class:`~anabranch.nn.attention.scores.Score`.
        distribute: ``"softmax"``, ``"sigmoid"``, ``"sparsemax"``, ``"entmax15"``, ``"hard"``, or a function of scores
            and ``readable``.
        reach: ``"global"``, ``"local-m"`` (around the query's own place) or ``"local-p"`` (around a predicted one).
        window: tokens on either side of the centre that a local reach sees.
        heads: sets of weights side by side.
        outs: weights for each query and key, one after the other behind each head.
        length: most keys there can be; only the score ``"location"`` needs it.

    Raises: ``InputError`` for a name that does not exist; ``ValueError`` for a window below 1.
    """

    def __init__(
        self,
        dim: int,
        *,
        score: str | Callable[..., Score] = "scaled",
        distribute: str | Distribution = "softmax",
        reach: str = "global",
        window: int = 4,
        heads: int = 1,
        outs: int = 1,
        length: int | None = None,
    ):
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1; got {window}")
        self.score = find_score(score)(dim, heads=heads, outs=outs, length=length)
        self.distribute = distribution(distribute)
        self.reach = find_reach(reach)(dim, heads=heads, window=window)

    def forward(
        self,
        query: Float[Tensor, "batch heads time dim"],
        key: Float[Tensor, "batch heads source dim"],
        readable: Bool[Tensor, "samples #heads #time source"] | None = None,
        *,
        first: int = 0,
    ) -> Float[Tensor, "batch weights time source"]:
        """The weights; zero where nothing may be read.

        Arguments:
            query: the queries.
            key: the keys.
            readable: True where a query may read a key; everywhere if not given.
            first: place of the first query, for a local reach.
        """
        scores = self.score(query, key)
        factor = None
        if type(self.reach) is not Everywhere:
            time, source = scores.shape[-2:]
            if readable is None:
                readable = torch.ones(1, 1, 1, source, dtype=torch.bool, device=scores.device)
            readable, factor = self.reach(query, readable.expand(-1, -1, time, -1), first)
        outs = scores.shape[1] // query.shape[1]
        if readable is not None and readable.shape[1] > 1 and outs > 1:
            readable = readable.repeat_interleave(outs, dim=1)
        weights = self.distribute(scores, readable)
        return weights if factor is None else weights * factor.repeat_interleave(outs, dim=1)


class Attend(MultiHead):
    """Every token reads a weighted sum of the others; what the weights are is put together from parts.

    A causal one streams like :class:`~anabranch.nn.attention.SoftmaxAttention`: its state holds the keys and values of
    all tokens so far, up to ``max_len``. Where nothing is left to read, what is read is zero, and the output is the
    output layer's bias. With ``distribute="hard"`` the
    gradient is an estimate.

    Arguments:
        dim: channels of a token.
        score, distribute, reach, window: see :class:`Alignment`.
        representation: ``"shared"`` for one weight on all features of a value; ``"per-feature"`` for a weight on each
            (multi-dimensional attention, Shen et al. 2018, arXiv 1709.04696), which needs the score ``"additive"``,
            ``"concat"``, ``"deep"`` or ``"feature"``.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        causal: read no later token; such an attention reads its own sequence only.
        bias: whether the linear maps have biases.
        length: number of tokens, for the score ``"location"``.
        max_len: largest number of tokens held while streaming.

    Raises: ``InputError`` for a name that does not exist, or a score that cannot give a weight per feature;
        ``ValueError`` if ``dim`` is not a multiple of ``heads``.
    """

    def __init__(
        self,
        dim: int,
        *,
        score: str | Callable[..., Score] = "scaled",
        distribute: str | Distribution = "softmax",
        reach: str = "global",
        window: int = 4,
        representation: Literal["shared", "per-feature"] = "shared",
        heads: int = 4,
        causal: bool = False,
        bias: bool = True,
        length: int | None = None,
        max_len: int = 4096,
    ):
        super().__init__(dim, heads=heads, causal=causal, bias=bias)
        if representation not in REPRESENTATIONS:
            raise unknown("representation of attention", representation, REPRESENTATIONS)
        self.max_len = max_len
        self.outs = self.head_dim if representation == "per-feature" else 1
        self.align = Alignment(
            self.head_dim,
            score=score,
            distribute=distribute,
            reach=reach,
            window=window,
            heads=heads,
            outs=self.outs,
            length=length,
        )
        located = isinstance(self.align.score, Location)
        self.longest = length if located else None
        self.equivariant = not (causal or located or reach != "global")

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        read = self.read(x, context)
        return self.project(self.aligned(read, mask) @ self.by_weight(read.value))

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        return self.aligned(self.read(x, x if context is None else context), None)

    def values(self, context: Float[Tensor, "batch source dim"]) -> Float[Tensor, "batch heads source value"]:
        return self.by_weight(super().values(context))

    def aligned(self, read: Projected, mask: Bool[Tensor, "batch source"] | None, first: int = 0) -> Tensor:
        """The weights for queries of which the first stands at place ``first``."""
        time, source = read.query.shape[2], read.key.shape[2]
        readable = None if mask is None else mask[:, None, None, :]
        if self.causal and time > 1:
            earlier = self.earlier(source, read.key.device, new=time)[None, None]
            readable = earlier if readable is None else readable & earlier
        return self.align(read.query, read.key, readable, first=first).to(read.value.dtype)

    def by_weight(self, value: Float[Tensor, "batch heads source value"]) -> Tensor:
        """Values side by side as the weights are: with a weight per feature, every feature is a head of its own."""
        return value if self.outs == 1 else value.transpose(2, 3).flatten(1, 2)[..., None]

    def initial_state(self, batch: int) -> State:
        empty = self.zeros(batch, self.heads, 0, self.head_dim)
        return {"key": empty, "value": empty}

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        query, key, value = self.read(x, x)
        held = state["key"].shape[2]
        key, value = torch.cat([state["key"], key], 2), torch.cat([state["value"], value], 2)
        if key.shape[2] > self.max_len:
            raise ValueError(f"this attention holds at most {self.max_len} tokens while streaming; got {key.shape[2]}")
        weights = self.aligned(Projected(query, key, value), None, first=held)
        return self.project(weights @ self.by_weight(value)), {"key": key, "value": value}

    def cost(self, n: int) -> int:
        predict = 0 if not list(self.align.reach.parameters()) else n * self.dim * (self.head_dim + 1)
        return 4 * n * self.dim**2 + n**2 * self.dim + self.align.score.cost(n, n) + predict


def additive_attention(dim: int, *, heads: int = 4, causal: bool = False) -> Attend:
    """Attention whose score is a small perceptron on query and key (Bahdanau et al. 2015, arXiv 1409.0473)."""
    return Attend(dim, score="additive", heads=heads, causal=causal)


def cosine_attention(dim: int, *, heads: int = 4, causal: bool = False) -> Attend:
    """Attention by the angle of query and key, whatever their lengths."""
    return Attend(dim, score="cosine", heads=heads, causal=causal)


def sparsemax_attention(dim: int, *, heads: int = 4, causal: bool = False) -> Attend:
    """Attention that gives most tokens no weight at all."""
    return Attend(dim, distribute="sparsemax", heads=heads, causal=causal)


def entmax_attention(dim: int, *, heads: int = 4, causal: bool = False) -> Attend:
    """Attention between softmax and sparsemax: smooth, with weights that are exactly zero."""
    return Attend(dim, distribute="entmax15", heads=heads, causal=causal)


def sigmoid_attention(dim: int, *, heads: int = 4, causal: bool = False) -> Attend:
    """Attention whose weights do not compete: each token is read or not for itself."""
    return Attend(dim, distribute="sigmoid", heads=heads, causal=causal)


def local_attention(dim: int, *, heads: int = 4, causal: bool = False, window: int = 4) -> Attend:
    """Attention to a window around a place that each token predicts (Luong et al. 2015, local-p)."""
    return Attend(dim, reach="local-p", window=window, heads=heads, causal=causal)


def multidimensional_attention(dim: int, *, heads: int = 4, causal: bool = False) -> Attend:
    """Attention with a weight for each feature instead of each token (Shen et al. 2018)."""
    return Attend(dim, score="additive", representation="per-feature", heads=heads, causal=causal)
