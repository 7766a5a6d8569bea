"""What the checks share: calling parts in the same way every time, and comparing what comes out."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def in_type(part: nn.Module, dtype: torch.dtype) -> Any:
    return deepcopy(part).to(dtype).eval()


def forward_of(part: nn.Module, x: Tensor, **facts: Any) -> Any:
    """Everything a part gives; random draws are the same in every call."""
    torch.manual_seed(0)
    return part(x, **facts)


def seeded(part: nn.Module, x: Tensor) -> Tensor:
    return first_tensor(forward_of(part, x))


def tensors(nested: Any) -> Iterator[Tensor]:
    """The tensors in any nesting of tuples, lists and dicts."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, (dict, tuple, list)):
        for part in nested.values() if isinstance(nested, dict) else nested:
            yield from tensors(part)


def first_tensor(nested: Any) -> Tensor:
    return next(tensors(nested))


def name_of(part: Any) -> str:
    return type(part).__name__ if isinstance(part, nn.Module) else getattr(part, "__name__", repr(part))


def finite(values: list[Tensor], what: str) -> None:
    for value in values:
        bad = int((~torch.isfinite(value)).sum())
        assert bad == 0, f"{what} has {bad} of {value.numel()} numbers that are not finite"


def same(a: Tensor, b: Tensor, what: str) -> None:
    assert torch.equal(a, b), f"{what} differ by up to {distance(a, b)}"


def close(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    """Equal up to rounding, measured against the larger of 1 and the size of the numbers."""
    assert a.shape == b.shape, f"{what} have different shapes, {tuple(a.shape)} and {tuple(b.shape)}"
    assert torch.allclose(a.to(b.dtype), b, rtol=tolerance, atol=tolerance * max(1.0, float(b.detach().abs().max()))), (
        f"{what} differ by up to {distance(a, b)}"
    )


def distance(a: Tensor, b: Tensor) -> str:
    return f"{(a.detach() - b.detach()).abs().max().item():.2g}" if a.shape == b.shape else "their shapes"
