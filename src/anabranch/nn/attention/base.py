"""What most kinds of attention share: queries, keys and values, on several heads side by side."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.mixing.base import TokenMixer


class Projected(NamedTuple):
    """Queries, keys and values of all heads; queries and keys as the scores take them."""

    query: Float[Tensor, "batch heads time features"]
    key: Float[Tensor, "batch heads source features"]
    value: Float[Tensor, "batch heads source value"]

    def exact(self) -> "Projected":
        """All three at least in float32: half precision does not hold long sums, nor float16 the size of them."""
        return Projected(*(part.to(torch.promote_types(part.dtype, torch.float32)) for part in self))


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A block in which autocast leaves the operations on a device alone, the one that ``x`` is on."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


class MultiHead(TokenMixer):
    """Attention with linear maps to queries, keys and values, and one from all heads' results to the output.

    A subclass implements ``mix``, most by :meth:`read`, what its weights are, and :meth:`project`. Where nothing is
    left to read (every token masked), what is read is zero, and the output is the output layer's bias.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        causal: read no later token; such an attention reads its own sequence only.
        bias: whether the linear maps have biases.

    Raises: ``ValueError`` if ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, *, heads: int = 4, causal: bool = False, bias: bool = True):
        super().__init__(dim)
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads; got {dim} and {heads}")
        self.heads, self.head_dim, self.causal = heads, dim // heads, causal
        self.equivariant = self.cross = not causal
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key_value = nn.Linear(dim, 2 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def split(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch heads time head_dim"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def read(self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"]) -> Projected:
        key, value = map(self.split, self.key_value(context).chunk(2, dim=-1))
        return Projected(self.split(self.query(x)), key, value)

    def project(self, mixed: Float[Tensor, "batch heads time value"]) -> Float[Tensor, "batch time dim"]:
        return self.out(mixed.transpose(1, 2).flatten(2))

    def values(self, context: Float[Tensor, "batch source dim"]) -> Float[Tensor, "batch heads source value"]:
        return self.split(self.key_value(context).chunk(2, dim=-1)[1])

    @staticmethod
    def earlier(n: int, device: torch.device, *, new: int | None = None) -> Bool[Tensor, "new time"]:
        """True where a causal token (row) may read (column): itself and what came before; the last ``new`` rows."""
        place = torch.arange(n, device=device)
        return place <= place[n - (n if new is None else new) :, None]
