"""Local learning: every stage has its own loss and its own optimizer, and no gradient crosses a stage's border."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from anabranch.learning.base import MakeOptimizer

LocalLoss = Callable[[int, Tensor], Tensor]  # index of the stage, its output -> scalar


class LocalStages:
    """The loop that local rules share: run a stage on a detached input, update it, hand its output on.

    The graph of a stage is freed before the next one runs, so what autograd keeps does not grow with the depth.

    Arguments:
        stages: applied one after the other.
        make_optimizer: called once for each stage that has parameters to train, with its named parameters.
        clip: largest norm of a stage's gradient; None leaves it alone.
    """

    def __init__(self, stages: Sequence[nn.Module], make_optimizer: MakeOptimizer, clip: float | None = None):
        self.stages, self.clip = list(stages), clip
        self._parameters = [[p for p in stage.parameters() if p.requires_grad] for stage in self.stages]
        self._optimizers = [
            make_optimizer([(name, p) for name, p in stage.named_parameters() if p.requires_grad]) if own else None
            for stage, own in zip(self.stages, self._parameters, strict=True)
        ]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizer in self._optimizers if optimizer is not None]

    def train(self, index: int, inputs: Tensor, loss: LocalLoss) -> tuple[Tensor, Tensor]:
        """Update one stage; returns its detached output, from before the update, and its detached loss."""
        output = self.stages[index](inputs.detach())
        value = loss(index, output)
        optimizer, parameters = self._optimizers[index], self._parameters[index]
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip)
            optimizer.step()
        return output.detach(), value.detach()

    def sweep(
        self, inputs: Tensor, loss: LocalLoss, between: Callable[[Tensor], Tensor] = lambda x: x
    ) -> tuple[Tensor, Tensor]:
        """Update every stage in order; ``between`` is applied to what a stage reads.

        Returns the last stage's output and the sum of the losses, both detached.
        """
        total = torch.zeros((), device=inputs.device)
        for index in range(len(self.stages)):
            inputs, value = self.train(index, between(inputs), loss)
            total = total + value
        return inputs, total
