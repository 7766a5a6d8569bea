"""Block wiring: the slot that says how mixer, channel mixer, norms and residual connections are joined."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.feedforward.base import ChannelMixer
from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.nn.streaming import State, Streaming
from anabranch.spaces import Space

Mix = Callable[[Tensor], Tensor]


class Block(Streaming):
    """Contract of the slot ``block``: ``(batch, time, dim) -> (batch, time, dim)``.

    A subclass builds its parts in the constructor, one of them the token mixer under the name ``mixer``, and
    implements :meth:`wire`, once for whole sequences and for streams alike: there the mixer is handed in as a
    function, everything else treats each token by itself.

    Arguments of every constructor, all from the skeleton but the subclass's own options:
        dim: channels of a token.
        mixer, channel, norm: makers; each call builds one more such part for this place. Facts that only the wiring
            knows are given to the call and reach the part's constructor if it names them.
        layer_scale: first value of a learned factor per channel on what a branch adds; none if not given.
        drop_path: share of samples for which a branch is left out of a training step.
    """

    mixer: TokenMixer
    no_compile: ClassVar[str | None] = None
    space: ClassVar[Space] = {}

    def __init__(
        self,
        dim: int,
        *,
        mixer: Callable[..., TokenMixer],
        channel: Callable[..., ChannelMixer],
        norm: Callable[..., nn.Module],
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1; got {dim}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1; got {drop_path}")
        self.dim = dim

    def wire(
        self,
        x: Float[Tensor, "batch time dim"],
        mix: Mix,
        mask: Bool[Tensor, "batch time"] | None,
        earlier: list[Tensor],
    ) -> Float[Tensor, "batch time dim"]:
        """The wiring.

        Arguments:
            x: the tokens.
            mix: the token mixer, applied to normalised tokens.
            mask: True for tokens that exist; norms that look at several tokens need it.
            earlier: a list that all blocks of one stage share for the length of one pass. It starts with the stage's
                input. A wiring whose later blocks read earlier ones appends what it wants them to see.
        """
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: Grid | None = None,
        earlier: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Run on whole sequences; arguments as in :class:`TokenMixer` and :meth:`wire`."""
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"{type(self).__name__} expected (batch, time, {self.dim}); got {tuple(x.shape)}")
        return self.wire(x, lambda h: self.mixer(h, mask=mask, grid=grid), mask, [x] if earlier is None else earlier)

    @property
    def streams(self) -> bool:
        """A mixer that lags would meet the wrong frame at the residual connection, so it must not."""
        return self.mixer.streams and self.mixer.latency == 0 and tokenwise(self)

    def initial_state(self, batch: int) -> State:
        return self.mixer.initial_state(batch)

    def step(
        self, x_t: Float[Tensor, "batch dim"], state: State, earlier: list[Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], State]:
        def mix(h: Tensor) -> Tensor:
            nonlocal state
            y_t, state = self.mixer.step(h[:, 0], state)
            return y_t[:, None]

        x = x_t[:, None]
        return self.wire(x, mix, None, [x] if earlier is None else earlier)[:, 0], state

    def chunk(
        self, x: Float[Tensor, "batch time dim"], state: State, earlier: list[Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        def mix(h: Tensor) -> Tensor:
            nonlocal state
            y, state = self.mixer.chunk(h, state)
            return y

        return self.wire(x, mix, None, [x] if earlier is None else earlier), state


def tokenwise(module: nn.Module) -> bool:
    """Whether every norm inside treats each token by itself."""
    return all(getattr(part, "tokenwise", True) for part in module.modules())


def normalise(norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Apply a norm; one that looks at several tokens is told which exist."""
    return norm(x) if getattr(norm, "tokenwise", True) else norm(x, mask=mask)


class Branch(nn.Module):
    """What happens to a branch's output before it joins the stream again: layer scale, then drop path.

    Layer scale: arXiv 2103.17239; drop path (stochastic depth): arXiv 1603.09382, with the kept samples scaled up so
    that the expected output stays the same.
    """

    def __init__(self, dim: int, *, layer_scale: float | None = None, drop_path: float = 0.0):
        super().__init__()
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = drop_path

    def forward(self, update: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        if self.scale is not None:
            update = update * self.scale
        if self.training and self.drop_path:
            keep = torch.empty(len(update), 1, 1, device=update.device, dtype=update.dtype)
            update = update * keep.bernoulli_(1 - self.drop_path) / (1 - self.drop_path)
        return update
