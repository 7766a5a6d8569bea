"""HyperMixer (arXiv 2203.03691) mixes tokens better than MLP-Mixer, about as well as attention, and for less.

The paper replaces self-attention by a perceptron over the tokens whose weights small networks make from the tokens,
and finds on sentence classification that this beats fixed token mixing by far and does not fall behind a transformer
of the same size; that it needs less data and less tuning than the transformer; and that its cost grows with the number
of tokens instead of their square.

Here the three classify WordNet's definitions of nouns (26 kinds of things) after 1,000, 3,000 and 10,000 examples. All
share the skeleton, the classifier, the order of the data and the learning rates: with 1,000 examples eight rates drawn
at random, from which also the expected best of a few trials is computed, else two fixed ones; the rate that is best
on the validation split is tested. As in the paper, positions enter HyperMixer only where the weights are made, and
the transformer with its embeddings; MLP-Mixer tells places apart by itself.

Made smaller: two blocks of width 64 and short texts of at most 24 words instead of twelve blocks of width 256 on pairs
of sentences, thousands of examples instead of hundreds of thousands. Naming the kind of thing is often a matter of
single words, which leaves less to mix than in inference between two sentences, so differences should be smaller.
"""

import math
import time
from functools import partial
from math import comb

import torch
from torch import Tensor

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data.glosses import WORDS, gloss_classes
from anabranch.data.task import Task
from anabranch.models import Classifier, LearnedPositions, MetaFormer, Network
from anabranch.models.stems import ByteEmbed
from anabranch.nn.attention import SoftmaxAttention
from anabranch.nn.mixing import HyperMixing, TokenMixer, TokenMLP

CLAIM = Claim(
    paper="hypermixer",
    statement="On sentence classification HyperMixer beats MLP-Mixer, comes within a point of a transformer and passes "
    "it where examples or trials are few; and it is faster on long inputs.",
    rules=(
        *(Rule(f"hyper.at_{size} - mixer.at_{size}", ">", 0.0) for size in (1000, 3000, 10000)),
        *(Rule(f"hyper.at_{size} - attention.at_{size}", ">=", -0.01) for size in (3000, 10000)),
        Rule("hyper.at_1000 - attention.at_1000", ">", 0.0),
        *(Rule(f"hyper.best_of_{k} - attention.best_of_{k}", ">", 0.0) for k in (1, 2)),
        Rule("hyper.seconds / attention.seconds", "<", 1.0),
        Rule("attention.at_10000", ">=", 0.5, check=True),
    ),
    seeds=3,
    minutes=5,
    smaller="Two blocks of width 64, definitions of at most 24 words, 1,000 to 10,000 examples, 120 to 350 "
    "steps; pilots of the transformer settled steps and rates.",
)

DIM, DEPTH = 64, 2
MIXERS = {
    "hyper": partial(HyperMixing, hidden=2 * DIM),
    "attention": SoftmaxAttention,
    "mixer": partial(TokenMLP, hidden=2 * DIM),
}
BUDGETS = {1000: (120, 16), 3000: (150, 32), 10000: (350, 32)}  # steps, batch size
FIXED_RATES, RANDOM_RATES, RATE_RANGE = (1.5e-3, 4e-3), 8, (3e-4, 3e-2)


def measure(seed: int) -> Measurements:
    """Test accuracy of every mixer for every number of examples, expected best of few trials, seconds on long input."""
    low, high = map(math.log, RATE_RANGE)
    draws = torch.rand(RANDOM_RATES, generator=torch.Generator().manual_seed(seed))
    random_rates = torch.exp(low + (high - low) * draws).tolist()
    measured: Measurements = {}
    for size, budget in BUDGETS.items():
        task = gloss_classes(size, 1000, 5000, unit="words", seed=seed)
        for arm in MIXERS:
            rates = random_rates if size == 1000 else FIXED_RATES
            runs = [train(arm, task, rate, budget, seed) for rate in rates]
            valid, model = max(runs, key=lambda run: run[0])
            measured[f"{arm}.at_{size}"] = score(model, task.test, task)
            if size == 1000:
                measured |= {f"{arm}.best_of_{k}": expected_best([v for v, _ in runs], k) for k in (1, 2, 4)}
            else:
                measured[f"{arm}.rate_{size}"] = rates[[v for v, _ in runs].index(valid)]
            weights = sum(p.numel() for p in model.trunk.parameters())
            measured[f"{arm}.parameters"] = float(weights)  # of the trunk: the embeddings are all alike
    return measured | seconds(seed)


def train(arm: str, task: Task, rate: float, budget: tuple[int, int], seed: int) -> tuple[float, Network]:
    """Validation accuracy at the end, and the model."""
    torch.manual_seed(seed)
    positions = LearnedPositions if arm == "attention" else None
    stem = ByteEmbed(DIM, length=WORDS, vocabulary=task.facts["vocabulary"], positions=positions)
    trunk = MetaFormer(DIM, DEPTH, mixer=MIXERS[arm], length=WORDS)
    model = Network(stem, trunk, Classifier(DIM, task.outputs))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    fit(
        model,
        task.train,
        loss=task.loss,
        optimizer=optimizer,
        budget=Budget(steps=budget[0]),
        batch_size=budget[1],
        seed=seed,
    )
    return score(model, task.valid, task), model


def expected_best(values: list[float], k: int) -> float:
    """Mean over all choices of ``k`` of the values of the best one (Dodge et al. 2019, without repetition)."""
    ways = [comb(rank, k - 1) for rank in range(len(values))]
    return sum(way * value for way, value in zip(ways, sorted(values), strict=True)) / comb(len(values), k)


def seconds(seed: int, tokens: int = 2048, rounds: int = 7) -> Measurements:
    """Forward and backward of one mixer on one long input, in turns; the fastest round counts."""
    torch.manual_seed(seed)
    x = torch.randn(1, tokens, DIM, requires_grad=True)
    mixers: dict[str, TokenMixer] = {arm: MIXERS[arm](DIM) for arm in ("hyper", "attention")}
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for arm, mixer in mixers.items():
            started = time.perf_counter()
            y: Tensor = mixer(x)
            y.sum().backward()
            seen.setdefault(arm, []).append(time.perf_counter() - started)
    return {f"{arm}.seconds": min(times) for arm, times in seen.items()}
