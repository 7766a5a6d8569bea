"""Channel mixers of a trained network, each replaced by random features and one matrix that is solved for.

Sehanobish et al. 2023 (arXiv 2310.13225), section 4, for the perceptrons inside a transformer: what a channel mixer reads
goes through fixed random features, and the matrix behind them is the one that comes nearest to what the mixer gave.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.compress.base import Converter
from anabranch.compress.bundle import Bundled
from anabranch.compress.recording import Call, Missed, learning_type, recorded
from anabranch.compress.trunk import places_of, together, trunk_of
from anabranch.nn.feedforward import ChannelMixer
from anabranch.nn.feedforward.snnk import ReLUFeatures


class BundledChannel(ChannelMixer):
    """Random ReLU features of each token, then one matrix.

    Arguments:
        dim: channels of a token.
        features: number of features; below twice the width of a usual perceptron it is smaller than that.
    """

    def __init__(self, dim: int, *, features: int):
        super().__init__(dim)
        self.bundled = Bundled([ReLUFeatures(dim, features)], nn.Linear(features, dim))

    def transform(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return self.bundled(x)

    def cost(self) -> int:
        return 2 * self.dim * self.bundled.out.in_features


class BundleChannels(Converter):
    """Bundle the channel mixers of a network with one MetaFormer trunk, whatever their kind and their blocks' wiring.

    All learn from one pass of the whole network, each by itself, and in closed form; one that is called several times
    in that pass learns from all calls. The report's details hold, by the name of the mixer, the mean squared error over
    the variance of its output. What was frozen stays so.

    Arguments:
        inputs: samples of what the network reads, with the mask or lengths where it takes them; the more, the better.
        blocks: indices of the blocks; all, if not given.
        features: random features of each.
        penalty: of the ridge regression, see :meth:`Bundled.solve`.
        seed: fixes the features.

    Raises (on conversion): ``ValueError`` if there is no such block, one has no channel mixer, or a channel mixer of
    these blocks also stands in another one.
    """

    def __init__(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        *,
        blocks: Iterable[int] | None = None,
        features: int = 256,
        penalty: float = 1e-3,
        seed: int = 0,
    ):
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.blocks = None if blocks is None else list(blocks)
        self.features, self.penalty, self.seed = features, penalty, seed

    @torch.no_grad()
    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        blocks = trunk_of(module).blocks
        chosen = list(range(len(blocks))) if self.blocks is None else self.blocks
        if not chosen or not set(chosen) <= set(range(len(blocks))):
            raise ValueError(f"expected indices of blocks from 0 to {len(blocks) - 1}; got {chosen}")
        mixers = {i: [part for part in blocks[i].children() if isinstance(part, ChannelMixer)] for i in chosen}
        if bare := [i for i in chosen if not mixers[i]]:
            raise ValueError(f"expected blocks with a channel mixer; those of indices {bare} have none")
        places = together(module, places_of(module, chosen, (part for parts in mixers.values() for part in parts)))
        with recorded(module, [names[0] for names in places]) as calls:
            module(*self.inputs)
        self.errors: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for names in places:
                old = cast(ChannelMixer, module.get_submodule(names[0]))
                new, error = self.learned(old, calls[names[0]])
                for name in names:
                    module.set_submodule(name, new)
                    self.errors[name] = error
        return module

    def learned(self, old: ChannelMixer, calls: list[Call]) -> tuple[BundledChannel, float]:
        """What stands in for a channel mixer, and its error; solved for in at least float32."""
        dtype = calls[0].output.dtype
        heard = [call.to(learning_type(dtype)) for call in calls]
        new = BundledChannel(old.dim, features=self.features).to(heard[0].output)
        read, given = (
            torch.cat([(each if mask is None else each[mask]).reshape(-1, old.dim) for each, mask in side])
            for side in zip(*(((c.args[0], c.mask), (c.output, c.mask)) for c in heard), strict=True)
        )
        if not len(read):
            raise ValueError("expected inputs with at least one token that exists; got none")
        new.bundled.solve(read, given, penalty=self.penalty)
        missed = Missed()
        missed.add(new(read), given)
        weights = list(old.parameters())
        new.requires_grad_(not weights or any(p.requires_grad for p in weights))
        return new.to(dtype), missed.share()

    def details(self, before: nn.Module, after: Any, example: Tensor) -> dict[str, float]:
        return self.errors
