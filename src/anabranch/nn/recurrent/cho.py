"""The gated recurrent unit as first published (Cho et al. 2014, arXiv 1406.1078, eqs. 5 to 8)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.nn.recurrent.base import Recurrence

Hidden = Float[Tensor, "batch dim"]


class ChoGRUCell(Recurrence):
    """Gated unit whose reset gate acts before the recurrent matrix.

    ``z = σ(W_z x + U_z h)``, ``r = σ(W_r x + U_r h)``, ``h~ = tanh(W x + U (r * h))``, ``h' = z * h + (1 - z) * h~``,
    each sum with a bias. The output is the state. ``h~`` needs a product of its own after the gate, which is why
    torch's fused loop computes another unit (:class:`~anabranch.nn.recurrent.GRUCell`) and this one is a loop over
    frames; the input's share of it is computed for all frames at once. Recurrent matrices start orthogonal, as in the
    paper.

    Arguments:
        in_dim: width of a frame.
        dim: width of the state.
    """

    state_is_output = True

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim)
        self.input = nn.Linear(in_dim, 3 * dim)  # rows in the order z, r, h~
        self.gates = nn.Parameter(torch.cat([nn.init.orthogonal_(torch.empty(dim, dim)) for _ in range(2)]))
        self.recurrent = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim)))

    def initial_state(self, batch: int) -> Hidden:
        return self.zeros(batch, self.dim)

    def advance(self, from_input: Float[Tensor, "batch gates"], h: Hidden) -> Hidden:
        """The next state, given the input's share of the three sums."""
        gates_x, candidate_x = from_input.split([2 * self.dim, self.dim], dim=1)
        z, r = torch.sigmoid(torch.addmm(gates_x, h, self.gates.t())).chunk(2, dim=1)
        candidate = torch.tanh(torch.addmm(candidate_x, r * h, self.recurrent.t()))
        return torch.lerp(candidate, h.to(candidate.dtype), z)

    def step(self, x_t: Float[Tensor, "batch in_dim"], state: Hidden) -> tuple[Hidden, Hidden]:
        h = self.advance(self.input(x_t), state)
        return h, h

    def scan(
        self, x: Float[Tensor, "batch time in_dim"], state: Hidden
    ) -> tuple[Float[Tensor, "batch time dim"], Hidden]:
        states = [state]
        for from_input in self.input(x).unbind(1):
            states.append(self.advance(from_input, states[-1]))
        return torch.stack(states[1:], dim=1), states[-1]
