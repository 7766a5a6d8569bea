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
from anabranch.compress.recording import recorded
from anabranch.compress.trunk import trunk_of
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

    All learn from one pass of the whole network, each by itself, and in closed form. The report's details hold, by the
    name of the mixer, the mean squared error over the variance of its output.

    Arguments:
        inputs: samples of what the network reads, with the mask or lengths where it takes them; the more, the better.
        blocks: indices of the blocks; all, if not given.
        features: random features of each.
        penalty: of the ridge regression, see :meth:`Bundled.solve`.
        seed: fixes the features.

    Raises (on conversion): ``ValueError`` if there is no such block, or one has no channel mixer.
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
        names = {part: name for name, part in module.named_modules()}
        hosts = {
            names[part]: names[block]
            for block in (blocks[i] for i in chosen)
            for part in block.children()
            if isinstance(part, ChannelMixer)
        }
        if bare := [i for i in chosen if names[blocks[i]] not in hosts.values()]:
            raise ValueError(f"expected blocks with a channel mixer; those of indices {bare} have none")
        with recorded(module, {*hosts, *hosts.values()}) as calls:
            module(*self.inputs)
        self.errors: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for name, host in hosts.items():
                old = cast(ChannelMixer, module.get_submodule(name))
                new = BundledChannel(old.dim, features=self.features).to(calls[name][0].output)
                mask = calls[host][0].facts.get("mask")
                read, given = (
                    torch.cat([(each if mask is None else each[mask]).reshape(-1, old.dim) for each in side])
                    for side in zip(*((call.args[0], call.output) for call in calls[name]), strict=True)
                )
                new.bundled.solve(read, given, penalty=self.penalty)
                self.errors[name] = float((new(read) - given).square().mean() / given.var(0, correction=0).mean())
                module.set_submodule(name, new)
        return module

    def details(self, before: nn.Module, after: Any, example: Tensor) -> dict[str, float]:
        return self.errors
