"""The streaming contract: one for every part of the library that can run on a signal that never ends.

A part that streams offers

* ``initial_state(batch)``: the state before the first frame;
* ``step(x_t, state) -> (y_t, state)``: one frame in, one frame out;
* ``chunk(x, state) -> (y, state)``: many frames at once, by the part's parallel form where it has one;
* ``latency``: how many frames the output lags behind the input. With ``latency = k`` the first ``k`` outputs are void,
  and the output given at frame ``t`` is the one for frame ``t - k``.

The law, proved for all of them by ``anabranch.testing.check_streaming``: however a signal is cut into chunks, the
joined outputs equal what ``forward`` gives for the whole signal; and the state stays within a bound fixed in advance.

A state is a tensor, or a tuple, list or dict of states. The first axis of every tensor in it is the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

State = Any


class Streaming(nn.Module):
    """Base of every part that can stream: a subclass gives ``initial_state`` and ``step``, or even ``chunk``."""

    latency: int = 0

    @property
    def streams(self) -> bool:
        """Whether this object, as built, can stream."""
        return type(self).step is not Streaming.step

    def initial_state(self, batch: int) -> State:
        """State before the first frame, on the part's own device and in its own type."""
        raise NotImplementedError(f"{type(self).__name__} cannot stream")

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch out"], State]:
        """Take one frame; return the output and the next state. The given state is not changed."""
        raise NotImplementedError(f"{type(self).__name__} cannot stream")

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time out"], State]:
        """Take many frames; the same outputs and state as that many steps."""
        if not x.shape[1]:
            raise ValueError(f"{type(self).__name__} expected at least one frame; got {tuple(x.shape)}")
        outputs = []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, dim=1), state

    def zeros(self, *shape: int) -> Tensor:
        """Zeros on this part's device, in its floating type; for building states."""
        like = next(self.parameters(), None)
        return torch.zeros(*shape) if like is None else like.new_zeros(*shape)


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a state."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {name: map_state(function, part) for name, part in state.items()}
    return type(state)(map_state(function, part) for part in state)


def state_bytes(state: State) -> int:
    """Bytes that a state's tensors hold."""
    total = 0

    def add(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    map_state(add, state)
    return total
