"""Softmax where some tokens may not be read, or none."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def masked_softmax(
    scores: Float[Tensor, "*batch source"], readable: Bool[Tensor, "..."]
) -> Float[Tensor, "*batch source"]:
    """Softmax over what is readable, zeros where nothing is.

    Arguments:
        scores: anything finite.
        readable: True for what counts; broadcast to the scores.
    """
    weights = scores.where(readable, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.where(readable.any(-1, keepdim=True), 0)


def masked_attention(
    query: Float[Tensor, "batch heads *blocks time key"],
    key: Float[Tensor, "batch heads *blocks source key"],
    value: Float[Tensor, "batch heads *blocks source value"],
    readable: Bool[Tensor, "#batch #heads *#blocks #time #source"],
) -> Float[Tensor, "batch heads *blocks time value"]:
    """Softmax attention to what is readable, zeros where nothing is; blocks attend side by side, each to its own keys.

    Where torch has a fused kernel, no scores are held: less memory, and on a CPU about half the time of
    :func:`masked_softmax` between two products.

    Arguments:
        readable: True for what counts; most memory is saved if it is the same for all heads.
    """
    empty = ~readable.any(-1, keepdim=True)  # nothing to read would be 0 / 0
    allowed = readable | empty
    batch, blocks = len(query), query.shape[2:-2]
    if blocks:  # The kernel knows a batch and heads; a mask that is the same for all heads stays one.
        allowed = allowed.expand(batch, -1, *blocks, -1, -1)
        query, key, value, allowed = (x.movedim(1, -3).flatten(0, -4) for x in (query, key, value, allowed))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    if blocks:
        mixed = mixed.unflatten(0, (batch, *blocks)).movedim(-3, 1)
    return mixed.masked_fill(empty, 0)
