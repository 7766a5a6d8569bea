"""Fair timing: the ways take turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any


def seconds(
    ways: Mapping[str, Callable[[], Any]], *, rounds: int = 7, limit: float = 20.0, shortest: float = 2e-3
) -> dict[str, float]:
    """Median seconds of one call of each way.

    Arguments:
        ways: what to time, by name; each is called once before, unmeasured.
        rounds: how often the ways take turns; at least 3.
        limit: seconds after which no further round starts, once there were 3.
        shortest: a way that is faster is called so often per round that a round lasts this long.
    """
    calls = {}
    for name, run in ways.items():
        run()
        once = _timed(run, 1)
        calls[name] = max(1, min(1000, int(shortest / max(once, 1e-7))))
    seen: dict[str, list[float]] = {name: [] for name in ways}
    started = time.perf_counter()
    for done in range(max(3, rounds)):
        if done >= 3 and time.perf_counter() - started > limit:
            break
        for name, run in ways.items():
            seen[name].append(_timed(run, calls[name]))
    return {name: median(values) for name, values in seen.items()}


def _timed(run: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def row(case: str, found: Mapping[str, float], ours: str) -> dict[str, Any]:
    """One line of a result: milliseconds of every way, and how many times faster ours is than each other."""
    return {
        "case": case,
        "ours": ours,
        "ms": {name: round(1e3 * value, 4) for name, value in found.items()},
        "times faster": {name: round(value / found[ours], 2) for name, value in found.items() if name != ours},
    }
