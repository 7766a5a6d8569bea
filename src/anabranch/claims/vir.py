"""Retention classifies images about as well as causal attention, at a cost linear in the patches.

The paper (Hatamizadeh et al. 2023, arXiv 2310.19731) puts retention in the place of a vision transformer's attention,
reports accuracy on ImageNet-1K like that of vision transformers of the same size, and gains speed and memory at high
resolution from the chunkwise form, whose cost grows with the number of patches instead of their square.

Here: handwritten digits, each fifth of them the test split once, by three models alike but for the mixer, all read by
a class token behind the patches: retention, causal softmax attention, and softmax attention that sees all patches; each
with the better of two learning rates by validation. Then seconds of a forward pass and bytes of the streaming state,
for 256 to 4096 patches. Peak memory, of which the paper also speaks, is not measured: bytes of the state say what a
stream holds between patches, not what a forward pass needs.

Smaller here: three blocks of width 32, 16 patches of 2 x 2 pixels instead of ImageNet's 196, some hundred steps.
Digits anywhere on a canvas of 36 or 64 patches were meant to be the task, but the causal vision transformer stayed near
chance there within the minutes of this claim, which would have shown nothing; that was settled with this baseline
alone, on another seed. Layer scale, 1e-5 in the paper, serves deep networks and long training and is left out in all
arms. So few patches leave retention little to forget, and a short training favours the mixer that learns faster.
"""

import math
import time
from functools import partial
from typing import Any

import torch

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data import Task, digits
from anabranch.models import Classifier, MetaFormer, Network
from anabranch.models.vir import PatchesAndClass
from anabranch.nn.attention import Retention, SoftmaxAttention
from anabranch.nn.streaming import state_bytes

CLAIM = Claim(
    paper="vir",
    statement="A vision transformer with retention comes within two points of one with attention, and costs time in "
    "proportion to the patches where attention's grows with their square.",
    rules=(
        Rule("causal.accuracy", ">=", 0.5),
        Rule("retention.accuracy - causal.accuracy", ">=", -0.02),
        Rule("retention.accuracy - attention.accuracy", ">=", -0.02),
        Rule("retention.growth", "<=", 1.25),
        Rule("causal.growth", ">=", 1.5),
        Rule("causal.seconds / retention.seconds", ">=", 1.0),
        Rule("retention.bytes_4096 / retention.bytes_256", "<=", 1.0),
        Rule("causal.bytes_4096 / causal.bytes_256", ">=", 15.0),
    ),
    seeds=5,
    minutes=4,
    smaller="Three blocks of width 32, digits of 16 patches instead of ImageNet's images of 196, some hundred steps.",
)

ARMS: dict[str, tuple[Any, bool]] = {
    "retention": (Retention, True),
    "causal": (partial(SoftmaxAttention, max_len=4096), True),
    "attention": (SoftmaxAttention, False),
}
RATES = (4e-3, 8e-3)
STEPS, BATCH = 300, 32
DIM, BLOCKS = 32, 3
TOKENS = (256, 512, 1024, 2048, 4096)


def measure(seed: int) -> Measurements:
    """Test accuracy of every arm, then seconds and bytes by the number of patches."""
    task = digits(fold=seed)
    return {f"{arm}.accuracy": accuracy(task, arm, seed) for arm in ARMS} | scaling(seed)


def trunk(arm: str) -> MetaFormer:
    mixer, causal = ARMS[arm]
    return MetaFormer(DIM, BLOCKS, mixer=mixer, causal=causal)


def accuracy(task: Task, arm: str, seed: int) -> float:
    """Test accuracy at the learning rate that is best in validation."""
    runs = []
    for rate in RATES:
        torch.manual_seed(seed)
        stem = PatchesAndClass(1, DIM, size=8, patch=2)
        model = Network(stem, trunk(arm), Classifier(DIM, task.outputs, pool="last"))
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05, fused=True)
        budget = Budget(steps=STEPS)
        fit(model, task.train, loss=task.loss, optimizer=optimizer, budget=budget, batch_size=BATCH, seed=seed)
        runs.append((score(model, task.valid, task), score(model, task.test, task)))
    return max(runs)[1]


@torch.no_grad()
def scaling(seed: int) -> Measurements:
    """Seconds of a forward pass over many patches, how they grow, where the two cross, and bytes of the state.

    The two take turns, so that another load on the machine meets both alike, and the fastest of the rounds counts.
    """
    torch.manual_seed(seed)
    arms = {arm: trunk(arm).eval() for arm in ("retention", "causal")}
    result, fastest = {}, {}
    states = {arm: model.initial_state(1) for arm, model in arms.items()}
    for n in TOKENS:
        x = torch.randn(1, n, DIM)
        seen: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(6):
            for arm, model in arms.items():
                started = time.process_time()
                model(x)
                seen[arm].append(time.process_time() - started)
        fastest[n] = {arm: min(times) for arm, times in seen.items()}
        for arm, model in arms.items():
            state = states[arm]
            for piece in x.split(256, dim=1):
                _, state = model.chunk(piece, state)
            result[f"{arm}.bytes_{n}"] = float(state_bytes(state))
            result[f"{arm}.seconds_{n}"] = fastest[n][arm]
    for arm in arms:
        first, last = fastest[1024][arm], fastest[4096][arm]
        result |= {f"{arm}.seconds": last, f"{arm}.growth": math.log(last / first) / math.log(4)}
    faster = [n for n in TOKENS if fastest[n]["retention"] < fastest[n]["causal"]]
    return result | {"crossing": float(min(faster, default=2 * TOKENS[-1]))}
