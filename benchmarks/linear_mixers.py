"""Causal linear attention and retention against other packages, trained; and one token more against a cache of 8192.

Forward and backward of the operators alone, 4 heads, from 2048 tokens on, against the chunked forms in plain torch of
flash-linear-attention (``naive.py`` of ``linear_attn`` and ``simple_gla``; its fast forms need a GPU) and the C++ loop
of pytorch-fast-transformers; those that are not installed are left out. Every way gets its inputs in its own layout.
Then whole mixers of 256 channels that make one token after 8192, for one stream and for eight, against softmax attention
with a cache of keys and values: once appended to, as our own streams do, once written into place.
"""

from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anabranch.kernels import causal_linear_attention, retention
from anabranch.nn.attention import (
    Aaren,
    FlowAttention,
    HippocampalAttention,
    LinearAttention,
    Retention,
    SoftmaxAttention,
)
from benchmarks.timing import row, seconds

HEADS = 4
EPS = 1e-10
DECAY = 1 - torch.logspace(-1.5, -2.7, HEADS, dtype=torch.float64)
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def run() -> list[dict[str, Any]]:
    rows = []
    for tokens, channels in ((2048, 32), (8192, 32), (2048, 64), (8192, 64)):
        for name, ways in (("linear attention", linear_ways()), ("retention", retention_ways(tokens))):
            timed = {way: trained(function, tokens, channels, last) for way, (function, last) in ways.items()}
            case = f"{name}, {tokens} tokens, {channels} channels a head"
            rows.append(row(case, seconds(timed, rounds=9, limit=6, shortest=0.05), "anabranch"))
    return rows + [each for streams in (1, 8) for each in decoding(streams)]


def linear_ways() -> dict[str, tuple[Way, bool]]:
    """Ways by name; with each, whether the heads stand after the tokens."""
    ways: dict[str, tuple[Way, bool]] = {"anabranch": (partial(causal_linear_attention, eps=EPS), False)}
    if naive := of_file("fla", "ops/linear_attn/naive.py"):
        ways["flash-linear-attention"] = (partial(naive.naive_chunk_linear_attn, scale=1.0, normalize=True), True)
    if util.find_spec("fast_transformers"):
        ways["fast-transformers"] = (fast_transformers, False)
    return ways


def fast_transformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As that package's own attention does it: the denominator by a cumulative sum."""
    from fast_transformers.causal_product import causal_dot_product  # pyright: ignore[reportMissingImports]

    normalise = 1 / (torch.einsum("nhld,nhld->nhl", q, k.cumsum(2)) + EPS)
    return causal_dot_product(q, k, v) * normalise[..., None]


def retention_ways(tokens: int) -> dict[str, tuple[Way, bool]]:
    ways: dict[str, tuple[Way, bool]] = {"anabranch": (lambda q, k, v: retention(q, k, v, DECAY), False)}
    if naive := of_file("fla", "ops/simple_gla/naive.py"):
        gates = DECAY.log().float().expand(1, tokens, HEADS).contiguous()
        ways["flash-linear-attention"] = (
            lambda q, k, v: naive.naive_chunk_simple_gla(q, k, v, gates, scale=1.0)[0],
            True,
        )
    return ways


def of_file(package: str, path: str) -> Any:
    """A file of an installed package whose own import needs a GPU's compiler; None if it is not installed."""
    found = util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    spec = util.spec_from_file_location("peer", Path(found.submodule_search_locations[0]) / path)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(way: Way, tokens: int, channels: int, heads_last: bool) -> Callable[[], Any]:
    """One forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(1, HEADS, tokens, channels, generator=generator) for _ in range(4)]
    *leaves, gradient = (x.transpose(1, 2).contiguous() if heads_last else x for x in inputs)
    for leaf in leaves:
        leaf.requires_grad_()
    return lambda: torch.autograd.grad(way(*leaves), leaves, gradient)


@torch.no_grad()
def decoding(streams: int, held: int = 8192, dim: int = 256) -> list[dict[str, Any]]:
    """One step after ``held`` tokens, of so many streams side by side."""
    torch.manual_seed(0)
    mixers = {
        "linear attention": LinearAttention(dim, heads=HEADS, causal=True),
        "retention": Retention(dim, heads=HEADS),
        "Aaren": Aaren(dim, heads=HEADS),
        "flow attention": FlowAttention(dim, heads=HEADS, causal=True),
        "hippocampal attention": HippocampalAttention(dim, heads=HEADS),
    }
    softmax = SoftmaxAttention(dim, heads=HEADS, causal=True, max_len=held + 1)
    cache = {name: torch.randn(streams, HEADS, held, dim // HEADS) for name in ("key", "value")}
    key, value = (torch.cat([part, part[:, :, :1]], 2) for part in cache.values())
    x_t = torch.randn(streams, dim)

    def in_place() -> Tensor:
        query, new_key, new_value = softmax.read(x_t[:, None], x_t[:, None])
        key[:, :, -1:], value[:, :, -1:] = new_key, new_value
        return softmax.project(F.scaled_dot_product_attention(query, key, value))

    rows = []
    for name, mixer in mixers.items():
        state = mixer.initial_state(streams)
        for piece in torch.randn(streams, held, dim).split(512, dim=1):
            _, state = mixer.chunk(piece, state)
        ways = {
            "anabranch": partial(mixer.step, x_t, state),
            "cache, appended to": partial(softmax.step, x_t, cache),
            "cache, in place": in_place,
        }
        case = f"{name}, a token after {held}, {streams} at once"
        rows.append(row(case, seconds(ways, rounds=9, limit=3, shortest=0.05), "anabranch"))
    return rows
