"""Artificial hippocampus networks (arXiv 2510.07318): a small memory makes up for what a window has lost.

The paper gives language models of 3 to 14 billion weights a window and a recurrent memory of what leaves it, trains the
memory alone to say what the model says with all tokens in view, and finds that it beats a window with attention sinks
and pooled caches on long texts, and comes close to full attention at a fraction of the cache.

Here a byte language model of four blocks learns Python's help texts; then its attentions keep 16 bytes and 4 sinks, and
a memory. What counts is the divergence from the full model (nats a byte) on test text, at all places that the window can
have cut. Every rival holds at least as many bytes as the memory's streams do, measured on their states, and spends what
it saves on a longer window: window and sinks alone, and a pooled memory, the weighted mean of the values that have left
the window, which learns in the same way with exactly as many weights (it has the same gates of writing, forgetting and
reading, and the same output map, but no keys). All memories see the same batches and windows at the same learning rate.
The window of 16 without a memory shows what there was to make up for.

Made smaller: 128 bytes instead of 24 000 tokens and more, four blocks of width 64, 1800 small steps, and 100 for the
memories. At this scale a matrix takes as many bytes as eight or nine tokens of a window of 16, where the paper's takes a
share that hardly counts; the same comparison for windows of 32 and 64 is recorded too. So short a training leaves
attention that is spread widely; it rarely looks up one distant place, which a matrix that is written by keys should be
good at, and a mean should not. On a pilot's seed and with 300 steps for the memories, matrix and mean came equally close
at equal windows (0.038 at 16, 0.014 at 32): what was missing was a mean, and the nearest bytes, which a longer window has.
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
from anabranch.claims.common.language import language_model
from anabranch.claims.common.training import train
from anabranch.compress import teach_memory, with_memory
from anabranch.compress.distill_memory import divergence, filled, memory_weights
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
        Rule("full.bits", "<", 3.7, check=True),
        Rule("cut.kl", ">=", 0.01, check=True),
        Rule("cut.bits - full.bits", ">", 0.0, check=True),
    ),
    seeds=3,
    minutes=7,
    smaller="Four blocks of width 64 and 128 bytes instead of 3 to 14 billion weights and tens of thousands of tokens, "
    "100 steps at one learning rate for all memories, and a window so short that a matrix costs half of it. Pilots of "
    "the full model alone settled lengths, steps and its learning rate: with fewer and larger steps on 256 bytes it had "
    "no use for bytes beyond the window. A pilot of all arms, in which the memory lost, only added what is recorded.",
)

DIM, DEPTH, PAST, WINDOW, SINKS = 64, 4, 128, 16, 4
STEPS, RATE, BATCH = 1800, 4e-3, 4
TAUGHT, TEACHING_RATE, TEACHING_BATCH = 100, 1e-2, 8


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


MEMORIES: dict[str, Callable[..., HippocampalAttention]] = {
    "ahn": partial(HippocampalAttention.around, memory="gdn"),
    "delta": partial(HippocampalAttention.around, memory="delta"),
    "mamba2": partial(HippocampalAttention.around, memory="mamba2"),
    "pooled": partial(PooledAttention.around, memory="mamba2"),
}


def measure(seed: int) -> Measurements:
    """Divergence from the full model on the tail of test windows, bits a byte there, and bytes of a stream's state."""
    task = pydoc(PAST)
    torch.manual_seed(seed)
    teacher = language_model(DIM, DEPTH, length=PAST, block="prenorm")
    seconds = train(teacher, task, RATE, STEPS, seed, BATCH)
    order = minibatches(len(task.train), TEACHING_BATCH, 10_000 + seed)
    batches = [task.train.batch(index).inputs for index in islice(order, TAUGHT)]
    tested = lasting(teacher, teacher, task.test, WINDOW)
    found = {"full.bits": tested["bits"], "full.cache": cache(teacher), "full.train_seconds": seconds}

    def without_memory() -> nn.Module:
        return with_memory(teacher, partial(HippocampalAttention.around, window=WINDOW, sinks=SINKS))

    def taught(maker: Callable[..., HippocampalAttention]) -> nn.Module:
        torch.manual_seed(seed)
        student = with_memory(teacher, partial(maker, window=WINDOW, sinks=SINKS))
        teach_memory(student, teacher, batches, steps=TAUGHT, rate=TEACHING_RATE, seed=seed)
        return student

    students = {name: taught(maker) for name, maker in MEMORIES.items()}
    found |= {f"{name}.weights": float(sum(p.numel() for p in memory_weights(students[name]))) for name in students}
    students |= {"cut": without_memory(), "window": without_memory()}
    for window in (WINDOW, 2 * WINDOW, 4 * WINDOW):
        for student in students.values():
            lengthen(student, window)
        paid = cache(students["ahn"])
        while cache(students["pooled"]) < paid:
            lengthen(students["pooled"], kept(students["pooled"]) - SINKS + 1)
        # Without a memory there are no gates to hold either: a stream holds keys and values alone.
        while held(teacher, kept(students["window"])) < paid:
            lengthen(students["window"], kept(students["window"]) - SINKS + 1)
        where = "" if window == WINDOW else f"at{window}."
        for name, student in students.items():
            found |= {
                f"{where}{name}.{key}": value for key, value in lasting(student, teacher, task.test, window).items()
            }
            bare = name in ("cut", "window")
            found[f"{where}{name}.cache"] = held(teacher, kept(student)) if bare else cache(student)
            found[f"{where}{name}.window"] = float(kept(student) - SINKS)
    return found


def lasting(student: nn.Module, teacher: nn.Module, split: Split, start: int) -> Measurements:
    """Divergence from the teacher and bits a byte on all places from ``start`` on."""
    kl, bits, count = 0.0, 0.0, 0
    with torch.inference_mode():
        for index in torch.arange(len(split)).split(48):
            batch = split.batch(index)
            given, wanted = student(batch.inputs), teacher(batch.inputs)
            kl += float(divergence(given, wanted, start).sum())
            targets = batch.targets[:, start:]
            bits += float(F.cross_entropy(given[:, start:].flatten(0, 1), targets.flatten(), reduction="sum"))
            count += targets.numel()
    return {"kl": kl / count, "bits": bits / count / math.log(2)}


def cache(model: nn.Module) -> float:
    return held(model, PAST)


def held(model: nn.Module, context: int) -> float:
    """Bytes that a stream's state takes after so many tokens."""
    return float(state_bytes(filled(trunk_of(model), context)))


def kept(student: nn.Module) -> int:
    """Tokens that every attention of a student holds."""
    return next(part.kept for part in student.modules() if isinstance(part, HippocampalAttention))


def lengthen(student: nn.Module, window: int) -> None:
    for part in student.modules():
        if isinstance(part, HippocampalAttention):
            part.window = window
