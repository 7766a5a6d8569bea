"""Heads: from tokens to classes, numbers, the next byte, or the next frames."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.models.network import Head
from anabranch.nn.block.base import normalise
from anabranch.nn.streaming import State
from anabranch.slots import fill

Filler = str | Callable[..., Any]


class Classifier(Head):
    """Norm, pooling, one linear layer.

    Arguments:
        dim: channels of a token.
        outputs: number of classes.
        norm, pool: what fills the slots ``norm`` and ``pooling``.
        length: number of tokens, for poolings that need it.
        pool_first: pool, then norm, as PoolFormer does.
        zero_init: start the linear layer at zero, as MLP-Mixer does.

    Shapes: ``(batch, outputs)`` logits.
    """

    def __init__(
        self,
        dim: int,
        outputs: int,
        *,
        norm: Filler = "layernorm",
        pool: Filler = "mean",
        length: int | None = None,
        pool_first: bool = False,
        zero_init: bool = False,
    ):
        super().__init__()
        self.pool = fill("pooling", pool, dim=dim, **({} if length is None else {"length": length}))
        self.pool_first = pool_first
        self.norm = fill("norm", norm, dim=self.pool.out_dim if pool_first else dim)
        self.linear = nn.Linear(self.pool.out_dim, outputs)
        if zero_init:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch *out"]:
        if self.pool_first:
            return self.linear(self.norm(self.pool(x, mask)))
        return self.linear(self.pool(normalise(self.norm, x, mask), mask))


class Regressor(Classifier):
    """Norm, pooling, one linear layer to one number; the options are the classifier's.

    Shapes: ``(batch,)``.
    """

    def __init__(self, dim: int, **options: Any):
        super().__init__(dim, 1, **options)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch *out"]:
        return super().forward(x, mask)[:, 0]


class LanguageHead(Head):
    """Norm and one linear layer at every token: the logits of the token that comes next. Streams.

    Arguments:
        dim: channels of a token.
        outputs: number of different tokens; 256 for bytes.
        norm: what fills the slot ``norm``; it must treat each token by itself.
        tie: the stem's embedding, whose weights are then used here too (arXiv 1608.05859).

    Shapes: ``(batch, time, outputs)``.
    """

    def __init__(self, dim: int, outputs: int = 256, *, norm: Filler = "layernorm", tie: nn.Embedding | None = None):
        super().__init__()
        self.norm = fill("norm", norm, dim=dim)
        self.linear = nn.Linear(dim, outputs, bias=False)
        if tie is not None:
            if tie.weight.shape != self.linear.weight.shape:
                raise ValueError(f"expected an embedding ({outputs}, {dim}) to tie; got {tuple(tie.weight.shape)}")
            self.linear.weight = tie.weight

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch *out"]:
        return self.linear(normalise(self.norm, x, mask))

    def initial_state(self, batch: int) -> State:
        return ()

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch out"], State]:
        return self.linear(self.norm(x_t)), state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time out"], State]:
        return self.linear(self.norm(x)), state

    @property
    def streams(self) -> bool:
        return getattr(self.norm, "tokenwise", True)


class ForecastHead(Head):
    """Norm, pooling, and one linear layer to all coming frames at once.

    Arguments:
        dim: channels of a token.
        future: number of frames to predict.
        channels: channels of a frame.
        norm, pool: what fills the slots ``norm`` and ``pooling``: ``"last"``, or ``"flatten"`` with ``length``.
        length: number of tokens, for poolings that need it.

    Shapes: ``(batch, future, channels)``.
    """

    def __init__(
        self,
        dim: int,
        *,
        future: int,
        channels: int,
        norm: Filler = "layernorm",
        pool: Filler = "last",
        length: int | None = None,
    ):
        super().__init__()
        self.norm = fill("norm", norm, dim=dim)
        self.pool = fill("pooling", pool, dim=dim, **({} if length is None else {"length": length}))
        self.linear = nn.Linear(self.pool.out_dim, future * channels)
        self.future, self.channels = future, channels

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch *out"]:
        pooled = self.pool(normalise(self.norm, x, mask), mask)
        return self.linear(pooled).unflatten(-1, (self.future, self.channels))
