"""Flow attention (Wu et al. 2022, arXiv 2202.06258): linear attention as a flow that is conserved, so that sources compete."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anabranch.kernels import linear_scan, retention
from anabranch.nn.attention.base import MultiHead, Projected, no_autocast
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State


class Flows(NamedTuple):
    """What flows into each sink (query) and out of each source (key), and again once each gives or takes 1 in all."""

    incoming: Float[Tensor, "batch heads time"]
    outgoing: Float[Tensor, "batch heads source"]
    conserved_incoming: Float[Tensor, "batch heads time"]
    conserved_outgoing: Float[Tensor, "batch heads source"]
    sums: State  # running sums after the last token, if causal


class FlowAttention(MultiHead):
    """Linear attention with ``phi = sigmoid`` whose sources compete for sinks, and whose sinks let in what they need.

    The product ``phi(q_i) . phi(k_j)`` is a flow from source ``j`` to sink ``i``. Were every sink given 1 in all, the
    sources would send out ``conserved_outgoing``: its softmax over the sources weights the values (competition). Were
    every source to send out 1, the sinks would receive ``conserved_incoming``: its sigmoid scales what each takes
    (allocation). In between, a sink's incoming flow is normalised as in linear attention.

    If ``causal``, all sums run over the tokens so far and are scaled by their number. As in the released code a
    source's outgoing flow then counts the sinks up to itself, not those that are still to come: causal, but no
    conservation in the strict sense. The running sums are the state when streaming, of fixed size. Masked tokens
    are neither sources nor, in self-attention, sinks. Where nothing is left to read, what is read is zero.

    Arguments:
        dim: channels of a token.
        heads: mixing matrices that work side by side, each on ``dim / heads`` channels.
        causal: read no later token; such an attention reads its own sequence only.
        bias: whether the linear maps have biases.
        eps: added to what is multiplied into a flow, so that none is zero.

    Raises: ``ValueError`` if ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, *, heads: int = 4, causal: bool = False, bias: bool = True, eps: float = 1e-6):
        super().__init__(dim, heads=heads, causal=causal, bias=bias)
        self.eps = eps

    def read(self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"]) -> Projected:
        query, key, value = super().read(x, context).exact()
        return Projected(query.sigmoid(), key.sigmoid(), value)

    def total(
        self, x: Float[Tensor, "batch heads source features"], before: Float[Tensor, "batch heads features"] | None
    ) -> Float[Tensor, "batch heads source features"] | Float[Tensor, "batch heads 1 features"]:
        """The sum over all tokens, or over those so far."""
        if not self.causal:
            return x.sum(-2, keepdim=True)
        if x.shape[-2] == 1:  # while streaming
            return x if before is None else x + before[..., None, :]
        return linear_scan(x.new_ones(()), x.transpose(1, 2), before).transpose(1, 2)

    def flows(
        self,
        query: Float[Tensor, "batch heads time features"],
        key: Float[Tensor, "batch heads source features"],
        count: Float[Tensor, "#batch 1 time"] | None = None,
        before: dict[str, Tensor] | None = None,
    ) -> Flows:
        """Flows between sinks and sources that are not negative; those of tokens that do not exist are zero.

        Arguments:
            count: if causal, how many tokens there are up to each.
            before: if causal, the sums over what was read before.
        """
        start = {} if before is None else before
        scale = 1 if count is None else count.clamp(min=1)
        sinks, sources = query + self.eps, key + self.eps
        sums = {"key": self.total(key, start.get("key")), "query": self.total(query, start.get("query"))}
        incoming = (sinks * (sums["key"] + self.eps)).sum(-1)
        outgoing = (sources * (sums["query"] + self.eps)).sum(-1)
        sums["sent"] = self.total(key * (scale / outgoing)[..., None], start.get("sent"))
        sums["taken"] = self.total(query * (scale / incoming)[..., None], start.get("taken"))
        conserved_incoming = (sinks * (sums["sent"] + self.eps)).sum(-1) / scale
        conserved_outgoing = (sources * (sums["taken"] + self.eps)).sum(-1) / scale
        return Flows(incoming, outgoing, conserved_incoming, conserved_outgoing, sums)

    def competition(
        self,
        rivals: Float[Tensor, "batch heads source"],
        total: Float[Tensor, "batch heads #source"],
        number: Float[Tensor, "#batch 1 #source"],
    ) -> Float[Tensor, "batch heads source"]:
        """Factors on the values: each source's share among its rivals, times their number.

        Arguments: ``exp`` of the outgoing flows, its sum, and the number of sources.
        """
        return rivals / total.clamp(min=torch.finfo(total.dtype).tiny) * number

    def allocation(self, incoming: Float[Tensor, "batch heads time"]) -> Float[Tensor, "batch heads time"]:
        """How much of what it reads a sink lets in."""
        return incoming.sigmoid()

    def factors(
        self,
        query: Float[Tensor, "batch heads time features"],
        key: Float[Tensor, "batch heads source features"],
        sinks: Bool[Tensor, "batch time"] | None = None,
        sources: Bool[Tensor, "batch source"] | None = None,
        before: State | None = None,
    ) -> tuple[Float[Tensor, "batch heads time"], Float[Tensor, "batch heads source"], State]:
        """Factors on the queries and on the values by which this differs from a plain product; and the new sums."""
        if sinks is not None:
            query = query.masked_fill(~sinks[:, None, :, None], 0)
        if sources is not None:
            key = key.masked_fill(~sources[:, None, :, None], 0)
        m = self.numbers(key, sources, None if before is None else before["count"])
        count = m if self.causal else None
        flow = self.flows(query, key, count, before)
        rivals = flow.conserved_outgoing.clamp(-1, 1).exp()
        if sources is not None:
            rivals = rivals * sources[:, None]
        total = self.total(rivals[..., None], None if before is None else before["rivals"])
        need = flow.conserved_incoming if self.causal else flow.conserved_incoming * self.numbers(query, sinks) / m
        let_in = self.allocation(need) / flow.incoming
        sums = flow.sums | {"rivals": total}
        last = {name: part[:, :, -1] for name, part in sums.items()} if self.causal else {}
        return let_in, self.competition(rivals, total[..., 0], m), last

    def numbers(
        self,
        tokens: Float[Tensor, "batch heads time features"],
        exist: Bool[Tensor, "batch time"] | None,
        before: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "#batch 1 #time"]:
        """How many tokens there are in all, at least 1; or so far, if causal."""
        if not self.causal:
            if exist is None:
                return tokens.new_full((1, 1, 1), tokens.shape[2])
            return exist.sum(1).clamp(min=1)[:, None, None].to(tokens.dtype)
        one_by_one = (
            torch.arange(1, tokens.shape[2] + 1, device=tokens.device)[None] if exist is None else exist.cumsum(1)
        )
        if before is not None:
            one_by_one = one_by_one + before[:, None]
        return one_by_one[:, None].to(tokens.dtype)

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, context)
        let_in, competing, _ = self.factors(query, key, mask if context is x else None, mask)
        query, value = query * let_in[..., None], value * competing[..., None]
        if mask is not None:
            key = key.masked_fill(~mask[:, None, :, None], 0)
        with no_autocast(x):
            mixed = retention(query, key, value) if self.causal else query @ (key.mT @ value)
        return self.project(mixed.to(x.dtype))

    def weights(
        self, x: Float[Tensor, "batch time dim"], context: Float[Tensor, "batch source dim"] | None = None
    ) -> Float[Tensor, "batch heads time source"]:
        query, key, _ = self.read(x, x if context is None else context)
        let_in, competing, _ = self.factors(query, key)
        with no_autocast(x):
            scores = query @ key.mT
        weights = (scores.tril() if self.causal else scores) * let_in[..., None] * competing[..., None, :]
        return weights.to(x.dtype)

    def initial_state(self, batch: int) -> State:
        """Sums over keys, queries and their normalised forms, over the rivals, and of ``phi(k) v^T``; the count."""
        S = self.zeros(batch, self.heads, self.head_dim, self.head_dim)
        S = S.to(torch.promote_types(S.dtype, torch.float32))
        sums = {name: S.new_zeros(S.shape[:-1]) for name in ("key", "query", "sent", "taken")}
        count = torch.zeros(batch, dtype=torch.long, device=S.device)
        return sums | {"rivals": S.new_zeros(batch, self.heads, 1), "S": S, "count": count}

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        query, key, value = self.read(x, x)
        let_in, competing, sums = self.factors(query, key, before=state)
        query, value = query * let_in[..., None], value * competing[..., None]
        with no_autocast(x):
            mixed = retention(query, key, value) + query @ state["S"]
            state = sums | {"S": state["S"] + key.mT @ value, "count": state["count"] + x.shape[1]}
        return self.project(mixed.to(x.dtype)), state

    def cost(self, n: int) -> int:
        return 4 * n * self.dim**2 + 2 * n * self.head_dim * self.dim + 8 * n * self.dim
