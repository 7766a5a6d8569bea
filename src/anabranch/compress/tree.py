"""A network turned into the decision tree that it is (Aytekin 2022, arXiv 2210.05189), as a converter."""

import torch
from torch import Tensor, nn

from anabranch.compress.base import Converter
from anabranch.theory.regions import to_tree
from anabranch.theory.regions_tree import AffineTree


class ToTree(Converter):
    """Replace a piecewise-linear network by an ``AffineTree``: the same outputs, with rules that can be read.

    Not a compressor in general: a tree does little work per input, but stores a map per region. Both are in the
    report's details, next to the largest error of the chords that stand for a smooth activation.

    Arguments:
        domain, prune, pieces, max_leaves: as in ``to_tree``.
    """

    lossless = True

    def __init__(
        self,
        *,
        domain: tuple[float | Tensor, float | Tensor] | None = None,
        prune: bool = True,
        pieces: int | None = None,
        max_leaves: int = 2**14,
    ):
        self.domain, self.prune, self.pieces, self.max_leaves = domain, prune, pieces, max_leaves

    def transform(self, module: nn.Module, example: Tensor) -> AffineTree:
        return to_tree(
            module,
            torch.zeros_like(example[:1]),
            domain=self.domain,
            prune=self.prune,
            pieces=self.pieces,
            max_leaves=self.max_leaves,
        )

    def details(self, before: nn.Module, after: AffineTree, example: Tensor) -> dict[str, float]:
        cost = after.cost(example)
        return {
            "leaves": after.leaves,
            "leaves_reached": cost.leaves_reached,
            "tests": cost.tests,
            "multiply_adds": cost.multiply_adds,
            "stored_numbers": cost.stored,
            "activation_error": after.activation_error,
        }
