"""Plain backpropagation: the rule that all others are measured against."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anabranch import optim
from anabranch.data.task import Batch
from anabranch.learning.base import MakeOptimizer, Objective, Rule, Trainer, forward, trained


class Backprop(Rule):
    """The gradient of the objective by reverse-mode differentiation, one optimizer for the whole module."""

    kind: Literal["gradient"] = "gradient"

    def bind(
        self,
        module: nn.Module,
        objective: Objective = F.cross_entropy,
        make_optimizer: MakeOptimizer = optim.AdamW,
        *,
        clip: float | None = None,
    ) -> "BackpropTrainer":
        return BackpropTrainer(module, objective, make_optimizer, clip)


class BackpropTrainer(Trainer):
    """:class:`Backprop` at work."""

    def __init__(self, module: nn.Module, objective: Objective, make_optimizer: MakeOptimizer, clip: float | None):
        super().__init__(module, objective, clip)
        self.parameters = trained(module.named_parameters())
        self.optimizer = make_optimizer(module)
        self.optimizers.append(self.optimizer)

    def update(self, batch: Batch) -> Float[Tensor, ""]:
        loss = self.objective(forward(self.module, batch), batch.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.descend(self.optimizer, list(self.parameters.values()))
        return loss.detach()

    def grads(self, batch: Batch) -> dict[str, Tensor]:
        loss = self.objective(forward(self.module, batch), batch.targets)
        found = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True, allow_unused=True)
        return dict(zip(self.parameters, found, strict=True))
