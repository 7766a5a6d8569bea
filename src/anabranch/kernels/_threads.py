"""Splitting a loop that has released the interpreter's lock over as many threads as torch may use.

Numba's own ``parallel=True`` is not used: its thread pools abort the process when two Python threads enter them at
once, or after a fork, and they do not follow ``torch.set_num_threads``.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None


def in_threads(work: Callable[[int, int], None], length: int, pieces: int | None = None) -> None:
    """Call ``work(first, last)`` on ranges that cover ``range(length)``, side by side.

    Arguments:
        work: must be safe to run on disjoint ranges at the same time, and should release the interpreter's lock.
        pieces: how many ranges; at most ``torch.get_num_threads()``, which is also the default.
    """
    limit = torch.get_num_threads()
    pieces = max(1, min(limit if pieces is None else pieces, limit, length))
    bounds = [length * i // pieces for i in range(pieces + 1)]
    others = [_workers().submit(work, *bounds[i : i + 2]) for i in range(1, pieces)]
    work(bounds[0], bounds[1])
    for other in others:
        other.result()


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="anabranch-kernels")
    return _pool


def _forget_workers() -> None:
    global _pool
    _pool = None


# Threads do not survive a fork: a child process starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
