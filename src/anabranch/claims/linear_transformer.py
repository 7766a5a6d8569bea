"""Linear attention learns nearly what softmax attention learns, and generates each token at the same cost.

The paper (Katharopoulos et al. 2020, arXiv 2006.16236) shows that a transformer with linear attention solves a copy
task, models images pixel by pixel about as well as one with softmax attention, and generates them thousands of times
faster, because a new token costs the same however many there are. That factor is against computing everything anew for
each token; keeping the keys and values is the fairer rival, and is timed here as well.

Smaller here: two blocks of width 64 instead of eight of width 256 (copying) and sixteen (images), words of 15 symbols
instead of up to 63, digits of 8 x 8 pixels with 17 levels instead of MNIST and CIFAR-10, and some hundred steps of
training. A longer word needs more state than so narrow a model has, and longer training could open or close the gap.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from anabranch.bench.fit import Budget, fit, predictions
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data.canvas import digit_rows
from anabranch.data.task import Samples, Split
from anabranch.models import MetaFormer
from anabranch.models.heads import LanguageHead
from anabranch.models.network import Network
from anabranch.models.stems import ByteEmbed
from anabranch.nn.attention import LinearAttention, SoftmaxAttention
from anabranch.nn.streaming import State

CLAIM = Claim(
    paper="linear-transformer",
    statement="Linear attention copies, models images about as well as softmax attention, and generates every token "
    "at the same cost, where softmax attention's cost grows.",
    rules=(
        Rule("linear.copied", ">=", 0.95),
        Rule("linear.bits / softmax.bits", "<=", 1.10),
        Rule("linear.growth", "<=", 0.2),
        Rule("cached.growth", ">=", 0.5),
        Rule("recomputed.growth", ">=", 1.4),
        Rule("recomputed.seconds / linear.seconds", ">=", 20.0),
    ),
    seeds=3,
    minutes=6,
    smaller="Two blocks of width 64, words of 15 symbols, 8 x 8 digits with 17 levels, a few hundred steps.",
)

MIXERS = {"linear": LinearAttention, "softmax": partial(SoftmaxAttention, max_len=8192)}
RATES = (1e-3, 4e-3)
WORD, SYMBOLS = 15, 10
LEVELS = 17
UNSCORED = -100


def measure(seed: int) -> Measurements:
    """Both mixers on both tasks, each with the better of two learning rates by validation; then seconds per token."""
    result = {}
    for name in MIXERS:
        copied = best(name, copying, SYMBOLS + 1, 2 * WORD + 1, copy_task(seed), steps=500, seed=seed)
        drawn = best(name, cross_entropy, LEVELS + 1, 64, pixel_task(seed), steps=400, seed=seed)
        result |= {f"{name}.copied": 1 - copied, f"{name}.bits": drawn / math.log(2)}
    return result | seconds_per_token(seed)


def network(name: str, vocabulary: int, length: int) -> Network:
    stem = ByteEmbed(64, length=length, vocabulary=vocabulary)
    return Network(stem, MetaFormer(64, 2, mixer=MIXERS[name], causal=True), LanguageHead(64, vocabulary))


def best(
    name: str,
    error: Callable[[Tensor, Tensor], Tensor],
    vocabulary: int,
    length: int,
    splits: tuple[Split, Split, Split],
    *,
    steps: int,
    seed: int,
) -> float:
    """Test error of the run whose validation error is smallest."""
    train, valid, test = splits
    runs = []
    for rate in RATES:
        torch.manual_seed(seed)
        model = network(name, vocabulary, length)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        fit(model, train, loss=cross_entropy, optimizer=optimizer, budget=Budget(steps=steps), batch_size=16, seed=seed)
        runs.append([mean(error, model, split) for split in (valid, test)])
    return min(runs)[1]


@torch.no_grad()
def mean(error: Callable[[Tensor, Tensor], Tensor], model: Network, split: Split) -> float:
    outputs, targets = map(torch.cat, zip(*predictions(model, split), strict=True))
    return float(error(outputs, targets))


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.transpose(1, 2), target, ignore_index=UNSCORED)


def copying(output: Tensor, target: Tensor) -> Tensor:
    """Share of the scored symbols that are wrong."""
    scored = target != UNSCORED
    return (output.argmax(-1) != target)[scored].float().mean()


def copy_task(seed: int) -> tuple[Samples, Samples, Samples]:
    """A separator, a word, the separator, the word again: scored on the second time."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def words(size: int) -> Samples:
        word = torch.randint(SYMBOLS, (size, WORD), generator=generator)
        separator = torch.full((size, 1), SYMBOLS)
        text = torch.cat([separator, word, separator, word], 1)
        targets = text[:, 1:].clone()
        targets[:, : WORD + 1] = UNSCORED
        return Samples(text[:, :-1], targets)

    return words(16 * 500), words(500), words(500)


def pixel_task(seed: int) -> tuple[Samples, Samples, Samples]:
    """The pixels of a digit in reading order, each to be predicted from those before it."""
    scans, _, rows = digit_rows(fold=seed)
    levels = (torch.from_numpy(scans).flatten(1) * (LEVELS - 1)).round().long()
    before = F.pad(levels[:, :-1], (1, 0), value=LEVELS)
    inputs, targets = ([x[torch.from_numpy(each)] for each in rows] for x in (before, levels))
    train, valid, test = map(Samples, inputs, targets)
    return train, valid, test


@torch.no_grad()
def seconds_per_token(seed: int) -> Measurements:
    """Real seconds for one more token after 1024, 2048 and 4096, and the exponent of their growth between the ends.

    The ways take turns, so that another load on the machine meets all alike; the fastest of the rounds counts, since a
    disturbance can only slow it. A way with a state makes several tokens in a row, as generation does: the first one
    alone would be charged for the caches that the recomputing way before it has emptied.
    """
    torch.manual_seed(seed)
    lengths, batch, rounds, burst = (1024, 2048, 4096), 4, 7, 16
    models = {name: network(name, 256, lengths[-1] + burst).eval() for name in MIXERS}
    text = torch.randint(256, (batch, lengths[-1] + burst))

    def step_on(name: str, n: int, state: State) -> None:
        for t in range(n, n + burst):
            _, state = models[name].step(text[:, t], state)

    seen: dict[tuple[str, int], list[float]] = {}
    for n in lengths:
        states = {name: model.chunk(text[:, :n], model.initial_state(batch))[1] for name, model in models.items()}
        ways = {
            "linear": (burst, lambda n=n, s=states: step_on("linear", n, s["linear"])),
            "cached": (burst, lambda n=n, s=states: step_on("softmax", n, s["softmax"])),
            "recomputed": (1, lambda n=n: models["softmax"](text[:, : n + 1])),
        }
        for _ in range(rounds):
            for way, (tokens, run) in ways.items():
                started = time.perf_counter()
                run()
                seen.setdefault((way, n), []).append((time.perf_counter() - started) / tokens)
    result = {}
    for way in ("linear", "cached", "recomputed"):
        first, last = min(seen[way, lengths[0]]), min(seen[way, lengths[-1]])
        result |= {f"{way}.seconds": last, f"{way}.growth": math.log(last / first) / math.log(lengths[-1] / lengths[0])}
    return result
