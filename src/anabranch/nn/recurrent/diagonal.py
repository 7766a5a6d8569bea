"""The simplest linear recurrence: one leaky average per channel, with a learned rate."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.kernels import linear_scan
from anabranch.nn.recurrent.base import Recurrence

Hidden = Float[Tensor, "batch dim"]


class DiagonalCell(Recurrence):
    """Leaky averages of projected inputs: ``h' = a * h + (1 - a) * (W x + b)``, with ``a = σ(θ)`` learned per channel.

    Without a nonlinearity in time, all states follow from one parallel scan. The output is the state. The averages
    start with time constants spread evenly in the logarithm from 1 to ``longest`` frames.

    Arguments:
        in_dim: width of a frame.
        dim: number of averages.
        longest: largest time constant at the start, in frames.
    """

    state_is_output = True

    def __init__(self, in_dim: int, dim: int, *, longest: float = 100.0):
        super().__init__(in_dim, dim)
        if longest < 1:
            raise ValueError(f"longest must be at least 1 frame; got {longest}")
        self.project = nn.Linear(in_dim, dim)
        constants = torch.logspace(0, torch.log10(torch.tensor(longest)).item(), dim)
        self.theta = nn.Parameter(torch.logit(torch.exp(-1 / constants)))

    def initial_state(self, batch: int) -> Hidden:
        return self.zeros(batch, self.dim)

    def step(self, x_t: Float[Tensor, "batch in_dim"], state: Hidden) -> tuple[Hidden, Hidden]:
        a = torch.sigmoid(self.theta)
        h = a * state + (1 - a) * self.project(x_t)
        return h, h

    def scan(
        self, x: Float[Tensor, "batch time in_dim"], state: Hidden
    ) -> tuple[Float[Tensor, "batch time dim"], Hidden]:
        a = torch.sigmoid(self.theta)
        h = linear_scan(a, (1 - a) * self.project(x), state)
        return h, h[:, -1]
