"""Causal linear attention against torch's fused softmax attention, forward and backward, 4 heads of 32 channels.

The time of linear attention includes its feature map, elu + 1. The two are different operators: this says what a token
costs, not what it is worth; for that, run ``anabranch verify linear-transformer``.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anabranch.kernels import causal_linear_attention
from anabranch.nn.attention import elu_plus_one
from benchmarks.timing import row, seconds

HEADS, CHANNELS = 4, 32


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return causal_linear_attention(elu_plus_one(q), elu_plus_one(k), v)


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


WAYS = {"anabranch": linear, "scaled_dot_product_attention": softmax}


def run() -> list[dict[str, Any]]:
    rows = []
    for tokens in (64, 128, 256, 512, 1024, 2048, 4096, 8192):
        q, k, v = (torch.randn(1, HEADS, tokens, CHANNELS, requires_grad=True) for _ in range(3))
        gradient = torch.randn_like(v)
        ways = {name: partial(trained, way, (q, k, v), gradient) for name, way in WAYS.items()}
        rows.append(row(f"{tokens} tokens", seconds(ways), "anabranch"))
    return rows


def trained(way: Any, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(way(*inputs), inputs, gradient)
