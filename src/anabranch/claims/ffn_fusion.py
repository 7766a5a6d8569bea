"""FFN fusion (arXiv 2503.18908): channel mixers in a row can run side by side at little cost, and one can tell which.

The paper takes attentions out of language models of 49 to 405 billion weights and then fuses the runs of perceptrons
that are left. Here a byte language model of twelve blocks learns Python's help texts; the six attentions whose loss
moves its predictions least (found greedily) are taken out and the rest is briefly distilled from the whole. In that
network, pairs of perceptrons in a row are candidates. The two disjoint pairs with the least dependency (measured on the
validation split) are fused; the alternatives are to delete the second of each of these pairs, which leaves as many steps
in a row; to exchange the two; and to fuse pairs drawn at random. Nothing is trained after that. And all candidates, runs
of two and of three, are fused one by one: does the damage rank as the dependency does?

Made smaller: width 32 instead of 8192 and more, some hundred steps of training, pairs instead of long runs, no search
for what to take out but a greedy one, no training after fusion. The paper finds that larger networks are fused more
easily; one this small has little to spare. In the recorded evidence, to exchange the two of each pair cost about as
little as to fuse them (0.0004 to 0.0015 bits against 0.0003 to 0.0007): the order hardly mattered here.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.bench.fit import cosine_with_warmup, minibatches, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.claims.common.language import language_model
from anabranch.claims.common.training import train
from anabranch.compress import DropMixers, FFNFusion, ffn_runs, least_needed_mixers
from anabranch.compress.trunk import replace, trunk_of
from anabranch.data.task import Task
from anabranch.data.text import pydoc
from anabranch.interpret import BlockDependency
from anabranch.nn.block import PreNorm

CLAIM = Claim(
    paper="ffn-fusion",
    statement="Fusing the perceptrons that depend on each other least costs less than half of what deleting them costs "
    "and less than fusing others, its damage ranks with the dependency, and the network gets faster.",
    rules=(
        Rule("fused.bits - base.bits - 0.5 * (removed.bits - base.bits)", "<", 0.0),
        Rule("fused.bits - random.bits", "<", 0.0),
        Rule("spearman", ">", 0.5),
        Rule("fused.seconds / base.seconds", "<", 1.0),
        # What is fused is a sensible network: it has learned, and lost little with its attentions.
        Rule("base.bits", "<", 4.0, check=True),
        Rule("base.bits / teacher.bits - 1", "<=", 0.05, check=True),
    ),
    seeds=3,
    minutes=3,
    smaller="Twelve blocks of width 32 instead of networks of 49 to 405 billion weights, two pairs instead of long "
    "runs, nothing trained after fusion: a small network has less to spare.",
)

DIM, DEPTH, PAST = 32, 12, 32
STEPS, RATE = 500, 3e-3
DISTILL, TAKEN_OUT, PAIRS, DRAWS = 150, 6, 2, 4
Run = tuple[int, int]


def measure(seed: int) -> Measurements:
    """Test bits per byte after every kind of surgery, and how damage and dependency of the candidates rank."""
    task = pydoc(PAST)
    torch.manual_seed(seed)
    teacher = language_model(DIM, DEPTH, length=PAST, block=PreNorm)
    train(teacher, task, RATE, STEPS, seed)
    sample = task.valid.batch(torch.arange(0, len(task.valid), 4))
    chosen = least_needed_mixers(teacher, sample, TAKEN_OUT)
    base = DropMixers(chosen).convert(teacher, sample.inputs[:1], repeats=1).module
    distil(base, teacher, task, seed)

    def bits(model: nn.Module) -> float:
        return score(model, task.test, task)

    def fused(runs: Sequence[Run]) -> nn.Module:
        return FFNFusion(runs=runs).convert(base, sample.inputs[:1], repeats=1).module

    matrix = BlockDependency(base, sample, of="channels").run().arrays["dependency"]
    runs = ffn_runs(trunk_of(base))
    dependency = {run: float(matrix[run[0] : run[1] + 1, run[0] : run[1] + 1].max()) for run in windows(runs, (2, 3))}
    damage = {run: score(fused([run]), task.valid, task) for run in dependency}
    pairs = sorted(windows(runs, (2,)), key=dependency.__getitem__)
    least = disjoint(pairs)
    draw = random.Random(seed)
    others = [disjoint(draw.sample(pairs, len(pairs))) for _ in range(DRAWS)]
    timed = FFNFusion(runs=least).convert(base, sample.inputs[:1], repeats=100).report.seconds
    found = {
        "teacher.bits": bits(teacher),
        "base.bits": bits(base),
        "fused.bits": bits(fused(least)),
        "removed.bits": bits(removed(base, least)),
        "reversed.bits": bits(exchanged(base, least)),
        "random.bits": float(np.mean([bits(fused(each)) for each in others])),
        "spearman": rank_correlation(list(dependency.values()), list(damage.values())),
        "candidates": float(len(dependency)),
        "base.seconds": timed.before,
        "fused.seconds": timed.after,
    }
    return found | {f"taken_out.{i}": float(i in chosen) for i in range(DEPTH)}


def distil(student: nn.Module, teacher: nn.Module, task: Task, seed: int) -> None:
    """Train the student on the teacher's predictions for training text."""
    optimizer = torch.optim.AdamW(student.parameters(), RATE, fused=True)
    student.train()
    for step, index in zip(range(DISTILL), minibatches(len(task.train), 16, 10_000 + seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine_with_warmup(step / DISTILL)
        inputs = task.train.batch(index).inputs
        with torch.no_grad():
            target = teacher(inputs).log_softmax(-1)
        loss = F.kl_div(student(inputs).log_softmax(-1), target, reduction="sum", log_target=True) / inputs.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student.eval()


def windows(runs: list[Run], lengths: Sequence[int]) -> list[Run]:
    """All runs of these lengths within the given ones."""
    return [(i, i + n - 1) for first, last in runs for n in lengths for i in range(first, last - n + 2)]


def disjoint(runs: list[Run]) -> list[Run]:
    """The first few of the runs that have no block in common."""
    taken: list[Run] = []
    for run in runs:
        if len(taken) < PAIRS and all(run[1] < other[0] or run[0] > other[1] for other in taken):
            taken.append(run)
    return taken


def copy_of(model: nn.Module) -> nn.Module:
    return DropMixers([]).convert(model, torch.zeros(1, PAST, dtype=torch.long), repeats=1).module


def removed(model: nn.Module, runs: list[Run]) -> nn.Module:
    """Without the second perceptron of each pair."""
    model = copy_of(model)
    for _, last in sorted(runs, reverse=True):
        replace(trunk_of(model), last, None)
    return model


def exchanged(model: nn.Module, runs: list[Run]) -> nn.Module:
    """With the two perceptrons of each pair in reversed order."""
    model = copy_of(model)
    for first, last in runs:
        a, b = trunk_of(model).blocks[first], trunk_of(model).blocks[last]
        a.norm2, b.norm2 = b.norm2, a.norm2
        a.channel, b.channel = b.channel, a.channel
    return model


def rank_correlation(a: list[float], b: list[float]) -> float:
    from scipy.stats import spearmanr

    found: Tensor | float = spearmanr(a, b).statistic  # pyright: ignore
    return float(found)
