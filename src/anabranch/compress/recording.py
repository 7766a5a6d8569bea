"""What the parts of a model are called with, and what they give: what their successors learn from."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from anabranch.data.task import Batch
from anabranch.models.seq2seq import Seq2Seq

Inputs = Callable[[Batch], tuple[Tensor, ...]]


class Call(NamedTuple):
    """One call of a part: positional and named arguments, and the output."""

    args: tuple[Any, ...]
    facts: dict[str, Any]
    output: Tensor


@contextmanager
def recorded(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Call]]]:
    """Inside, every call of these parts is kept, in order, by the part's name; nothing empties the lists.

    Raises: ``ValueError`` if the model has no part of that name.
    """
    calls: dict[str, list[Call]] = {name: [] for name in names}
    check_names(model, calls)
    hooks = [
        model.get_submodule(name).register_forward_hook(partial(_keep, kept), with_kwargs=True)
        for name, kept in calls.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _keep(kept: list[Call], _: nn.Module, args: tuple[Any, ...], facts: dict[str, Any], output: Tensor) -> None:
    kept.append(Call(args, facts, output))


def check_names(model: nn.Module, names: Iterable[str]) -> None:
    """Raises: ``ValueError`` if the model has no part of one of these names."""
    known = {name for name, _ in model.named_modules(remove_duplicate=False)} - {""}
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"expected names of parts of {type(model).__name__}; got {', '.join(map(repr, missing))}")


def inputs_of(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """What a model of this library is called with: an encoder-decoder with the targets too, others with the lengths."""
    if isinstance(model, Seq2Seq):
        return batch.inputs, batch.targets
    return (batch.inputs,) if batch.lengths is None else (batch.inputs, batch.lengths)
