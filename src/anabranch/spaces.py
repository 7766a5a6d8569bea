"""Search spaces: how a part says which of its options are worth tuning, and over what range.

A part declares ``space = {"window": Choice(3, 5, 7), "epsilon": Range(1e-8, 1e-4, log=True)}``; the race tunes every
contender over its own space with the same number of trials.
"""

from dataclasses import dataclass
from typing import Any


class Choice:
    """One of a few values. The first is the default and is always tried."""

    def __init__(self, *options: Any):
        if not options:
            raise ValueError("a Choice needs at least one option")
        self.options = options

    @property
    def default(self) -> Any:
        return self.options[0]

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.options))})"


@dataclass(frozen=True)
class Range:
    """A number between ``low`` and ``high``, both included; spaced evenly in the logarithm if ``log``."""

    low: float
    high: float
    default: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.default <= self.high:
            raise ValueError(f"expected low <= default <= high; got {self.low}, {self.default}, {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0; got {self.low}")


Space = dict[str, Choice | Range]
