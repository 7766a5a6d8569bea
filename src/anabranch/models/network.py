"""A network is a stem, a trunk and a head: from data to tokens, from tokens to tokens, from tokens to an answer."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anabranch.nn.mixing.base import Grid
from anabranch.nn.streaming import State, Streaming


class Tokens(NamedTuple):
    """What a stem gives: the tokens, which of them exist (all, if there is no mask), and how they lie."""

    x: Float[Tensor, "batch time dim"]
    mask: Bool[Tensor, "batch time"] | None = None
    grid: Grid | None = None


class Stem(Streaming):
    """Contract of a stem: data, and the lengths where samples differ in length, to :class:`Tokens`.

    Facts for the trunk behind it: ``dim``, ``length`` (number of tokens, the largest where it varies; None if any) and
    ``grid``.
    """

    dim: int
    length: int | None = None
    grid: Grid | None = None

    def forward(self, x: Tensor, lengths: Int[Tensor, "batch"] | None = None) -> Tokens:
        raise NotImplementedError


class Trunk(Streaming):
    """Contract of a trunk: ``(batch, time, dim) -> (batch, out_length, out_dim)``.

    ``mask`` is True for the tokens that exist. A trunk that gives fewer tokens than it gets says which of them exist
    in :meth:`mask_after`. Facts for the head behind it: ``out_dim`` and ``out_length`` (None if any).
    """

    out_dim: int
    out_length: int | None = None

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "batch out_time out_dim"]:
        raise NotImplementedError

    def mask_after(
        self, mask: Bool[Tensor, "batch time"] | None, grid: Grid | None = None
    ) -> Bool[Tensor, "batch out_time"] | None:
        """Which of the trunk's output tokens exist."""
        return mask


class Head(Streaming):
    """Contract of a head: ``(batch, time, dim)`` and the mask to the answer."""

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch *out"]:
        raise NotImplementedError


class Network(Streaming):
    """Stem, trunk and head, run one after the other. It streams if all three do.

    Arguments:
        stem: see :mod:`anabranch.models.stems`.
        trunk: for example :class:`anabranch.models.MetaFormer`, built with the stem's ``dim``, ``length`` and ``grid``.
        head: see :mod:`anabranch.models.heads`, built with the trunk's ``out_dim`` and ``out_length``.
    """

    def __init__(self, stem: Stem, trunk: Trunk, head: Head):
        super().__init__()
        self.stem, self.trunk, self.head = stem, trunk, head

    def forward(self, x: Tensor, lengths: Int[Tensor, "batch"] | None = None) -> Tensor:
        """The answer for a batch; ``lengths`` counts the frames that exist in each sample."""
        tokens = self.stem(x, lengths)
        y = self.trunk(tokens.x, mask=tokens.mask, grid=tokens.grid)
        return self.head(y, self.trunk.mask_after(tokens.mask, tokens.grid))

    @property
    def streams(self) -> bool:
        return self.stem.streams and self.trunk.streams and self.head.streams

    @property
    def latency(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stem.latency + self.trunk.latency + self.head.latency

    def initial_state(self, batch: int) -> State:
        return {
            "stem": self.stem.initial_state(batch),
            "trunk": self.trunk.initial_state(batch),
            "head": self.head.initial_state(batch),
        }

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        h, stem = self.stem.step(x_t, state["stem"])
        h, trunk = self.trunk.step(h, state["trunk"])
        y_t, head = self.head.step(h, state["head"])
        return y_t, {"stem": stem, "trunk": trunk, "head": head}

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, stem = self.stem.chunk(x, state["stem"])
        h, trunk = self.trunk.chunk(h, state["trunk"])
        y, head = self.head.chunk(h, state["head"])
        return y, {"stem": stem, "trunk": trunk, "head": head}


@torch.no_grad()
def generate(
    model: Network,
    prompt: Int[Tensor, "batch time"],
    length: int,
    generator: torch.Generator | None = None,
    *,
    temperature: float = 1.0,
) -> Int[Tensor, "batch length"]:
    """Continue a text, one token at a time, each drawn from what the model predicts.

    Arguments:
        model: a network that streams and predicts the next token at every token.
        prompt: the tokens so far, at least one.
        length: number of tokens to add.
        generator: source of randomness, on the prompt's device; the global one if not given.
        temperature: divides the logits; 0 takes the likeliest token.

    Returns: the new tokens alone.
    Raises: ``ValueError`` if the model cannot stream, or the prompt is empty.
    """
    if not model.streams:
        raise ValueError("expected a network that streams: build its trunk with causal=True and a mixer that streams")
    if prompt.shape[1] < 1:
        raise ValueError("the prompt needs at least one token")
    logits, state = model.chunk(prompt, model.initial_state(len(prompt)))
    logits, drawn = logits[:, -1], []
    for i in range(length):
        if temperature:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        drawn.append(token)
        if i + 1 < length:
            logits, state = model.step(token, state)
    return torch.stack(drawn, dim=1) if drawn else prompt[:, :0]
