"""From curves to named functions: the last step of reading a Kolmogorov-Arnold network as a formula."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.models.kan_fit import fit_lbfgs

# A function's place in the table is its complexity: of two that fit alike, the earlier one is taken. Those that are not
# defined everywhere go on beyond: roots and logarithms with the absolute value, which formulas show where it matters.
LIBRARY: dict[str, Callable[[Tensor], Tensor]] = {
    "x": lambda x: x,
    "x^2": torch.square,
    "exp": lambda x: x.clamp(max=50).exp(),
    "sin": torch.sin,
    "x^3": lambda x: x**3,
    "sqrt": lambda x: x.abs().clamp(min=1e-12).sqrt(),
    "log": lambda x: x.abs().clamp(min=1e-12).log(),
    "1/x": lambda x: x.sign() / x.abs().clamp(min=1e-3),
    "tanh": torch.tanh,
    "abs": torch.abs,
    "gaussian": lambda x: torch.exp(-x.square().clamp(max=50)),
}
_OF_SIZE = ("sqrt", "log")
_TEXT = {"x": "({})", "x^2": "({})^2", "x^3": "({})^3", "1/x": "1/({})", "abs": "|{}|", "gaussian": "exp(-({})^2)"}


@dataclass(frozen=True)
class Choice:
    """What one edge became: ``c f(a x + b) + d``, and the share of the curve's variance that it explains.

    ``low`` and ``high`` are the range of ``x`` that was seen.
    """

    function: str  # "0" for a constant
    a: float
    b: float
    c: float
    d: float
    r2: float
    low: float = -math.inf
    high: float = math.inf


def snap(
    x: Float[Tensor, "batch in_dim"],
    edges: Float[Tensor, "batch out_dim in_dim"],
    functions: Sequence[str],
    threshold: float,
) -> list[list[Choice]]:
    """Choose a function for every edge, ``[out][in]``."""
    unknown = [name for name in functions if name not in LIBRARY]
    if unknown or not functions:
        raise ValueError(f"functions must be some of {', '.join(LIBRARY)}; got {', '.join(unknown) or 'none'}")
    # The affine map inside each function is found by search, for which a few hundred samples are enough.
    stride = max(1, len(x) // 256)
    x, edges = x[::stride].double(), edges[::stride].double()
    spread = edges.std(0)
    return [
        [
            Choice("0", 1.0, 0.0, 0.0, float(edges[:, j, i].mean()), 1.0)
            if spread[j, i] <= threshold * spread.max()
            else best(x[:, i], edges[:, j, i], functions)
            for i in range(x.shape[1])
        ]
        for j in range(edges.shape[1])
    ]


def best(x: Float[Tensor, "batch"], y: Float[Tensor, "batch"], functions: Sequence[str]) -> Choice:
    """The function that fits best; a later one in the table must leave clearly less of the variance unexplained."""
    fits = {name: affine(x, y, name) for name in LIBRARY if name in functions}
    # Each place further back in the table has to pay for itself by a factor of 1.5 in the unexplained variance.
    cost = {name: math.log(1e-6 + 1 - fit.r2) + math.log(1.5) * list(LIBRARY).index(name) for name, fit in fits.items()}
    return fits[min(cost, key=cost.__getitem__)]


def affine(x: Float[Tensor, "batch"], y: Float[Tensor, "batch"], name: str) -> Choice:
    """The ``a, b`` that correlate ``f(a x + b)`` with ``y`` best, by a search that zooms in; ``c, d`` follow.

    Of a root and a logarithm, whose absolute value makes two signs alike, the one with a positive argument is taken.
    """
    if name == "x":
        a, b = 1.0, 0.0
    else:
        (a, b), reach, side = (0.0, 0.0), 10.0, 41  # wide and coarse at first, then ever closer
        for _ in range(14):
            ends = torch.linspace(-reach, reach, side, dtype=x.dtype, device=x.device)
            some = slice(None, None, 4 if side == 41 else 1)
            value = LIBRARY[name]((a + ends)[:, None, None] * x[some] + (b + ends)[:, None])
            at = int(_correlation(value, y[some]).square().argmax())
            a, b = a + float(ends[at // side]), b + float(ends[at % side])
            reach, side = reach / 2.5, 9
    low, high = float(x.min()), float(x.max())
    if name in _OF_SIZE and _highest(a, b, low, high) <= 0:
        a, b = -a, -b
    value = LIBRARY[name](a * x + b)
    r2 = float(_correlation(value, y).square())
    centred = value - value.mean()
    c = float((centred * y).sum() / centred.square().sum().clamp(min=1e-30))
    return Choice(name, a, b, c, float(y.mean() - c * value.mean()), r2, low, high)


def _highest(a: float, b: float, low: float, high: float) -> float:
    """The largest ``a x + b`` for ``x`` in a range."""
    return max(a * low, a * high) + b


def _correlation(value: Tensor, y: Tensor) -> Tensor:
    """Pearson's, over the last axis; 0 for a constant or anything that is not finite."""
    value = value - value.mean(-1, keepdim=True)
    y = y - y.mean()
    scale = (value.square().sum(-1) * y.square().sum()).sqrt()
    return torch.where(scale > 1e-9, (value * y).sum(-1) / scale, 0.0).nan_to_num(0.0)


class SymbolicKAN(nn.Module):
    """A network of named functions, ``c f(a x + b) + d`` on every edge, with ``a, b, c, d`` as its parameters.

    Arguments:
        choices: the edges of every layer, ``[layer][out][in]``.
    """

    def __init__(self, choices: list[list[list[Choice]]]):
        super().__init__()
        self.choices = choices
        self.affine = nn.ParameterList(
            torch.tensor([[[e.a, e.b, e.c, e.d] for e in row] for row in layer], dtype=torch.float64)
            for layer in choices
        )
        self._ranges = [[(e.low, e.high) for e in layer[0]] for layer in choices]

    def forward(self, x: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch out_dim"]:
        return self.nodes(x)[-1]

    def nodes(self, x: Float[Tensor, "batch in_dim"]) -> list[Float[Tensor, "batch nodes"]]:
        """The values of all nodes, from the inputs to the outputs."""
        found = [x]
        for layer, affine in zip(self.choices, self.affine, strict=True):
            nodes = []
            for row, numbers in zip(layer, affine, strict=True):
                total = x.new_zeros(len(x))
                for i, edge in enumerate(row):
                    a, b, c, d = numbers[i]
                    total = total + (d if edge.function == "0" else c * LIBRARY[edge.function](a * x[:, i] + b) + d)
                nodes.append(total)
            x = torch.stack(nodes, -1)
            found.append(x)
        return found

    def fit(self, x: Float[Tensor, "batch in_dim"], y: Float[Tensor, "batch out_dim"], *, steps: int = 200) -> float:
        """Fit the numbers to data by L-BFGS, the functions stay; returns the mean squared error."""
        error = fit_lbfgs(self.parameters(), lambda: (self(x) - y).square().mean(), steps=steps)
        with torch.no_grad():
            ends = [torch.stack([seen.amin(0), seen.amax(0)], -1).tolist() for seen in self.nodes(x)[:-1]]
        self._ranges = [[(low, high) for low, high in layer] for layer in ends]
        return error

    def functions(self) -> list[list[list[str]]]:
        """The names on the edges, ``[layer][out][in]``."""
        return [[[edge.function for edge in row] for row in layer] for layer in self.choices]

    def formula(self, names: Sequence[str], digits: int = 3) -> list[str]:
        """One formula per output in the inputs' names.

        Right where the inputs are such as the network was read off at, or was last fitted to.
        """
        terms = list(names)
        for layer, affine, ranges in zip(self.choices, self.affine, self._ranges, strict=True):
            terms = [
                _sum(terms, row, numbers.tolist(), ranges, digits)
                for row, numbers in zip(layer, affine.detach(), strict=True)
            ]
        return terms


def _sum(
    terms: Sequence[str],
    row: list[Choice],
    numbers: list[list[float]],
    ranges: list[tuple[float, float]],
    digits: int,
) -> str:
    """``c f(a x + b) + ...``, with all the constants of a node put together."""
    text, constant = [], 0.0
    for term, edge, (a, b, c, d), (low, high) in zip(terms, row, numbers, ranges, strict=True):
        constant += d
        if edge.function == "x":
            constant += c * b
            text.append(f"{a * c:.{digits}g}*({term})")
        elif edge.function != "0":
            form = _TEXT.get(edge.function, edge.function + "({})")
            if edge.function in _OF_SIZE:
                if _highest(a, b, low, high) <= 0:
                    a, b = -a, -b
                elif _highest(-a, -b, low, high) > 0:
                    form = edge.function + "(|{}|)"
            inner = f"{a:.{digits}g}*({term}) {'-' if b < 0 else '+'} {abs(b):.{digits}g}"
            text.append(f"{c:.{digits}g}*" + form.format(inner))
    return " + ".join([*text, f"{constant:.{digits}g}"])
