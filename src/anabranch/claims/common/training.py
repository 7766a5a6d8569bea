"""Training that is alike for all arms of an experiment: the same start, the same data in the same order."""

from collections.abc import Callable

import torch
from torch import nn

from anabranch.bench.fit import Budget, fit
from anabranch.data.task import Task


def start_alike(seed: int, build: Callable[[], nn.Module], reference: Callable[[], nn.Module]) -> nn.Module:
    """Build a model that has the reference's values wherever both have a parameter of the same name and shape."""
    torch.manual_seed(seed)  # the reference comes first, so that its values do not depend on the other model
    theirs = dict(reference().named_parameters())
    model = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in theirs and theirs[name].shape == parameter.shape:
                parameter.copy_(theirs[name])
    return model


def train(model: nn.Module, task: Task, rate: float, steps: int, seed: int, batch_size: int = 16) -> float:
    """Train with AdamW, which shrinks matrices only; return the seconds it took."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, rate, fused=True)
    budget = Budget(steps=steps)
    return fit(
        model, task.train, loss=task.loss, optimizer=optimizer, budget=budget, batch_size=batch_size, seed=seed
    ).seconds
