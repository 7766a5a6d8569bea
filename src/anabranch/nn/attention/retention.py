"""Retention (Sun et al. 2023, arXiv 2307.08621; in vision Hatamizadeh et al. 2023, arXiv 2310.19731): attention without a
softmax, that forgets by a fixed factor a token."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.kernels import retention
from anabranch.nn.attention.base import MultiHead, Projected, no_autocast
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State


class Retention(MultiHead):
    """Every token reads the sum of those before it, weighted by ``decay^{i-j} (q_i . k_j) / sqrt(d)``.

    Being a linear recurrence, ``S_i = decay S_{i-1} + k_i^T v_i`` and ``y_i = q_i S_i / sqrt(d)``, it has three forms
    that give the same: all at once (:meth:`weights`), token by token (:meth:`step`), and in chunks, which a whole
    sequence and :meth:`chunk` use. The heads' results, whose size nothing bounds, pass a layer norm and a GELU before
    the output layer, as in the first version of the vision paper. Always causal. A released parallel form takes a
    softmax of the masked scores, by which later tokens leak into earlier ones; this follows the equations.

    A masked token is not read, but still counts as a step of forgetting.

    Arguments:
        dim: channels of a token.
        heads: retentions that work side by side, each on ``dim / heads`` channels with a decay of its own.
        decay: one factor a head, above 0 and at most 1; from ``1 - 1/32`` to ``1 - 1/512``, evenly in the logarithm of
            what is forgotten, if not given. With 1 nothing is forgotten.
        bias: whether the linear maps have biases.

    Raises: ``ValueError`` if ``dim`` is not a multiple of ``heads``, or for other than one proper decay a head.
    """

    def __init__(self, dim: int, *, heads: int = 4, decay: Sequence[float] | None = None, bias: bool = True):
        super().__init__(dim, heads=heads, causal=True, bias=bias)
        if decay is None:
            decay = (1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), heads, dtype=torch.float64).exp()).tolist()
        if len(decay) != heads or not all(0 < factor <= 1 for factor in decay):
            raise ValueError(f"expected {heads} decays above 0 and at most 1, one a head; got {tuple(decay)}")
        # Not a buffer: a model in half precision would round the factors up to 1.
        self.decay = tuple(decay)
        self.norm = nn.LayerNorm(dim)

    def factors(self, x: Tensor) -> Float[Tensor, "heads"]:
        return torch.tensor(self.decay, dtype=torch.float64, device=x.device)

    def read(self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"]) -> Projected:
        query, key, value = super().read(x, context)
        return Projected(query * self.head_dim**-0.5, key, value)

    def project(self, mixed: Float[Tensor, "batch heads time value"]) -> Float[Tensor, "batch time dim"]:
        weight, bias = self.norm.weight.to(mixed.dtype), self.norm.bias.to(mixed.dtype)
        normal = F.layer_norm(mixed.transpose(1, 2).flatten(2), (self.dim,), weight, bias, self.norm.eps)
        return self.out(F.gelu(normal).to(self.out.weight.dtype))

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, x).exact()
        if mask is not None:
            key = key.masked_fill(~mask[:, None, :, None], 0)
        return self.project(retention(query, key, value, self.factors(x)))

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        query, key, _ = self.read(x, x).exact()
        i = torch.arange(x.shape[1], device=x.device)
        fading = self.factors(x)[:, None, None] ** (i[:, None] - i).clamp(min=0)
        with no_autocast(x):
            return ((query @ key.mT) * fading.tril().to(query.dtype)).to(x.dtype)

    def initial_state(self, batch: int) -> State:
        """``S``, the fading sum of ``k^T v``; at least in float32, as sums grow long."""
        S = self.zeros(batch, self.heads, self.head_dim, self.head_dim)
        return S.float() if S.dtype in (torch.bfloat16, torch.float16) else S

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        query, key, value = self.read(x_t[:, None], x_t[:, None]).exact()
        state = state * self.factors(x_t).to(state.dtype)[:, None, None] + key.mT * value
        with no_autocast(x_t):
            mixed = query @ state
        return self.project(mixed)[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        query, key, value = self.read(x, x).exact()
        n, factors = x.shape[1], self.factors(x)
        powers = (factors[:, None] ** torch.arange(n + 1, device=x.device)).to(state.dtype)[..., None]
        with no_autocast(x):
            mixed = retention(query, key, value, factors) + (query * powers[:, 1:]) @ state
            state = state * powers[:, -1:] + (key * powers[:, :-1].flip(1)).mT @ value
        return self.project(mixed), state

    def cost(self, n: int) -> int:
        return 4 * n * self.dim**2 + 2 * n * self.head_dim * self.dim
