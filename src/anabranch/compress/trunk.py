"""Where surgery finds the blocks of a network, and how it puts others in their places."""

from typing import Any

from torch import Tensor, nn

from anabranch.compress.base import Converter
from anabranch.models.metaformer import MetaFormer
from anabranch.nn.block import ChannelOnly, Parallel, PreNorm
from anabranch.nn.block.base import Block
from anabranch.nn.block.sequential import Sequential

# Wirings of which x + channel(norm x) is left when the token mixer adds nothing.
SEPARABLE = (PreNorm, Parallel)


def trunk_of(module: nn.Module) -> MetaFormer:
    """The one MetaFormer of a network.

    Raises: ``ValueError`` if there is none, or several.
    """
    found = [part for part in module.modules() if isinstance(part, MetaFormer)]
    if len(found) != 1:
        raise ValueError(f"expected a network with one MetaFormer trunk; {type(module).__name__} has {len(found)}")
    return found[0]


def with_mixer(trunk: MetaFormer, index: int, kinds: tuple[type[Sequential], ...] = (PreNorm,)) -> Any:
    """The block of that index, whose wiring is one of these kinds, with a token mixer.

    Raises: ``ValueError`` if there is no such block, or another wiring stands there.
    """
    fit = candidates(trunk, kinds)
    if index not in fit:
        raise ValueError(f"expected the index of a {_names(kinds)} block with a token mixer, one of {fit}; got {index}")
    return trunk.blocks[index]


def replace(trunk: MetaFormer, index: int, block: Block | None) -> None:
    """Put another block in the place of that index; nothing, if none is given."""
    for stage in trunk.stages:
        assert isinstance(stage, nn.ModuleList)
        if index < len(stage):
            if block is None:
                del stage[index]
            else:
                stage[index] = block
            return
        index -= len(stage)


def without_mixer(block: Sequential, gain: float = 1.0) -> ChannelOnly:
    """The block's second half, with the same parts."""
    rest = ChannelOnly(block.dim, channel=lambda: block.channel, norm=lambda: block.norm2, gain=gain)
    rest.branch2 = block.branch2
    return rest.train(block.training)


class DropMixers(Converter):
    """Take the token mixers, their norms and branches out of some blocks, and leave the channel mixers.

    Arguments:
        blocks: indices of the blocks.
    """

    def __init__(self, blocks: list[int]):
        self.blocks = list(blocks)

    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        trunk = trunk_of(module)
        for index in self.blocks:
            replace(trunk, index, without_mixer(with_mixer(trunk, index, SEPARABLE)))
        return module

    def details(self, before: nn.Module, after: Any, example: Tensor) -> dict[str, float]:
        return {"mixers_before": mixers(before), "mixers_after": mixers(after)}


def mixers(module: nn.Module) -> float:
    """Number of blocks that have a token mixer."""
    return float(sum(not isinstance(block, ChannelOnly) for block in trunk_of(module).blocks))


def candidates(trunk: MetaFormer, kinds: tuple[type[Sequential], ...] = (PreNorm,)) -> list[int]:
    """Indices of the blocks of these kinds, whose token mixers could be taken out.

    Raises: ``ValueError`` if there is none.
    """
    fit = [i for i, block in enumerate(trunk.blocks) if type(block) in kinds]
    if not fit:
        found = ", ".join(sorted({type(block).__name__ for block in trunk.blocks})) or "no block"
        raise ValueError(f"expected a trunk with {_names(kinds)} blocks; got {found}")
    return fit


def _names(kinds: tuple[type[Sequential], ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)
