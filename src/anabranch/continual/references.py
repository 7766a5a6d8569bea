"""The four references that every continual learner is measured against."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anabranch.continual.anchor import Anchored
from anabranch.continual.replay import ANY_TASK, ReplayBuffer
from anabranch.continual.strategy import MakeOptimizer, Strategy
from anabranch.spaces import Choice, Space


class FineTuning(Strategy):
    """Gradient descent on whatever comes: the lower bound, once its learning rate is tuned."""


class Joint(Strategy):
    """Gradient descent on the whole stream in random order: the upper bound, which no continual learner may see."""

    mixed = True


class Replay(Strategy):
    """Learns from each batch together with as many remembered samples (reservoir of fixed size).

    Arguments:
        capacity: samples that are kept. Default 200.
    """

    space: ClassVar[Space] = {"capacity": Choice(200, 50, 500)}

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        *,
        capacity: int = 200,
        heads: Sequence[Sequence[int]] | None = None,
        seed: int = 0,
    ):
        super().__init__(model, optimizer, heads=heads, seed=seed)
        self.buffer = ReplayBuffer(capacity, seed=seed)

    def workload(self, batch: int) -> int:
        return min(batch, len(self.buffer))

    def update(self, x: Tensor, y: Tensor, task: int | Tensor | None) -> None:
        if len(self.buffer) == 0:
            super().update(x, y, task)
        else:
            old_x, old_y, old_task = self.buffer.draw(len(x))
            tasks = torch.cat([torch.full_like(y, ANY_TASK if task is None else int(task)), old_task])
            super().update(torch.cat([x, old_x]), torch.cat([y, old_y]), None if task is None else tasks)
        self.buffer.add(x, y, None if task is None else int(task))

    def memory(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    def stored_bytes(self) -> int:
        return self.buffer.bytes

    def restore(self, memory: dict[str, Any]) -> None:
        self.buffer.load_state_dict(memory)


class L2Anchor(Anchored):
    """Pulls every weight back to where it was when the last task ended, all equally."""

    def importance(self) -> Tensor:
        return torch.ones_like(self.weights())

    def merge(self, importance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return importance, weights
