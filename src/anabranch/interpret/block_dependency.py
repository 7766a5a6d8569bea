"""Block dependency: how much what a block adds changes when an earlier block is left out (Bercovich et al. 2025).

arXiv 2503.18908, section 3: blocks that hardly depend on each other may run side by side, or be fused
(:class:`anabranch.compress.FFNFusion`).
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.data.task import Batch
from anabranch.interpret.base import Probe, Report
from anabranch.learning.base import forward
from anabranch.nn.block.base import Block
from anabranch.nn.feedforward.base import ChannelMixer

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class BlockDependency(Probe):
    """The matrix ``M[i, j] = 1 - cos(h_j, h_j without i)`` for the blocks of a model, or their channel mixers, in order.

    ``h_j`` is what block ``j`` adds to its input, and the cosine is averaged over all tokens that exist; a block is left
    out by handing its input on, a channel mixer by adding nothing. ``M[i, j]`` is 0 for ``j <= i``. A part that a pass
    calls several times stands there once for each call. Takes one more pass than there are calls.

    The report has ``parts``, their number, and where there are two, ``mean`` over the pairs and ``next``: the mean over
    neighbours. The array ``dependency`` is the matrix.

    Arguments:
        of: ``"blocks"``, which might run side by side, or ``"channels"``, which might be fused.
    """

    def __init__(self, model: nn.Module, data: Batch, *, of: Literal["blocks", "channels"] = "blocks"):
        super().__init__(model, data)
        if of not in ("blocks", "channels"):
            raise ValueError(f"of is 'blocks' or 'channels'; got {of!r}")
        self.kind = Block if of == "blocks" else ChannelMixer

    @torch.no_grad()
    def measure(self) -> Report:
        self.model.eval()
        whole = self.added(None)
        count = len(whole)
        matrix = np.zeros((count, count))
        for i in range(count - 1):
            without = self.added(i)
            for j in range(i + 1, count):
                alike = F.cosine_similarity(whole[j].tokens, without[j].tokens, dim=-1).double()
                exists = whole[j].exists
                matrix[i, j] = 1 - float((alike if exists is None else alike[exists]).mean())
        numbers = {"parts": float(count)}
        if count > 1:
            numbers["mean"] = float(matrix[np.triu_indices(count, 1)].mean())
            numbers["next"] = float(np.diagonal(matrix, 1).mean())
        return Report(numbers, partial(_figure, matrix), {"dependency": matrix})

    def added(self, left_out: int | None) -> list["Added"]:
        """What every call of a part adds to the stream, with one left out."""
        assert self.data is not None
        added: list[Added] = []
        masks: list[Tensor | None] = [None]  # of the block under way

        def enter(module: nn.Module, args: tuple[Tensor, ...], facts: dict[str, Any]) -> None:
            masks[0] = facts.get("mask")

        def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            skipped = args[0] if isinstance(module, Block) else torch.zeros_like(output)
            added.append(Added(output - args[0] if isinstance(module, Block) else output, masks[0]))
            return skipped if len(added) - 1 == left_out else None

        blocks = [part for part in self.model.modules() if isinstance(part, Block)]
        hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
        hooks += [part.register_forward_hook(record) for part in self.model.modules() if isinstance(part, self.kind)]
        try:
            forward(self.model, self.data)
        finally:
            for hook in hooks:
                hook.remove()
        return added


class Added(NamedTuple):
    """What a part added to the stream, and which tokens exist, if not all."""

    tokens: Float[Tensor, "batch time dim"]
    exists: Bool[Tensor, "batch time"] | None


def _figure(matrix: np.ndarray) -> "Figure":
    from plotly import graph_objects as go

    figure = go.Figure(go.Heatmap(z=matrix))
    figure.update_layout(
        title="How much a block depends on an earlier one", xaxis_title="part", yaxis_title="part left out"
    )
    return figure
