"""Pooling: the slot where the tokens of a sample become one vector."""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Pool(nn.Module):
    """Contract of the slot ``pooling``: ``(batch, time, dim) -> (batch, out_dim)``.

    The constructor takes ``dim`` first, then keyword-only options; it may name ``length``. Tokens that ``mask`` says do
    not exist have no influence; a sample without tokens gives zeros. ``out_dim`` is ``dim`` unless a subclass says
    otherwise.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1; got {dim}")
        self.dim = self.out_dim = dim

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch out"]:
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"{type(self).__name__} expected (batch, time, {self.dim}); got {tuple(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"the mask must be {tuple(x.shape[:2])}, one entry a token; got {tuple(mask.shape)}")
        return self.pool(x, mask)

    def pool(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch out"]:
        """The mechanism, on checked input."""
        raise NotImplementedError
