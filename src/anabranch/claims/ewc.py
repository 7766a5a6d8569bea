"""Pulling weights back by their Fisher information keeps old tasks, where pulling all of them equally does not.

Paper: Kirkpatrick et al. 2016 (arXiv 1612.00796), sections 2 and 3.1. A network that learns permuted images one
permutation after another forgets the first ones under plain gradient descent; anchoring all weights equally keeps the
old tasks but hinders new ones; elastic weight consolidation does well on both. Not the paper's claim, but known since:
where new classes arrive instead, it fails, and a small memory of samples does not.
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from anabranch.claims import Claim, Measurements, Rule
from anabranch.continual import (
    EWC,
    FineTuning,
    Joint,
    L2Anchor,
    Replay,
    Results,
    Strategy,
    Stream,
    permuted,
    run,
    split,
)
from anabranch.data import digits

CLAIM = Claim(
    paper="ewc",
    statement="On a stream of permuted images, elastic weight consolidation ends with a higher accuracy over all tasks "
    "than fine-tuning and than anchoring all weights equally, because it forgets less and still learns; where new "
    "classes arrive it does not help.",
    rules=(
        Rule("ewc.acc - finetuning.acc", ">=", 0.05),
        Rule("ewc.acc - l2.acc", ">=", 0.05),
        Rule("finetuning.forgetting - ewc.forgetting", ">=", 0.10),
        Rule("ewc.learning_accuracy", ">=", 0.85),
        Rule("replay.class_acc - ewc.class_acc", ">=", 0.20),
        Rule("ewc.class_acc - finetuning.class_acc", "<=", 0.10),
    ),
    seeds=3,
    minutes=5,
    smaller="Digits of 8x8 pixels (1077 to train) for MNIST, 5 permutations, 128-128 ReLU units and 136 steps a task. "
    "The paper tunes each method's rate and runs up to ten tasks with 400-2000 units; with fewer spare weights there "
    "is less room for both tasks, which makes the penalty's work harder, and small test sets (360) blur differences of "
    "a point.",
)

TASKS, EPOCHS, BATCH = 5, 8, 64
RATES = (0.003, 0.01, 0.03, 0.1)
# Four configurations for every method; those with a strength spend them on two rates and two strengths.
ONE_RATE = [{"rate": rate} for rate in RATES]
Arm = tuple[type[Strategy], list[dict[str, float]]]
ARMS: dict[str, Arm] = {
    "finetuning": (FineTuning, ONE_RATE),
    "replay": (Replay, ONE_RATE),  # 200 samples are kept
    "joint": (Joint, ONE_RATE),
    "l2": (L2Anchor, [{"rate": r, "strength": s} for r, s in itertools.product((0.01, 0.03), (0.1, 0.3))]),
    "ewc": (EWC, [{"rate": r, "strength": s} for r, s in itertools.product((0.01, 0.03), (30.0, 100.0))]),
}


def measure(seed: int) -> Measurements:
    """Tune every method on another stream's validation samples, then run it on this seed's stream."""
    data = digits(seed % 5)
    shifting = partial(permuted, data, tasks=TASKS, epochs=EPOCHS, batch_size=BATCH)
    arriving = partial(split, data, classes_per_task=2, scenario="class", epochs=EPOCHS, batch_size=BATCH)
    measured: Measurements = {}
    for name, arm in ARMS.items():
        results = _tuned(arm, shifting, seed)
        measured[f"{name}.acc"] = results.acc
        measured[f"{name}.forgetting"] = results.forgetting
        measured[f"{name}.learning_accuracy"] = results.learning_accuracy
        measured[f"{name}.stored_bytes"] = results.cost.stored_bytes
        if name in ("finetuning", "replay", "ewc"):
            measured[f"{name}.class_acc"] = _tuned(arm, arriving, seed).acc
    return measured


def _tuned(arm: Arm, stream: Callable[..., Stream], seed: int) -> Results:
    kind, grid = arm
    other = stream(seed=1000 + seed, part="valid")
    best = max(grid, key=lambda options: _score(kind, options, other, 1000 + seed))
    return run(stream(seed=seed), _learner(kind, seed, **best))


def _score(kind: type[Strategy], options: dict[str, float], stream: Stream, seed: int) -> float:
    try:
        return run(stream, _learner(kind, seed, **options)).acc
    except ArithmeticError:  # diverged
        return 0.0


def _learner(kind: Callable[..., Strategy], seed: int, *, rate: float, **options: float) -> Strategy:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return kind(net, partial(torch.optim.SGD, lr=rate, momentum=0.9), seed=seed, **options)
