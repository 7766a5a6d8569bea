"""The probe: the slot of instruments that look at a model and leave it bit for bit as it was."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from anabranch.data.task import Batch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Report:
    """What a probe found.

    Arguments:
        numbers: flat names to numbers; a number that only means something next to chance stands beside its null,
            ``<name>.null``.
        arrays: what the figure shows, and more.
        draw: makes the figure.
    """

    numbers: dict[str, float]
    draw: Callable[[], "Figure"]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def figure(self) -> "Figure":
        """A plotly figure, drawn when asked for."""
        return self.draw()


class Probe(ABC):
    """Contract of the slot ``probe``: ``Probe(model, data).run() -> Report``.

    A subclass implements :meth:`measure` and may do to the model what it likes: :meth:`run` puts everything back, after
    an error too. Options are keyword-only.

    Arguments:
        model: any module, with or without parameters.
        data: a batch the model can read; a probe of the weights alone needs none.
    """

    def __init__(self, model: nn.Module, data: Batch | None = None):
        self.model, self.data = model, data

    def run(self) -> Report:
        """Measure, and leave the model and the random generators as they were."""
        with unchanged(self.model):
            return self.measure()

    @abstractmethod
    def measure(self) -> Report:
        """The measurement itself."""


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the model comes out bit for bit as it went in, and so do the global random states.

    Kept are parameters, buffers, submodules, modes, gradients, hooks and what wants a gradient. Costs a copy of the
    parameters and buffers.
    """
    modules = [(module, _describe(module)) for module in model.modules()]
    tensors = [(t, _Kept(t)) for t in (*model.parameters(), *model.buffers())]
    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        for module, description in modules:
            _restore(module, description)
        for tensor, kept in tensors:
            kept.restore(tensor)
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class _Kept:
    """A tensor's value, its gradient and its hooks."""

    def __init__(self, tensor: Tensor):
        self.value = tensor.detach().clone()
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.grad_value = None if self.grad is None else self.grad.detach().clone()
        self.hooks = dict(tensor._backward_hooks or {})

    def restore(self, tensor: Tensor) -> None:
        with torch.no_grad():
            if tensor.shape != self.value.shape or tensor.dtype != self.value.dtype:
                tensor.data = self.value
            elif not torch.equal(tensor, self.value):  # an unneeded copy would spoil graphs that still hold the tensor
                tensor.copy_(self.value)
            if self.grad is not None and self.grad_value is not None and not torch.equal(self.grad, self.grad_value):
                self.grad.copy_(self.grad_value)
        if tensor.is_leaf:
            tensor.requires_grad_(self.requires_grad)
            tensor.grad = self.grad
        if tensor._backward_hooks is not None:
            tensor._backward_hooks.clear()
            tensor._backward_hooks.update(self.hooks)


def _describe(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, and copies of its tables: parameters, buffers, submodules and all hooks."""
    return {
        name: (value, value.copy()) if isinstance(value, (dict, set)) else (value, None)
        for name, value in module.__dict__.items()
    }


def _restore(module: nn.Module, description: dict[str, Any]) -> None:
    for name in module.__dict__.keys() - description.keys():
        del module.__dict__[name]
    for name, (value, content) in description.items():
        module.__dict__[name] = value
        if content is not None:
            value.clear()
            value.update(content)
