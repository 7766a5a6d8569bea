"""Patches: stretches of a series as tokens (PatchTST, Nie et al. 2022, arXiv 2211.14730, section 3.1)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Padding = Literal["end"] | None


def count_patches(length: int, patch: int, stride: int, pad: Padding = "end") -> int:
    """How many patches :func:`patchify` cuts from ``length`` values."""
    return (length - patch) // stride + (1 if pad is None else 2)


def patchify(
    x: Float[Tensor, "*batch time"], patch: int, stride: int, pad: Padding = "end"
) -> Float[Tensor, "*batch tokens patch"]:
    """Cut a series into patches of ``patch`` values, one every ``stride`` values.

    Arguments:
        pad: ``"end"`` repeats the last value ``stride`` times first, so that the newest values get a patch of their own
            and no value is lost; None adds nothing, and leaves out the oldest values where the patches do not fit.

    Raises: ``ValueError`` if a patch is longer than the series.
    """
    length = x.shape[-1]
    if not 1 <= patch <= length or stride < 1:
        raise ValueError(
            f"a series of {length} values takes patches of 1 to {length} and strides >= 1; got {patch}, {stride}"
        )
    if pad == "end":
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], stride)], dim=-1)
    else:
        x = x[..., (length - patch) % stride :]
    return x.unfold(-1, patch, stride)


class FlattenHead(nn.Module):
    """Forecast from all tokens at once: flatten them and map them linearly to every step.

    Arguments:
        tokens: number of tokens.
        dim: width of a token.
        outputs: numbers to forecast.
        dropout: share of the flattened inputs that is dropped in training.

    Shapes: ``(rows, tokens, dim) -> (rows, outputs)``.
    """

    def __init__(self, tokens: int, dim: int, outputs: int, *, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(tokens * dim, outputs)

    def forward(self, x: Float[Tensor, "rows tokens dim"]) -> Float[Tensor, "rows outputs"]:
        return self.linear(self.dropout(x.flatten(1)))
