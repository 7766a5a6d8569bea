"""Where surgery finds the blocks of a network, and how it puts others in their places."""

from collections.abc import Iterable
from copy import deepcopy
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from anabranch.compress.base import Converter
from anabranch.models.metaformer import MetaFormer
from anabranch.nn.block import ChannelOnly, Parallel, PreNorm
from anabranch.nn.block.base import Block
from anabranch.nn.block.sequential import Sequential

Model = TypeVar("Model", bound=nn.Module)
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


def together(model: nn.Module, chosen: Iterable[str]) -> list[list[str]]:
    """The chosen names of a model's parts, those of one and the same part together.

    Raises: ``ValueError`` if one of these parts also stands at a place that was not chosen.
    """
    named = list(model.named_modules(remove_duplicate=False))
    parts, places = dict(named), {}
    for name in chosen:
        places.setdefault(parts[name], []).append(name)
    for part, names in places.items():
        if others := [name for name, each in named if each is part and name not in names]:
            raise ValueError(
                f"expected all places of a part that is shared; got {', '.join(names)} without {', '.join(others)}"
            )
    return list(places.values())


def places_of(model: nn.Module, blocks: Iterable[int], parts: Iterable[nn.Module]) -> list[str]:
    """Names under which these parts stand in the blocks of these indices, in the order of the blocks."""
    trunk = trunk_of(model)
    wanted, named = set(parts), list(model.named_modules(remove_duplicate=False))
    paths = [f"stages.{i}.{j}." for i, stage in enumerate(trunk.stages) for j in range(len(stage))]  # pyright: ignore
    hosts = [f"{name}.{paths[i]}".lstrip(".") for i in blocks for name, part in named if part is trunk]
    return list(
        dict.fromkeys(name for host in hosts for name, part in named if part in wanted and name.startswith(host))
    )


def untied(module: Model) -> Model:
    """The network again, with the same tensors, but every block and every mixer an object of its own, in eval mode.

    There one place can be silenced alone, although it shares its weights with others.
    """
    tensors = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    copy = deepcopy(module, dict(tensors)).eval()
    trunk = trunk_of(copy)
    for index, block in enumerate(trunk.blocks):
        replace(trunk, index, deepcopy(block, dict(tensors)))
    return copy


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
