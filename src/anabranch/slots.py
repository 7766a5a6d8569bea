"""Filling slots: how a skeleton turns a part's name, class or factory into a module that fits one of its places.

A skeleton knows *facts* about a place (its width, its length, whether it is causal, ...). A part's constructor names
the facts it needs, and gets those and no others; everything else it takes is an option of the part.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from anabranch.errors import InputError


def find_by_name(slot: str, name: str) -> Any:
    """Look a part up by its slot and short name. Replaced by the catalog's look-up when ``anabranch`` is imported."""
    raise InputError(f"cannot look up {name!r} for slot {slot!r}: no catalog is loaded")


def fill(slot: str, part: str | Callable[..., Any], /, **facts: Any) -> Any:
    """Build the part that fills one place of a slot.

    Arguments:
        slot: name of the slot, as ``anabranch slots`` lists it.
        part: short name of a catalogued part (``"pool"``), a class, or any factory. Options of the part are bound with
            ``functools.partial(PoolMixing, window=5)``.
        facts: what the skeleton knows about the place. The constructor gets those that it names as parameters.

    Raises:
        InputError: if the name is unknown, or the constructor needs something that the place does not provide.
    """
    maker = find_by_name(slot, part) if isinstance(part, str) else part
    if not callable(maker) or (hasattr(maker, "forward") and not isinstance(maker, type)):
        raise InputError(
            f"slot {slot!r} takes a part's name, class or factory, since one is built per place; "
            f"got an object of type {type(maker).__name__}"
        )
    parameters = inspect.signature(maker).parameters
    wanted = {name: value for name, value in facts.items() if name in parameters and name not in bound(maker)}
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name not in wanted
    ]
    if missing:
        raise InputError(
            f"{name_of(maker)} does not fit this place of slot {slot!r}: it needs {', '.join(missing)}, "
            f"the place knows {', '.join(facts) or 'nothing'}"
        )
    return maker(**wanted)


def bound(maker: Callable[..., Any]) -> set[str]:
    """Options that ``functools.partial`` has already fixed."""
    return set(maker.keywords) | bound(maker.func) if isinstance(maker, partial) else set()


def name_of(maker: Any) -> str:
    """The name a person knows a part's factory by."""
    return name_of(maker.func) if isinstance(maker, partial) else getattr(maker, "__name__", type(maker).__name__)
