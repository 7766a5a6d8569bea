"""A Kolmogorov-Arnold layer against pykan's, and against a perceptron layer of equal width: forward and backward.

Contenders take turns in one process, and the fastest turn of each counts: the one that was disturbed least.
"""

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from types import ModuleType

import torch

from anabranch.nn.feedforward import KANLinear, PerceptronLayer

SIZES = ((1024, 2, 5, 5), (1024, 16, 16, 5), (1024, 64, 64, 5), (256, 128, 128, 5), (1024, 16, 16, 50))
ROUNDS = 15


def run() -> list[dict]:
    """One row per size and peer: ``ratio`` is the peer's time over ours, above 1 where ours is faster."""
    peer = _pykan_layer()
    rows = []
    for batch, wide, out, grid in SIZES:
        torch.manual_seed(0)
        x = torch.rand(batch, wide) * 2 - 1
        turns = {"KANLinear": _turn(KANLinear(wide, out, grid=grid), x)}
        if peer is not None:
            theirs = peer(in_dim=wide, out_dim=out, num=grid, k=3)
            turns["pykan"] = _turn(lambda x, theirs=theirs: theirs(x)[0], x)
        turns["PerceptronLayer"] = _turn(PerceptronLayer(wide, out), x)
        seconds = _take_turns(turns)
        work = f"KAN layer {wide}->{out}, grid {grid}, batch {batch}, float32, forward and backward"
        rows += [
            {
                "work": work,
                "peer": name,
                "ours_ms": round(1e3 * seconds["KANLinear"], 3),
                "peer_ms": round(1e3 * taken, 3),
                "ratio": round(taken / seconds["KANLinear"], 2),
            }
            for name, taken in seconds.items()
            if name != "KANLinear"
        ]
    return rows


def _turn(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass, with a gradient for the input as inside a network."""
    x = x.clone().requires_grad_()

    def turn() -> None:
        x.grad = None
        layer(x).square().mean().backward()

    return turn


def _take_turns(turns: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Fewest seconds of each; all are called once beforehand, which compiles what has to be compiled."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            started = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in seconds.items()}


def _pykan_layer() -> Callable[..., torch.nn.Module] | None:
    """pykan's layer without the rest of that package, which would need matplotlib; None if it is not installed."""
    if "kan" not in sys.modules:
        found = importlib.util.find_spec("kan")
        if found is None or found.submodule_search_locations is None:
            return None
        package = ModuleType("kan")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["kan"] = package
    return importlib.import_module("kan.KANLayer").KANLayer


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in run():
        print(row)
