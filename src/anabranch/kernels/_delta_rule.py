"""Memories in a matrix that forgets: the gated delta rule, which overwrites what a key held before (arXiv 2412.06464),
and gated linear attention, which only adds (arXiv 2405.21060)."""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gated_delta_rule(
    query: Float[Tensor, "*batch time key"],
    key: Float[Tensor, "*batch time key"],
    value: Float[Tensor, "*batch time value"],
    beta: Float[Tensor, "*batch time"],
    log_decay: Float[Tensor, "*batch time"],
    state: Float[Tensor, "*batch value key"] | None = None,
    *,
    chunk: int = 64,
) -> tuple[Float[Tensor, "*batch time value"], Float[Tensor, "*batch value key"]]:
    """Run ``H ← e^g H (I - β k kᵀ) + β v kᵀ`` and read ``o = H q`` after every frame.

    Solved chunk by chunk: within a chunk, ``H`` is its first value, decayed, and a sum of ``u_j k_jᵀ``, where the ``u``
    solve a triangular system; from chunk to chunk only ``H`` is handed on.

    Arguments:
        query, key, value: the frames; keys of length 1 or less keep the memory stable.
        beta: how much of what a key held is overwritten, 0 to 1.
        log_decay: ``g``, at most 0; 0 forgets nothing, minus infinity everything.
        state: ``H`` before the first frame; zeros if not given.
        chunk: frames that are solved together, at least 1.

    Sums and the memory are float32 for inputs in half precision, also under autocast.

    Returns: what was read, and ``H`` after the last frame.

    Raises: ``ValueError`` for shapes that do not fit, or a chunk of no frames.
    """
    return _run(_overwriting, query, key, value, beta, log_decay, state, chunk)


def gated_linear_attention(
    query: Float[Tensor, "*batch time key"],
    key: Float[Tensor, "*batch time key"],
    value: Float[Tensor, "*batch time value"],
    beta: Float[Tensor, "*batch time"],
    log_decay: Float[Tensor, "*batch time"],
    state: Float[Tensor, "*batch value key"] | None = None,
    *,
    chunk: int = 64,
) -> tuple[Float[Tensor, "*batch time value"], Float[Tensor, "*batch value key"]]:
    """Run ``H ← e^g H + β v kᵀ`` and read ``o = H q`` after every frame: the delta rule without its correction.

    Every frame has a decay of its own, unlike in :func:`retention`. Arguments and results are those of
    :func:`gated_delta_rule`.
    """
    return _run(_adding, query, key, value, beta, log_decay, state, chunk)


def gated_delta_step(
    query: Float[Tensor, "*batch key"],
    key: Float[Tensor, "*batch key"],
    value: Float[Tensor, "*batch value"],
    beta: Float[Tensor, "*batch"],
    log_decay: Float[Tensor, "*batch"],
    state: Float[Tensor, "*batch value key"],
) -> tuple[Float[Tensor, "*batch value"], Float[Tensor, "*batch value key"]]:
    """One frame of :func:`gated_delta_rule`; the memory that comes back is at least in float32."""
    dtype = value.dtype
    query, key, value, beta, log_decay, state = _exact(query, key, value, beta, log_decay, state)
    with torch.autocast(query.device.type, enabled=False):
        read, state = _frame(query, key, value, beta, log_decay, state, overwriting=True)
        return read.to(dtype), state


def _frame(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, H: Tensor, *, overwriting: bool
) -> tuple[Tensor, Tensor]:
    H = log_decay.exp()[..., None, None] * H
    new = value - (H @ key[..., None])[..., 0] if overwriting else value
    H = torch.addcmul(H, (beta[..., None] * new)[..., None], key[..., None, :])
    return (H @ query[..., None])[..., 0], H


class _Chunks(NamedTuple):
    """Frames cut into chunks; ``gamma``: what is left at a frame of what stood before its chunk; ``left``: at frame i
    (row) of what was written at frame j (column)."""

    query: Float[Tensor, "*batch chunks chunk key"]
    key: Float[Tensor, "*batch chunks chunk key"]
    value: Float[Tensor, "*batch chunks chunk value"]
    beta: Float[Tensor, "*batch chunks chunk 1"]
    gamma: Float[Tensor, "*batch chunks chunk 1"]
    left: Float[Tensor, "*batch chunks chunk chunk"]


Solver = Callable[[_Chunks, Tensor], tuple[list[Tensor], Tensor]]


def _overwriting(frames: _Chunks, H: Tensor) -> tuple[list[Tensor], Tensor]:
    query, key, value, beta, gamma, left = frames
    system = (beta * left * (key @ key.mT)).tril(-1)
    given = beta * torch.cat([value, gamma * key], dim=-1)
    solved = torch.linalg.solve_triangular(system, given, upper=False, unitriangular=True)
    written, corrected = solved.split([value.shape[-1], key.shape[-1]], dim=-1)
    scores, decayed, last = left * (query @ key.mT), gamma * query, left[..., -1, :, None] * key
    read = []
    for c in range(key.shape[-3]):
        u = written[..., c, :, :] - corrected[..., c, :, :] @ H.mT
        read.append(decayed[..., c, :, :] @ H.mT + scores[..., c, :, :] @ u)
        H = gamma[..., c, -1:, :] * H + u.mT @ last[..., c, :, :]
    return read, H


def _adding(frames: _Chunks, H: Tensor) -> tuple[list[Tensor], Tensor]:
    query, key, value, beta, gamma, left = frames
    value = beta * value
    inside = (left * (query @ key.mT)) @ value
    added, decayed = value.mT @ (left[..., -1, :, None] * key), gamma * query
    read = []
    for c in range(key.shape[-3]):
        read.append(inside[..., c, :, :] + decayed[..., c, :, :] @ H.mT)
        H = gamma[..., c, -1:, :] * H + added[..., c, :, :]
    return read, H


def _run(
    solver: Solver,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Cut the frames into chunks and solve them; at least in float32, as sums grow long."""
    _check(query, key, value, beta, log_decay, state, chunk)
    time, dtype = query.shape[-2], value.dtype
    query, key, value, beta, log_decay = _exact(query, key, value, beta, log_decay)
    H = value.new_zeros(*key.shape[:-2], value.shape[-1], key.shape[-1]) if state is None else state.to(value.dtype)
    if time == 0:
        return value.new_zeros(value.shape, dtype=dtype), H
    with torch.autocast(query.device.type, enabled=False):
        if time == 1:  # while streaming; chunks would cost more than the work
            frames = (query[..., 0, :], key[..., 0, :], value[..., 0, :], beta[..., 0], log_decay[..., 0])
            read, H = _frame(*frames, H, overwriting=solver is _overwriting)
            return read[..., None, :].to(dtype), H
        read, H = solver(_chunks(query, key, value, beta, log_decay, min(chunk, time)), H)
        return torch.stack(read, dim=-3).flatten(-3, -2)[..., :time, :].to(dtype), H


def _exact(*given: Tensor) -> list[Tensor]:
    """All in the type that holds all of them, at least float32."""
    work = reduce(torch.promote_types, (x.dtype for x in given), torch.float32)
    return [x.to(work) for x in given]


def _check(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, state: Tensor | None, chunk: int
) -> None:
    if chunk < 1:
        raise ValueError(f"expected chunks of at least 1 frame; got {chunk}")
    frames = key.shape[:-1]
    if query.shape != key.shape or any(part != frames for part in (value.shape[:-1], beta.shape, log_decay.shape)):
        raise ValueError(
            "expected query and key (..., time, key), value (..., time, value), beta and log_decay (..., time); got "
            + ", ".join(str(tuple(x.shape)) for x in (query, key, value, beta, log_decay))
        )
    memory = (*frames[:-1], value.shape[-1], key.shape[-1])
    if state is not None and state.shape != memory:
        raise ValueError(f"expected a state {memory}; got {tuple(state.shape)}")


def _chunks(query: Tensor, key: Tensor, value: Tensor, beta: Tensor, log_decay: Tensor, size: int) -> _Chunks:
    extra = -query.shape[-2] % size  # frames that write nothing, forget nothing and are not read
    if extra:
        query, key, value = (F.pad(x, (0, 0, 0, extra)) for x in (query, key, value))
        beta, log_decay = (F.pad(x, (0, extra)) for x in (beta, log_decay))
    query, key, value = (x.unflatten(-2, (-1, size)) for x in (query, key, value))
    beta, log_decay = (x.unflatten(-1, (-1, size)) for x in (beta, log_decay))
    # Frames that forget everything are counted and not added up, as infinities have no difference.
    total, resets = log_decay.masked_fill(log_decay.isneginf(), 0).cumsum(-1), log_decay.isneginf().cumsum(-1)
    earlier = torch.ones(size, size, dtype=torch.bool, device=key.device).tril()
    kept = earlier & (resets[..., :, None] == resets[..., None, :])
    # Masked before the exponential, which could overflow.
    left = (total[..., :, None] - total[..., None, :]).masked_fill(~kept, -torch.inf).exp()
    gamma = total.masked_fill(resets > 0, -torch.inf).exp()
    return _Chunks(query, key, value, beta[..., None], gamma[..., None], left)
