"""Softmax attention (Vaswani et al. 2017, arXiv 1706.03762): what most token mixers are measured against."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from anabranch.nn.attention.base import MultiHead
from anabranch.nn.attention.masking import masked_attention
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State


class SoftmaxAttention(MultiHead):
    """Every token reads a weighted mean of the others, the weights being the softmax of scaled dot products.

    A causal one streams: its state holds the keys and values of all tokens so far and so **grows** by
    ``2 * dim`` numbers a token, until ``max_len`` tokens are held; one more raises ``ValueError``. Where nothing is
    left to read (every token masked), what is read is zero, and the output is the output layer's bias.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        causal: read no later token; such an attention reads its own sequence only.
        bias: whether the four linear maps have biases.
        max_len: largest number of tokens held while streaming.

    Raises: ``ValueError`` if ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, *, heads: int = 4, causal: bool = False, bias: bool = True, max_len: int = 4096):
        super().__init__(dim, heads=heads, causal=causal, bias=bias)
        self.max_len = max_len

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, context)
        if mask is None:
            return self.project(F.scaled_dot_product_attention(query, key, value, is_causal=self.causal))
        readable = mask[:, None, None, :]
        if self.causal:
            readable = readable & self.earlier(x.shape[1], x.device)
        return self.project(masked_attention(query, key, value, readable))

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        query, key, _ = self.read(x, x if context is None else context)
        scores = query @ key.mT * self.head_dim**-0.5
        if self.causal:
            scores = scores.masked_fill(~self.earlier(x.shape[1], x.device), -torch.inf)
        return scores.softmax(-1)

    def initial_state(self, batch: int) -> State:
        empty = self.zeros(batch, self.heads, 0, self.head_dim)
        return {"key": empty, "value": empty}

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        query, key, value = self.read(x, x)
        key, value = torch.cat([state["key"], key], 2), torch.cat([state["value"], value], 2)
        held, new = key.shape[2], x.shape[1]
        if held > self.max_len:
            raise ValueError(f"this attention holds at most {self.max_len} tokens while streaming; got {held}")
        readable = None if new == 1 else self.earlier(held, x.device, new=new)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=readable)
        return self.project(mixed), {"key": key, "value": value}

    def cost(self, n: int) -> int:
        return 4 * n * self.dim**2 + 2 * n**2 * self.dim
