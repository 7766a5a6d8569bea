"""Sines and cosines of places (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinusoids(places: Int[Tensor, "*shape"], dim: int, dtype: torch.dtype) -> Float[Tensor, "*shape dim"]:
    """Sines and cosines of geometrically spaced frequencies, in turn.

    Half precision cannot hold the frequencies, nor large places: only what comes out is brought to it.
    """
    wide = torch.promote_types(dtype, torch.float32)
    half = torch.arange((dim + 1) // 2, device=places.device, dtype=wide)
    angles = places[..., None] * torch.exp(half * (-2 * math.log(10_000.0) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :dim].to(dtype)
