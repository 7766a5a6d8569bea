"""RaftMLP (arXiv 2108.04384): perceptrons along the grid's sides beat one over all tokens, and cost less.

The paper splits the Mixer's token perceptron into a vertical and a horizontal one, each over ``r`` channels at once,
reads patches at several scales, and resizes the maps so that images of any size can come. Here one skeleton of two
blocks looks for a digit that lies somewhere on a 12x12 canvas, cut into 6x6 patches, with a Mixer's token perceptron or
with rafts of 1, 2 and 4 channels, the rafts of 2 also with patches of two scales. The hidden width is twice the
number of mixed values in all arms, which is the paper's expansion and that of Mixer-B/16. Every arm tries the same
learning rates on the same data in the same order; the rate that is best on the validation split is tested, at the
trained size and on canvases enlarged to 16x16. The Mixer is given the same resizing around its token perceptron.

Made smaller: two blocks of width 32 on 36 tokens and some hundred steps instead of a pyramid of twelve blocks on
ImageNet, so that the saving of weights is far smaller than at 56x56 tokens; one digit on an empty canvas, whose
enlargement changes its size as well. Without a pyramid the scales are compared at the stem alone.

On enlarged canvases the rafts lose 21 points, the Mixer between the same resizings 18, and rafts of four channels 15:
what is usable depends on how much larger a digit looks through patches of two pixels, which no resizing of the maps
undoes.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data import Samples, Task, canvas_digits
from anabranch.models import Classifier, MetaFormer, Network, PatchEmbed
from anabranch.models.vision.raftmlp import RaftBlock
from anabranch.nn.mixing import RaftMixing, TokenMixer, TokenMLP
from anabranch.nn.mixing.base import Grid
from anabranch.nn.mixing.raft import resize

SIDE, LARGER, DIM = 12, 16, 32
RATES = (3e-3, 8e-3)
STEPS, BATCH = 600, 32

CLAIM = Claim(
    paper="raftmlp",
    statement="Rafts of two channels along both sides do at least as well as a Mixer with fewer weights and "
    "multiply-adds, better than rafts of one; patches of several scales add to it; and other sizes remain usable.",
    rules=(
        Rule("raft2.accuracy - mixer.accuracy", ">=", 0.0),
        Rule("raft2.parameters / mixer.parameters", "<", 1.0),
        Rule("raft2.multiply_adds / mixer.multiply_adds", "<", 1.0),
        Rule("raft2.accuracy - raft1.accuracy", ">", 0.0),
        Rule("raft2_scales.accuracy - raft2.accuracy", ">=", 0.0),
        Rule("raft2.larger_accuracy - raft2.accuracy", ">=", -0.1),
        # The baseline must learn: chance is 0.1.
        Rule("mixer.accuracy", ">=", 0.5, check=True),
    ),
    seeds=3,
    minutes=5,
    smaller="Two blocks of width 32 on 36 tokens of a nearly empty canvas, a few hundred steps, "
    "no pyramid: the saving grows with the number of tokens, which is 3136 in the paper's first stage.",
)


class ResizedTokenMLP(TokenMixer):
    """The Mixer's perceptron between the same two resizings that RaftMLP has."""

    def __init__(self, dim: int, *, grid: Grid, length: int):
        super().__init__(dim)
        self.grid, self.tokens = grid, TokenMLP(dim, length=length, hidden=2 * length)

    def mix(self, x: Tensor, context: Tensor, mask: Tensor | None, grid: Grid | None) -> Tensor:
        if grid is None or grid == self.grid:
            return self.tokens(x)
        trained = resize(x, grid, self.grid)
        return resize(trained + self.tokens(trained), self.grid, grid) - x


# arm -> mixer, wiring, scales of the patches
ARMS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "mixer": (ResizedTokenMLP, "prenorm", (2,)),
    "raft1": (partial(RaftMixing, raft=1), RaftBlock, (2,)),
    "raft2": (partial(RaftMixing, raft=2), RaftBlock, (2,)),
    "raft4": (partial(RaftMixing, raft=4), RaftBlock, (2,)),
    "raft2_scales": (partial(RaftMixing, raft=2), RaftBlock, (2, 4)),
}


def measure(seed: int) -> Measurements:
    """Train every arm with both rates; test the better one at both sizes."""
    task = canvas_digits(test=4000, clutter=0, seed=seed, side=SIDE)
    measured: Measurements = {}
    for arm in ARMS:
        measured |= {f"{arm}.{key}": value for key, value in train(task, arm, seed).items()}
    return measured


def train(task: Task, arm: str, seed: int) -> Measurements:
    best: tuple[float, Measurements] | None = None
    for rate in RATES:
        torch.manual_seed(seed)
        model = build(arm)
        history = fit(
            model,
            task.train,
            loss=task.loss,
            optimizer=torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05, fused=True),
            budget=Budget(steps=STEPS),
            batch_size=BATCH,
            seed=seed,
        )
        valid = score(model, task.valid, task)
        if best is None or valid > best[0]:
            found = {
                "accuracy": score(model, task.test, task),
                "larger_accuracy": score(model, enlarged(task), task),
                "rate": rate,
                "seconds": history.seconds,
            }
            best = valid, found | cost(model, task.example().inputs)
    assert best is not None
    return best[1]


def build(arm: str) -> Network:
    """Two blocks on 6x6 patches, without positions, as in both papers."""
    mixer, block, scales = ARMS[arm]
    stem = PatchEmbed(1, DIM, size=SIDE, patch=2, scales=scales, positions=None)
    trunk = MetaFormer(DIM, 2, mixer=mixer, block=block, grid=stem.grid)
    return Network(stem, trunk, Classifier(DIM, 10))


def enlarged(task: Task) -> Samples:
    """The test canvases at 16x16, by the interpolation of the maps."""
    whole = task.test.batch(torch.arange(len(task.test)))
    return Samples(F.interpolate(whole.inputs, LARGER, mode="bicubic", align_corners=False), whole.targets)


def cost(model: nn.Module, example: Tensor) -> Measurements:
    """Weights, and multiply-adds in matrix products and convolutions for one image."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(example)
    weights = sum(p.numel() for p in model.parameters())
    return {"parameters": float(weights), "multiply_adds": counter.get_total_flops() / 2}
