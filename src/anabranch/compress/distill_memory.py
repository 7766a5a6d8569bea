"""A trained language model gets a cache of bounded size: a window, and a memory that learns from the model itself.

Fang et al. 2025 (arXiv 2510.07318): every attention keeps the first and the newest tokens and writes what leaves the
window into a small recurrent memory. Only the memory's weights are trained, so that the model with it predicts what it
predicted with all tokens in view.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.compress.base import Timing, timing
from anabranch.compress.recording import learning_type
from anabranch.compress.trunk import together, trunk_of
from anabranch.models.metaformer import MetaFormer
from anabranch.nn.attention import HippocampalAttention, SoftmaxAttention
from anabranch.nn.attention.hippocampal import Memory
from anabranch.nn.streaming import State, state_bytes


@dataclass(frozen=True)
class MemoryReport:
    """What became of the model; all of it measured on this machine.

    Arguments:
        replaced: names of the attentions that got a memory.
        losses: Kullback-Leibler divergence at every step of training, in nats a token.
        windows: the window that was drawn for each step.
        parameters: number of weights that were added and trained.
        context: tokens that had been read when cache and latency were measured.
        cache_before, cache_after: bytes of the trunk's state in one stream.
        seconds: time of the trunk for one more token of that stream.
    """

    replaced: tuple[str, ...]
    losses: tuple[float, ...]
    windows: tuple[int, ...]
    parameters: int
    context: int
    cache_before: int
    cache_after: int
    seconds: Timing

    @property
    def cut(self) -> float:
        """Share of the cache that is saved."""
        return 1 - self.cache_after / self.cache_before


class Distilled(NamedTuple):
    """The model with its memory, in eval mode, and the report."""

    module: nn.Module
    report: MemoryReport


class Lessons(NamedTuple):
    """Loss and window of every step of :func:`teach_memory`."""

    losses: tuple[float, ...]
    windows: tuple[int, ...]


def distill_memory(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    window: int,
    sinks: int = 4,
    memory: Memory = "gdn",
    steps: int = 300,
    rate: float = 3e-3,
    context: int | None = None,
    seed: int = 0,
) -> Distilled:
    """A copy of a causal model whose attentions keep a window and remember the rest.

    Arguments:
        model: predicts a distribution at every token, as logits, through one MetaFormer trunk with causal
            ``SoftmaxAttention`` as its mixers, or as some of them; other mixers stay. It is left bit for bit as it was.
        batches: inputs to learn from, all at least two tokens long; begun anew when they are used up.
        window, sinks, memory: of every attention, see :class:`HippocampalAttention`. ``sinks`` is at most half the
            window.
        steps, rate, seed: see :func:`teach_memory`; the seed also fixes the memory's first weights.
        context: tokens after which cache and latency are measured; those of the first batch if not given.

    Raises: before anything is trained, ``ValueError`` for a model without such an attention, one that cannot stream or
        not for ``context`` tokens and one more, for too many sinks, or for no steps; and what :func:`teach_memory` raises.
    """
    if not 0 <= sinks <= window // 2:
        raise ValueError(f"expected at most half the window of {window} as sinks; got {sinks}")
    if steps < 1:
        raise ValueError(f"expected at least 1 step; got {steps}")
    teacher = deepcopy(model).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = with_memory(teacher, partial(HippocampalAttention.around, window=window, sinks=sinks, memory=memory))
    before, after = trunk_of(teacher), trunk_of(student)
    if still := [type(block.mixer).__name__ for block in before.blocks if not block.streams]:
        raise ValueError(f"expected blocks that all stream; got some with {', '.join(dict.fromkeys(still))}")
    batches = endless(batches)
    first = next(batches)
    context = first.shape[1] if context is None else context
    # None of this depends on what the memory learns: whatever cannot be measured is found out before.
    states = [filled(trunk, context) for trunk in (before, after)]
    token = next(after.parameters()).new_zeros(1, after.dims[0])
    seconds = timing(_Step(before, states[0]), _Step(after, states[1]), token, repeats=15)
    lessons = teach_memory(student, teacher, chain([first], batches), steps=steps, rate=rate, seed=seed)
    report = MemoryReport(
        replaced=tuple(memories(student)),
        losses=lessons.losses,
        windows=lessons.windows,
        parameters=sum(p.numel() for p in memory_weights(student)),
        context=context,
        cache_before=state_bytes(states[0]),
        cache_after=state_bytes(states[1]),
        seconds=seconds,
    )
    return Distilled(student, report)


def with_memory(model: nn.Module, part: Callable[[SoftmaxAttention], HippocampalAttention]) -> nn.Module:
    """A copy of a model, in eval mode and frozen, with other parts in the place of its causal softmax attentions.

    Arguments:
        part: makes the new part from an attention of the copy, for example :meth:`HippocampalAttention.around`. Only
            its weights that are not the attention's are to be trained.

    Raises: ``ValueError`` if the model has no such attention.
    """
    copy = deepcopy(model).eval().requires_grad_(False)
    trunk = trunk_of(copy)
    named = dict(trunk.named_modules(remove_duplicate=False))
    found = [name for name, old in named.items() if type(old) is SoftmaxAttention and old.causal]
    if not found:
        raise ValueError("expected a trunk with causal SoftmaxAttention among its mixers")
    for names in together(trunk, found):  # an attention that several blocks share stays shared
        made = part(cast(SoftmaxAttention, named[names[0]])).eval()
        for name in names:
            trunk.set_submodule(name, made)
    return copy


def teach_memory(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Tensor],
    *,
    steps: int = 300,
    rate: float = 3e-3,
    seed: int = 0,
) -> Lessons:
    """Train the weights of a model's memories on the predictions of the model without them.

    By AdamW and the divergence of the student from the teacher, on the tokens for which the window may have lost
    something. For each batch the window is drawn anew: a power of two, at least an eighth of the length and below it
    (the paper's code leaves the eighth itself out). Then windows and sinks are as they were. A student in half precision
    learns in float32, and is rounded to its own type in the end.

    Arguments:
        student: from :func:`with_memory`, in eval mode. Weights that are frozen stay as they are, bit for bit.
        teacher: the model that it was made from, in eval mode.
        steps: number of batches.
        rate: highest learning rate; it rises over the first tenth of the steps and falls along half a cosine.
        seed: fixes the windows that are drawn.

    Raises: ``FloatingPointError`` if the divergence is not finite.
    """
    parts = memories(student)
    optimizer = torch.optim.AdamW(memory_weights(student), rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    served = [(part.window, part.sinks) for part in parts.values()]
    losses, windows = [], []
    try:
        with widened(student):
            for step, inputs in zip(range(steps), endless(batches), strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1, 10 * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2
                fitting = fitting_windows(inputs.shape[1], served[0][1])
                window = fitting[int(torch.randint(len(fitting), (), generator=generator))]
                for part, (_, sinks) in zip(parts.values(), served, strict=True):
                    part.window, part.sinks = window, min(sinks, window // 2)
                with torch.no_grad():
                    wanted = wide(teacher(inputs))
                loss = divergence(student(wide(inputs)), wanted, window).mean()
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"expected a finite divergence; got {loss.item()} at step {step} of the memories {', '.join(parts)}"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                windows.append(window)
    finally:
        for part, (window, sinks) in zip(parts.values(), served, strict=True):
            part.window, part.sinks = window, sinks
    return Lessons(tuple(float(loss) for loss in losses), tuple(windows))


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """Inside, what the module keeps in half precision is in float32; afterwards it is rounded to what it was."""
    tensors = [tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.is_floating_point()]
    dtypes = [tensor.dtype for tensor in tensors]
    for tensor in tensors:
        tensor.data = wide(tensor.data)
    try:
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            if tensor.dtype != dtype:
                tensor.data, tensor.grad = tensor.data.to(dtype), None


def wide(x: Tensor) -> Tensor:
    """A floating tensor in a type that weights can be trained in; others as they are."""
    return x.to(learning_type(x.dtype)) if x.is_floating_point() else x


def divergence(
    student: Float[Tensor, "batch time outputs"], teacher: Float[Tensor, "batch time outputs"], window: int
) -> Float[Tensor, "batch late"]:
    """Nats by which the student's predictions miss the teacher's, at every token from ``window`` on."""
    student, teacher = (logits[:, window:].log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def memories(student: nn.Module) -> dict[str, HippocampalAttention]:
    """The attentions whose memory is to be trained, by name."""
    found = {name: part for name, part in student.named_modules() if isinstance(part, HippocampalAttention)}
    return {name: part for name, part in found.items() if part.from_memory.requires_grad}


def memory_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights of a model that are to be trained: those of its memories."""
    return [p for p in module.parameters() if p.requires_grad]


def fitting_windows(length: int, sinks: int) -> list[int]:
    """The windows that training draws from for a length: powers of two that something leaves."""
    powers = [2**i for i in range(length.bit_length())]
    found = [window for window in powers if length <= 8 * window and window + min(sinks, window // 2) < length]
    if not found:
        raise ValueError(f"expected batches of at least two tokens; got {length}")
    return found


def endless(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches over and over."""
    while True:
        count = 0
        for count, batch in enumerate(batches, 1):  # noqa: B007
            yield batch
        if not count:
            raise ValueError("expected batches that can be begun anew, or as many as there are steps; got no more")


@torch.inference_mode()
def filled(trunk: MetaFormer, context: int) -> State:
    """The trunk's state in one stream after so many tokens. Its size does not depend on what they are."""
    tokens = next(trunk.parameters()).new_zeros(1, context, trunk.dims[0])
    return trunk.chunk(tokens, trunk.initial_state(1))[1]


class _Step(nn.Module):
    """The next token of one stream, from the same state every time."""

    def __init__(self, trunk: MetaFormer, state: State):
        super().__init__()
        self.trunk, self.state = trunk, state

    def forward(self, x_t: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return self.trunk.step(x_t, self.state)[0]
