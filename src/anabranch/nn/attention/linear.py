"""Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236): attention whose cost grows with the tokens, not their
square, and whose causal form is a recurrent network with a state of fixed size."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.kernels import causal_linear_attention, causal_linear_sums
from anabranch.nn.attention.base import MultiHead, Projected, no_autocast
from anabranch.nn.attention.feature_maps import FeatureMap, elu_plus_one
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State


class LinearAttention(MultiHead):
    """Every token reads a weighted mean of the others, the weights being ``phi(q) . phi(k)``, divided by their sum.

    Since no softmax couples the scores, ``sum_j phi(k_j) v_j^T`` and ``sum_j phi(k_j)`` are formed once and read by all
    queries (eq. 6). If ``causal`` they are running sums (eq. 12), which are also the state when streaming: its size
    does not depend on how many tokens were read. Where nothing is left to read (every token masked), what is read is
    zero, and the output is the output layer's bias.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        causal: read no later token; such an attention reads its own sequence only.
        feature_map: ``phi``, a function or module on the last dimension; its dot products must not be negative.
        bias: whether the linear maps have biases.
        eps: added to the sum that the weights are divided by.

    Raises: ``ValueError`` if ``dim`` is not a multiple of ``heads``.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        causal: bool = False,
        feature_map: FeatureMap = elu_plus_one,
        bias: bool = True,
        eps: float = 1e-6,
    ):
        super().__init__(dim, heads=heads, causal=causal, bias=bias)
        self.eps = eps
        self.feature_map = feature_map
        self.features = feature_map(torch.zeros(1, self.head_dim)).shape[-1]

    def read(self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"]) -> Projected:
        query, key, value = super().read(x, context)
        return Projected(self.feature_map(query), self.feature_map(key), value)

    def divide(
        self, numerator: Float[Tensor, "batch heads time value"], denominator: Float[Tensor, "batch heads time"]
    ) -> Float[Tensor, "batch heads time value"]:
        return numerator / (denominator + self.eps)[..., None]

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, context).exact()
        if mask is not None:
            key = key.masked_fill(~mask[:, None, :, None], 0)
        if self.causal:
            mixed = causal_linear_attention(query, key, value, eps=self.eps)
        else:
            with no_autocast(x):
                mixed = self.divide(query @ (key.mT @ value), (query @ key.sum(-2)[..., None])[..., 0])
        return self.project(mixed.to(x.dtype))

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        query, key, _ = self.read(x, x if context is None else context).exact()
        with no_autocast(x):
            scores = query @ key.mT
        if self.causal:
            scores = scores.tril()
        return self.divide(scores, scores.sum(-1)).to(x.dtype)

    def initial_state(self, batch: int) -> State:
        """``S``, the sum of ``phi(k) v^T``, and ``z``, the sum of ``phi(k)``; at least in float32, as sums grow long."""
        S = self.zeros(batch, self.heads, self.features, self.head_dim)
        S = S.float() if S.dtype in (torch.bfloat16, torch.float16) else S
        return {"S": S, "z": S.new_zeros(batch, self.heads, self.features)}

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        query, key, value = self.read(x_t[:, None], x_t[:, None]).exact()
        S, z = state["S"] + key.mT * value, state["z"] + key[:, :, 0]
        with no_autocast(x_t):
            mixed = self.divide(query @ S, (query * z[:, :, None]).sum(-1))
        return self.project(mixed.to(x_t.dtype))[:, 0], {"S": S, "z": z}

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        query, key, value = self.read(x, x).exact()
        numerator, denominator = causal_linear_sums(query, key, value)
        with no_autocast(x):
            mixed = self.divide(numerator + query @ state["S"], denominator + (query @ state["z"][..., None])[..., 0])
            state = {"S": state["S"] + key.mT @ value, "z": state["z"] + key.sum(-2)}
        return self.project(mixed.to(x.dtype)), state

    def cost(self, n: int) -> int:
        return 4 * n * self.dim**2 + 2 * n * self.features * (self.dim + self.heads)
