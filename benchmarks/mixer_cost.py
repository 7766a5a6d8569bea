"""Every token mixer whose cost grows slower than the square of the tokens, against softmax attention, trained.

Forward and backward of one layer, 64 channels, a sequence of 512 to 8192 tokens; attention is torch's
``scaled_dot_product_attention`` between the usual projections. Mixers for two dimensions see the tokens as a grid.
Equal width, not equal quality: for that, race them.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anabranch.catalog import parts
from anabranch.nn.mixing.base import Grid, TokenMixer
from anabranch.slots import fill
from benchmarks.timing import seconds

DIM, LENGTHS = 64, (512, 1024, 2048, 4096, 8192)
OMITTED = {"identity", "random", "pool", "conv", "flat-feed-forward"}  # no mixing, near places only, or far too large
EXPONENT = 1.6  # of the declared cost, between linear and square


def run() -> list[dict[str, Any]]:
    """A row for every mixer: milliseconds, how many times faster than attention, and from which length on it is."""
    names = [name for name in parts("mixer") if name not in OMITTED and exponent(name) < EXPONENT]
    found = {n: timed(["attention", *names], n) for n in LENGTHS}
    rows = []
    for name in ("attention", *names):
        ratios = {n: found[n]["attention"] / found[n][name] for n in LENGTHS}
        rows.append(
            {
                "case": name,
                "ms": {str(n): round(1e3 * found[n][name], 3) for n in LENGTHS},
                "times faster": {str(n): round(ratio, 2) for n, ratio in ratios.items()},
                "faster from": crossing(ratios) if name != "attention" else "",
            }
        )
    return rows


def timed(names: list[str], n: int) -> dict[str, float]:
    torch.manual_seed(0)
    x = torch.randn(1, n, DIM, requires_grad=True)
    return seconds({name: trained(made(name, n), x) for name in names}, rounds=5, limit=20)


def grid(n: int) -> Grid:
    """Twice as wide as high, or square."""
    height = 2 ** (n.bit_length() // 2 - 1)
    return height, n // height


def made(name: str, n: int) -> TokenMixer:
    return fill("mixer", name, dim=DIM, length=n, grid=grid(n))


def exponent(name: str) -> float:
    """How the declared multiply-adds grow over the longest doubling."""
    few, many = LENGTHS[-2:]
    return math.log2(made(name, many).cost(many) / made(name, few).cost(few))


def trained(mixer: TokenMixer, x: Tensor) -> Callable[[], Any]:
    """One forward and backward pass."""
    return partial(_step, mixer, x, torch.randn_like(x))


def _step(mixer: TokenMixer, x: Tensor, gradient: Tensor) -> None:
    mixer(x, grid=grid(x.shape[1])).backward(gradient)


def crossing(ratios: dict[int, float]) -> str:
    """The shortest length from which on it is faster."""
    slower = [n for n, ratio in ratios.items() if ratio <= 1]
    first = 2 * max(slower) if slower else LENGTHS[0]
    return str(first) if first <= LENGTHS[-1] else f"over {LENGTHS[-1]}"
