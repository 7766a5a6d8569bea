"""FFN fusion: channel mixers in a row become one wide one that reads the row's first input (Bercovich et al. 2025).

arXiv 2503.18908. Where token mixers were taken out of a trained network, channel mixers follow one another;
``x + F_1(x)``, then ``x + F_2(x)`` and so on becomes ``x + F_1(x) + F_2(x) + ...``, which is one perceptron with all
hidden units side by side: as many weights and operations, fewer steps one after the other.
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from anabranch.compress.base import Converter
from anabranch.compress.trunk import SEPARABLE, candidates, replace, trunk_of, untied, with_mixer
from anabranch.data.task import Batch
from anabranch.interpret.feature_entropy import silenced
from anabranch.learning.base import forward
from anabranch.models.metaformer import MetaFormer
from anabranch.nn.block import ChannelOnly
from anabranch.nn.feedforward import MLP, GatedMLP
from anabranch.nn.norm import LayerNorm, RMSNorm


class FFNFusion(Converter):
    """Fuse runs of channel mixers in a MetaFormer of pre-norm or parallel blocks.

    A run is a block, with or without a token mixer, and those behind it that have none. The first keeps its place and
    gets the wide perceptron; the others are deleted. The norms' gains and shifts, and layer scale, are folded into the
    weights, so that the fused perceptron equals the sum of the others up to rounding; it trains if any of them did. What
    changes is only that all read the first one's input: how much that costs,
    :class:`anabranch.interpret.BlockDependency` foretells, and a short distillation repairs.

    Arguments:
        runs: first and last index of each run; :func:`ffn_runs`, the longest ones, if not given.
        keep_last: leave the last channel mixer of every run as it is.

    Raises (on conversion): ``ValueError`` if a run is none, or if its channel mixers or norms are not all of one kind:
    ``MLP`` or ``GatedMLP`` with one activation, which has no weights and treats each hidden unit by itself;
    ``LayerNorm`` or ``RMSNorm``.
    """

    def __init__(self, *, runs: Sequence[tuple[int, int]] | None = None, keep_last: bool = False):
        self.runs, self.keep_last = runs, keep_last

    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        trunk = trunk_of(module)
        whole = ffn_runs(trunk)
        runs = sorted(whole if self.runs is None else self.runs, reverse=True)
        for first, last in runs:
            if not any(a <= first <= last <= b for a, b in whole) and first != last:
                raise ValueError(f"expected runs within {whole}; got {(first, last)}")
        if any(earlier[1] >= later[0] for later, earlier in pairwise(runs)):
            raise ValueError(f"expected runs that have no block in common; got {runs}")
        for first, last in runs:
            fuse(trunk, first, last - self.keep_last)
        return module

    def details(self, before: nn.Module, after: Any, example: Tensor) -> dict[str, float]:
        return {
            "blocks_before": float(len(trunk_of(before).blocks)),
            "blocks_after": float(len(trunk_of(after).blocks)),
        }


def ffn_runs(trunk: MetaFormer) -> list[tuple[int, int]]:
    """First and last index of every longest run of at least two channel mixers with no token mixer between them."""
    runs: list[tuple[int, int]] = []
    start = 0
    for stage in trunk.stages:
        first = None
        for index, block in enumerate(stage, start):  # pyright: ignore
            # A gain would scale the later channel mixers' input.
            if type(block) is ChannelOnly and block.gain == 1 and first is not None:
                if runs and runs[-1][0] == first:
                    runs.pop()
                runs.append((first, index))
            else:
                first = index if type(block) in (ChannelOnly, *SEPARABLE) else None
        start += len(stage)  # pyright: ignore
    return runs


def fuse(trunk: MetaFormer, first: int, last: int) -> None:
    """Fuse one run in place; a run of one stays as it is."""
    if last <= first:
        return
    blocks: list[Any] = trunk.blocks[first : last + 1]
    norms, channels = [block.norm2 for block in blocks], [block.channel for block in blocks]
    if not alike(norms, (LayerNorm, RMSNorm)) or len({norm.epsilon for norm in norms}) > 1:
        raise ValueError(f"a run needs norms of one kind, LayerNorm or RMSNorm; got {kinds(norms)}")
    if not alike(channels, (MLP, GatedMLP)) or len({repr(channel.activation) for channel in channels}) > 1:
        raise ValueError(f"a run needs channel mixers of one kind, MLP or GatedMLP; got {kinds(channels)}")
    if any(True for channel in channels for _ in channel.activation.parameters()):
        raise ValueError("an activation with weights cannot be shared by a run")
    activations = [channel.activation for channel in channels]
    if not one_function(activations, channels[0].widen.weight.device):
        raise ValueError(f"a run needs one activation that acts unit by unit; got {', '.join(map(repr, activations))}")
    trains = any(p.requires_grad for channel in channels for p in channel.parameters())
    folded = [_fold(block) for block in blocks]
    host = deepcopy(blocks[0])  # another place may share its weights
    # The gain-free norm that all of the run share: its weights stay where they start.
    host.norm2 = _plain(host.norm2)
    host.channel = _wide(host.channel, folded).requires_grad_(trains)
    host.branch2.scale = None
    replace(trunk, first, host)
    for _ in blocks[1:]:
        replace(trunk, first + 1, None)


def alike(parts: Sequence[nn.Module], known: tuple[type[nn.Module], ...]) -> bool:
    """Whether all are of one and the same of the known classes."""
    return type(parts[0]) in known and len({type(part) for part in parts}) == 1


@torch.no_grad()
def one_function(activations: Sequence[nn.Module], device: torch.device) -> bool:
    """Whether all give the same for some numbers, and that also when these come in two pieces."""
    probe = 4 * torch.randn(2, 1, 65, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        whole = [activation(probe.clone()) for activation in activations]
        pieces = [
            torch.cat([activation(each.clone()) for each in probe.split(31, -1)], -1) for activation in activations
        ]
    except (RuntimeError, ValueError):  # made for another number of units
        return False
    return all(each.shape == probe.shape and torch.allclose(each, whole[0], equal_nan=True) for each in whole + pieces)


def kinds(parts: Sequence[nn.Module]) -> str:
    return ", ".join(type(part).__name__ for part in parts)


class Folded(NamedTuple):
    """A channel mixer's two linear maps, after its norm's gain and shift and before its layer scale are folded in."""

    widen: Tensor
    widen_bias: Tensor
    narrow: Tensor
    narrow_bias: Tensor


@torch.no_grad()
def _fold(block: Any) -> Folded:
    norm, channel, scale = block.norm2, block.channel, block.branch2.scale
    shift = getattr(norm, "bias", None)
    widen, narrow = channel.widen, channel.narrow
    before = widen.weight.new_zeros(len(widen.weight)) if widen.bias is None else widen.bias
    after = narrow.weight.new_zeros(len(narrow.weight)) if narrow.bias is None else narrow.bias
    scale = torch.ones_like(after) if scale is None else scale
    return Folded(
        widen.weight * norm.weight,
        before if shift is None else before + widen.weight @ shift,
        scale[:, None] * narrow.weight,
        scale * after,
    )


def _plain(norm: nn.Module) -> nn.Module:
    """The same norm with gain 1 and shift 0."""
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.fill_(float(name == "weight"))
    return norm


@torch.no_grad()
def _wide(like: Any, folded: list[Folded]) -> nn.Module:
    """One channel mixer with the hidden units of all side by side."""
    if isinstance(like, GatedMLP):  # the first half of its hidden units are gates
        halves = [(part.widen.chunk(2), part.widen_bias.chunk(2)) for part in folded]
        widen = torch.cat([weight[half] for half in (0, 1) for weight, _ in halves])
        bias = torch.cat([bias[half] for half in (0, 1) for _, bias in halves])
    else:
        widen, bias = torch.cat([part.widen for part in folded]), torch.cat([part.widen_bias for part in folded])
    like.hidden = sum(part.narrow.shape[1] for part in folded)
    like.widen = _linear(widen, bias)
    like.narrow = _linear(torch.cat([part.narrow for part in folded], 1), sum(part.narrow_bias for part in folded))
    return like


def _linear(weight: Tensor, bias: Any) -> nn.Linear:
    """A linear map; without a bias where that is all zeros."""
    has_bias = bool(bias.any())
    linear = cast(
        nn.Linear,
        skip_init(nn.Linear, weight.shape[1], len(weight), bias=has_bias, device=weight.device, dtype=weight.dtype),
    )
    linear.weight.copy_(weight)
    if has_bias:
        linear.bias.copy_(bias)
    return linear


@torch.no_grad()
def least_needed_mixers(module: nn.Module, data: Batch, count: int) -> list[int]:
    """Blocks whose token mixers a classifier or language model can best do without, in the order of their choice.

    Greedy: each time the one without which, after those before, the output's distribution moves least from the whole
    model's, by the Kullback-Leibler divergence over all tokens that exist. Blocks that share a token mixer are silenced
    one by one. (The paper uses a search of its own, Puzzle.)

    Arguments:
        data: a batch that the module can read; its outputs are logits along the last axis.
        count: how many to choose.
    """
    model = untied(module)
    trunk = trunk_of(model)
    left, chosen = candidates(trunk, SEPARABLE), []
    if not 0 <= count <= len(left):
        raise ValueError(f"expected a count from 0 to {len(left)}; got {count}")

    def divergence(index: int) -> float:
        with silenced(with_mixer(trunk, i, SEPARABLE).mixer for i in (*chosen, index)):
            return float(F.kl_div(_predicted(model, data), whole, reduction="sum", log_target=True))

    whole = _predicted(model, data)
    for _ in range(count):
        best = min(left, key=divergence)
        chosen.append(best)
        left.remove(best)
    return chosen


def _predicted(model: nn.Module, data: Batch) -> Float[Tensor, "*places outputs"]:
    """Logarithms of what the model predicts; at the tokens that exist, if it predicts something at each."""
    trunk, masks = trunk_of(model), []
    hook = trunk.register_forward_pre_hook(
        lambda _, args, facts: masks.append(trunk.mask_after(facts.get("mask"), facts.get("grid"))), with_kwargs=True
    )
    try:
        found = forward(model, data).log_softmax(-1)
    finally:
        hook.remove()
    mask = masks[-1] if masks else None
    return found if mask is None or found.shape[:-1] != mask.shape else found[mask]
