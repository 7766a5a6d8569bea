"""Causal softmax attention to the newest tokens and to the first ones, in time linear in the number of tokens.

The first ones are attention sinks (Xiao et al. 2023, arXiv 2309.17453): a trained softmax puts what it has no use for on
them, and fails without them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.attention.masking import masked_attention


def window_attention(
    query: Float[Tensor, "batch heads time key"],
    key: Float[Tensor, "batch heads source key"],
    value: Float[Tensor, "batch heads source value"],
    *,
    window: int,
    sinks: int = 0,
    exists: Bool[Tensor, "batch source"] | None = None,
) -> Float[Tensor, "batch heads time value"]:
    """What each query reads of the ``window`` tokens up to its own place, and of the ``sinks`` first ones.

    While no token has left the window, it is full attention bit for bit. A query with nothing to read reads zero.

    Arguments:
        query: of the last tokens; keys and values may begin earlier.
        exists: False for tokens that nobody reads.
    """
    new, total = query.shape[2], key.shape[2]
    if exists is None and total <= window + sinks and new in (1, total):
        return F.scaled_dot_product_attention(query, key, value, is_causal=new > 1)
    if new == 1 or total <= 2 * window + sinks:
        place = torch.arange(total, device=query.device)
        now = place[total - new :, None]
        readable = ((place <= now) & ((place > now - window) | (place < sinks)))[None, None]
        readable = readable if exists is None else readable & exists[:, None, None]
        return masked_attention(query, key, value, readable)
    return _in_blocks(query, key, value, window, sinks, exists)


def window_products(n: int, *, window: int, sinks: int = 0) -> int:
    """Pairs of a query and a key that :func:`window_attention` works on for ``n`` tokens."""
    return n * n if n <= 2 * window + sinks else (n + -n % window) * (2 * window + sinks)


def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, window: int, sinks: int, exists: Tensor | None
) -> Float[Tensor, "batch heads time value"]:
    """A block of ``window`` queries reads the keys of its own places and of the block before, and the sinks."""
    new, total = query.shape[2], key.shape[2]
    blocks = -(-new // window)
    start = total - new - window  # place of the first key that the first block may read

    def near_and_first(x: Tensor) -> Tensor:
        near = F.pad(x[:, :, max(start, 0) :], (0, 0, max(-start, 0), blocks * window - new))
        near = near.unflatten(2, (blocks + 1, window))
        first = x[:, :, None, :sinks].expand(-1, -1, blocks, -1, -1)
        return torch.cat([first, near[:, :, :-1], near[:, :, 1:]], 3)

    block = window * torch.arange(blocks, device=query.device)[:, None, None]
    now = block + torch.arange(start + window, start + 2 * window, device=query.device)[:, None]
    place = block + torch.arange(start, start + 2 * window, device=query.device)
    near = (place >= 0) & (place <= now) & (place > now - window)
    first = torch.arange(sinks, device=query.device) <= now - window  # a newer one is read as part of the window
    readable = torch.cat([first, near], -1)[None, None]
    if exists is not None:
        readable = readable & near_and_first(exists[:, None, :, None]).mT
    query = F.pad(query, (0, 0, 0, blocks * window - new)).unflatten(2, (blocks, window))
    mixed = masked_attention(query, near_and_first(key), near_and_first(value), readable)
    return mixed.flatten(2, 3)[:, :, :new]
