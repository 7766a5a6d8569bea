"""The optimizer: the slot that turns gradients into steps."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from anabranch.spaces import Choice, Range, Space

Model = nn.Module | Iterable[tuple[str, nn.Parameter]]
"""What an optimizer is made for: a module, or pairs of a name and a parameter.

Contract of the slot ``optimizer``: ``part(model, *, lr, ...)`` is a ``torch.optim.Optimizer``. It gets a module rather
than bare parameters because some treat hidden matrices, embeddings and biases differently. Declared: ``space``, what to
tune and where; ``lr`` is always in it.
"""


def named(model: Model) -> list[tuple[str, nn.Parameter]]:
    """The names and parameters that want a gradient."""
    pairs = model.named_parameters() if isinstance(model, nn.Module) else model
    found = [(name, p) for name, p in pairs if p.requires_grad]
    if not found:
        raise ValueError("the model has no parameter to train")
    return found


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with Nesterov momentum."""

    space: ClassVar[Space] = {"lr": Range(1e-3, 1.0, default=0.05, log=True), "momentum": Choice(0.9, 0.0)}

    def __init__(self, model: Model, *, lr: float = 0.05, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(
            [p for _, p in named(model)], lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
        )


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay."""

    space: ClassVar[Space] = {
        "lr": Range(1e-4, 3e-2, default=1e-3, log=True),
        "weight_decay": Range(1e-4, 0.3, default=1e-2, log=True),
    }

    def __init__(
        self,
        model: Model,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-2,
    ):
        super().__init__([p for _, p in named(model)], lr=lr, betas=betas, weight_decay=weight_decay)
