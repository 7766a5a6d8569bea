"""Attention to a window, and a fixed-size memory of what has left it (Fang et al. 2025, arXiv 2510.07318)."""

import math
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.kernels import gated_delta_rule, gated_linear_attention
from anabranch.nn.attention.base import MultiHead, Projected
from anabranch.nn.attention.softmax import SoftmaxAttention
from anabranch.nn.attention.window import window_attention, window_products
from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State
from anabranch.spaces import Choice, Space

Memory = Literal["gdn", "delta", "mamba2"]


class Gates(NamedTuple):
    """What every token says of how it is to be written, ``β`` and ``g``, and how the memory is to be read, ``γ``."""

    beta: Float[Tensor, "batch heads time"]
    log_decay: Float[Tensor, "batch heads time"]
    read: Float[Tensor, "batch heads time 1"]


class HippocampalAttention(MultiHead):
    """Causal attention that reads the first and the newest tokens as they are, and all others from a memory.

    Token ``t`` attends to the ``sinks`` first tokens and to the ``window`` newest, itself included. A token that leaves
    the window, ``s = t - window``, is written into each head's matrix with its own key and value by the gated delta
    rule, ``H ← e^g H (I - β k kᵀ) + β v kᵀ`` with ``k`` of length 1, and token ``t`` reads
    ``W_o (RMSNorm(H q) ∘ swish(γ))``, which joins what attention read before the output layer. So a stream's state
    stops growing: ``sinks + window`` keys, values and gates, and one matrix a head.

    The paper puts it around a trained attention that stays as it is and trains the memory's weights alone: see
    :meth:`around` and :func:`anabranch.compress.distill_memory`. It rotates keys by their positions, which attention in
    this library does not do by itself. While no token has left the window, it is plain attention bit for bit.

    ``window`` and ``sinks`` may be set to other numbers between calls, but not within a stream.

    Arguments:
        dim, heads, bias: as in :class:`SoftmaxAttention`.
        window: newest tokens that are kept; 64, or a quarter of the length, if not given.
        sinks: first tokens that are kept.
        memory: how it is written: ``"gdn"`` as above, ``g = -exp(A) softplus(w x + b)``; ``"delta"`` without forgetting,
            ``g = 0``; ``"mamba2"`` without the delta rule's correction, ``H ← e^g H + β v kᵀ``. (For the last, the
            paper's code has Mamba's step ``softplus(w x + b)`` in the place of ``β``.)
        length: number of tokens, where it is known; any number may come.

    Raises: ``ValueError`` if ``window`` is below 1 or ``sinks`` below 0, or for another memory.
    """

    space: ClassVar[Space] = {"memory": Choice("gdn", "delta", "mamba2")}

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        window: int | None = None,
        sinks: int = 4,
        memory: Memory = "gdn",
        length: int | None = None,
        bias: bool = True,
    ):
        super().__init__(dim, heads=heads, causal=True, bias=bias)
        if window is None:
            window = 64 if length is None else max(1, min(64, length // 4))
        if window < 1 or sinks < 0:
            raise ValueError(f"expected window >= 1 and sinks >= 0; got {window} and {sinks}")
        if memory not in get_args(Memory):
            raise ValueError(f"expected a memory of {', '.join(get_args(Memory))}; got {memory!r}")
        self.window, self.sinks, self.memory = window, sinks, memory
        self.write = nn.Linear(dim, heads, bias=False)
        self.gate = nn.Linear(dim, heads, bias=False)
        if memory != "delta":
            self.decay = nn.Linear(dim, heads)
            # As Mamba begins: A from 0 to 16, and softplus(b) from 0.001 to 0.1, so that heads differ in their reach.
            self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1e-3, 16).log())
            pace = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
            self.decay.bias = nn.Parameter(pace.expm1().log())
        self.norm = nn.RMSNorm(self.head_dim)
        self.from_memory = nn.Parameter(torch.randn(heads, self.head_dim, self.head_dim) * self.head_dim**-0.5)

    @classmethod
    def around(
        cls, attention: SoftmaxAttention, *, window: int, sinks: int = 4, memory: Memory = "gdn"
    ) -> "HippocampalAttention":
        """A trained attention with a memory: its weights are shared and frozen, the memory's are to be trained.

        What is read from the memory begins at zero, so that training starts from attention to window and sinks.
        """
        bias = attention.out.bias is not None
        made = cls(attention.dim, heads=attention.heads, window=window, sinks=sinks, memory=memory, bias=bias)
        nn.init.zeros_(made.from_memory)
        made.query, made.key_value, made.out = (
            layer.requires_grad_(False) for layer in (attention.query, attention.key_value, attention.out)
        )
        return made.to(attention.out.weight.device, attention.out.weight.dtype).train(attention.training)

    @property
    def kept(self) -> int:
        """Tokens whose keys and values are held while streaming."""
        return self.sinks + self.window

    @property
    def max_len(self) -> int:
        """Tokens whose keys and values would take as much as a stream's state does, gates and memory included."""
        return self.kept + math.ceil((2 * self.kept * self.heads + self.dim * self.head_dim) / (2 * self.dim))

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None,
        grid: Grid | None,
    ) -> Float[Tensor, "batch time dim"]:
        query, key, value = self.read(x, x)
        mixed = window_attention(query, key, value, window=self.window, sinks=self.sinks, exists=mask)
        if x.shape[1] > self.kept:
            gates = self.gates(x)
            if mask is not None:
                gates = gates._replace(beta=gates.beta * mask[:, None], log_decay=gates.log_decay * mask[:, None])
            mixed = mixed + self.remember(query, key, value, gates)[0]
        return self.project(mixed)

    def gates(self, x: Float[Tensor, "batch time dim"]) -> Gates:
        beta = self.write(x).sigmoid().mT
        if self.memory == "delta":
            decay = torch.zeros_like(beta)
        else:
            decay = -self.log_rate.exp()[:, None] * F.softplus(self.decay(x)).mT
        return Gates(beta, decay, self.gate(x).mT[..., None])

    def remember(
        self,
        query: Float[Tensor, "batch heads time key"],
        key: Float[Tensor, "batch heads source key"],
        value: Float[Tensor, "batch heads source value"],
        gates: Gates,
        memory: Float[Tensor, "batch heads value key"] | None = None,
    ) -> tuple[Float[Tensor, "batch heads time value"], Float[Tensor, "batch heads value key"]]:
        """Write the tokens that leave the window, one for each of the last queries, and read after each.

        Arguments:
            query: of the last tokens; keys, values and the gates of writing may begin earlier.
            memory: as it was before; empty if not given.

        Returns: what the memory adds to each head's result, and the memory afterwards.
        """
        gone = slice(self.sinks, key.shape[2] - self.window)
        late = query.shape[2] - (gone.stop - gone.start)
        run = gated_linear_attention if self.memory == "mamba2" else gated_delta_rule
        # In float16 a token of zeros would be divided by zero.
        query, key, value = Projected(query[:, :, late:], key[:, :, gone], value[:, :, gone]).exact()
        read, memory = run(
            F.normalize(query, dim=-1),
            F.normalize(key, dim=-1),
            value,
            gates.beta[:, :, gone],
            gates.log_decay[:, :, gone],
            memory,
        )
        read = self.norm(read.to(self.norm.weight.dtype)) * F.silu(gates.read[:, :, late:]) @ self.from_memory
        return F.pad(read, (0, 0, late, 0)), memory

    def initial_state(self, batch: int) -> State:
        none = self.zeros(batch, self.heads, 0, self.head_dim)
        state = {"key": none, "value": none, "beta": none[..., 0]}
        if self.memory != "delta":
            state["log_decay"] = none[..., 0]
        memory = self.zeros(batch, self.heads, self.head_dim, self.head_dim)
        # At least in float32, as sums grow long.
        return state | {"memory": memory.float() if memory.dtype in (torch.bfloat16, torch.float16) else memory}

    def step(self, x_t: Float[Tensor, "batch dim"], state: State) -> tuple[Float[Tensor, "batch dim"], State]:
        y, state = self.chunk(x_t[:, None], state)
        return y[:, 0], state

    def chunk(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        query, key, value = self.read(x, x)
        gates = self.gates(x)
        new = {"key": key, "value": value, "beta": gates.beta, "log_decay": gates.log_decay}
        cache = {name: torch.cat([held, new[name]], 2) for name, held in state.items() if name != "memory"}
        key, value, memory = cache["key"], cache["value"], state["memory"]
        remembered = None
        if key.shape[2] > self.kept:
            # What stands between the first and the newest tokens is written now, and no longer held.
            written = gates._replace(beta=cache["beta"], log_decay=cache.get("log_decay", 0 * cache["beta"]))
            remembered, memory = self.remember(query, key, value, written, memory)
            cache = {
                name: torch.cat([part[:, :, : self.sinks], part[:, :, -self.window :]], 2)
                for name, part in cache.items()
            }
        if x.shape[1] == 1:  # one token reads what is held, and nothing else
            key, value = cache["key"], cache["value"]
        mixed = window_attention(query, key, value, window=self.window, sinks=self.sinks)
        if remembered is not None:
            mixed = mixed + remembered
        return self.project(mixed), {**cache, "memory": memory}

    def cost(self, n: int) -> int:
        gone = max(0, n - self.kept)
        chunk = min(64, gone)  # as the kernels cut
        written = (gone + (-gone % chunk if chunk else 0)) * (3 * chunk + 5 * self.head_dim)
        read = 2 * window_products(n, window=self.window, sinks=self.sinks)
        return 4 * n * self.dim**2 + 3 * n * self.dim * self.heads + (read + written) * self.dim
