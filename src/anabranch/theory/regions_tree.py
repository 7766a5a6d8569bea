"""A decision tree with linear tests and an affine map in every leaf, stored as flat tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class TreeCost:
    """What a tree costs on given inputs.

    Arguments:
        multiply_adds: mean number per input, tests and leaf together; zero coefficients are not counted.
        tests: mean number of tests per input.
        stored: numbers other than zero in all tests, thresholds and leaves.
        leaves_reached: how many leaves at least one of the inputs ended in.
    """

    multiply_adds: float
    tests: float
    stored: int
    leaves_reached: int


@dataclass(frozen=True)
class Cell:
    """The inputs that reach one leaf: all ``x`` with ``normals @ x <= limits``, and the map that holds there."""

    normals: Float[np.ndarray, "faces inputs"]
    limits: Float[np.ndarray, "faces"]
    weight: Float[np.ndarray, "outputs inputs"]
    bias: Float[np.ndarray, "outputs"]

    def contains(self, x: Float[np.ndarray, "batch inputs"], slack: float = 0.0) -> np.ndarray:
        """Which inputs lie in the cell; ``slack`` is a distance by which a face may be overstepped."""
        reach = slack * np.linalg.norm(self.normals, axis=1)
        return (x @ self.normals.T <= self.limits + reach).all(axis=1)

    def __str__(self) -> str:
        """The rule: a conjunction of linear tests, and the affine answer."""
        tests = [f"{_sum(g)} <= {h:.4g}" for g, h in zip(self.normals, self.limits, strict=True)]
        maps = [f"y{i} = {_sum(w, b)}" for i, (w, b) in enumerate(zip(self.weight, self.bias, strict=True))]
        return f"if {' and '.join(tests) or 'true'}: {', '.join(maps)}"


class AffineTree(nn.Module):
    """A tree whose inner nodes test ``weight . x + bias`` against thresholds, and whose leaves are affine maps.

    Made by ``to_tree``; computes in float64 and returns the input's type. Leaves are numbered ``-1, -2, ...`` in the
    table of children, inner nodes ``0, 1, ...``; the root is ``root``.

    Arguments:
        tests: rows ``(nodes, inputs)``; ``bias`` ``(nodes,)``; ``breaks`` ``(nodes, k - 1)``, padded with infinity.
        below: ``(nodes, k)``, by how many thresholds the tested value exceeds.
        maps, offsets: ``(leaves, outputs, inputs)`` and ``(leaves, outputs)``.
        activation_error: largest distance between a smooth activation and the pieces that stand for it; 0 if exact.
    """

    no_compile = "walks down by a loop whose length depends on the data"

    tests: Tensor
    bias: Tensor
    breaks: Tensor
    below: Tensor
    maps: Tensor
    offsets: Tensor

    def __init__(
        self,
        tests: Float[Tensor, "nodes inputs"],
        bias: Float[Tensor, "nodes"],
        breaks: Float[Tensor, "nodes breaks"],
        below: Int[Tensor, "nodes pieces"],
        maps: Float[Tensor, "leaves outputs inputs"],
        offsets: Float[Tensor, "leaves outputs"],
        *,
        root: int,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        units: int,
        activation_error: float = 0.0,
    ):
        super().__init__()
        tables = {"tests": tests, "bias": bias, "breaks": breaks}
        for name, table in {**tables, "below": below, "maps": maps, "offsets": offsets}.items():
            self.register_buffer(name, table)
        self.root, self.in_shape, self.out_shape = root, in_shape, out_shape
        self.units, self.activation_error = units, activation_error

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return len(self.maps)

    def extra_repr(self) -> str:
        return f"leaves={self.leaves}, nodes={len(self.tests)}, units={self.units}"

    def forward(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *out"]:
        flat = self._flat(x)
        leaf = self._walk(flat)[0]
        y = torch.einsum("boi,bi->bo", self.maps[leaf], flat) + self.offsets[leaf]
        return y.reshape(len(x), *self.out_shape).to(x.dtype)

    predict = forward

    def leaf(self, x: Float[Tensor, "batch *shape"]) -> Int[Tensor, "batch"]:
        """Number of the leaf that each input ends in, from 0."""
        return self._walk(self._flat(x))[0]

    def cost(self, x: Float[Tensor, "batch *shape"]) -> TreeCost:
        """Multiply-adds and tests that these inputs need, on average, and what the tree stores."""
        leaf, tests, work = self._walk(self._flat(x))
        work = work + self.maps[leaf].ne(0).sum((1, 2))
        stored = sum(int(table.ne(0).sum()) for table in (self.tests, self.bias, self.maps, self.offsets))
        stored += int(self.breaks.isfinite().sum())
        return TreeCost(float(work.double().mean()), float(tests.double().mean()), stored, len(leaf.unique()))

    def cells(self) -> Iterator[Cell]:
        """The leaves' cells, in the order of the leaves' numbers."""
        found: dict[int, Cell] = {}
        stack: list[tuple[int, list[np.ndarray], list[float]]] = [(self.root, [], [])]
        while stack:
            node, normals, limits = stack.pop()
            if node < 0:
                maps, offsets = self.maps[-node - 1].numpy(), self.offsets[-node - 1].numpy()
                faces = np.array(normals).reshape(len(normals), maps.shape[1])
                found[-node - 1] = Cell(faces, np.array(limits), maps, offsets)
                continue
            row, bias = self.tests[node].numpy(), float(self.bias[node])
            breaks = self.breaks[node][self.breaks[node].isfinite()].tolist()
            for i in range(len(breaks) + 1):
                faces, bounds = list(normals), list(limits)
                if i > 0:
                    faces, bounds = [*faces, -row], [*bounds, bias - breaks[i - 1]]
                if i < len(breaks):
                    faces, bounds = [*faces, row], [*bounds, breaks[i] - bias]
                stack.append((int(self.below[node, i]), faces, bounds))
        return (found[i] for i in range(self.leaves))

    def rules(self) -> list[str]:
        """Each leaf in words: the tests that lead to it, and its map."""
        return [str(cell) for cell in self.cells()]

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.in_shape:
            raise ValueError(
                f"expected inputs of shape (batch, {', '.join(map(str, self.in_shape))}); got {tuple(x.shape)}"
            )
        return x.detach().double().reshape(len(x), -1)

    def _walk(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leaf, number of tests and multiply-adds in tests, per input."""
        node = torch.full((len(x),), self.root)
        count, work = torch.zeros_like(node), torch.zeros_like(node)
        width = self.tests.ne(0).sum(1)
        while (inner := (node >= 0).nonzero().squeeze(1)).numel():
            at = node[inner]
            z = (self.tests[at] * x[inner]).sum(1) + self.bias[at]
            piece = (z[:, None] > self.breaks[at]).sum(1)  # strict: a tie belongs to the lower piece
            node[inner] = self.below[at, piece]
            count[inner] += 1
            work[inner] += width[at]
        return -node - 1, count, work


def _sum(weights: np.ndarray, constant: float = 0.0) -> str:
    terms = [f"{w:+.4g} x{i}" for i, w in enumerate(weights) if w != 0]
    if constant or not terms:
        terms.append(f"{constant:+.4g}")
    return " ".join(terms)
