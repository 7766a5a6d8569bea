"""Reading a budget as people write it: ``300 steps``, ``20 epochs``, ``90s``, ``2m``."""

import re
from dataclasses import dataclass

from anabranch.bench.fit import Budget
from anabranch.errors import InputError

_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class RaceBudget:
    """What a race may use.

    Steps and epochs are the length of *each* training run. A time is that of the *whole* race and is shared out equally
    over all its runs, so that it says how long one waits (with one worker).
    """

    text: str
    steps: int | None = None
    epochs: float | None = None
    seconds: float | None = None

    def per_run(self, runs: int, epoch: int) -> Budget:
        """The share of one training run, where an epoch has so many steps."""
        if self.seconds is not None:
            return Budget(seconds=self.seconds / runs)
        return Budget(steps=self.steps if self.steps is not None else max(1, round((self.epochs or 0) * epoch)))


def parse_budget(text: str) -> RaceBudget:
    """Read a budget.

    Raises:
        InputError: if it is not a positive number followed by a unit that is known.
    """
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InputError(f"expected a budget such as '300 steps', '20 epochs', '90s' or '2m'; got {text!r}")
    number, unit = float(match[1]), match[2].lower()
    if number <= 0:
        raise InputError(f"expected a budget above zero; got {text!r}")
    # "ms" is no plural of "m".
    singular = unit.removesuffix("s") if len(unit) > 2 else unit
    if singular in _SECONDS:
        return RaceBudget(text, seconds=number * _SECONDS[singular])
    if singular == "step":
        if number != int(number):
            raise InputError(f"expected a whole number of steps; got {text!r}")
        return RaceBudget(text, steps=int(number))
    if singular == "epoch":
        return RaceBudget(text, epochs=number)
    raise InputError(f"expected a budget in steps, epochs, s, m or h; got the unit {match[2]!r} in {text!r}")
