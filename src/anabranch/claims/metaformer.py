"""MetaFormer (arXiv 2111.11418): the skeleton, not the mixer, earns most of the accuracy.

The paper swaps attention for average pooling inside an unchanged skeleton and stays close, while taking away the
channel perceptron or the residual connection ruins the model. Here the same is asked of one small pyramid on two
tasks: digits anywhere on an image canvas, and one-dimensional digits. Every arm is trained in full with the same
learning rates, the one that is best on the validation split is tested, and all arms see the data in the same order.

Made smaller: a pyramid of two blocks on 24x24 images and 40-frame sequences instead of 12 blocks or more on ImageNet,
a few hundred steps instead of 300 epochs, a canvas without clutter. Layer scale and drop path, which serve deep
networks and long training, are left out of all arms. In so shallow a network a missing residual connection may be
survived; the convolution between the stages mixes tokens too, which helps the arm without a mixer; and a few steps
favour mixers that need not learn to mix.

In the recorded evidence only the residual connection earns the second half of the claim, and only on the canvas:
without it 0.10 to 0.11 of the images are right, a loss larger than that between any two mixers. On the sequences its
loss is 0.13 to 0.26, in one of three seeds less than that between two mixers. The perceptron earns nothing: the
attention arm without it is the better one on the canvas (0.795, 0.800 and 0.749 against 0.680, 0.591 and 0.633), and on
the sequences in two seeds of three. The rules look at the worse of the two arms and do not show this.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data import Task, canvas_digits, mnist1d
from anabranch.models import Classifier, FrameEmbed, MetaFormer, Network, PatchEmbed
from anabranch.nn.block import Block, PreNorm

MIXERS = ("pooling", "attention", "identity", "random", "mlp")
_EACH = ", ".join(f"TASK.{arm}.accuracy" for arm in MIXERS)


def _rules(task: str) -> list[Rule]:
    texts: list[Rule] = [
        Rule("TASK.pooling.accuracy - TASK.attention.accuracy", ">=", -0.02),
        Rule("TASK.pooling.accuracy - TASK.identity.accuracy", ">=", 0.02),
        Rule("TASK.identity.accuracy", ">=", 0.3),
        Rule(
            f"max({_EACH}) - min({_EACH}) - TASK.attention.accuracy "
            "+ min(TASK.no_mlp.accuracy, TASK.no_residual.accuracy)",
            "<",
            0.0,
        ),
    ]
    return [Rule(rule.quantity.replace("TASK", task), rule.relation, rule.bound) for rule in texts]


CLAIM = Claim(
    paper="metaformer",
    statement="In the same skeleton pooling comes within two points of attention with fewer weights and operations, "
    "and the choice of mixer matters less than the perceptron and the residual connection.",
    rules=(
        *_rules("canvas"),
        *_rules("mnist1d"),
        Rule("canvas.pooling.parameters / canvas.attention.parameters", "<", 1.0),
        Rule("canvas.pooling.multiply_adds / canvas.attention.multiply_adds", "<", 1.0),
    ),
    seeds=3,
    minutes=12,
    smaller="Two blocks instead of twelve and more, 24x24 canvases without clutter and 40-frame sequences "
    "instead of ImageNet, a few hundred steps: depth, where missing residual connections hurt most, is missing.",
)


class WithoutMLP(Block):
    """``x + mixer(norm x)`` and nothing after it."""

    def __init__(self, dim: int, *, mixer: Callable, channel: Callable, norm: Callable, **options: float | None):
        super().__init__(dim, mixer=mixer, channel=channel, norm=norm)
        self.norm1, self.mixer = norm(), mixer()

    def wire(self, x: Tensor, mix: Callable[[Tensor], Tensor], mask: Tensor | None, earlier: list[Tensor]) -> Tensor:
        return x + mix(self.norm1(x))


class WithoutResidual(PreNorm):
    """``channel(norm mixer(norm x))``: the branches alone."""

    def wire(self, x: Tensor, mix: Callable[[Tensor], Tensor], mask: Tensor | None, earlier: list[Tensor]) -> Tensor:
        return self.channel(self.norm2(mix(self.norm1(x))))


# arm -> mixer, wiring. What is taken off the skeleton is taken off the attention arm, the strongest in the paper.
ARMS = {
    "pooling": ("pool", "prenorm"),
    "attention": ("attention", "prenorm"),
    "identity": ("identity", "prenorm"),
    "random": ("random", "prenorm"),
    "mlp": ("token-mlp", "prenorm"),
    "no_mlp": ("attention", WithoutMLP),
    "no_residual": ("attention", WithoutResidual),
}
RATES = (3e-3, 8e-3)
STEPS, BATCH = {"canvas": 400, "mnist1d": 300}, 64


def measure(seed: int) -> Measurements:
    """Train every arm on both tasks with both learning rates; report the test accuracy of the better one."""
    tasks: dict[str, Task] = {"canvas": canvas_digits(test=4000, clutter=0, seed=seed), "mnist1d": mnist1d()}
    measured: Measurements = {}
    for name, task in tasks.items():
        for arm in ARMS:
            measured |= {f"{name}.{arm}.{key}": value for key, value in train(name, task, arm, seed).items()}
    return measured


def train(name: str, task: Task, arm: str, seed: int, rates: Sequence[float] = RATES) -> Measurements:
    best: tuple[float, Measurements] | None = None
    for rate in rates:
        torch.manual_seed(seed)
        model = build(name, arm)
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05, fused=True)
        history = fit(
            model,
            task.train,
            loss=task.loss,
            optimizer=optimizer,
            budget=Budget(steps=STEPS[name]),
            batch_size=BATCH,
            seed=seed,
        )
        valid = score(model, task.valid, task)
        if best is None or valid > best[0]:
            found = {"accuracy": score(model, task.test, task), "rate": rate, "seconds": history.seconds}
            best = valid, found | size(model, task.example().inputs)
    assert best is not None
    return best[1]


def build(name: str, arm: str) -> Network:
    """The pyramid of one task with the arm's mixer and wiring; positions are learned in all arms."""
    mixer, block = ARMS[arm]
    if name == "canvas":
        stem = PatchEmbed(1, 32, size=24, patch=3, kernel=6)
    else:
        stem = FrameEmbed(1, 32, length=40, patch=2)
    trunk = MetaFormer((32, 64), (1, 1), mixer=mixer, block=block, length=stem.length, grid=stem.grid)
    return Network(stem, trunk, Classifier(trunk.out_dim, 10))


def size(model: nn.Module, example: Tensor) -> Measurements:
    """Weights, and multiply-adds in matrix products and convolutions for one sample."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(example)
    weights = sum(p.numel() for p in model.parameters())
    return {"parameters": float(weights), "multiply_adds": counter.get_total_flops() / 2}
