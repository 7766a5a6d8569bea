"""What penalties of the form ``strength / 2 * sum_i importance_i (theta_i - anchor_i)^2`` have in common."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.continual.strategy import MakeOptimizer, Strategy
from anabranch.spaces import Range, Space


class Anchored(Strategy):
    """A quadratic pull towards the weights of earlier tasks, renewed whenever a task ends.

    A subclass gives ``importance`` for the task that has just ended, and ``merge`` with what was there before.

    Arguments:
        strength: factor on the penalty.
        limit: the largest curvature ``strength * importance`` that is used. Gradient descent of rate ``lr`` diverges
            along a weight whose curvature exceeds ``2 / lr``, so None stands for ``1 / lr``; ``math.inf`` for no limit.
    """

    space: ClassVar[Space] = {"strength": Range(1e-3, 1e4, 1.0, log=True)}

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        *,
        strength: float = 1.0,
        limit: float | None = None,
        heads: Sequence[Sequence[int]] | None = None,
        seed: int = 0,
    ):
        super().__init__(model, optimizer, heads=heads, seed=seed)
        if strength < 0:
            raise ValueError(f"strength must not be negative; got {strength}")
        self.strength, self.limit = strength, limit
        self._penalty: tuple[Tensor, Tensor] | None = None  # importance and anchor
        self._task: int | Tensor | None = None

    def boundary(self) -> None:
        """A task has ended: anchor its weights."""
        if self.seen is None:
            raise ValueError("boundary() before the first batch: there is no task that could have ended")
        with self.metered(self.measuring()), torch.no_grad():
            importance, weights = self.importance(), self.weights()
            self._penalty = self.merge(importance, weights)

    def measuring(self) -> Any:
        """What decides how many FLOPs ``importance`` takes."""
        return "boundary"

    def weights(self) -> Float[Tensor, "weights"]:
        """All trained weights in one vector."""
        return torch.cat([p.flatten() for p in self.model.parameters() if p.requires_grad])

    def update(self, x: Tensor, y: Tensor, task: int | Tensor | None) -> None:
        self._task = task
        super().update(x, y, task)

    def loss(self, x: Tensor, y: Tensor, task: int | Tensor | None) -> Float[Tensor, ""]:
        return super().loss(x, y, task) + self.penalty()

    def penalty(self) -> Tensor | float:
        """The pull, up to a constant; 0 before the first task has ended."""
        if self._penalty is None:
            return 0.0
        importance, anchor = self._penalty
        limit = self.limit
        if limit is None:
            limit = 1 / max(float(group["lr"]) for group in self.optimizer.param_groups)
        curvature = (self.strength * importance).clamp(max=limit)
        return 0.5 * (curvature * (self.weights() - anchor).square()).sum()

    def importance(self) -> Float[Tensor, "weights"]:
        """How much each weight matters for the task that has just ended."""
        raise NotImplementedError

    def merge(self, importance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Importance and anchor from now on."""
        raise NotImplementedError

    def memory(self) -> dict[str, Any]:
        return {} if self._penalty is None else {"importance": self._penalty[0], "anchor": self._penalty[1]}

    def restore(self, memory: dict[str, Any]) -> None:
        self._penalty = (memory["importance"], memory["anchor"]) if "anchor" in memory else None
