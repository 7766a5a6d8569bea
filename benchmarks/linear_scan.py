"""The linear recurrence h_t = a_t h_{t-1} + b_t, compiled, against other ways to compute it in torch.

Float32, every factor of its own; a way that is named "+ gradient" also computes the gradients of a and b.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import associative_scan

from anabranch.kernels import linear_scan
from benchmarks.timing import row, seconds

SHAPES = [(1, 4096, 32), (1, 4096, 512), (1, 4096, 4096), (16, 4096, 32), (16, 4096, 512), (4, 64, 16)]


def joined(first: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return then[0] * first[0], then[0] * first[1] + then[1]


def torchs_own(a: Tensor, b: Tensor) -> Tensor:
    return associative_scan(joined, (a, b), dim=1, combine_mode="generic")[1]


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "anabranch": linear_scan,
    "python loop": partial(linear_scan, method="loop"),
    "two levels": partial(linear_scan, method="two_level"),
    "associative": partial(linear_scan, method="associative"),
    "torch.associative_scan": torchs_own,
}


def run() -> list[dict[str, Any]]:
    rows = []
    for shape in SHAPES:
        a, b, gradient = torch.rand(shape), torch.randn(shape), torch.randn(shape)
        with torch.no_grad():
            ways = {name: partial(way, a, b) for name, way in WAYS.items()}
            rows.append(row(f"{shape}", seconds(ways), "anabranch"))
        if a.numel() <= 1 << 24:
            a, b = a.requires_grad_(), b.requires_grad_()
            ways = {name: partial(trained, way, a, b, gradient) for name, way in WAYS.items()}
            rows.append(row(f"{shape} + gradient", seconds(ways), "anabranch"))
    return rows


def trained(way: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(way(a, b), (a, b), gradient)
