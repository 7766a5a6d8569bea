"""A transformer over time steps: what forecasters on patches are compared with, and where a mixer can be tried out."""

from collections.abc import Callable
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from anabranch.models.forecast.base import ChannelMode, Forecaster, Norm
from anabranch.models.forecast.patching import FlattenHead
from anabranch.models.metaformer import MetaFormer
from anabranch.models.positions import LearnedPositions
from anabranch.nn.feedforward.base import ChannelMixer
from anabranch.nn.norm.window import WindowNorm
from anabranch.spaces import Choice, Space


class PointTransformer(Forecaster):
    """One token per time step, a MetaFormer over them, and one linear head over all tokens.

    Arguments:
        dim: width of a token.
        depth: number of blocks.
        mixer: what fills the slot ``mixer`` of every block: a name, a class, or a factory.
        channel_mode: ``"mixed"``, as usual, makes a token of all channels at one step.

    See :class:`Forecaster` for ``channels``, ``past``, ``future`` and ``norm``.
    """

    space: ClassVar[Space] = {"depth": Choice(2, 1, 3)}

    def __init__(
        self,
        channels: int,
        past: int,
        future: int,
        *,
        dim: int = 64,
        depth: int = 2,
        mixer: str | Callable[..., Any] = "attention",
        channel_mode: ChannelMode = "mixed",
        norm: Norm | None = WindowNorm,
    ):
        super().__init__(channels, past, future, channel_mode=channel_mode, norm=norm)
        self.embed = nn.Linear(self.seen, dim)
        self.positions = LearnedPositions(dim, length=past)
        self.trunk = MetaFormer(dim, depth, mixer=mixer, length=past)
        self.last_norm = nn.LayerNorm(dim)
        self.head = FlattenHead(past, dim, future * self.seen)

    def predict(self, window: Float[Tensor, "rows past seen"]) -> Float[Tensor, "rows future seen"]:
        tokens = self.trunk(self.embed(window) + self.positions(self.past))
        return self.head(self.last_norm(tokens)).view(-1, self.future, self.seen)

    def cost(self) -> int:
        mixing = sum(block.mixer.cost(self.past) for block in self.trunk.blocks)
        channels = [module.cost() for module in self.trunk.modules() if isinstance(module, ChannelMixer)]
        ends = self.past * self.embed.weight.numel() + self.head.linear.weight.numel()
        return self.channels // self.seen * (mixing + self.past * sum(channels) + ends)
