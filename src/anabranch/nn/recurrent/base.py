"""The recurrent cell: the slot where a sequence is read one frame after the other, with a state."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anabranch.nn.streaming import State, Streaming
from anabranch.spaces import Space


class Recurrence(Streaming):
    """Contract of the slot ``cell``: ``(batch, time, in_dim) -> (batch, time, dim)``, causal, with a state.

    A subclass gives ``initial_state`` and ``step``; one whose recurrence can be solved in parallel, or by a fused loop,
    also overrides :meth:`scan`. The constructor takes ``in_dim`` and ``dim`` first, then keyword-only options.

    Declared facts, each proved by the contract tests:

    * ``state_is_output``: the state after a frame is that frame's output, and nothing else;
    * ``cost(n)``: multiply-adds of a forward pass over ``n`` frames, one sample.
    """

    causal = True
    state_is_output: ClassVar[bool] = False
    no_compile: ClassVar[str | None] = None
    space: ClassVar[Space] = {}

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        if in_dim < 1 or dim < 1:
            raise ValueError(f"in_dim and dim must be at least 1; got {in_dim} and {dim}")
        self.in_dim, self.dim = in_dim, dim

    def forward(
        self,
        x: Float[Tensor, "batch time in_dim"],
        state: State | None = None,
        *,
        lengths: Int[Tensor, "batch"] | None = None,
        resets: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """Read a whole sequence.

        Arguments:
            x: the frames.
            state: where to start from; ``initial_state`` if not given.
            lengths: frames that exist in each row, at least 1; the returned state is the one after the last of them,
                and the outputs behind it are void.
            resets: True where a row starts anew before reading the frame.

        Returns: the outputs, and the state after the last frame.
        """
        if x.ndim != 3 or x.shape[-1] != self.in_dim:
            raise ValueError(f"{type(self).__name__} expected (batch, time, {self.in_dim}); got {tuple(x.shape)}")
        if lengths is not None and (
            lengths.shape != x.shape[:1] or int(lengths.min()) < 1 or int(lengths.max()) > x.shape[1]
        ):
            raise ValueError(f"expected {x.shape[0]} lengths between 1 and {x.shape[1]}; got {lengths.tolist()}")
        if resets is not None and resets.shape != x.shape[:2]:
            raise ValueError(f"the resets must be {tuple(x.shape[:2])}; got {tuple(resets.shape)}")
        if state is None:
            state = self.initial_state(x.shape[0])
        if resets is not None:
            return self.recur(x, state, lengths, resets)
        return self.scan(x, state) if lengths is None else self.scan_ragged(x, state, lengths)

    def scan(
        self, x: Float[Tensor, "batch time in_dim"], state: State
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """The fastest solver for a full sequence; the plain loop unless a subclass knows better."""
        return self.recur(x, state, None, None)

    def scan_ragged(
        self, x: Float[Tensor, "batch time in_dim"], state: State, lengths: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """Like :meth:`scan`, with the state after each row's last frame."""
        if not self.state_is_output:
            return self.recur(x, state, lengths, None)
        y, _ = self.scan(x, state)
        return y, y[torch.arange(len(y), device=y.device), lengths - 1]

    def chunk(
        self, x: Float[Tensor, "batch time in_dim"], state: State
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        return self.scan(x, state)

    def recur(
        self,
        x: Float[Tensor, "batch time in_dim"],
        state: State,
        lengths: Int[Tensor, "batch"] | None,
        resets: Bool[Tensor, "batch time"] | None,
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """The recurrence written as a loop: slow, and right for every cell."""
        outputs = []
        fresh = self.initial_state(x.shape[0]) if resets is not None else None
        for t, x_t in enumerate(x.unbind(1)):
            if resets is not None:
                state = select(resets[:, t], fresh, state)
            y_t, new = self.step(x_t, state)
            state = new if lengths is None else select(t < lengths, new, state)
            outputs.append(y_t)
        return torch.stack(outputs, dim=1), state

    def cost(self, n: int) -> int:
        """Multiply-adds for ``n`` frames of one sample: each matrix is used once a frame."""
        return n * sum(p.numel() for p in self.parameters() if p.ndim == 2)


def select(condition: Bool[Tensor, "batch"], if_true: State, if_false: State) -> State:
    """Choose between two states row by row."""
    if isinstance(if_true, Tensor):
        rows = condition.view(-1, *[1] * (if_true.ndim - 1))
        return torch.where(rows, if_true, if_false)
    if isinstance(if_true, dict):
        return {name: select(condition, if_true[name], if_false[name]) for name in if_true}
    return type(if_true)(select(condition, a, b) for a, b in zip(if_true, if_false, strict=True))
