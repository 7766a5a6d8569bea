"""One call for every kind of data: a built-in task's name, or a path."""

from pathlib import Path
from typing import Any, Literal

from anabranch.data.shipped import TASKS
from anabranch.data.task import Task
from anabranch.errors import InputError, unknown


def load(
    what: str | Path,
    *,
    target: str | None = None,
    time: str | None = None,
    horizon: int | None = None,
    past: int | None = None,
    goal: Literal["classify", "regress"] | None = None,
    seed: int = 0,
) -> Task:
    """A task by name."""
    name = str(what)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    given: dict[str, Any] = {"past": past, "horizon": horizon, "target": target, "time": time, "goal": goal}
    given = {option: value for option, value in given.items() if value is not None}
    make = TASKS[name]
    for option in given:
        if option not in make.__code__.co_varnames[: make.__code__.co_argcount]:
            raise InputError(f"the built-in task {name!r} takes no {option}; got {option}={given[option]!r}")
    return make(**given)
