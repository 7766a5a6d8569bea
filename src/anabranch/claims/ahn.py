"""Artificial hippocampus networks (arXiv 2510.07318): a small memory makes up for what a window has lost.

The paper gives language models of 3 to 14 billion weights a window and a recurrent memory of what leaves it, trains the
memory alone to say what the model says with all tokens in view, and finds that it beats a window with attention sinks
and pooled caches on long texts, and comes close to full attention at a fraction of the cache.

Here a byte language model of four blocks learns Python's help texts; then its attentions keep 32 bytes and 4 sinks, and
a memory. What counts is the divergence from the full model (nats a byte) on test text, at all places that the window can
have cut. Every rival holds at least as many bytes as the memory's streams do, measured on their states, and spends what
it saves on a longer window: window and sinks alone, and a pooled memory, the weighted mean of the values that have left
the window, which learns in the same way with exactly as many weights (it has the same gates of writing, forgetting and
reading, and the same output map, but no keys). All memories see the same batches and windows at the same learning rate.
The window of 32 without a memory shows what there was to make up for.

Made smaller: 256 bytes instead of 24 000 tokens and more, four blocks of width 64, some hundred steps of training. So
short a training leaves attention that is spread widely; it rarely looks up one distant place, which a matrix that is
written by keys should be good at, and a mean should not.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.bench.fit import minibatches
from anabranch.claims import Claim, Measurements, Rule
from anabranch.claims._language import language_model, train
from anabranch.compress import teach_memory, with_memory
from anabranch.compress.distill_memory import divergence, filled
from anabranch.compress.trunk import trunk_of
from anabranch.data.task import Split
from anabranch.data.text import pydoc
from anabranch.nn.attention import HippocampalAttention
from anabranch.nn.attention.hippocampal import Gates
from anabranch.nn.streaming import State, state_bytes

CLAIM = Claim(
    paper="ahn",
    statement="A window with a memory that learned from the model itself stays closer to the model than a window, or a "
    "window with a pooled memory, of as many bytes, and holds less than a third of the model's own cache.",
    rules=(
        Rule("ahn.kl / window.kl", "<", 1.0),
        Rule("ahn.kl / pooled.kl", "<", 1.0),
        Rule("1 - ahn.cache / full.cache", ">=", 0.7),
        # The model has learned, and uses what lies beyond the window.
        Rule("full.bits", "<", 3.7),
        Rule("cut.kl", ">=", 0.01),
        Rule("cut.bits - full.bits", ">", 0.0),
    ),
    seeds=3,
    minutes=8,
    smaller="Four blocks of width 64 and 256 bytes instead of 3 to 14 billion weights and tens of thousands of tokens, "
    "one learning rate for all memories.",
)

DIM, DEPTH, PAST, WINDOW, SINKS = 64, 4, 256, 32, 4
STEPS, RATE, BATCH = 450, 3e-3, 8
TAUGHT, TEACHING_RATE = 80, 1e-2


class PooledAttention(HippocampalAttention):
    """The control: what has left the window is one weighted mean for each head.

    It is the memory without the delta rule's correction, all of whose keys are the same; the norm behind it turns the
    sum into the mean.
    """

    def remember(
        self, query: Tensor, key: Tensor, value: Tensor, gates: Gates, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        one, ones = torch.ones_like(query[..., :1]), torch.ones_like(key[..., :1])
        return super().remember(one, ones, value, gates, memory)

    def initial_state(self, batch: int) -> State:
        state = super().initial_state(batch)
        return state | {"memory": state["memory"][..., :1]}


def measure(seed: int) -> Measurements:
    """Divergence from the full model on the tail of test windows, bits a byte there, and bytes of a stream's state."""
    task = pydoc(PAST)
    torch.manual_seed(seed)
    teacher = language_model(DIM, DEPTH, length=PAST, block="prenorm")
    seconds = train(teacher, task, RATE, STEPS, seed, BATCH)
    order = minibatches(len(task.train), BATCH, 10_000 + seed)
    batches = [task.train.batch(index).inputs for index in islice(order, TAUGHT)]
    tested = lasting(teacher, teacher, task.test)
    found = {"full.bits": tested["bits"], "full.cache": tested["cache"], "full.train_seconds": seconds}

    def taught(maker: Callable[..., HippocampalAttention]) -> nn.Module:
        torch.manual_seed(seed)
        student = with_memory(teacher, partial(maker, window=WINDOW, sinks=SINKS))
        teach_memory(student, teacher, batches, steps=TAUGHT, rate=TEACHING_RATE, seed=seed)
        return student

    cut = with_memory(teacher, partial(HippocampalAttention.around, window=WINDOW, sinks=SINKS))
    memories = {
        "ahn": partial(HippocampalAttention.around, memory="gdn"),
        "delta": partial(HippocampalAttention.around, memory="delta"),
        "mamba2": partial(HippocampalAttention.around, memory="mamba2"),
        "pooled": partial(PooledAttention.around, memory="mamba2"),
    }
    students = {"cut": cut} | {name: taught(maker) for name, maker in memories.items()}
    paid = cache(students["ahn"])
    widen(students["pooled"], paid, cache)
    students["window"] = with_memory(teacher, partial(HippocampalAttention.around, window=WINDOW, sinks=SINKS))
    # Without a memory there are no gates to hold either: a stream holds keys and values alone.
    widen(students["window"], paid, lambda _: held(teacher, kept(students["window"])))
    for name, student in students.items():
        found |= {f"{name}.{key}": value for key, value in lasting(student, teacher, task.test).items()}
        found |= {f"{name}.window": float(kept(student) - SINKS)}
        found |= {f"{name}.weights": float(sum(p.numel() for p in student.parameters() if p.requires_grad))}
    found |= {f"{name}.cache": held(teacher, kept(students[name])) for name in ("cut", "window")}
    return found


def lasting(student: nn.Module, teacher: nn.Module, split: Split) -> Measurements:
    """Divergence and bits on all places from ``WINDOW`` on, and the bytes of a stream's state at the end of a text."""
    kl, bits, count = 0.0, 0.0, 0
    with torch.inference_mode():
        for index in torch.arange(len(split)).split(24):
            batch = split.batch(index)
            given, wanted = student(batch.inputs), teacher(batch.inputs)
            kl += float(divergence(given, wanted, WINDOW).sum())
            targets = batch.targets[:, WINDOW:]
            bits += float(F.cross_entropy(given[:, WINDOW:].flatten(0, 1), targets.flatten(), reduction="sum"))
            count += targets.numel()
    return {"kl": kl / count, "bits": bits / count / math.log(2), "cache": cache(student)}


def cache(model: nn.Module) -> float:
    return held(model, PAST)


def held(model: nn.Module, context: int) -> float:
    """Bytes that a stream's state takes after so many tokens."""
    return float(state_bytes(filled(trunk_of(model), context)))


def kept(student: nn.Module) -> int:
    """Tokens that every attention of a student holds."""
    return next(part.max_len for part in student.modules() if isinstance(part, HippocampalAttention))


def widen(student: nn.Module, paid: float, size: Callable[[nn.Module], float]) -> None:
    """Lengthen the windows until a stream's state takes at least so many bytes."""
    while size(student) < paid:
        for part in student.modules():
            if isinstance(part, HippocampalAttention):
                part.window += 1
