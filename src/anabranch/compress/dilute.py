"""Dilution: attentions that matter least fade into the identity while the network trains on, then leave it.

Lin et al. 2024 (arXiv 2404.05657), sections 3.2 and 3.3: choose them (:func:`choose_attentions`), make them fade
(:func:`dilute_attention`, then :func:`set_dilution` during training), delete them (:class:`RemoveDiluted`).
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.compress.base import Converter
from anabranch.compress.trunk import candidates, replace, trunk_of, untied, with_mixer, without_mixer
from anabranch.data.task import Batch
from anabranch.interpret.feature_entropy import features_of, gaussian_entropy, silenced
from anabranch.nn.block import PreNorm
from anabranch.nn.block.base import Mix, normalise


class Diluted(PreNorm):
    """``x = (2 - share) x + share mixer(norm x)``, then ``x + channel(norm x)``.

    With ``share`` 1 it is the block that it was made from; with 0 the token mixer is idle, and the channel mixer reads
    what the norm makes of ``2 x``: the same as of ``x``, but for the norm's epsilon.
    """

    share: Tensor

    def __init__(self, host: PreNorm):
        norms = iter((host.norm1, host.norm2))
        super().__init__(host.dim, mixer=lambda: host.mixer, channel=lambda: host.channel, norm=lambda: next(norms))
        self.branch1, self.branch2 = host.branch1, host.branch2
        self.register_buffer("share", torch.ones(()))
        self.train(host.training)

    def wire(
        self,
        x: Float[Tensor, "batch time dim"],
        mix: Mix,
        mask: Bool[Tensor, "batch time"] | None,
        earlier: list[Tensor],
    ) -> Float[Tensor, "batch time dim"]:
        share = self.share.to(x.dtype)
        x = (2 - share) * x + share * self.branch1(mix(normalise(self.norm1, x, mask)))
        return x + self.branch2(self.channel(normalise(self.norm2, x, mask)))


def dilute_attention(module: nn.Module, blocks: Sequence[int]) -> nn.Module:
    """A copy of a network in which the token mixers of these blocks can fade; they have not begun to.

    Arguments:
        module: has one MetaFormer trunk, whose blocks of these indices are ``PreNorm``.
        blocks: indices, for example from :func:`choose_attentions`.
    """
    copy = deepcopy(module)
    trunk = trunk_of(copy)
    for index in blocks:
        replace(trunk, index, Diluted(with_mixer(trunk, index)))
    return copy


def set_dilution(module: nn.Module, spent: float, *, end: float = 0.75) -> float:
    """Set how much of the fading token mixers is left, by the share of the training that is spent.

    Falls linearly from 1 to 0 at ``end``; the paper takes 299 of 400 epochs. What is left of the training, and every
    evaluation that counts, runs without them.

    Returns: the share that is left.
    """
    share = max(0.0, 1 - spent / end)
    for part in module.modules():
        if isinstance(part, Diluted):
            part.share.fill_(share)
    return share


class RemoveDiluted(Converter):
    """Delete the token mixers that have faded to nothing; the outputs stay the same to the bit.

    Raises (on conversion): ``ValueError`` if there is none, or one has not faded to nothing.
    """

    lossless = True

    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        trunk = trunk_of(module)
        faded = {i: block for i, block in enumerate(trunk.blocks) if isinstance(block, Diluted)}
        if not faded or any(float(block.share) for block in faded.values()):
            raise ValueError(
                f"expected diluted blocks with nothing left; got {[float(block.share) for block in faded.values()]}"
            )
        for index, block in faded.items():
            replace(trunk, index, without_mixer(block, gain=2.0))
        return module

    def details(self, before: nn.Module, after: Any, example: Tensor) -> dict[str, float]:
        removed = sum(isinstance(block, Diluted) for block in trunk_of(before).blocks)
        return {"mixers_removed": float(removed)}


def choose_attentions(module: nn.Module, data: Batch, fraction: float = 0.4) -> list[int]:
    """Blocks whose token mixers matter least to the features, in the order of their choice.

    Greedy: each time the one that, silenced together with those before,
    moves the entropy of the features least (:func:`anabranch.interpret.transfer_entropy`). Blocks that share a token
    mixer are silenced one by one.

    Arguments:
        data: a batch of many samples.
        fraction: how many, as a share of all; rounded.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a fraction from 0 to 1; got {fraction}")
    model = untied(module)
    trunk = trunk_of(model)
    left, chosen = candidates(trunk), []
    count = round(fraction * len(left))

    def moved(index: int) -> float:
        with silenced(with_mixer(trunk, i).mixer for i in (*chosen, index)):
            return abs(gaussian_entropy(features_of(model, data)) - whole)

    with torch.no_grad():
        whole = gaussian_entropy(features_of(model, data))
        for _ in range(count):
            best = min(left, key=moved)
            chosen.append(best)
            left.remove(best)
    return chosen
