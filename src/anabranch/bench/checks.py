"""What a race is asked for is looked at before anything is done: each misunderstanding is one line."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch

from anabranch.bench.runner import Runner
from anabranch.bench.skeletons import Filler
from anabranch.errors import InputError, unknown


def check_options(options: Mapping[str, Any], call: Callable[..., Any]) -> None:
    """Options that a call hands on to `anabranch.data.load` must be known there.

    Raises:
        InputError: naming the first that is not, with the nearest that are.
    """
    from anabranch.data import load

    known = (signature(call).parameters.keys() | signature(load).parameters.keys()) - {"data", "what", "options"}
    for option in options:
        if option not in known:
            raise unknown("option", option, known)


def check_count(what: str, count: Any, least: int = 1) -> None:
    """A whole number that is large enough.

    Raises:
        InputError: if it is not.
    """
    if not isinstance(count, int) or count < least:
        raise InputError(f"expected at least {least} {what}; got {count!r}")


def check_vary(vary: Mapping[str, Sequence[Filler]]) -> None:
    """Slots that exist, with lists of parts.

    Raises:
        InputError: if they are anything else.
    """
    from anabranch.catalog import slot as known_slot

    if not isinstance(vary, Mapping):
        raise InputError(f"expected parts by slot such as {{'mixer': ['attention', 'pool']}}; got {vary!r}")
    for slot, parts in vary.items():
        known_slot(slot)
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise InputError(f"expected a list of parts for the slot {slot!r}; got {parts!r}")
        for part in parts:
            if not isinstance(part, str) and (not callable(part) or isinstance(part, torch.nn.Module)):
                raise InputError(
                    f"expected names, classes or factories for the slot {slot!r}; "
                    f"got an object of type {type(part).__name__}"
                )


def check_sendable(runner: Runner) -> None:
    """Workers get parts by name, so they must be found in a module.

    Raises:
        InputError: if they cannot.
    """
    try:
        pickle.dumps(runner)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"with several workers every part must be importable, not defined on the spot ({error}); use workers=1"
        ) from error


def pick_device(device: str) -> str:
    """The device to train on."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"expected a device that is there: cpu, cuda or auto; got {device!r} ({error})") from error
    return device
