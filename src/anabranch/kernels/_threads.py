"""Splitting a loop that has released the interpreter's lock over as many threads as torch may use.

The threads are torch's own wherever it uses GNU's OpenMP, as it does on Linux: for milliseconds after each of torch's
operations they wait for the next one without sleeping, and would take the processor from any others. Elsewhere, and
after a fork, which OpenMP's threads do not survive, they are Python's.

Numba's own ``parallel=True`` is not used: its thread pools abort the process when two Python threads enter them at
once, or after a fork, and they do not follow ``torch.set_num_threads``.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

_pool: ThreadPoolExecutor | None = None
_forked = False
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(work: Callable[[int, int], None], length: int, pieces: int | None = None) -> None:
    """Call ``work(first, last)`` on ranges that cover ``range(length)``, side by side.

    Arguments:
        work: must be safe to run on disjoint ranges at the same time, and should release the interpreter's lock.
        pieces: how many ranges; at most ``torch.get_num_threads()``, which is also the default.
    """
    limit = torch.get_num_threads()
    pieces = max(1, min(limit if pieces is None else pieces, limit, length))
    if pieces == 1:
        work(0, length)
        return
    bounds = [length * i // pieces for i in range(pieces + 1)]
    team = None if _forked else _openmp()
    if team is None:
        others = [_workers().submit(work, *bounds[i : i + 2]) for i in range(1, pieces)]
        work(bounds[0], bounds[1])
        for other in others:
            other.result()
        return
    failed: list[BaseException] = []
    left = iter(range(pieces))  # each thread takes what is left: a team may be smaller than was asked for

    def body(_: int | None) -> None:
        try:
            for i in left:
                work(bounds[i], bounds[i + 1])
        except BaseException as error:  # it cannot pass through OpenMP
            failed.append(error)

    team.GOMP_parallel(_BODY(body), None, pieces, 0)
    if failed:
        raise failed[0]


@cache
def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP as torch brings it, which is loaded already."""
    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        try:
            team = ctypes.CDLL(str(library))
            team.GOMP_parallel.argtypes = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            team.GOMP_parallel.restype = None
            return team
        except (OSError, AttributeError):
            continue
    return None


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="anabranch-kernels")
    return _pool


def _after_fork() -> None:
    global _pool, _forked
    _pool, _forked = None, True


# Threads do not survive a fork: a child process starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
