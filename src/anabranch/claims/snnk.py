"""Scalable neural network kernels (arXiv 2310.13225): small adapters that do as well, and a perceptron that is solved.

The paper puts random features in the place of the first half of adapters, which tune a frozen encoder, and reports up
to five times fewer trained weights at nearly the same accuracy; and it bundles perceptrons into random features and
one matrix, which for a squared error needs no backpropagation.

Adapters: frozen token states of the sentence encoder MiniLM, an adapter on every token, their mean, a linear
classifier of WordNet's definitions of nouns. The adapter is a bottleneck of width 20, or one SNNK layer (ReLU features)
with 8 features; a classifier without an adapter is the floor. All have the same four learning rates and steps.
Bundling: a perceptron with two hidden layers on the diabetes data, trained; the same one bundled before training, its
matrix trained likewise; and that matrix solved for with a ridge penalty. Each has four settings (learning rates with
the best of ten checkpoints, or penalties), chosen on the validation split. Every seed draws its own splits.

Made smaller: one adapter behind the last layer instead of one in every layer of BERT or a vision transformer, 3,200
definitions instead of GLUE and images. An adapter that no layer follows has less to adapt, so that all arms stand
nearer to each other, the floor included: in the recorded evidence the adapters did not beat the classifier without one
(bottleneck 0.7205, SNNK 0.7247, no adapter 0.7247), so that the first rule, which compares the two, says little here.
"Equal rank" and five times fewer weights exclude each other here, since the adapter keeps one matrix of the
bottleneck's two; the weights decide.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.compress import bundle
from anabranch.data import load
from anabranch.data.glosses import noun_topics
from anabranch.data.task import ACCURACY, Samples, Task
from anabranch.models.language.minilm import token_states
from anabranch.nn.feedforward import ReLUSNNK
from anabranch.nn.pool import MeanPool

CLAIM = Claim(
    paper="snnk",
    statement="An SNNK adapter with five times fewer weights comes within a point of a bottleneck adapter, and a "
    "bundled perceptron that is solved for predicts as well as one that is trained.",
    rules=(
        Rule("snnk.accuracy - bottleneck.accuracy", ">=", -0.01),
        Rule("bottleneck.weights / snnk.weights", ">=", 4.5),
        Rule("snnk.accuracy - probe.accuracy", ">=", 0.0),
        Rule("probe.accuracy", ">=", 0.5, check=True),
        Rule("solved.rmse / perceptron.rmse", "<=", 1.05),
        Rule("solved.rmse / trained.rmse", "<=", 1.02),
        Rule("perceptron.rmse / mean.rmse", "<=", 0.85, check=True),
    ),
    seeds=5,
    minutes=4,
    smaller="One adapter behind the last layer of MiniLM, 3,200 definitions; a perceptron of 2 x 32 units on 442 "
    "patients; a pilot of the baselines settled the numbers of definitions, steps and rates.",
)

POOL, VALID, TEST, LONGEST, WIDTH = 5000, 600, 1200, 24, 384
STEPS, BATCH, RATES = 300, 64, (1e-3, 3e-3, 1e-2, 3e-2)


class Bottleneck(nn.Module):
    """``x + U relu(D x)``, at first the identity (Houlsby et al. 2019, arXiv 1902.00751)."""

    def __init__(self, dim: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(dim, rank), nn.Linear(rank, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x).relu())


class SNNKAdapter(nn.Module):
    """``x + Omega Phi(x)``, at first the identity: the bottleneck's second matrix, merged with the first's ``Psi``."""

    def __init__(self, dim: int, features: int):
        super().__init__()
        self.layer = ReLUSNNK(dim, dim, features=features)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


class Tuned(nn.Module):
    """Adapter, mean of the tokens, linear classifier."""

    def __init__(self, adapter: nn.Module, classes: int):
        super().__init__()
        self.adapter, self.pool, self.last = adapter, MeanPool(WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Float[Tensor, "batch time dim"], lengths: Int[Tensor, "batch"]) -> Tensor:
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        return self.last(self.pool(self.adapter(x), mask))


ADAPTERS: dict[str, Callable[[], nn.Module]] = {
    "probe": nn.Identity,
    "bottleneck": lambda: Bottleneck(WIDTH, 20),
    "snnk": lambda: SNNKAdapter(WIDTH, 8),
}


def measure(seed: int) -> Measurements:
    """Accuracy and weights of every adapter; test error of the three ways to a perceptron."""
    return adapters(seed) | perceptrons(seed)


def adapters(seed: int) -> Measurements:
    task, measured = definitions(seed), {}
    for arm, make in ADAPTERS.items():
        runs = []
        for rate in RATES:
            torch.manual_seed(seed)
            model = Tuned(make(), task.outputs)
            optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
            options = {"budget": Budget(steps=STEPS), "batch_size": BATCH, "seed": seed}
            fit(model, task.train, loss=task.loss, optimizer=optimizer, **options)
            runs.append((score(model, task.valid, task), score(model, task.test, task), rate))
        _, accuracy, rate = max(runs, key=lambda run: run[0])
        weights = sum(p.numel() for p in make().parameters())
        measured |= {f"{arm}.accuracy": accuracy, f"{arm}.rate": rate, f"{arm}.weights": float(weights)}
    return measured


@cache
def frozen() -> tuple[Tensor, Tensor, Tensor, tuple[str, ...]]:
    """Token states of the definitions, their lengths, topics and the topics' names; once per process."""
    topics = noun_topics()
    rows = np.random.default_rng(0).permutation(len(topics))[:POOL]
    texts = np.array([*topics])[rows]
    classes, labels = np.unique(np.array([*topics.values()])[rows], return_inverse=True)
    states, mask = token_states(texts.tolist(), longest=LONGEST)
    return states, mask.sum(1), torch.from_numpy(labels), tuple(classes.tolist())


def definitions(seed: int) -> Task:
    states, lengths, labels, classes = frozen()
    order = torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))
    rows = order.split([POOL - VALID - TEST, VALID, TEST])
    splits = [Samples(states[each], labels[each], lengths[each]) for each in rows]
    return Task("definitions", "sequence", "classify", *splits, metric=ACCURACY, classes=classes)


PERCEPTRON_RATES, PENALTIES, FEATURES, PASSES = (3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 1e-2, 1e-1, 1.0), 128, 30


def perceptrons(seed: int) -> Measurements:
    """Root mean squared errors in standard deviations of the target."""
    task = load("diabetes")
    parts = [split.batch(torch.arange(len(split))) for split in (task.train, task.valid, task.test)]
    x, y = torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rows = order.split([len(part.inputs) for part in parts])
    train, valid, test = ((x[each], y[each, None]) for each in rows)

    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    bundled = bundle(net, features=FEATURES)
    measured = {"mean.rmse": float((test[1] - train[1].mean()).square().mean().sqrt())}
    for arm, start in (("perceptron", net), ("trained", bundled)):
        started = time.perf_counter()
        checkpoints = [each for rate in PERCEPTRON_RATES for each in checkpoint(deepcopy(start), train, rate, seed)]
        measured |= best(arm, checkpoints, valid, test, started)
    started = time.perf_counter()
    solved = [deepcopy(bundled).solve(*train, penalty=penalty) for penalty in PENALTIES]
    return measured | best("solved", solved, valid, test, started)


def checkpoint(model: nn.Module, train: tuple[Tensor, Tensor], rate: float, seed: int) -> list[nn.Module]:
    """Train a model, and keep it as it was ten times on the way."""
    kept: list[nn.Module] = []

    def keep(model: nn.Module) -> float:
        kept.append(deepcopy(model))
        return 0.0

    batch = 32
    fit(
        model,
        Samples(*train),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01),
        budget=Budget(steps=PASSES * (len(train[0]) // batch)),
        batch_size=batch,
        seed=seed,
        checks=10,
        check=keep,
    )
    return kept


@torch.no_grad()
def best(
    arm: str,
    models: Sequence[nn.Module],
    valid: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    started: float,
) -> Measurements:
    def rmse(model: nn.Module, split: tuple[Tensor, Tensor]) -> float:
        return float((model(split[0]) - split[1]).square().mean().sqrt())

    chosen = min(models, key=lambda model: rmse(model, valid))
    return {f"{arm}.rmse": rmse(chosen, test), f"{arm}.seconds": time.perf_counter() - started}
