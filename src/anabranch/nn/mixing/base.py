"""The token mixer: the slot where tokens exchange information."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.streaming import Streaming
from anabranch.spaces import Space

Grid = tuple[int, ...]


class TokenMixer(Streaming):
    """Contract of the slot ``mixer``: ``(batch, time, dim) -> (batch, time, dim)``.

    A subclass implements :meth:`mix`; calling the module checks the input first, so that every mixer gives the same
    clear errors. Its constructor takes ``dim`` first, then keyword-only options; of the facts a skeleton knows about a
    place it may name ``length`` (number of tokens), ``causal``, ``grid`` (how the tokens lie) and ``depth`` (index of
    the block).

    Declared facts, each proved by the contract tests:

    * ``equivariant``: permuting the tokens permutes the output;
    * ``fixed_length``: works for one number of tokens only, unless it can bring the ``grid`` of others to its own;
    * ``longest``: most tokens that it works for, if there is such a number (set on the object);
    * ``cross``: can read another sequence, given as ``context``;
    * ``causal``: no output depends on a later token (set on the object where it is an option);
    * ``cost(n)``: multiply-adds of a forward pass over ``n`` tokens, one sample.

    A causal mixer that can stream implements ``initial_state`` and ``step`` (see :mod:`anabranch.nn.streaming`).
    One whose state grows holds at most ``2 * dim`` numbers a token, for ``max_len`` tokens (an attribute).
    """

    equivariant: bool = False
    fixed_length: bool = False
    longest: int | None = None
    cross: bool = False
    causal: bool = False
    no_compile: ClassVar[str | None] = None  # why torch.compile cannot take this part, if it cannot
    no_repeat: ClassVar[str | None] = None  # why a training pass cannot be run again for the gradient, if it cannot
    space: ClassVar[Space] = {}

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1; got {dim}")
        self.dim = dim

    @property
    def streams(self) -> bool:
        return self.causal and type(self).step is not Streaming.step

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        context: Float[Tensor, "batch source dim"] | None = None,
        mask: Bool[Tensor, "batch source"] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Mix the tokens.

        Arguments:
            x: the tokens.
            context: the tokens to read from; the tokens themselves if not given.
            mask: True for the tokens of ``context`` (or of ``x``) that exist; the others have no influence.
            grid: how the tokens lie, for example ``(height, width)``; in one line if not given.
        """
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"{type(self).__name__} expected (batch, time, {self.dim}); got {tuple(x.shape)}")
        if context is not None and not self.cross:
            raise ValueError(f"{type(self).__name__} mixes one sequence with itself and cannot read a context")
        if context is not None and (context.ndim != 3 or context.shape[::2] != x.shape[::2]):
            raise ValueError(
                f"{type(self).__name__} expected a context ({x.shape[0]}, source, {self.dim}); "
                f"got {tuple(context.shape)}"
            )
        if not x.shape[1] or (context is not None and not context.shape[1]):
            shapes = " and ".join(str(tuple(each.shape)) for each in (x, context) if each is not None)
            raise ValueError(f"{type(self).__name__} expected at least one token; got {shapes}")
        source = x if context is None else context
        if mask is not None and mask.shape != source.shape[:2]:
            raise ValueError(f"the mask must be {tuple(source.shape[:2])}, one entry a token; got {tuple(mask.shape)}")
        if grid is not None:
            size = 1
            for side in grid:
                size *= side
            if size != x.shape[1]:
                raise ValueError(f"the grid {grid} holds {size} tokens; got {x.shape[1]}")
        return self.mix(x, source, mask, grid)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        """The mechanism, on checked input. ``context`` is ``x`` itself where no other sequence is read."""
        raise NotImplementedError

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        """The dense mixing matrix, where the mixer has one: slow, for tests and for looking at."""
        raise NotImplementedError(f"{type(self).__name__} has no mixing matrix")

    def values(self, context: Float[Tensor, "batch source dim"]) -> Float[Tensor, "batch heads source value"]:
        """What the mixing matrix mixes; by default the tokens themselves, under one head."""
        return context[:, None]

    def project(self, mixed: Float[Tensor, "batch heads time value"]) -> Float[Tensor, "batch time dim"]:
        """From the mixed values of all heads to the output; by default they are laid side by side.

        A mixer with a mixing matrix obeys ``mixer(x) == project(weights(x) @ values(x))``: the dense form that its
        fast form is tested against.
        """
        return mixed.transpose(1, 2).flatten(2)

    def cost(self, n: int) -> int:
        """Multiply-adds of one forward pass over ``n`` tokens of one sample."""
        raise NotImplementedError
