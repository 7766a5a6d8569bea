"""DenseFormer (arXiv 2402.02622): averaging over depth lowers the loss at equal depth, as more blocks would.

The paper puts a learned average of all earlier blocks' outputs after every block and finds language models of 48 and 72
blocks as good as plain ones of many more. Here byte language models learn Python's help texts: eight plain blocks;
eight with averages; eight with averages after every second block over every second one; eight with one average, after
the last block (the control that asks whether blocks in between must read early ones too); and twelve plain blocks.
Within a seed all start from the same values wherever names and shapes agree and see the text in the same order; the
weights of the averages are kept out of weight decay (the paper does not say).

Made smaller: width 32, a context of 32 bytes, 300 steps. The rate of the networks of eight blocks is the better of two
for the plain one; it, sizes and steps were settled by pilots of plain networks alone, on other seeds. Twelve blocks try
both rates anew in every seed, and the better one on the validation split counts. There, twelve blocks did not yet do
better than eight: depth itself helps little in so short a training, and what the averages can add is bounded by what
depth is worth. In a first counted run, at one rate for all, twelve were worse than eight in every seed, so that "near
that of a plain network half as deep again" was never put to the test; since then it is a rule that they be better.
"""

import math
from functools import partial

import torch

from anabranch.claims import Claim, Measurements, Rule
from anabranch.claims._language import language_model, measured, start_alike, train
from anabranch.data.text import pydoc
from anabranch.nn.block import DepthAverage, DepthWeightedAverage, PreNorm

CLAIM = Claim(
    paper="denseformer",
    statement="Averages over depth lower the loss at equal depth, to near that of a plain network half as deep again, "
    "for fewer than a hundred more weights; sparser averages help too, one average at the end less.",
    rules=(
        Rule("dense.bits / plain.bits - 1", "<", 0.0),
        Rule("sparse.bits / plain.bits - 1", "<", 0.0),
        Rule("dense.bits / deeper.bits - 1", "<=", 0.01),
        Rule("dense.bits / last_only.bits - 1", "<", 0.0),
        Rule("dense.parameters - plain.parameters", "<", 100.0),
        # What the averages are compared with: depth must be worth something for the third rule to say anything.
        Rule("deeper.bits / plain.bits - 1", "<", 0.0, check=True),
        # Learned more than how often each byte occurs, which takes about 4.7 bits.
        Rule("plain.bits", "<", 4.0, check=True),
    ),
    seeds=3,
    minutes=5,
    smaller="Eight blocks of width 32 on bytes of help texts for a few hundred steps, instead of 48 and more on "
    "billions of words: where depth is worth little, so are averages over it.",
)

DIM, PAST = 32, 32
STEPS = 300
RATES = {"deeper": (2e-3, 5e-3)}  # of the others 5e-3
ARMS = {
    "plain": (8, PreNorm),
    "dense": (8, DepthAverage),
    "sparse": (8, partial(DepthAverage, dilation=2, period=2)),
    "last_only": (8, partial(DepthAverage, period=8)),
    "deeper": (12, PreNorm),
}


def measure(seed: int) -> Measurements:
    """Test bits per byte of every network, and what weights the averages came to."""
    task = pydoc(PAST)
    found: Measurements = {}
    for name in ARMS:
        best: Measurements = {"valid": math.inf}
        for rate in RATES.get(name, (5e-3,)):
            model = build(name, seed)
            seconds = train(model, task, rate, STEPS, seed)
            tried = measured(model, task, seconds) | {"rate": rate}
            best = min(best, tried, key=lambda each: each["valid"])
            if name == "dense":
                found |= learned(model)
        found |= {f"{name}.{key}": value for key, value in best.items()}
    return found


def build(name: str, seed: int) -> torch.nn.Module:
    def of(arm: str) -> torch.nn.Module:
        depth, block = ARMS[arm]
        return language_model(DIM, depth, length=PAST, block=block)

    return start_alike(seed, partial(of, name), partial(of, "plain"))


def learned(model: torch.nn.Module) -> Measurements:
    """The averages' weights: on the embedding after every block, and on every state after the last one."""
    rows = [part.weight.tolist() for part in model.modules() if isinstance(part, DepthWeightedAverage)]
    on_embedding = {f"dense.embedding_weight.after{i}": row[0] for i, row in enumerate(rows, start=1)}
    return on_embedding | {f"dense.last_row.x{j}": weight for j, weight in enumerate(rows[-1])}
