"""Sparse Transformer (arXiv 1904.10509): sparse steps model density as well as dense attention, for a part of the work.

The paper factors causal attention into steps that read about sqrt(n) tokens each and reports densities as good as dense
attention's or better, for images (strided), and for text (fixed, where strided fails), and that it runs faster. Here
the pixels of crops from two photographs are predicted in reading order by dense and by strided attention, and the bytes
of Python's help texts by strided and by fixed attention; the strides are the side of a crop and 16. All use a merged
softmax, learned positions, and the better of two learning rates by validation, on the same data in the same order.
Seconds are those of a training step of one attention layer.

Made smaller: two blocks of width 32 on 256 pixels or bytes instead of 30 to 128 blocks on 3072 and 12160, some hundred
steps, 16 grey levels. The fixed pattern keeps the paper's share of summary places, a quarter of a block; in so short a
training of so shallow a network near bytes matter most, and of those the strided pattern sees more.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data import Samples, Task
from anabranch.data.task import BITS_PER_BYTE
from anabranch.data.text import pydoc
from anabranch.models import ByteEmbed, LanguageHead, MetaFormer, Network
from anabranch.nn.attention import FixedAttention, SoftmaxAttention, StridedAttention
from anabranch.nn.mixing import TokenMixer

CLAIM = Claim(
    paper="sparse-transformer",
    statement="Strided attention forms a fifth of dense attention's products, runs faster on long sequences and models "
    "photographs as well; for text the fixed pattern is the better one.",
    rules=(
        Rule("unigram.photos.bits - dense.photos.bits", ">=", 0.5, check=True),
        Rule("strided.photos.bits - dense.photos.bits", "<=", 0.03),
        Rule("strided.products / dense.products", "<=", 0.20),
        Rule("strided.seconds4096 / dense.seconds4096", "<=", 0.5),
        Rule("unigram.text.bits - strided.text.bits", ">=", 0.5, check=True),
        Rule("fixed.text.bits - strided.text.bits", "<", 0.0),
    ),
    seeds=3,
    minutes=5,
    smaller="Two blocks of width 32, 256 pixels of 16 levels or 256 bytes, 250 steps. A pilot of dense attention settled "
    "the steps.",
)

SIDE, LEVELS, DIM, HEADS = 16, 16, 32, 2
MIXERS: dict[str, Callable[..., TokenMixer]] = {
    "dense": partial(SoftmaxAttention, heads=HEADS, causal=True),
    "strided": partial(StridedAttention, heads=HEADS, stride=SIDE),
    "fixed": partial(FixedAttention, heads=HEADS, stride=SIDE, summary=SIDE // 4),
}
RATES = (2e-3, 6e-3)
STEPS, BATCH = 250, 8


def measure(seed: int) -> Measurements:
    """Test bits of every arm, products of a query and a key, and seconds of a training step."""
    result: Measurements = {}
    for task, arms in ((photographs(seed), ("dense", "strided")), (pydoc(SIDE**2), ("strided", "fixed"))):
        name = "photos" if task.name == "photographs" else "text"
        result[f"unigram.{name}.bits"] = unigram(task)
        for arm in arms:
            result |= {f"{arm}.{name}.{key}": value for key, value in train(task, arm, seed).items()}
    for arm in ("strided", "fixed"):
        mixer = MIXERS[arm](DIM)
        result[f"{arm}.products"] = float(sum(mixer.products(SIDE**2)))  # pyright: ignore
    return result | {"dense.products": float(SIDE**4)} | seconds(seed)


def train(task: Task, arm: str, seed: int, rates: tuple[float, ...] = RATES) -> Measurements:
    runs = []
    for rate in rates:
        torch.manual_seed(seed)
        vocabulary = LEVELS if task.name == "photographs" else 256
        stem = ByteEmbed(DIM, length=SIDE**2, vocabulary=vocabulary + 1)
        trunk = MetaFormer(DIM, 2, mixer=MIXERS[arm], causal=True, length=SIDE**2)
        model = Network(stem, trunk, LanguageHead(DIM, vocabulary))
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
        budget = Budget(steps=STEPS)
        history = fit(
            model, task.train, loss=task.loss, optimizer=optimizer, budget=budget, batch_size=BATCH, seed=seed
        )
        runs.append((score(model, task.valid, task, 64), score(model, task.test, task, 64), rate, history.seconds))
    _, bits, rate, spent = min(runs)
    return {"bits": bits, "rate": rate, "seconds": spent}


def photographs(seed: int) -> Task:
    """Grey crops of the two photographs that scikit-learn ships, at half size; each split has bands of its own."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(seed)
    splits = []
    for first, last, count in ((0.0, 0.7, 3000), (0.7, 0.85, 100), (0.85, 1.0, 200)):
        crops = []
        for photo in load_sample_images().images:
            half = photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2].mean(2)
            half = half.reshape(half.shape[0] // 2, 2, -1, 2).mean((1, 3))
            band = half[:, int(first * half.shape[1]) : int(last * half.shape[1])]
            corners = [generator.integers(0, size - SIDE + 1, count) for size in band.shape]
            crops += [band[y : y + SIDE, x : x + SIDE] for y, x in zip(*corners, strict=True)]
        pixels = torch.from_numpy(np.stack(crops) * (LEVELS / 256)).long().flatten(1)
        before = torch.nn.functional.pad(pixels[:, :-1], (1, 0), value=LEVELS)
        splits.append(Samples(before, pixels))
    return Task("photographs", "bytes", "continue", *splits, metric=BITS_PER_BYTE)


def unigram(task: Task) -> float:
    """Test bits of the best guess that knows no context: the training targets' shares, each count raised by one."""
    counts = torch.ones(256 if task.name == "pydoc" else LEVELS)
    generator = torch.Generator().manual_seed(0)
    seen = task.train.batch(torch.randint(len(task.train), (500,), generator=generator)).targets.flatten()
    counts += torch.bincount(seen, minlength=len(counts))
    tested = task.test.batch(torch.arange(len(task.test))).targets.flatten()
    return float(-(counts / counts.sum())[tested].log().mean()) / math.log(2)


def seconds(seed: int) -> Measurements:
    """Seconds of a forward and backward pass of one layer, the arms in turn, the fastest of the rounds."""
    torch.manual_seed(seed)
    result: Measurements = {}
    for n in (1024, 4096):
        mixers = {
            arm: partial(make, **({} if arm == "dense" else {"stride": math.isqrt(n)}))(DIM)
            for arm, make in MIXERS.items()
        }
        x = torch.randn(1, n, DIM)
        spent: dict[str, list[float]] = {arm: [] for arm in mixers}
        for _ in range(4):
            for arm, mixer in mixers.items():
                spent[arm].append(step(mixer, x))
        result |= {f"{arm}.seconds{n}": min(times[1:]) for arm, times in spent.items()}
    return result


def step(mixer: TokenMixer, x: Tensor) -> float:
    started = time.perf_counter()
    mixer(x).sum().backward()
    return time.perf_counter() - started
