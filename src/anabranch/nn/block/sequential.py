"""The transformer's wirings: first the tokens are mixed, then the channels, each around a residual connection."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.block.base import Block, Branch, Mix, normalise
from anabranch.nn.feedforward.base import ChannelMixer
from anabranch.nn.mixing.base import TokenMixer


class Sequential(Block):
    """Parts of a block that mixes tokens, then channels; where the norms stand is left to the subclasses."""

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
        super().__init__(dim, mixer=mixer, channel=channel, norm=norm, layer_scale=layer_scale, drop_path=drop_path)
        self.norm1, self.mixer = norm(), mixer()
        self.norm2, self.channel = norm(), channel()
        self.branch1 = Branch(dim, layer_scale=layer_scale, drop_path=drop_path)
        self.branch2 = Branch(dim, layer_scale=layer_scale, drop_path=drop_path)


class PreNorm(Sequential):
    """``y = x + mixer(norm x)``, then ``y + channel(norm y)`` (arXiv 2002.04745)."""

    def wire(
        self,
        x: Float[Tensor, "batch time dim"],
        mix: Mix,
        mask: Bool[Tensor, "batch time"] | None,
        earlier: list[Tensor],
    ) -> Float[Tensor, "batch time dim"]:
        x = x + self.branch1(mix(normalise(self.norm1, x, mask)))
        return x + self.branch2(self.channel(normalise(self.norm2, x, mask)))


class PostNorm(Sequential):
    """``y = norm(x + mixer(x))``, then ``norm(y + channel(y))`` (arXiv 1706.03762)."""

    def wire(
        self,
        x: Float[Tensor, "batch time dim"],
        mix: Mix,
        mask: Bool[Tensor, "batch time"] | None,
        earlier: list[Tensor],
    ) -> Float[Tensor, "batch time dim"]:
        x = normalise(self.norm1, x + self.branch1(mix(x)), mask)
        return normalise(self.norm2, x + self.branch2(self.channel(x)), mask)
