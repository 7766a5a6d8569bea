"""A Kolmogorov-Arnold layer against pykan's, and against a perceptron layer of equal width: forward and backward.

Float32, cubic splines; with a gradient for the input, as inside a network.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from anabranch.nn.feedforward import KANLinear, PerceptronLayer
from benchmarks.timing import row, seconds

SIZES = [(1024, 2, 5, 5), (1024, 16, 16, 5), (1024, 64, 64, 5), (256, 128, 128, 5), (1024, 16, 16, 50)]


def run() -> list[dict[str, Any]]:
    """One row per size: batch, inputs, outputs and grid intervals."""
    peer = pykan_layer()
    rows = []
    for batch, wide, out, grid in SIZES:
        torch.manual_seed(0)
        x = (torch.rand(batch, wide) * 2 - 1).requires_grad_()
        grad = torch.randn(batch, out)
        layers: dict[str, nn.Module] = {
            "anabranch KANLinear": KANLinear(wide, out, grid=grid),
            "PerceptronLayer": PerceptronLayer(wide, out),
        }
        if peer is not None:
            layers["pykan KANLayer"] = peer(in_dim=wide, out_dim=out, num=grid, k=3)
        ways = {name: partial(trained, layer, x, grad) for name, layer in layers.items()}
        found = seconds(ways, shortest=0.05)
        rows.append(row(f"batch {batch}, {wide} to {out}, grid {grid}", found, "anabranch KANLinear"))
    return rows


def trained(layer: Callable[[Tensor], Any], x: Tensor, grad: Tensor) -> None:
    """One forward and backward pass; pykan's layer returns more than its output."""
    y = layer(x)
    (y[0] if isinstance(y, tuple) else y).backward(grad)


def pykan_layer() -> Callable[..., nn.Module] | None:
    """pykan's layer without the rest of that package, which would need matplotlib; None if it is not installed."""
    if "kan" not in sys.modules:
        found = importlib.util.find_spec("kan")
        if found is None or found.submodule_search_locations is None:
            return None
        package = ModuleType("kan")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["kan"] = package
    return importlib.import_module("kan.KANLayer").KANLayer
