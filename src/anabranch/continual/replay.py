"""A memory of fixed size for samples of a stream."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

ANY_TASK = -1


class ReplayBuffer:
    """Keeps a uniform random sample of everything it was shown (reservoir sampling; Vitter 1985, algorithm R).

    Arguments:
        capacity: number of samples that are kept.
        seed: fixes which ones, and what is drawn.
    """

    def __init__(self, capacity: int, *, seed: int = 0):
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1; got {capacity}")
        self.capacity, self.seen = capacity, 0
        self.generator = torch.Generator().manual_seed(seed)
        self._x = self._y = self._task = torch.empty(0)

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    @property
    def bytes(self) -> int:
        """Bytes of the memory, which is laid out whole at the first sample."""
        return sum(table.numel() * table.element_size() for table in (self._x, self._y, self._task))

    def add(self, x: Float[Tensor, "batch *shape"], y: Int[Tensor, "batch"], task: int | None = None) -> None:
        """Show it a batch: sample number n, counted from 1, gets in with the chance ``capacity / n``."""
        if self.seen == 0 and self._x.shape[1:] != x.shape[1:]:
            self._x = x.new_empty(self.capacity, *x.shape[1:])
            self._y, self._task = y.new_empty(self.capacity), y.new_empty(self.capacity)
        number = self.seen + torch.arange(len(x))
        chance = torch.rand(len(x), generator=self.generator, dtype=torch.float64)
        slot = torch.where(number < self.capacity, number, (chance * (number + 1)).long())
        # Of two samples for one place the later one stays.
        place = {where: i for i, where in enumerate(slot.tolist()) if where < self.capacity}
        if place:
            to, origin = torch.tensor(list(place)), torch.tensor(list(place.values()))
            self._x[to], self._y[to] = x[origin].detach(), y[origin]
            self._task[to] = ANY_TASK if task is None else task
        self.seen += len(x)

    def draw(self, size: int) -> tuple[Float[Tensor, "drawn *shape"], Int[Tensor, "drawn"], Int[Tensor, "drawn"]]:
        """Inputs, labels and task numbers (-1 for none) of ``size`` samples, or as many as there are; none twice."""
        index = torch.randperm(len(self), generator=self.generator)[:size]
        return self._x[index], self._y[index], self._task[index]

    def forget(self) -> None:
        """Start anew, in the same memory."""
        self.seen = 0

    def state_dict(self) -> dict[str, Any]:
        tables = {"x": self._x.clone(), "y": self._y.clone(), "task": self._task.clone()}
        return {**tables, "seen": self.seen, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._x, self._y, self._task = (state[name].clone() for name in ("x", "y", "task"))
        self.seen = state["seen"]
        self.generator.set_state(state["generator"])
