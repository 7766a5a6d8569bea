"""Transformer-XL's attention (Dai et al. 2019, arXiv 1901.02860): segments that read the one before, by distance."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.attention.base import MultiHead
from anabranch.nn.attention.efficient.segments import default_size, existing
from anabranch.nn.attention.masking import masked_softmax
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State
from anabranch.spaces import Choice, Space


class TransformerXL(MultiHead):
    """Causal attention to one's own segment and all of the one before, with scores that know the distance.

    The score is ``(q_i + u) . k_j + (q_i + v) . W r_{i-j}`` with sinusoids ``r`` and learned ``u``, ``v``, ``W`` (section
    3.3). While streaming, the state holds at most two segments. A new model: blocks on top of each other see one more
    segment each. The paper stops the gradient between segments; here it flows within one input, and does not between
    inputs whose state the caller detaches.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        segment: tokens of a segment; 64, or a quarter of the length, if not given.
        length: number of tokens, where it is known; any number may come.
        bias: whether the linear maps have biases.
    """

    space: ClassVar[Space] = {"segment": Choice(None, 32)}

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        segment: int | None = None,
        length: int | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, causal=True, bias=bias)
        self.segment = default_size(length, 64, share=4) if segment is None else segment
        if self.segment < 1:
            raise ValueError(f"segment must be at least 1; got {segment}")
        self.max_len = 2 * self.segment  # tokens held while streaming
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))  # u
        self.distance_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))  # v

    def distances(self) -> Float[Tensor, "heads reach head_dim"]:
        """``W r`` for every distance that occurs."""
        like = self.distance.weight
        exact = torch.promote_types(like.dtype, torch.float32)
        reach = torch.arange(2 * self.segment, device=like.device, dtype=exact)
        rates = 10_000.0 ** (-torch.arange(0, self.dim, 2, device=like.device, dtype=exact) / self.dim)
        angles = reach[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], -1)[:, : self.dim]
        return self.distance(waves.to(like.dtype)).unflatten(-1, (self.heads, -1)).transpose(0, 1)

    def attend(
        self,
        query: Float[Tensor, "batch heads time head_dim"],
        key: Float[Tensor, "batch heads time head_dim"],
        value: Float[Tensor, "batch heads time head_dim"],
        exists: Bool[Tensor, "_ time"],
    ) -> Float[Tensor, "batch heads time head_dim"]:
        n, size = query.shape[2], self.segment

        def segments(part: Tensor) -> Tensor:
            return F.pad(part, (0, 0, 0, -n % size)).unflatten(2, (-1, size))

        def with_one_before(part: Tensor) -> Tensor:
            return torch.cat([F.pad(part[:, :, :-1], (0, 0, 0, 0, 1, 0)), part], 3)

        query = query * self.head_dim**-0.5
        scale = self.head_dim**-0.5
        content = segments(query + self.content_bias * scale) @ with_one_before(segments(key)).mT
        by_distance = segments(query + self.distance_bias * scale) @ self.distances().mT[:, None]
        r, c = torch.arange(size, device=query.device)[:, None], torch.arange(2 * size, device=query.device)
        apart = (size + r - c).clamp(min=0).expand(content.shape)
        readable = (c <= r + size) & with_one_before(segments(exists[:, None, :, None])).mT
        mixed = masked_softmax(content + by_distance.gather(-1, apart), readable) @ with_one_before(segments(value))
        return mixed.flatten(2, 3)[:, :, :n]

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        return self.project(self.attend(*self.read(x, x), existing(mask, x)))

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        query, key, _ = self.read(x, x)
        place = torch.arange(x.shape[1], device=x.device)
        apart = place[:, None] - place
        readable = (apart >= 0) & (place[:, None] // self.segment - place // self.segment <= 1)
        relative = self.distances()[:, apart.clamp(0, 2 * self.segment - 1)]
        by_distance = torch.einsum("bhnd,hnmd->bhnm", query + self.distance_bias, relative)
        scores = ((query + self.content_bias) @ key.mT + by_distance) * self.head_dim**-0.5
        return masked_softmax(scores, readable)

    def initial_state(self, batch: int) -> State:
        empty = self.zeros(batch, self.heads, 0, self.head_dim)
        return {"key": empty, "value": empty}

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        """What is held begins with a segment: the one before the last token's, or the first."""
        query, key, value = self.read(x, x)
        held, new = state["key"].shape[2], x.shape[1]
        key, value = torch.cat([state["key"], key], 2), torch.cat([state["value"], value], 2)
        query = F.pad(query, (0, 0, held, 0))
        there = torch.ones(1, held + new, dtype=torch.bool, device=x.device)
        mixed = self.attend(query, key, value, there)[:, :, held:]
        kept = max(0, (held + new) // self.segment - 1) * self.segment
        return self.project(mixed), {"key": key[:, :, kept:], "value": value[:, :, kept:]}

    def cost(self, n: int) -> int:
        padded = n + -n % self.segment
        return 4 * n * self.dim**2 + 2 * self.segment * self.dim**2 + 6 * padded * self.segment * self.dim
