"""Elastic weight consolidation: hold back the weights that earlier tasks need (arXiv 1612.00796)."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from anabranch.continual.anchor import Anchored
from anabranch.continual.replay import ReplayBuffer
from anabranch.continual.strategy import MakeOptimizer
from anabranch.spaces import Choice, Range, Space
from anabranch.theory.fisher import diag_fisher


class EWC(Anchored):
    """Each weight is pulled back to its old value as strongly as the old tasks' Fisher information says it matters.

    The loss of a later task is ``L + strength / 2 * sum_A sum_i F_Ai (theta_i - theta_Ai)^2`` over the earlier tasks A
    (eq. 3). That sum is one quadratic, with the curvature ``sum_A F_A`` around a weighted mean of the ``theta_A``; so
    the memory does not grow with the number of tasks. Weights of classes that a task could not name have no Fisher
    information in it, and stay free.

    Arguments:
        mode: ``separate`` keeps every task's own anchor, as in the paper; from the third task on this counts the early
            ones more than once. ``online`` anchors at the latest weights alone, with ``F <- decay * F + F_new``
            (Schwarz et al. 2018, arXiv 1805.06370), and is exact where the losses are quadratic (Huszar 2018,
            arXiv 1712.03847).
        samples: how many of a task's samples the information is measured on; they are kept until the task ends.
        labels: ``drawn`` from the model once per sample, as the definition asks; ``true`` ones give the empirical
            Fisher.
        strength, limit: as in ``Anchored``. The paper does not state its strength; the space is to be searched.
    """

    space: ClassVar[Space] = {"strength": Range(1.0, 1e4, 100.0, log=True), "mode": Choice("separate", "online")}

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        *,
        strength: float = 100.0,
        mode: Literal["separate", "online"] = "separate",
        decay: float = 1.0,
        samples: int = 512,
        labels: Literal["drawn", "true"] = "drawn",
        limit: float | None = None,
        heads: Sequence[Sequence[int]] | None = None,
        seed: int = 0,
    ):
        if mode not in ("separate", "online"):
            raise ValueError(f"mode is 'separate' or 'online'; got {mode!r}")
        if labels not in ("drawn", "true"):
            raise ValueError(f"labels are 'drawn' or 'true'; got {labels!r}")
        if mode == "separate" and decay != 1.0:
            raise ValueError(f"only the online mode forgets: mode='separate' needs decay=1; got {decay}")
        super().__init__(model, optimizer, strength=strength, limit=limit, heads=heads, seed=seed)
        self.mode, self.decay, self.labels = mode, decay, labels
        self.recent = ReplayBuffer(samples, seed=seed)

    def update(self, x: Tensor, y: Tensor, task: int | Tensor | None) -> None:
        self.recent.add(x, y)
        super().update(x, y, task)

    def boundary(self) -> None:
        super().boundary()
        self.recent.forget()

    def measuring(self) -> Any:
        return "boundary", len(self.recent)

    def importance(self) -> Tensor:
        x, y, _ = self.recent.draw(self.recent.capacity)
        fisher = diag_fisher(
            self.model,
            x,
            y if self.labels == "true" else None,
            allowed=self.allowed(self._task),
            generator=self.generator,
        )
        return torch.cat([value.flatten() for value in fisher.values()])

    def merge(self, importance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        if self._penalty is None:
            return importance, weights
        before, anchor = self._penalty
        total = self.decay * before + importance
        if self.mode == "online":
            return total, weights
        return total, torch.where(total > 0, (before * anchor + importance * weights) / total, weights)

    def memory(self) -> dict[str, Any]:
        return {**super().memory(), "recent": self.recent.state_dict(), "task": self._task}

    def stored_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in super().memory().values()) + self.recent.bytes

    def restore(self, memory: dict[str, Any]) -> None:
        super().restore(memory)
        self.recent.load_state_dict(memory["recent"])
        self._task = memory["task"]
