"""Equal tuning: every contender tries the same number of settings, drawn evenly from its own declared space."""

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from scipy.stats import qmc

from anabranch.spaces import Choice, Range, Space


def settings(space: Space, trials: int, seed: int) -> list[dict[str, Any]]:
    """The settings that a contender tries: first its defaults, then points of a scrambled Halton sequence.

    They depend on the arguments alone, not on what earlier trials gave: so a race may run them in any order, side by
    side or again after a crash, and two contenders that share a dimension at the same place of their spaces (such as
    the learning rate, always first) try the same values of it.
    """
    points = [{name: dimension.default for name, dimension in space.items()}]
    if space and trials > 1:
        sequence = qmc.Halton(len(space), scramble=True, rng=seed).random(trials - 1)
        points += [{name: _at(space[name], float(u)) for name, u in zip(space, row, strict=True)} for row in sequence]
    # Where nothing (or too little) can be tuned, a repeated setting would only waste time.
    unique = list({repr(point): point for point in points}.values())
    return unique[:trials]


def _at(dimension: Choice | Range, u: float) -> Any:
    """The value a share ``u`` of the way through a dimension."""
    if isinstance(dimension, Choice):
        return dimension.options[min(int(u * len(dimension.options)), len(dimension.options) - 1)]
    if dimension.log:
        return math.exp(math.log(dimension.low) + u * (math.log(dimension.high) - math.log(dimension.low)))
    return dimension.low + u * (dimension.high - dimension.low)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The same space in Optuna's words, for its storage and dashboard."""
    return {
        name: CategoricalDistribution(dimension.options)
        if isinstance(dimension, Choice)
        else FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        for name, dimension in space.items()
    }
