"""What the parts of a model are called with, and what they give: what their successors learn from."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.data.task import Batch
from anabranch.models.seq2seq import Seq2Seq
from anabranch.nn.block.base import Block

TINY = 1e-30  # keeps a share of nothing finite
Inputs = Callable[[Batch], tuple[Tensor, ...]]


class Call(NamedTuple):
    """One call of a part: positional and named arguments, the output, and which tokens exist, if that is known.

    The mask is the one that the part was given, or else the block around it.
    """

    args: tuple[Any, ...]
    facts: dict[str, Any]
    output: Tensor
    mask: Tensor | None

    def to(self, dtype: torch.dtype) -> "Call":
        """The same call with all floating tensors of another type."""
        args = tuple(_cast(each, dtype) for each in self.args)
        facts = {name: _cast(each, dtype) for name, each in self.facts.items()}
        return Call(args, facts, self.output.to(dtype), self.mask)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def recorded(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Call]]]:
    """Inside, every call of these parts is kept, in order, by the part's name; nothing empties the lists.

    Raises: ``ValueError`` if the model has no part of that name.
    """
    calls: dict[str, list[Call]] = {name: [] for name in names}
    check_names(model, calls)
    masks: list[Tensor | None] = []  # of the blocks under way
    hooks = [
        model.get_submodule(name).register_forward_hook(partial(_keep, kept, masks), with_kwargs=True)
        for name, kept in calls.items()
    ]
    for block in model.modules():
        if isinstance(block, Block):
            hooks.append(block.register_forward_pre_hook(partial(_enter, masks), with_kwargs=True))
            hooks.append(block.register_forward_hook(lambda *_: _leave(masks)))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _keep(
    kept: list[Call],
    masks: list[Tensor | None],
    _: nn.Module,
    args: tuple[Any, ...],
    facts: dict[str, Any],
    output: Tensor,
) -> None:
    kept.append(Call(args, facts, output, facts.get("mask", masks[-1] if masks else None)))


def _enter(masks: list[Tensor | None], _: nn.Module, args: tuple[Any, ...], facts: dict[str, Any]) -> None:
    masks.append(facts.get("mask"))


def _leave(masks: list[Tensor | None]) -> None:
    masks.pop()


def check_names(model: nn.Module, names: Iterable[str]) -> None:
    """Raises: ``ValueError`` if the model has no part of one of these names."""
    known = {name for name, _ in model.named_modules(remove_duplicate=False)} - {""}
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"expected names of parts of {type(model).__name__}; got {', '.join(map(repr, missing))}")


class Missed:
    """How far some outputs were missed: the mean squared error over the variance, all calls together.

    Where what was wanted does not vary, its mean square stands in for the variance.
    """

    def __init__(self) -> None:
        self.error, self.square, self.count = 0.0, 0.0, 0
        self.sum: Tensor | float = 0.0

    def add(self, found: Float[Tensor, "tokens dim"], wanted: Float[Tensor, "tokens dim"]) -> None:
        found, wanted = found.detach().double(), wanted.detach().double()
        self.error += float((found - wanted).square().sum())
        self.square += float(wanted.square().sum())
        self.sum, self.count = self.sum + wanted.sum(0), self.count + len(wanted)

    def share(self) -> float:
        if not self.error:
            return 0.0
        assert isinstance(self.sum, Tensor)
        spread = self.square - float(self.sum.square().sum()) / self.count
        return self.error / max(spread if spread > 1e-12 * self.square else self.square, TINY)


def learning_type(dtype: torch.dtype) -> torch.dtype:
    """What weights of that type are to be trained in: at least float32, as steps are lost in half precision."""
    return torch.promote_types(dtype, torch.float32)


def inputs_of(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """What a model of this library is called with: an encoder-decoder with the targets too, others with the lengths."""
    if isinstance(model, Seq2Seq):
        return batch.inputs, batch.targets
    return (batch.inputs,) if batch.lengths is None else (batch.inputs, batch.lengths)
