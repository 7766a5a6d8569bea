"""A piecewise-linear network is a decision tree: write it as one (Aytekin 2022, arXiv 2210.05189).

Each unit is a test on an affine function of the input, fixed by the tests before it; each leaf is the affine map of the
whole network. Written out, the tree has a leaf per activation pattern; almost all of them hold no input, and linear
programs find those.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import block_diag
from torch import Tensor, nn

from anabranch.theory.regions_program import Layer, Program, trace
from anabranch.theory.regions_tree import AffineTree

TOLERANCE = 1e-9  # a cell exists if a ball of this radius fits in


class TooManyRegions(ValueError):
    """The tree would have more leaves than were allowed."""


def to_tree(
    module: nn.Module,
    example: Float[Tensor, "1 *shape"],
    *,
    domain: tuple[float | Tensor, float | Tensor] | None = None,
    prune: bool = True,
    pieces: int | None = None,
    max_leaves: int = 2**14,
) -> AffineTree:
    """The decision tree that gives the same output as a network for every input.

    The network is read in eval mode. It may be built of linear layers, convolutions, batch norm, average pooling, sums,
    reshapes and ``nn.RNN`` (unrolled over the example's length), with ReLU, leaky ReLU, one-slope PReLU, hardtanh,
    ReLU6, clamp or abs; tanh, sigmoid, GELU, SiLU, softplus and ELU through ``pieces``.

    Arguments:
        example: one input with its batch axis; its values do not matter.
        domain: lowest and highest input, each a number or a tensor of one input's shape. With ``prune``, branches that
            no input between them can take are left out, and outside of it the tree is void. None: all inputs.
        prune: leave out branches that no input can take, and tests whose outcome is known. A branch is kept if a ball
            of radius 1e-9 fits into its cell.
        pieces: how many chords stand for a smooth activation; the distance is in the tree's ``activation_error``.
        max_leaves: where to stop.

    Raises:
        TooManyRegions: if there are more leaves than ``max_leaves``.
        Unsupported: if an operation is not piecewise linear in the input.
    """
    program = trace(deepcopy(module).double().eval(), example, pieces)
    box = None if domain is None else _box(domain, program.in_shape)
    if not prune and _patterns(program) > max_leaves:
        raise TooManyRegions(
            f"without pruning the tree has {_patterns(program)} leaves, more than max_leaves={max_leaves}; prune it"
        )
    return _Builder(program, box, prune, max_leaves).tree()


def _patterns(program: Program) -> int:
    total = 1
    for layer in program.layers:
        total *= len(layer.pieces.slopes) ** len(layer.bias)
    return total


def _box(domain: tuple[float | Tensor, float | Tensor], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    low, high = (torch.as_tensor(end, dtype=torch.float64).expand(shape).flatten().numpy() for end in domain)
    if not (low < high).all():
        raise ValueError("expected a domain whose lowest input lies below its highest in every coordinate")
    return low, high


class _Ball(NamedTuple):
    """A ball inside a cell: proof that the cell is not empty, and a quick answer to most questions about it."""

    centre: np.ndarray
    radius: float


@dataclass
class _Region:
    """Inputs with ``normals @ x <= limits`` (normals of length 1), and what is known about them so far.

    ``known`` holds the input and all decided units as affine functions of the input, ``z`` the arguments of the layer
    that is being decided; ``link`` is the inner node, and its branch, that the subtree hangs from.
    """

    normals: np.ndarray
    limits: np.ndarray
    ball: _Ball
    known: np.ndarray
    link: tuple[int, int]
    z: np.ndarray


@dataclass
class _Cut:
    """What one piece of an activation leaves of a region; ``ball`` is None until a linear program has looked."""

    piece: int
    normals: np.ndarray
    limits: np.ndarray
    ball: _Ball | None


class _Builder:
    """Grows all branches at once, unit by unit, so that one call solves the linear programs of all of them."""

    def __init__(self, program: Program, box: tuple[np.ndarray, np.ndarray] | None, prune: bool, max_leaves: int):
        self.program, self.prune, self.max_leaves = program, prune, max_leaves
        self.inputs = len(program.weight[0]) - program.units
        self.nodes: list[tuple[np.ndarray, float, list[float], list[int]]] = []
        self.low, self.high = box or (np.full(self.inputs, -np.inf), np.full(self.inputs, np.inf))
        self.root = -1

    def tree(self) -> AffineTree:
        start = np.eye(self.inputs, self.inputs + 1)
        nothing = np.zeros((0, self.inputs)), np.zeros(0)
        ball = self._balls([nothing])[0]
        assert ball is not None
        regions = [_Region(*nothing, ball, start, (-1, 0), start)]
        for layer in self.program.layers:
            for region in regions:
                region.z = layer.weight @ region.known
                region.z[:, -1] += layer.bias
            for unit in range(len(layer.bias)):
                regions = self._decide(layer, unit, regions)
        maps = []
        for number, region in enumerate(regions):
            self._hang(region.link, -1 - number)
            maps.append(self.program.weight @ region.known)
            maps[-1][:, -1] += self.program.bias
        return self._tables(np.stack(maps))

    def _decide(self, layer: Layer, unit: int, regions: list[_Region]) -> list[_Region]:
        """Split every region by one unit."""
        cuts = [list(self._cuts(layer, region.z[unit], region)) for region in regions]
        unknown = [cut for found in cuts for cut in found if cut.ball is None]
        for cut, ball in zip(unknown, self._balls([(cut.normals, cut.limits) for cut in unknown]), strict=True):
            cut.ball = ball
        grown = []
        for region, found in zip(regions, cuts, strict=True):
            found = [cut for cut in found if cut.ball is not None]
            link, z = region.link, region.z[unit]
            if len(found) > 1:
                self._hang(region.link, len(self.nodes))
                breaks = [layer.pieces.breaks[cut.piece] for cut in found[:-1]]
                self.nodes.append((z[:-1], float(z[-1]), breaks, [0] * len(found)))
            for branch, cut in enumerate(found):
                value = layer.pieces.slopes[cut.piece] * z
                value[-1] += layer.pieces.offsets[cut.piece]
                known = np.concatenate([region.known, value[None]])
                where = (len(self.nodes) - 1, branch) if len(found) > 1 else link
                assert cut.ball is not None
                grown.append(_Region(cut.normals, cut.limits, cut.ball, known, where, region.z))
        if len(grown) > self.max_leaves:
            raise TooManyRegions(
                f"stopped at max_leaves={self.max_leaves}: the network has {self.program.units} units and more regions "
                "than that; give a smaller domain, a smaller network, or raise max_leaves"
            )
        return grown

    def _hang(self, link: tuple[int, int], number: int) -> None:
        node, branch = link
        if node < 0:
            self.root = number
        else:
            self.nodes[node][3][branch] = number

    def _cuts(self, layer: Layer, z: np.ndarray, region: _Region) -> Iterator[_Cut]:
        """The pieces of an activation that a region's inputs may reach, from low to high."""
        count = len(layer.pieces.slopes)
        row, bias = z[:-1], z[-1]
        length = float(np.linalg.norm(row))
        whole = region.normals, region.limits, region.ball
        if not self.prune:
            yield from (_Cut(piece, *whole) for piece in range(count))
            return
        if length < 1e-12:
            yield _Cut(int(np.searchsorted(layer.pieces.breaks, bias)), *whole)
            return
        row, ends = row / length, [(end - bias) / length for end in (-np.inf, *layer.pieces.breaks, np.inf)]
        least, most = self._range(row)
        middle, radius = float(row @ region.ball.centre), region.ball.radius
        for piece in range(count):
            low, high = ends[piece], ends[piece + 1]
            if most <= low + TOLERANCE or least >= high - TOLERANCE:
                continue
            normals, limits = region.normals, region.limits
            if np.isfinite(low):
                normals, limits = np.concatenate([normals, -row[None]]), np.append(limits, -low)
            if np.isfinite(high):
                normals, limits = np.concatenate([normals, row[None]]), np.append(limits, high)
            bottom, top = max(low, middle - radius), min(high, middle + radius)
            inner = (top - bottom) / 2
            # What the old ball leaves in the piece is a ball too. A small one would prove that the piece exists, but
            # answer few questions after that: then a linear program finds the largest.
            if inner > 0.5 * radius and inner > TOLERANCE:
                centre = region.ball.centre + ((bottom + top) / 2 - middle) * row
                yield _Cut(piece, normals, limits, _Ball(centre, inner))
            else:
                yield _Cut(piece, normals, limits, None)

    def _range(self, row: np.ndarray) -> tuple[float, float]:
        """Least and largest value of ``row @ x`` over the domain."""
        used = row != 0  # 0 times an infinite end is 0
        ends = [np.multiply(row, end, where=used, out=np.zeros_like(row)) for end in (self.low, self.high)]
        return float(np.minimum(*ends).sum()), float(np.maximum(*ends).sum())

    def _balls(self, cells: list[tuple[np.ndarray, np.ndarray]], chunk: int = 128) -> list[_Ball | None]:
        """For each cell the largest ball, of radius at most 1, with its centre in the domain; None if there is none.

        Maximises the sum of the radii. A radius may be negative there, so that an empty cell leaves the others alone.
        """
        found: list[_Ball | None] = []
        for first in range(0, len(cells), chunk):
            part = cells[first : first + chunk]
            blocks = [np.concatenate([normals, np.ones((len(normals), 1))], axis=1) for normals, _ in part]
            solved = linprog(
                np.tile(np.append(np.zeros(self.inputs), -1.0), len(part)),
                A_ub=block_diag(blocks, format="csr"),
                b_ub=np.concatenate([limits for _, limits in part]),
                bounds=[*zip(self.low, self.high, strict=True), (-np.inf, 1.0)] * len(part),
                method="highs",
                options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
            )
            if solved.status != 0:
                raise ArithmeticError(f"the linear program that looks for empty cells failed: {solved.message}")
            for row in solved.x.reshape(len(part), self.inputs + 1):
                found.append(_Ball(row[:-1], float(row[-1])) if row[-1] > TOLERANCE else None)
        return found

    def _tables(self, maps: np.ndarray) -> AffineTree:
        width, count = max((len(below) for *_, below in self.nodes), default=2), len(self.nodes)
        breaks, below = np.full((count, width - 1), np.inf), np.zeros((count, width), dtype=np.int64)
        for i, (_, _, at, numbers) in enumerate(self.nodes):
            breaks[i, : len(at)], below[i, : len(numbers)] = at, numbers
        return AffineTree(
            torch.from_numpy(np.array([row for row, *_ in self.nodes]).reshape(count, self.inputs)),
            torch.tensor([bias for _, bias, *_ in self.nodes], dtype=torch.float64),
            torch.from_numpy(breaks),
            torch.from_numpy(below),
            torch.from_numpy(maps[:, :, :-1].copy()),
            torch.from_numpy(maps[:, :, -1].copy()),
            root=self.root,
            in_shape=self.program.in_shape,
            out_shape=self.program.out_shape,
            units=self.program.units,
            activation_error=max((layer.pieces.error for layer in self.program.layers), default=0.0),
        )
