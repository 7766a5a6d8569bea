"""The three classical cells, frame by frame in plain formulas and over whole sequences by torch's fused loops."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.nn.recurrent.base import Recurrence

Hidden = Float[Tensor, "batch dim"]


class _Fused(Recurrence):
    """Base of the cells that torch has a fused loop for; ``loop`` holds the parameters of both forms."""

    def __init__(self, in_dim: int, dim: int, loop: type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]):
        super().__init__(in_dim, dim)
        self.loop: Any = loop(in_dim, dim, batch_first=True)

    def from_input(self, x_t: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch gates"]:
        return F.linear(x_t, self.loop.weight_ih_l0, self.loop.bias_ih_l0)

    def from_state(self, h: Hidden) -> Float[Tensor, "batch gates"]:
        return F.linear(h, self.loop.weight_hh_l0, self.loop.bias_hh_l0)

    def run(self, x, state):
        """The fused loop. It has no reduced precision on all CPUs, so that autocast is left outside there."""
        weight = self.loop.weight_ih_l0
        mixed = weight.device.type != "cpu" and torch.is_autocast_enabled(weight.device.type)
        with torch.autocast(weight.device.type, enabled=mixed):
            return self.loop(x if mixed else x.to(weight.dtype), state)


class _HiddenOnly(_Fused):
    """A fused cell whose state is its output."""

    state_is_output = True

    def initial_state(self, batch: int) -> Hidden:
        return self.zeros(batch, self.dim)

    def scan(
        self, x: Float[Tensor, "batch time in_dim"], state: Hidden
    ) -> tuple[Float[Tensor, "batch time dim"], Hidden]:
        y, last = self.run(x, state[None].to(self.loop.weight_hh_l0.dtype))
        return y, last[0]


class ElmanCell(_HiddenOnly):
    """The simple recurrent network (Elman 1990): ``h' = tanh(W x + U h + b)``, and the output is ``h'``."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim, nn.RNN)

    def step(self, x_t: Float[Tensor, "batch in_dim"], state: Hidden) -> tuple[Hidden, Hidden]:
        h = torch.tanh(self.from_input(x_t) + self.from_state(state))
        return h, h


class GRUCell(_HiddenOnly):
    """The gated recurrent unit as libraries have it, which is not quite the one first published.

    ``n = tanh(W x + r * (U h + b))``: the reset gate acts after the recurrent matrix, which lets all three recurrent
    products be one. :class:`~anabranch.nn.recurrent.ChoGRUCell` is the published form, with the gate before the matrix.
    The output is the state ``h' = (1 - z) * n + z * h``.
    """

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim, nn.GRU)

    def step(self, x_t: Float[Tensor, "batch in_dim"], state: Hidden) -> tuple[Hidden, Hidden]:
        r_x, z_x, n_x = self.from_input(x_t).chunk(3, dim=1)
        r_h, z_h, n_h = self.from_state(state).chunk(3, dim=1)
        n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        h = torch.lerp(n, state.to(n.dtype), torch.sigmoid(z_x + z_h))
        return h, h


class LSTMCell(_Fused):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with forget gates (Gers et al. 2000), no peepholes.

    ``c' = f * c + i * g``, ``h' = o * tanh(c')``; the state is ``(h, c)``, the output ``h'``. The forget gate's bias
    starts at 1, so that the cell remembers before it has learned to forget (Jozefowicz et al. 2015).
    """

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim, nn.LSTM)
        with torch.no_grad():
            self.loop.bias_ih_l0[dim : 2 * dim] = 1
            self.loop.bias_hh_l0[dim : 2 * dim] = 0

    def initial_state(self, batch: int) -> tuple[Hidden, Hidden]:
        return self.zeros(batch, self.dim), self.zeros(batch, self.dim)

    def step(
        self, x_t: Float[Tensor, "batch in_dim"], state: tuple[Hidden, Hidden]
    ) -> tuple[Hidden, tuple[Hidden, Hidden]]:
        i, f, g, o = (self.from_input(x_t) + self.from_state(state[0])).chunk(4, dim=1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)

    def scan(
        self, x: Float[Tensor, "batch time in_dim"], state: tuple[Hidden, Hidden]
    ) -> tuple[Float[Tensor, "batch time dim"], tuple[Hidden, Hidden]]:
        y, (h, c) = self.run(x, (state[0][None], state[1][None]))
        return y, (h[0], c[0])

    def scan_ragged(
        self, x: Float[Tensor, "batch time in_dim"], state: tuple[Hidden, Hidden], lengths: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch time dim"], tuple[Hidden, Hidden]]:
        # The memory c of earlier frames is not given out by the fused loop, so that padding must be packed away.
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, (h, c) = self.run(packed, (state[0][None], state[1][None]))
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], (h[0], c[0])
